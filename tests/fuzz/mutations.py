"""Seeds that are committed, and what a fuzzer makes of them. A case that ever failed joins the corpus as a file."""

from pathlib import Path

from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"


def seeds(kind: str) -> dict[str, bytes]:
    """The committed cases of one kind, by name."""
    found = {file.stem: file.read_bytes() for file in sorted((CORPUS / kind).glob("*.bin"))}
    assert found, f"there is no corpus of {kind}"
    return found


@st.composite
def mutated(draw: st.DrawFn, cases: dict[str, bytes], words: list[bytes]) -> bytes:
    """One to three seeds behind one another, changed in up to four places."""
    names = draw(st.lists(st.sampled_from(sorted(cases)), min_size=1, max_size=3))
    data = b"".join(cases[name] for name in names)
    piece = st.one_of(st.sampled_from(words), st.binary(min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(("insert", "delete", "replace", "repeat", "cut")))
        length = draw(st.integers(1, 40))
        if how == "insert":
            data = data[:at] + draw(piece) + data[at:]
        elif how == "delete":
            data = data[:at] + data[at + length :]
        elif how == "replace":
            new = draw(piece)
            data = data[:at] + new + data[at + len(new) :]
        elif how == "repeat":
            data = data[: at + length] + data[at:]
        else:
            data = data[:at]
    return data

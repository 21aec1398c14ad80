"""Whether a version can answer in stable's place: what would break for a client that knows stable alone."""

from collections.abc import Iterator, Sequence

from gateway.protocol.shapes import Signature, TensorSpec
from routing.errors import Problem

ANY = -1
SHOWN_LABELS = 8  # of a list of labels in a sentence


def breaks(stable: Signature, version: Signature) -> list[Problem]:
    """Everything that a client of ``stable`` would trip over when ``version`` answers it.

    Inputs may only become wider: each that stable has and no other, of the same datatype, taking every shape that
    stable takes. Outputs may only become narrower: each that stable has, of the same datatype, of no shape that stable
    does not announce. A further output is a break where stable has a single one, which ``:predict`` gives bare.
    The first size of an output is the number of rows asked for, and no break, where every input of ``version`` has a
    free first size. Labels are compared where both announce them. Nothing is said of platforms.

    Returns:
        One problem a difference; its pointer leads into ``inputs`` and ``outputs`` by name.
    """
    return [*_inputs(stable.inputs, version.inputs), *_outputs(stable.outputs, version)]


def _inputs(stable: Sequence[TensorSpec], version: Sequence[TensorSpec]) -> Iterator[Problem]:
    known, found = _by_name(stable), _by_name(version)
    for name, spec in known.items():
        if name not in found:
            yield _problem("inputs", name, "", "missing", f"input {name!r} is not there, stable takes it")
            continue
        its = found[name]
        yield from _datatypes("inputs", spec, its)
        if not _takes(its.shape, spec.shape):
            said = f"input {name!r} takes {list(its.shape)}, stable takes {list(spec.shape)}"
            yield _problem("inputs", name, "/shape", "shape", said)
    for name in found:
        if name not in known:
            yield _problem("inputs", name, "", "extra", f"input {name!r} is needed, stable does not know it")


def _outputs(stable: Sequence[TensorSpec], version: Signature) -> Iterator[Problem]:
    known, found = _by_name(stable), _by_name(version.outputs)
    counts_rows = bool(version.inputs) and all(spec.shape[:1] == (ANY,) for spec in version.inputs)
    for name, spec in known.items():
        if name not in found:
            yield _problem("outputs", name, "", "missing", f"output {name!r} is not there, stable gives it")
            continue
        its = found[name]
        yield from _datatypes("outputs", spec, its)
        announced, given = spec.shape, its.shape
        if counts_rows and given[:1] == (ANY,) and announced:
            given = (announced[0], *given[1:])
        if not _takes(announced, given):
            said = f"output {name!r} is of shape {list(its.shape)}, stable's is {list(announced)}"
            yield _problem("outputs", name, "/shape", "shape", said)
        if spec.labels and its.labels and spec.labels != its.labels:
            said = f"output {name!r} has the labels {_shown(its.labels)}, stable's has {_shown(spec.labels)}"
            yield _problem("outputs", name, "/labels", "labels", said)
    if len(known) == 1:
        for name in found:
            if name not in known:
                said = f"output {name!r} comes beside the only one that stable has"
                yield _problem("outputs", name, "", "extra", said)


def _datatypes(side: str, stable: TensorSpec, its: TensorSpec) -> Iterator[Problem]:
    if its.datatype != stable.datatype:
        said = f"{side[:-1]} {its.name!r} is {its.datatype}, stable's is {stable.datatype}"
        yield _problem(side, its.name, "/datatype", "datatype", said)


def _takes(wide: Sequence[int], narrow: Sequence[int]) -> bool:
    """Whether every shape of ``narrow`` is one of ``wide``."""
    return len(wide) == len(narrow) and all(a in (ANY, b) for a, b in zip(wide, narrow, strict=True))


def _by_name(specs: Sequence[TensorSpec]) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in specs}


def _shown(labels: Sequence[str]) -> str:
    more = len(labels) - SHOWN_LABELS
    return f"{', '.join(map(repr, labels[:SHOWN_LABELS]))}{f' and {more} more' if more > 0 else ''}"


def _problem(side: str, name: str, part: str, code: str, said: str) -> Problem:
    return Problem(f"/{side}/{name.replace('~', '~0').replace('/', '~1')}{part}", code, said)

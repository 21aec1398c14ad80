"""Compressed bodies: what they become, what they may become, and what is no such body."""

import asyncio
import gzip
import random
import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dataplane import decoding
from gateway.dataplane.decoding import ON_LOOP_STEPS, STEP_BYTES, Decoder, Decoding, coding_of
from gateway.errors import BadRequest, BodyTooLarge, UnsupportedEncoding

LIMIT = 1 << 20
NOISE = random.Random(1).randbytes(LIMIT)
CODERS = {"gzip": gzip.compress, "deflate": zlib.compress}
if decoding.zstd is not None:
    CODERS["zstd"] = decoding.zstd.compress
every = pytest.mark.parametrize("coding", CODERS)


def decoded(body: bytes, coding: str, limit: int = LIMIT) -> bytes | None:
    return Decoding(body, coding, limit).run()


@every
@pytest.mark.parametrize("size", [0, 1, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 2 * STEP_BYTES, LIMIT])
def test_a_body_comes_back_as_it_was(coding: str, size: int) -> None:
    for plain in (NOISE[:size], bytes(size)):
        assert decoded(CODERS[coding](plain), coding) == plain


@every
def test_one_byte_more_than_the_limit_is_too_large(coding: str) -> None:
    assert decoded(CODERS[coding](bytes(1000)), coding, 1000) == bytes(1000)
    with pytest.raises(BodyTooLarge, match="decoded body is larger than 1000 bytes"):
        decoded(CODERS[coding](bytes(1001)), coding, 1000)


@every
def test_a_bomb_is_given_up_a_step_beyond_the_limit(coding: str) -> None:
    bomb = CODERS[coding](bytes(200 << 20))
    assert len(bomb) < 1 << 20
    made = Decoding(bomb, coding, LIMIT)
    with pytest.raises(BodyTooLarge):
        made.run()
    assert sum(map(len, made._parts)) <= LIMIT


@every
def test_every_cut_is_seen(coding: str) -> None:
    whole = CODERS[coding](b"the same again and again " * 20)
    for at in range(len(whole)):
        with pytest.raises(BadRequest):
            decoded(whole[:at], coding)
    whole = CODERS[coding](NOISE)
    for at in (STEP_BYTES, STEP_BYTES + 1, len(whole) - 9, len(whole) - 1):
        with pytest.raises(BadRequest):
            decoded(whole[:at], coding)


@every
def test_a_bit_that_was_turned_is_no_crash(coding: str) -> None:
    whole = CODERS[coding](b"the same again and again " * 20)
    for at in range(len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
        try:
            decoded(damaged, coding)
        except (BadRequest, BodyTooLarge):
            continue


@pytest.mark.parametrize("coding", [name for name in CODERS if name != "deflate"])
def test_members_behind_one_another_are_one_body(coding: str) -> None:
    coder = CODERS[coding]
    parts = [b"one", b"", NOISE[:STEP_BYTES], b"four" * 40_000, NOISE[:7]]
    assert decoded(b"".join(coder(part) for part in parts), coding) == b"".join(parts)
    with pytest.raises(BodyTooLarge):
        decoded(coder(bytes(LIMIT // 2)) * 3, coding)
    with pytest.raises(BadRequest):
        decoded(coder(b"one") + coder(b"two")[:-1], coding)


def test_members_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_MEMBERS", 3)
    assert decoded(gzip.compress(b"a") * 3, "gzip") == b"aaa"
    with pytest.raises(BadRequest, match="more behind"):
        decoded(gzip.compress(b"a") * 4, "gzip")


@every
def test_garbage_behind_a_body_is_refused(coding: str) -> None:
    for garbage in (b"\0", b"garbage", bytes(STEP_BYTES * 2)):
        with pytest.raises(BadRequest):
            decoded(CODERS[coding](b"one") + garbage, coding)


def test_deflate_is_zlib_and_raw_deflate_is_refused() -> None:
    raw = zlib.compressobj(wbits=-15)
    with pytest.raises(BadRequest, match="no valid deflate"):
        decoded(raw.compress(b"one") + raw.flush(), "deflate")


@every
@settings(derandomize=True, deadline=None, max_examples=100)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_body_or_a_bad_request(coding: str, data: bytes) -> None:
    for body in (data, CODERS[coding](b"one")[:12] + data):
        try:
            assert decoded(body, coding) is not None
        except (BadRequest, BodyTooLarge):
            continue


@pytest.mark.parametrize(
    ("values", "coding"),
    [
        ([], None),
        (["identity"], None),
        (["GZIP"], "gzip"),
        ([" x-gzip "], "gzip"),
        (["deflate"], "deflate"),
    ],
)
def test_the_coding_is_the_headers(values: list[str], coding: str | None) -> None:
    assert coding_of(values) == coding


@pytest.mark.parametrize("values", [["br"], ["gzip, gzip"], ["gzip", "deflate"], ["identity, gzip"], [""], ["gzip,"]])
def test_unknown_and_nested_codings_are_refused(values: list[str]) -> None:
    with pytest.raises(UnsupportedEncoding):
        coding_of(values)


@every
def test_a_small_body_is_decoded_on_the_loop_and_a_large_one_beside_it(coding: str) -> None:
    async def decode(plain: bytes) -> set[str]:
        made, threads = Decoder(LIMIT), set[str]()
        take = Decoding._take

        def spied(self: Decoding, piece: bytes) -> None:
            threads.add(threading.current_thread().name.partition("_")[0])
            take(self, piece)

        Decoding._take = spied  # type: ignore[method-assign]
        try:
            assert await made.decode(CODERS[coding](plain), coding) == plain
        finally:
            Decoding._take = take  # type: ignore[method-assign]
            made.close()
        return threads

    assert asyncio.run(decode(b"small")) == {"MainThread"}
    assert asyncio.run(decode(bytes(STEP_BYTES * ON_LOOP_STEPS * 2))) == {"MainThread", "turnout-decoder"}


def test_a_body_nobody_waits_for_is_given_up() -> None:
    async def give_up() -> None:
        made, release = Decoder(1 << 40), threading.Event()
        steps = []

        def endless(_body: bytes) -> decoding.Pieces:
            while len(steps) < 1000:
                steps.append(1)
                yield b""
                if len(steps) > ON_LOOP_STEPS:
                    assert release.wait(10)

        decoding.CODINGS["endless"] = endless
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await made.decode(b"", "endless")
            release.set()
            await asyncio.get_running_loop().run_in_executor(made._threads, lambda: None)
            made._threads.shutdown(wait=True)
        finally:
            del decoding.CODINGS["endless"]
        assert len(steps) < 10

    asyncio.run(give_up())

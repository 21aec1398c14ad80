"""Answers of remote servers: given the public names, and held against what the version promises.

Tensors are never decoded and encoded again on the way through: a NaN literal or an integer beyond 2**53 that a server
wrote is what the client reads.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

import orjson

from gateway.protocol.contract import check_answer

__all__ = ["Identity", "WrongVersion", "check_answer", "splice_identity"]

MAX_NAMES = 1024  # names whose JSON form is remembered
MAX_BEGINNING_BYTES = 1024  # of an answer, up to behind its names, that is remembered; one a version
_WS = rb"[ \t\n\r]*+"
_SIMPLE = rb'"[^"\\]*+"'  # a string without escapes
# The usual order of servers: names first, perhaps behind an id.
_USUAL = re.compile(
    _WS + rb"\{" + _WS
    + rb'(?:"id"' + _WS + rb":" + _WS + _SIMPLE + _WS + rb"," + _WS + rb")?+"
    + rb'"model_name"' + _WS + rb":" + _WS + rb"(" + _SIMPLE + rb")" + _WS + rb"," + _WS
    + rb'"model_version"' + _WS + rb":" + _WS + rb"(" + _SIMPLE + rb"|null|[0-9]++)" + _WS + rb"[,}]"
)  # fmt: skip
# Everything that can change the depth. A string without an end swallows the rest, so each byte is looked at once.
_TOKEN = re.compile(rb'(?P<text>"(?:[^"\\]++|\\.)*+(?P<end>"?))(?P<colon>' + _WS + rb":" + _WS + rb")?+|[{}\[\]]", re.S)
_SCALAR = re.compile(rb"[^ \t\n\r,\]}]++")
_OPENING = re.compile(_WS + rb"\{" + _WS)

Span = tuple[int, int]


class WrongVersion(Exception):
    """A server answered as another version than it was asked for; ``named`` is what it said, ``None`` for nothing."""

    def __init__(self, asked: str, named: object) -> None:
        said = "no version" if named is None else f"version {named!r}"
        super().__init__(f"named {said} in its answer, {asked!r} was asked")
        self.asked = asked
        self.named = named


class Identity:
    """Who answers claim to be: ``splice_identity`` for one version, which remembers how answers begin.

    Args:
        model: Value for the top-level ``model_name``.
        version: Value for the top-level ``model_version``.
        asked: The version that answers have to name as they come in; ``None`` takes any.

    Attributes:
        old: How the last usual answer began, up to behind its names; ``()``, with which nothing begins, before that.
        size: Of ``old``, in bytes.
        new: What that becomes; ``None``: it stays.
    """

    __slots__ = ("_asked", "_model", "_names", "_version", "new", "old", "size")

    def __init__(self, model: str, version: str, asked: str | None = None) -> None:
        self._model = model
        self._version = version
        self._names = (_encoded(model), _encoded(version))
        self._asked = asked
        self.old: bytes | tuple[()] = ()
        self.size = 0
        self.new: bytes | None = None

    def give(self, body: bytes, header_length: int | None) -> tuple[bytes, int | None]:
        """``splice_identity`` of an answer.

        Raises:
            WrongVersion: It names another version than was asked.
        """
        size = self.size
        if not body.startswith(self.old):
            return self._give(body, header_length)
        end = len(body) if header_length is None else header_length
        if size > end or not _is_alone(body, size, end):
            return self._give(body, header_length)
        new = self.new
        if new is None:
            return body, header_length
        spliced = b"".join((new, memoryview(body)[size:]))
        return spliced, None if header_length is None else header_length + len(new) - size

    def _give(self, body: bytes, header_length: int | None) -> tuple[bytes, int | None]:
        head = body if header_length is None else body[:header_length]
        if self._asked is not None:
            named = _named_version(head)
            if named != self._asked:
                raise WrongVersion(self._asked, named)
        usual = _USUAL.match(head)
        # An answer that begins with the id of its request begins like no other.
        if usual is not None and usual.end() <= MAX_BEGINNING_BYTES and head.find(b'"id"', 0, usual.start(1)) < 0:
            self._remember(head, usual)
        return splice_identity(body, header_length, self._model, self._version)

    def _remember(self, head: bytes, usual: re.Match[bytes]) -> None:
        """The same bytes will match in the same way, so what became of them is known."""
        (a, b), (c, d), end = usual.span(1), usual.span(2), usual.end()
        model, version = self._names
        self.old, self.size = head[:end], end
        same = head[a:b] == model and head[c:d] == version
        self.new = None if same else b"%b%b%b%b%b" % (head[:a], model, head[b:c], version, head[d:end])


def splice_identity(body: bytes, header_length: int | None, model: str, version: str) -> tuple[bytes, int | None]:
    """Make an answer say who the client thinks it asked.

    Args:
        body: A whole answer.
        header_length: Length of its JSON part when binary tensors follow, else ``None``.
        model: Value for the top-level ``model_name``.
        version: Value for the top-level ``model_version``.

    Returns:
        Body and header length. Only the two values differ from what came in, or the two keys are there in addition; the
        very same object comes back when nothing had to change, or when the JSON part is not an object that closes.
    """
    head = body if header_length is None else body[:header_length]
    names = _encoded(model), _encoded(version)
    new_head = _splice_usual(head, *names)
    if new_head is None:
        new_head = _splice_any(head, {"model_name": names[0], "model_version": names[1]})
    if new_head is head:
        return body, header_length
    if header_length is None:
        return new_head, None
    return b"".join((new_head, memoryview(body)[header_length:])), len(new_head)


@lru_cache(maxsize=MAX_NAMES)
def _encoded(name: str) -> bytes:
    return orjson.dumps(name)


def _splice_usual(head: bytes, model: bytes, version: bytes) -> bytes | None:
    """The new head, or the very same one; ``None`` when the order is not the usual one or a key could come again."""
    usual = _USUAL.match(head)
    if usual is None:
        return None
    a, b = usual.span(1)
    c, d = usual.span(2)
    if not _is_alone(head, d, len(head)):
        return None
    if head[a:b] == model and head[c:d] == version:
        return head
    return b"%b%b%b%b%b" % (head[:a], model, head[b:c], version, head[d:])


def _is_alone(text: bytes, start: int, end: int) -> bool:
    """Whether nothing in between can be one of the two keys again. Single bytes are looked for first: that is quick."""
    if text.find(b"\\", start, end) >= 0:
        return False
    return text.find(b"_", start, end) < 0 or text.find(b'"model_', start, end) < 0


def _named_version(head: bytes) -> object:
    """The top-level ``model_version``; ``None`` when it is absent, stands twice or cannot be read."""
    usual = _USUAL.match(head)
    if usual is not None and _is_alone(head, usual.end(), len(head)):
        start, end = usual.span(2)
    else:
        try:
            spans = _find_names(head)["model_version"]
        except _NotAnObject:
            return None
        if len(spans) != 1:
            return None
        start, end = spans[0]
    try:
        named = orjson.loads(head[start:end])
    except orjson.JSONDecodeError:
        return None
    # A server that counts its versions may write the number itself.
    return str(named) if isinstance(named, int) and not isinstance(named, bool) else named


def _splice_any(head: bytes, wanted: dict[str, bytes]) -> bytes:
    try:
        found = _find_names(head)
    except _NotAnObject:
        return head
    pieces = _pieces(head, found, wanted)
    return head if len(pieces) == 1 else b"".join(pieces)


class _NotAnObject(Exception):
    """The text is no JSON object, as far as brackets and strings can tell."""


def _pieces(head: bytes, found: dict[str, list[Span]], wanted: dict[str, bytes]) -> list[bytes | memoryview]:
    """The head cut up around what is replaced; one piece when nothing is."""
    edits = [
        (start, end, wanted[key])
        for key, spans in found.items()
        for start, end in spans
        if not _same(head[start:end], wanted[key])
    ]
    missing = [key for key in wanted if not found.get(key)]
    if missing:
        opening = _OPENING.match(head)
        assert opening is not None
        text = b",".join(b'"%b":%b' % (key.encode(), wanted[key]) for key in missing)
        at = head.index(b"{") + 1
        is_empty = head[opening.end() : opening.end() + 1] == b"}"
        edits.append((at, at, text if is_empty else text + b","))
    view = memoryview(head)
    pieces: list[bytes | memoryview] = []
    at = 0
    for start, end, text in sorted(edits):
        pieces += [view[at:start], text]
        at = end
    return [*pieces, view[at:]]


def _same(text: bytes, wanted: bytes) -> bool:
    if text == wanted:
        return True
    if b"\\" not in text or not text.startswith(b'"'):
        return False
    return bool(_decoded(text) == orjson.loads(wanted))


def _decoded(text: bytes) -> str | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None


def _find_names(head: bytes) -> dict[str, list[Span]]:
    """Where the values of the two names are, at the top level; more than once when a key is repeated."""
    if _OPENING.match(head) is None:
        raise _NotAnObject
    found: dict[str, list[Span]] = {"model_name": [], "model_version": []}
    for key, span in _top_level(head):
        if key in found:
            found[key].append(span)
    return found


def _top_level(head: bytes) -> Iterator[tuple[str, Span]]:
    """Keys of the outermost object that may be the names, with the span of their values."""
    depth = 0
    pending: tuple[str, int] | None = None  # a name whose value is an array or an object
    for token in _TOKEN.finditer(head):
        first = head[token.start()]
        if first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
            if depth == 1 and pending is not None:
                yield pending[0], (pending[1], token.end())
                pending = None
            if depth == 0:
                return
        elif not token["end"]:
            break
        elif depth == 1 and token["colon"] is not None:
            key = _name(token["text"])
            if key is None:
                continue
            start = token.end()
            if head[start : start + 1] in {b"{", b"["}:
                pending = (key, start)
            else:
                yield key, (start, _end_of_scalar(head, start))
    raise _NotAnObject


def _name(text: bytes) -> str | None:
    if b"\\" in text:
        return _decoded(text)
    return text[1:-1].decode("ascii") if text in {b'"model_name"', b'"model_version"'} else None


def _end_of_scalar(head: bytes, start: int) -> int:
    token = _TOKEN.match(head, start) if head[start : start + 1] == b'"' else None
    if token is not None:
        return token.end("text")
    scalar = _SCALAR.match(head, start)
    if scalar is None:
        raise _NotAnObject
    return scalar.end()

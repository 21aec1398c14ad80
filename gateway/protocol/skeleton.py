"""JSON bodies that say again what an earlier one said, but for the elements of their ``data`` and for their id.

A client's requests are mostly the same text around other numbers. Of such a text the skeleton is kept: its bytes up to
the first ``data`` list, between such lists, and behind the last one. A body is read by a skeleton when it has those
bytes around stretches that are each one JSON list, and the same for an ``"id"`` at its beginning, which is one string.

Why that gives what reading the whole gives. Values in JSON end by themselves: a reader that stands before a value takes
exactly the bytes of one complete value, and what it then expects does not depend on which value it was. So where
``before [..] behind`` is JSON, it is JSON with any other complete list between the two, and means the same around it,
whatever the list holds: quotes and brackets in its strings are its own. Escapes, odd spacing and keys that stand twice
are in the fixed bytes, where they mean what they meant before. That a stretch really is where an input's data come from
is not guessed from the text: when a skeleton is made, the careful reader reads a body with other values in the
stretches, and each must come out where it is expected.

Only usual elements are taken: as many as the shape says, numbers that fit the datatype, or strings. Of lists in lists
only a single row is taken, ``[[..]]``: the outer brackets are fixed bytes, and there are as many as the shape says.
For anything else the careful reader reads the whole body, so every refusal is its own.
"""

import re
import struct
from collections.abc import Callable
from math import prod
from typing import Any

import orjson

from gateway.errors import BadRequest
from gateway.protocol.form import Form, InferRequest, InputTensor, unnested
from gateway.protocol.shapes import ELEMENT_BYTES, TYPE_CODES

SKELETONS_KEPT = 256  # and beginnings of bodies that were seen; all are forgotten when there are more
SKELETON_BYTES = 1024  # of fixed text; bodies with more are read each time
BODY_BYTES = 1 << 16  # longer bodies are read each time: their numbers are what they cost
ELEMENTS = 4096  # of an input; the same
ID_BYTES = 128

_STRING = {str}
_DATA = b'"data"'
_LIST = re.compile(rb'"data"\s*+:\s*+(?:\[\s*+)*(\[(?:[^\[\]{}"]++|"(?:[^"\\]++|\\.)*+")*+\])', re.DOTALL)

Pack = Callable[..., bytes]


class Skeleton:
    """The fixed bytes of a body, from the first ``"data"`` on, and what a body with them says.

    Attributes:
        form: All but the data and the id.
        lead: Up to the first list, its bracket included.
        size: Bytes before that bracket.
        last: What stands behind the last list, from its bracket on.
        lists: Of each list what makes its binary form, ``None`` for strings; how many elements there must be; and what
            stands between it and the next one, from bracket to bracket.
    """

    __slots__ = ("form", "last", "lead", "lists", "size")

    def __init__(self, form: Form, pieces: list[bytes], packs: list[tuple[Pack | None, int]]) -> None:
        self.form = form
        self.lead = pieces[0]
        self.size = len(self.lead) - 1
        self.last = pieces[-1]
        gaps = [*pieces[1:-1], b""]
        self.lists = [(pack, count, gap) for (pack, count), gap in zip(packs, gaps, strict=True)]

    def data(self, body: bytes, at: int) -> list[Any] | None:
        """The data of a body whose first ``"data"`` is at ``at``; ``None`` where it is not of this skeleton."""
        if not body.startswith(self.lead, at) or not body.endswith(self.last):
            return None
        begin, last = at + self.size, len(body) - len(self.last)
        data = []
        for pack, count, gap in self.lists:
            end = body.find(gap, begin) if gap else last
            text = body[begin : end + 1]
            try:
                elements = orjson.loads(text)
                if pack is None:
                    if len(elements) != count or not _STRING.issuperset(map(type, elements)):
                        return None
                    data.append(elements)
                elif text.find(b"e") >= 0 and (b"u" in text or b"l" in text):
                    return None  # true and false, which would pass for 1 and 0
                else:
                    data.append(pack(*elements))
            except (orjson.JSONDecodeError, struct.error, OverflowError):
                return None
            begin = end + len(gap) - 1
        return data


class Skeletons:
    """Skeletons of bodies that came more than once, by how these begin."""

    __slots__ = ("_known", "_visits")

    def __init__(self) -> None:
        self._known: dict[bytes, Skeleton] = {}
        self._visits: dict[bytes, int] = {}

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._known)

    def read(self, body: bytes) -> InferRequest | None:
        """Read a body by a skeleton; ``None`` where that cannot be, which says nothing against the body."""
        begin, identifier = 0, None
        if body.startswith(b'{"id"'):
            begin, identifier = _id(body)
        at = body.find(_DATA, begin, begin + SKELETON_BYTES)
        if at < 0 or len(body) > BODY_BYTES:
            return None
        skeleton = self._known.get(body[begin:at])
        if skeleton is None:
            return None
        data = skeleton.data(body, at)
        if data is None:
            return None
        return InferRequest(skeleton.form, identifier if begin else skeleton.form.id, data)

    def visited(self, body: bytes, request: InferRequest, read: Callable[[bytes], InferRequest]) -> None:
        """A body was read in full. The second like it makes a skeleton; so does the fourth in vain, the eighth, …

        Args:
            body: One that is a request.
            request: That request.
            read: What reads a body in full.
        """
        if len(body) > BODY_BYTES:
            return
        begin = _id(body)[0] if body.startswith(b'{"id"') else 0
        at = body.find(_DATA, begin, begin + SKELETON_BYTES)
        if at < 0:
            return
        key = body[begin:at]
        visits = self._visits.get(key, 0) + 1
        if len(self._visits) >= SKELETONS_KEPT and visits == 1:
            self._visits.clear()
            self._known.clear()
        self._visits[key] = visits
        if visits > 1 and not visits & (visits - 1):
            skeleton = _skeleton(body, begin, at, request, read)
            if skeleton is not None:
                self._known[key] = skeleton


def _id(body: bytes) -> tuple[int, str | None]:
    """The id at the beginning of a body, and where it ends; 0 where it is not usual."""
    opening = 7 if body.startswith(b':"', 5) else 8 if body.startswith(b': "', 5) else 0
    end = body.find(b'"', opening, opening + ID_BYTES) if opening else -1
    if end < 0:
        return 0, None
    try:
        return end, orjson.loads(body[opening - 1 : end + 1])
    except orjson.JSONDecodeError:  # the quote was escaped, or it is no string of UTF-8
        return 0, None


def _pack(tensor: InputTensor) -> tuple[Pack | None, int] | None:
    """How the data of an input are taken; ``None`` where the careful reader has to."""
    count = prod(tensor.shape)
    if not 0 < count <= ELEMENTS:
        return None
    if tensor.datatype == "BYTES":
        return None, count
    code = TYPE_CODES.get(tensor.datatype)
    return (struct.Struct(f"={count}{code}").pack, count) if code else None


def _skeleton(
    body: bytes, begin: int, at: int, request: InferRequest, read: Callable[[bytes], InferRequest]
) -> Skeleton | None:
    """The skeleton of a body; ``None`` where it is not sure to be one."""
    tensors = list(request.inputs.values())
    packs = [_pack(tensor) for tensor in tensors]
    lists = [found.span(1) for found in _LIST.finditer(body, at)]
    if request.data is not None or request.form.sizes or None in packs or len(lists) != len(tensors):
        return None
    ends = [at, *(end - 1 for _, end in lists)]
    pieces = [body[a:b] for a, b in zip(ends, [*(start + 1 for start, _ in lists), len(body)], strict=True)]
    if sum(map(len, pieces)) > SKELETON_BYTES:
        return None
    given = [unnested(tensor.data, tensor.shape) for tensor in tensors]
    # Other values: unlike one another, and unlike those that the body had.
    others = [[n] if data != [n] else [n, n] for n, (data, _) in enumerate(given)]
    other_id = (request.id or "") + "?"
    start = b'{"id":' + orjson.dumps(other_id)[:-1] if begin else b""
    trial = start + body[begin:at] + pieces[0]
    for values, piece in zip(others, pieces[1:], strict=True):
        trial += orjson.dumps(values)[1:-1] + piece
    try:
        tried = read(trial)
    except BadRequest:
        return None
    found = [unnested(tensor.data, tensor.shape) for tensor in tried.inputs.values()]
    expected = [(other, depth) for other, (_, depth) in zip(others, given, strict=True)]
    if found != expected or (begin and tried.id != other_id):
        return None
    bare = {t.name: InputTensor(t.name, t.datatype, t.shape, None) for t in tensors}
    form = Form(request.parameters, bare, request.outputs, id=None if begin else request.id)
    return Skeleton(form, pieces, [pack for pack in packs if pack is not None])


assert all(struct.Struct("=" + code).size == ELEMENT_BYTES[datatype] for datatype, code in TYPE_CODES.items())

"""What became of an attempt on a remote version, as a reply. A client learns nothing of addresses."""

import orjson

from gateway.backends.base import Answer, Reply
from gateway.errors import error_body
from gateway.protocol.answer import Identity, WrongVersion
from gateway.protocol.response import NotText
from routing.analysis.outcome import Kind, kind_of_status

GOOD = range(200, 300)
STATUSES = range(200, 600)  # what a final answer may say
MAX_ERROR_BYTES = 64 * 1024  # a larger body of an error answer is replaced by a sentence

# How Triton's HTTP port begins its answer to a body, or to data of an input, that it cannot read.
_NO_JSON = b'{"error":"failed to parse the request JSON'
_UNREAD = _NO_JSON, b'{"error":"Unable to parse'

# What a client is told when there is no answer that it could get.
WITHOUT_ANSWER = {
    Kind.UNREACHABLE: (503, "cannot be reached"),
    Kind.OVERLOADED: (503, "is busy: every connection is taken and the queue is full"),
    Kind.TIMEOUT: (504, "did not answer in time"),
    Kind.BROKEN: (502, "broke off its answer"),
    Kind.CONTRACT: (502, "answered as another version"),
}


class Replies:
    """Makes the replies of one version.

    Args:
        model: Name that answers carry.
        version: Version that answers carry.
        asked: The version that a server has to name in its answers; ``None`` where it may name any.
    """

    __slots__ = ("_failures", "_identity", "_is_triton", "_model", "_version")

    def __init__(self, model: str, version: str, asked: str | None = None) -> None:
        self._model = model
        self._version = version
        self._is_triton = asked is not None
        self._identity = Identity(model, version, asked)
        self._failures = {kind: self.public(words) for kind, (_, words) in WITHOUT_ANSWER.items()}

    def of(self, status: int, body: bytes, header_length: int | None, url: str) -> Reply:
        """The reply to an answer of the server at ``url``."""
        if status in GOOD:
            identity = self._identity
            size = identity.size
            # What ``give`` does for an answer that begins as the last one did; single bytes are looked for quickly.
            if (
                header_length is None
                and body.startswith(identity.old)
                and body.find(b"\\", size) < 0
                and body.find(b"_", size) < 0
            ):
                return Answer(status, body if identity.new is None else identity.new + body[size:], None)
            try:
                return Answer(status, *identity.give(body, header_length))
            except WrongVersion as problem:
                return self.failure(Kind.CONTRACT, f"{url} {problem}")
        detail = f"{url} answered {status}"
        if status == 500 and self._is_triton and body.startswith(_UNREAD):
            # Triton's word for what it cannot read: everybody else says 400.
            return Reply(Kind.MALFORMED if body.startswith(_NO_JSON) else Kind.REJECTED, 400, body, None, detail)
        if status not in STATUSES:
            return Reply(Kind.BROKEN, 502, self.public(f"answered {status}, which is no status"), None, detail)
        if status < 400:  # a redirect is not followed: addresses come from the configuration alone
            return Reply(Kind.ERROR, 502, self.public("redirects"), None, detail)
        if not _is_error(body):
            body = self.public(f"answered {status}")
        return Reply(kind_of_status(status), status, body, None, detail)

    def of_text(self, status: int, body: bytes, header_length: int | None, url: str) -> Reply:
        """As ``of``, for a version with outputs of BYTES: servers write into JSON whatever bytes these hold."""
        if status in GOOD and not body.isascii() and not _is_text(body[:header_length]):
            problem = NotText()
            return Reply(Kind.CONTRACT, 500, error_body(str(problem)), None, f"{url}: {problem}")
        return self.of(status, body, header_length, url)

    def failure(self, kind: Kind, detail: str) -> Reply:
        """The reply where there is no answer; ``detail`` is for logs."""
        return Reply(kind, WITHOUT_ANSWER[kind][0], self._failures[kind], None, detail)

    def public(self, words: str) -> bytes:
        """The body of an error that says so of the version, in words for clients."""
        return orjson.dumps({"error": f"version {self._version} of model {self._model} {words}"})


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_error(body: bytes) -> bool:
    """Whether a body is already what clients of the protocol expect: ``{"error": str}``."""
    if len(body) > MAX_ERROR_BYTES:
        return False
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and isinstance(document.get("error"), str)

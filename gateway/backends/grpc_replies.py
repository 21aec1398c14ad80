"""What became of an attempt by gRPC, as a reply: what a client gets over HTTP from the same server."""

from gateway.backends.base import Answer, Call, Reply
from gateway.backends.http2.heads import Head
from gateway.backends.replies import Replies
from gateway.errors import error_body
from gateway.protocol.answer import WrongVersion
from gateway.protocol.grpc_answers import GrpcAnswerWriter
from gateway.protocol.grpc_infer import read_answer
from gateway.protocol.protobuf import Unreadable
from gateway.protocol.response import NoJson
from routing.analysis.outcome import Kind, kind_of_status

# HTTP status by gRPC's, as Triton's own HTTP port has them; those that it does not know are 400.
STATUSES = {
    1: 503,  # CANCELLED, and not by us
    2: 500,  # UNKNOWN
    3: 400,  # INVALID_ARGUMENT
    4: 504,  # DEADLINE_EXCEEDED
    5: 404,  # NOT_FOUND
    7: 403,  # PERMISSION_DENIED
    8: 429,  # RESOURCE_EXHAUSTED
    10: 503,  # ABORTED
    12: 501,  # UNIMPLEMENTED
    13: 500,  # INTERNAL
    14: 503,  # UNAVAILABLE
    15: 500,  # DATA_LOSS
    16: 401,  # UNAUTHENTICATED
}
OTHERS = 400
DEADLINE_EXCEEDED = 4


class GrpcReplies:
    """Makes the replies of one version.

    Args:
        replies: Makes those where there is no answer.
        model: Name that answers carry.
        version: Version that answers carry.
        asked: The version that a server has to name in its answers; ``None`` where it may name any.
    """

    __slots__ = ("_asked", "_replies", "_writer")

    def __init__(self, replies: Replies, model: str, version: str, asked: str | None) -> None:
        self._replies = replies
        self._writer = GrpcAnswerWriter(model, version)
        self._asked = asked

    def of(self, call: Call, head: Head, message: bytes, url: str) -> Reply:
        """The reply to an answer of the server at ``url``."""
        if head.grpc_status != 0:
            return self._refused(head, url)
        try:
            answer = read_answer(message)
            if self._asked is not None and answer.version != self._asked:
                wrong = WrongVersion(self._asked, answer.version or None)
                return self._replies.failure(Kind.CONTRACT, f"{url} {wrong}")
            body, header_length = self._writer.write(call.request(), answer)
        except NoJson as problem:
            return Reply(Kind.CONTRACT, 500, error_body(str(problem)), None, f"{url}: {problem}")
        except Unreadable as problem:
            sentence = f"the version's answer breaks its contract: {problem}"
            return Reply(Kind.CONTRACT, 502, error_body(sentence), None, f"{url}: {problem}")
        return Answer(200, body, header_length)

    def _refused(self, head: Head, url: str) -> Reply:
        code = head.grpc_status
        assert code is not None
        detail = f"{url} answered gRPC status {code}: {head.sentence}"
        if code == DEADLINE_EXCEEDED:
            return self._replies.failure(Kind.TIMEOUT, detail)
        status = STATUSES.get(code, OTHERS)
        body = error_body(head.sentence) if head.sentence else self._replies.public(f"answered {status}")
        return Reply(kind_of_status(status), status, body, None, detail)

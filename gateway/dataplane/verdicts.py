"""What a client is told where a version's answer does not go out: it broke its contract, or there is none."""

from gateway.backends.base import Reply
from gateway.dataplane.exchange import Exchange
from gateway.errors import error_body
from gateway.protocol.contract import check_answer
from gateway.runtime.arms import Arm
from gateway.runtime.snapshot import Snapshot
from routing.analysis.outcome import Kind

OK = Kind.OK  # to look up a member of an enumeration costs as much as a call


def checked(exchange: Exchange, arm: Arm, reply: Reply) -> Reply:
    """Hold a remote version's answer against its promises."""
    if reply.kind is not OK or reply.is_checked:
        return reply
    signature = arm.slot.backend.signature
    if signature is None or exchange.asks_for_classes():
        return reply
    requested, nan_ok = exchange.wanted()
    problem = check_answer(reply.body, reply.header_length, signature, requested=requested, nan_ok=nan_ok)
    if problem is None:
        return reply
    sentence = f"the version's answer breaks its contract: {problem}"
    return Reply(Kind.CONTRACT, 502, error_body(sentence), detail=sentence)


def refusal(status: int, sentence: str) -> Reply:
    """What goes out where no version was asked."""
    return Reply(Kind.INTERNAL, status, error_body(sentence))


def not_ready(arm: Arm) -> str:
    """Sentence for a version that cannot answer."""
    return f"version {arm.version!r} of {arm.model!r} is not ready: {arm.slot.backend.public_reason}"


def unrouted(snapshot: Snapshot, model: str) -> str:
    """Sentence for a model without a route: what is loaded, and how a route is made."""
    versions = snapshot.versions(model)
    if not versions:
        return f"there is no model {model!r}"
    return (
        f"model {model!r} has no route; loaded versions are {', '.join(map(repr, versions))}: name one in the path "
        f"(/v2/models/{model}/versions/{versions[0]}/infer) or create a route with `turnout routes put FILE`"
    )

"""What a backend is to the request path: submit a call, get one reply by callback."""

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from gateway.backends.statistics import Statistics
from gateway.protocol.request import InferRequest
from gateway.protocol.shapes import Signature
from routing.analysis.outcome import Kind

_OK = Kind.OK  # looked up once


class State(StrEnum):
    """Whether a version can answer."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


class Reply:
    """How one attempt ended: an answer to pass on, or the sentence that says why there is none.

    Attributes:
        kind: Outcome of the attempt.
        status: HTTP status for the client if this reply goes out.
        body: Body for the client, complete; for errors a JSON ``{"error": ...}``.
        header_length: Length of the JSON part when binary tensors follow it, else ``None``.
        detail: Sentence for logs and evidence when ``kind`` is not ``OK``.
        is_checked: The backend itself has held the answer against the version's promises.
        own_s: What the version itself took, by the backend's own clock: its work, and the wait for more of that. Time
            that the loop spent on other versions and on answers is not in it. ``None``: only the caller's clock knows.
    """

    __slots__ = ("body", "detail", "header_length", "is_checked", "kind", "own_s", "status")

    def __init__(
        self,
        kind: Kind,
        status: int,
        body: bytes,
        header_length: int | None = None,
        detail: str = "",
        *,
        is_checked: bool = False,
        own_s: float | None = None,
    ) -> None:
        self.kind = kind
        self.status = status
        self.body = body
        self.header_length = header_length
        self.detail = detail
        self.is_checked = is_checked
        self.own_s = own_s


class Answer(Reply):
    """A good answer as a remote server gave it: most replies are one, and it is made with less work."""

    __slots__ = ()

    detail = ""
    is_checked = False
    own_s = None

    def __init__(self, status: int, body: bytes, header_length: int | None) -> None:
        self.kind = _OK
        self.status = status
        self.body = body
        self.header_length = header_length


class Call(Protocol):
    """The part of a request that backends read. One object serves all attempts; nothing in it changes."""

    @property
    def body(self) -> bytes:
        """Body as it came in, shared by every attempt."""

    @property
    def header_length(self) -> int | None:
        """``Inference-Header-Content-Length``, when binary tensors follow the JSON part."""

    @property
    def request_id(self) -> str:
        """Identifier that goes along to remote backends as ``x-request-id``."""

    @property
    def via(self) -> str:
        """The gateways that the request has been through, for remote backends."""

    @property
    def may_repeat(self) -> bool:
        """Whether the request may reach a server twice: not where a model has side effects."""

    def request(self) -> InferRequest:
        """The body read as an inference request; read once, whichever attempt asks first.

        Raises:
            BadRequest: The body is no inference request.
        """


class Backend(Protocol):
    """One version at one place. Made in state ``LOADING``; ``open`` decides between ``READY`` and ``FAILED``."""

    @property
    def state(self) -> State:
        """Where the version is in its life."""

    @property
    def reason(self) -> str:
        """Why it is not ready, as a sentence; empty when it is."""

    @property
    def public_reason(self) -> str:
        """The same for clients: nothing of folders and addresses."""

    @property
    def engine(self) -> str:
        """What runs the version in this process, as its configuration names it; empty for a remote one."""

    @property
    def statistics(self) -> Statistics:
        """What the version has done since it was opened."""

    @property
    def signature(self) -> Signature | None:
        """Inputs and outputs, known once ready."""

    async def open(self) -> None:
        """Load or connect; never raises for a version that cannot: ``state`` and ``reason`` say so."""

    async def close(self) -> None:
        """Give back threads, sessions and connections; attempts in flight end as ``UNREACHABLE``."""

    def submit(self, call: Call, deadline_s: float, on_reply: Callable[[Reply], None]) -> Callable[[], None]:
        """Start an attempt. ``on_reply`` runs on the loop exactly once, possibly before this returns.

        Args:
            call: The request.
            deadline_s: Point on ``loop.time()`` after which the answer is of no use. The caller enforces it;
                a backend may use it to drop work that is still queued.
            on_reply: Receives the reply; not called after the returned function was.

        Returns:
            A function that gives the attempt up.
        """

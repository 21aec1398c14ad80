"""A version on a Triton server's gRPC port, over our own HTTP/2 connections."""

import asyncio
from collections.abc import Callable
from functools import partial

from gateway.backends.base import Call
from gateway.backends.channel import Channel
from gateway.backends.grpc_question import Connect, ask_in_turn
from gateway.backends.grpc_replies import GrpcReplies
from gateway.backends.http2.connection import PREFIX
from gateway.backends.http2.hpack import literal
from gateway.backends.places import Move
from gateway.backends.probe import NotReady
from gateway.backends.replies import Replies
from gateway.backends.transport import Bounds, Target, address_of, connected
from gateway.protocol.grpc_infer import InferWriter
from gateway.protocol.grpc_models import named, read_metadata, read_ready
from gateway.protocol.protobuf import Unreadable
from gateway.protocol.shapes import Signature

SERVICE = "/inference.GRPCInferenceService/"
_TIMEOUT = literal(b"grpc-timeout", b"")[:-1]  # without the length of its value
MOST_MS = 99_999_999  # a time-out has up to eight digits


class GrpcTransport:
    """One server's gRPC port.

    Args:
        target: The version there.
        replies: Makes replies where there is no answer.
        bounds: Of what goes there.
        loop: That serves.
        on_refused: Hears why no connection could be made.
        move: Finds another server for a sending that reached none here.
        signature: What is known of the version now; raw requests need it.

    Attributes:
        pool: Carries calls.
    """

    def __init__(
        self,
        target: Target,
        replies: Replies,
        bounds: Bounds,
        loop: asyncio.AbstractEventLoop,
        on_refused: Callable[[str], None],
        move: Move,
        *,
        signature: Callable[[], Signature | None],
    ) -> None:
        self._host, self._port, _ = address_of(target.url)
        self._target = target
        self._connect: Connect = partial(connected, self._host, self._port)
        self._signature = signature
        self._infer = block_of_method(self._host, self._port, "ModelInfer")
        self._via, self._via_literal = "", b""
        self._writer = InferWriter(target.model, target.version or "")
        asked = target.version if target.holds_to_version else None
        self.pool = Channel(
            target.url,
            self._block_of,
            self._message_of,
            replies,
            GrpcReplies(replies, target.public_model, target.public_version, asked),
            self._connect,
            on_refused,
            move,
            max_calls=bounds.max_connections,
            max_waiting=bounds.max_waiting,
            max_answer_bytes=bounds.max_answer_bytes,
            connect_timeout_s=bounds.connect_timeout_s,
            loop=loop,
        )

    async def inspect(self) -> Signature:
        """Ask whether the version is ready, then for its metadata, over a connection of its own."""
        named_version = named(self._target.model, self._target.version)
        methods = "ModelReady", "ModelMetadata"
        questions = [(block_of_method(self._host, self._port, method), named_version) for method in methods]
        answers = ask_in_turn(self._connect, questions)
        try:
            if not read_ready(await anext(answers)):
                raise NotReady("is not ready: so it says itself")
            return read_metadata(await anext(answers))
        except (Unreadable, ValueError) as problem:
            raise NotReady(f"has no usable metadata: {problem}") from None
        finally:
            await answers.aclose()

    def _block_of(self, call: Call, left_s: float) -> bytes:
        left_ms = min(max(int(left_s * 1000), 1), MOST_MS)
        via, timeout = call.via, b"%dm" % left_ms
        if via is not self._via:  # nearly always it is the one of the last call
            self._via, self._via_literal = via, literal(b"via", via.encode("latin-1")) if via else b""
        request_id = call.request_id.encode("latin-1")
        parts = self._infer, self._via_literal, _TIMEOUT, bytes((len(timeout),)), timeout
        return b"".join((*parts, literal(b"x-request-id", request_id)))

    def _message_of(self, call: Call) -> bytes:
        message = self._writer.write(call.request(), self._signature())
        return PREFIX.pack(0, len(message)) + message


def block_of_method(host: str, port: int, method: str) -> bytes:
    """The header block of a call, without what belongs to one request alone."""
    name = f"[{host}]" if ":" in host else host
    return b"\x83\x86" + b"".join(  # POST, http
        literal(*header)
        for header in (
            (b":path", f"{SERVICE}{method}".encode()),
            (b":authority", f"{name}:{port}".encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"turnout"),
        )
    )

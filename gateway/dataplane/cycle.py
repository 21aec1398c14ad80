"""A request on its way through the ASGI application, as the front door wants it."""

import asyncio
from typing import TYPE_CHECKING

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.dataplane.doorway import Doorway

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
QUEUE, TAKING, DEAF = 1, 2, 4  # why reading is held: requests wait; answers are not taken; nothing more is listened to


class Flow(FlowControl):
    """Reading begins again only when nothing holds it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.held = 0

    def hold(self, why: int) -> None:
        """Read no more until ``why`` is released."""
        self.held |= why
        self.pause_reading()

    def release(self, why: int) -> None:
        """Read again, unless something else holds it."""
        self.held &= ~why
        self.resume_reading()

    def pause_reading(self) -> None:
        """Read no more for now."""
        if not self._transport.is_closing():
            super().pause_reading()

    def resume_reading(self) -> None:
        """Read again, unless something holds it."""
        if not self.held and not self._transport.is_closing():
            super().resume_reading()


class Exit:
    """A connection as an answer sees it: to close is left to the door."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, door: "Doorway", transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = door.leave


class Cycle(RequestResponseCycle):
    """One request and its answer.

    Attributes:
        fault: Why the rest of the request will not come; raised where the application waits for it.
        is_told: The application knows the fault.
    """

    fault: GatewayError | None = None
    is_told = False

    def fail(self, fault: GatewayError) -> None:
        """The rest of the request is not taken; its answer is the last on the connection."""
        self.fault = fault
        self.keep_alive = False
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        """The next part of the body.

        Raises:
            GatewayError: There is none; it says why.
        """
        if not self.disconnected and not self.response_complete:
            self._tell()
            if self.waiting_for_100_continue:
                self.waiting_for_100_continue = False
                if not self.transport.is_closing():
                    self.transport.write(CONTINUE)
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
            self._tell()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def _tell(self) -> None:
        if self.fault is not None and not self.disconnected and not self.response_complete:
            self.is_told = True
            raise self.fault

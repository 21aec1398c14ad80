"""Triton's repository API: models loaded and unloaded on a server, by HTTP or gRPC."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import orjson

from gateway.backends.connection import Connection
from gateway.backends.grpc import block_of_method
from gateway.backends.grpc_question import ask_in_turn
from gateway.backends.http2.connection import Http2Connection
from gateway.backends.probe import PROBE_TIMEOUT_S, NotReady, RawAnswer, ask
from gateway.backends.transport import address_of
from gateway.protocol.grpc_models import in_repository, named, read_ready
from gateway.protocol.protobuf import Unreadable

CHANGE_TIMEOUT_S = 600.0  # for a load, which is answered when the model is there, or an unload
MAX_WORDS = 500  # characters of a server's reason that are kept


class Repository:
    """The model repository of one server.

    Args:
        url: ``http://host[:port]`` or ``grpc://host[:port]``.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._host, self._port, _ = address_of(url)
        self._is_grpc = url.startswith("grpc:")

    async def is_ready(self, model: str, version: str) -> bool:
        """Whether a version can be asked.

        Raises:
            NotReady: The server says nothing, or something else.
        """
        if self._is_grpc:
            try:
                return read_ready(await self._ask_grpc("ModelReady", named(model, version), PROBE_TIMEOUT_S))
            except Unreadable as problem:
                raise NotReady(str(problem)) from None
        path = f"/v2/models/{quote(model, safe='')}/versions/{quote(version, safe='')}/ready"
        return (await self._ask_http("GET", path, PROBE_TIMEOUT_S)).status == 200

    async def load(self, model: str) -> None:
        """Load a model with the versions that its configuration names; one that has not changed stays as it is.

        Raises:
            NotReady: The server refused, or did not answer within ``CHANGE_TIMEOUT_S``.
        """
        await self._change("load", model)

    async def unload(self, model: str) -> None:
        """Unload a model with all its versions.

        Raises:
            NotReady: As ``load``.
        """
        await self._change("unload", model)

    async def _change(self, verb: str, model: str) -> None:
        if self._is_grpc:
            await self._ask_grpc(f"RepositoryModel{verb.capitalize()}", in_repository(model), CHANGE_TIMEOUT_S)
            return
        path = f"/v2/repository/models/{quote(model, safe='')}/{verb}"
        answer = await self._ask_http("POST", path, CHANGE_TIMEOUT_S)
        if answer.status != 200:
            raise NotReady(f"answered {answer.status}: {_words(answer.body)}")

    async def _ask_http(self, verb: str, path: str, timeout_s: float) -> RawAnswer:
        async def connect(make: Callable[[], Connection]) -> Connection:
            _, connection = await asyncio.get_running_loop().create_connection(make, self._host, self._port)
            return connection

        name = f"[{self._host}]" if ":" in self._host else self._host
        head = f"{verb} {path} HTTP/1.1\r\nhost: {name}:{self._port}\r\nconnection: close\r\n"
        body = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}" if verb == "POST" else "\r\n"
        return await ask(connect, (head + body).encode(), timeout_s)

    async def _ask_grpc(self, method: str, message: bytes, timeout_s: float) -> bytes:
        async def connect(make: Callable[[], Http2Connection]) -> Http2Connection:
            _, connection = await asyncio.get_running_loop().create_connection(make, self._host, self._port)
            return connection

        question = block_of_method(self._host, self._port, method), message
        answers = ask_in_turn(connect, [question], timeout_s)
        try:
            return await anext(answers)
        finally:
            await answers.aclose()


def _words(body: bytes) -> str:
    try:
        plain: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        plain = None
    said = plain.get("error") if isinstance(plain, dict) else None
    return str(said or "nothing more")[:MAX_WORDS]

"""Triton's repository API and statistics: models loaded, unloaded and told of by a server, over HTTP or gRPC."""

from functools import partial
from typing import Any
from urllib.parse import quote

import orjson

from gateway.backends.grpc import block_of_method
from gateway.backends.grpc_question import ask_in_turn
from gateway.backends.probe import PROBE_TIMEOUT_S, NotReady, RawAnswer, ask
from gateway.backends.transport import address_of, connected
from gateway.protocol.grpc_models import in_repository, named, read_index, read_ready, read_statistics
from gateway.protocol.protobuf import Unreadable
from gateway.protocol.words import Numbers, States, UnreadableWords, parse_index, parse_statistics

CHANGE_TIMEOUT_S = 600.0  # for a load, which is answered when the model is there, or an unload
MAX_WORDS = 500  # characters of a server's reason that are kept


class Repository:
    """The model repository of one server.

    Args:
        url: ``http://host[:port]`` or ``grpc://host[:port]``.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._host, self._port, self._prefix = address_of(url)
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

    async def index(self, timeout_s: float) -> States:
        """State and reason of every version there.

        Raises:
            NotReady: The server says nothing within ``timeout_s``, or something else.
        """
        try:
            if self._is_grpc:
                return read_index(await self._ask_grpc("RepositoryIndex", b"", timeout_s))
            return parse_index(await self._said("POST", "/v2/repository/index", timeout_s))
        except (Unreadable, UnreadableWords) as problem:
            raise NotReady(str(problem)) from None

    async def statistics(self, model: str, timeout_s: float) -> Numbers:
        """What each version of a model has done there, or of every model where none is named.

        Raises:
            NotReady: As ``index``.
        """
        try:
            if self._is_grpc:
                return read_statistics(await self._ask_grpc("ModelStatistics", named(model, None), timeout_s))
            path = f"/v2/models/{quote(model, safe='')}/stats" if model else "/v2/models/stats"
            return parse_statistics(await self._said("GET", path, timeout_s))
        except (Unreadable, UnreadableWords) as problem:
            raise NotReady(str(problem)) from None

    async def _said(self, verb: str, path: str, timeout_s: float) -> bytes:
        answer = await self._ask_http(verb, path, timeout_s)
        if answer.status != 200:
            raise NotReady(f"answered {answer.status}: {_words(answer.body)}")
        return answer.body

    async def _change(self, verb: str, model: str) -> None:
        if self._is_grpc:
            await self._ask_grpc(f"RepositoryModel{verb.capitalize()}", in_repository(model), CHANGE_TIMEOUT_S)
            return
        path = f"/v2/repository/models/{quote(model, safe='')}/{verb}"
        answer = await self._ask_http("POST", path, CHANGE_TIMEOUT_S)
        if answer.status != 200:
            raise NotReady(f"answered {answer.status}: {_words(answer.body)}")

    async def _ask_http(self, verb: str, path: str, timeout_s: float) -> RawAnswer:
        name = f"[{self._host}]" if ":" in self._host else self._host
        head = f"{verb} {self._prefix}{path} HTTP/1.1\r\nhost: {name}:{self._port}\r\nconnection: close\r\n"
        body = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}" if verb == "POST" else "\r\n"
        return await ask(partial(connected, self._host, self._port), (head + body).encode(), timeout_s)

    async def _ask_grpc(self, method: str, message: bytes, timeout_s: float) -> bytes:
        question = block_of_method(self._host, self._port, method), message
        answers = ask_in_turn(partial(connected, self._host, self._port), [question], timeout_s)
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

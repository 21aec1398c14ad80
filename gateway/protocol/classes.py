"""Requests for the classes of strings, which end a Triton server: it divides by the size of an element, which is 0."""

import json
from collections.abc import Container
from typing import Any

from gateway.errors import BadRequest
from gateway.protocol.form import InferRequest

_WORD = b"classification"
_LETTERS = b"\\u006", b"\\u007"  # how its letters begin where they are escaped, which nobody does without need


def may_ask(body: bytes, header_length: int | None) -> bool:
    """Whether the JSON part of a request can ask for classes; ``False`` is sure."""
    if body.find(_WORD, 0, header_length) >= 0:
        return True
    if body.find(b"\\", 0, header_length) < 0:  # a single byte is found quickly
        return False
    return any(body.find(sign, 0, header_length) >= 0 for sign in _LETTERS)


def check_classes(request: InferRequest, body: bytes, header_length: int | None, strings: Container[str]) -> None:
    """Refuse what must not reach a server.

    Args:
        request: What ``body`` says.
        body: The client's, which may reach the server as it is.
        header_length: Of its JSON part, where binary tensors follow.
        strings: Names of the version's outputs of BYTES.

    Raises:
        BadRequest: It asks for classes of strings, or has a key twice: the server may read the other one.
    """
    for name in request.outputs or ():
        if request.form.classes(name) and name in strings:
            raise unclassifiable(name)
    if request.raw is None:
        try:
            json.loads(body[:header_length].decode(), object_pairs_hook=_once)
        except (ValueError, RecursionError) as problem:
            raise BadRequest(f"the body is no valid JSON: {problem}") from None


def unclassifiable(name: str) -> BadRequest:
    """The refusal, in the words of every kind of version."""
    return BadRequest(f"output {name!r} cannot be classified: it holds no row of numbers for each instance")


def _once(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"key {twice!r} stands twice in an object of a request that may ask for classes")

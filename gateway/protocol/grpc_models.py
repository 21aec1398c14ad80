"""What the protocol's gRPC form says of models: readiness, metadata, the repository's index."""

from typing import Any

import orjson

from gateway.protocol import protobuf
from gateway.protocol.metadata import parse_signature
from gateway.protocol.protobuf import Bytes, Unreadable
from gateway.protocol.shapes import Signature

READY_INDEX = protobuf.number(2, 1)  # asks the index for what is ready
MAX_MODELS = 65_536  # entries of an index


def named(model: str, version: str | None) -> bytes:
    """A ``ModelReadyRequest`` or ``ModelMetadataRequest``; without a version the server chooses."""
    return protobuf.text(1, model) + (protobuf.text(2, version) if version is not None else b"")


def in_repository(model: str) -> bytes:
    """A ``RepositoryModelLoadRequest`` or ``RepositoryModelUnloadRequest``."""
    return protobuf.text(2, model)


def read_ready(message: bytes) -> bool:
    """What a ``ModelReadyResponse`` says.

    Raises:
        Unreadable: It is none.
    """
    return any(field == 1 and value == 1 for field, value in protobuf.read(message))


def read_metadata(message: bytes) -> Signature:
    """A ``ModelMetadataResponse``, held to the same rules as one that came as JSON.

    Raises:
        Unreadable: It is none.
        ValueError: It says what no version can be.
    """
    plain: dict[str, Any] = {"inputs": [], "outputs": []}
    for field, value in protobuf.read(message):
        match field:
            case 3:
                plain["platform"] = protobuf.as_text(value)
            case 4:
                plain["inputs"].append(_tensor(protobuf.view(value)))
            case 5:
                plain["outputs"].append(_tensor(protobuf.view(value)))
    return parse_signature(orjson.dumps(plain))


def _tensor(message: Bytes) -> dict[str, Any]:
    plain: dict[str, Any] = {"shape": []}
    for field, value in protobuf.read(message):
        match field:
            case 1:
                plain["name"] = protobuf.as_text(value)
            case 2:
                plain["datatype"] = protobuf.as_text(value)
            case 3:
                plain["shape"] += protobuf.as_integers(value)
    return plain


def read_index(message: bytes) -> list[dict[str, str]]:
    """The entries of a ``RepositoryIndexResponse``, as their JSON form has them.

    Raises:
        Unreadable: It is none, or is too long.
    """
    found = []
    for field, value in protobuf.read(message):
        if field == 1:
            found.append(_indexed(protobuf.view(value)))
        if len(found) > MAX_MODELS:
            raise Unreadable(f"lists more than {MAX_MODELS} models")
    return found


def _indexed(message: Bytes) -> dict[str, str]:
    names = {1: "name", 2: "version", 3: "state", 4: "reason"}
    return {names[field]: protobuf.as_text(value) for field, value in protobuf.read(message) if field in names}

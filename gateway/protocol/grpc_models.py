"""What the protocol's gRPC form says of models: readiness, metadata, statistics, the repository's index."""

from typing import Any

import orjson

from gateway.protocol import protobuf
from gateway.protocol.metadata import parse_signature
from gateway.protocol.protobuf import Bytes, Unreadable
from gateway.protocol.shapes import Signature
from gateway.protocol.words import DURATIONS, Numbers, States, numbers_of, states_of

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


def read_index(message: bytes) -> States:
    """State and reason of each version in a ``RepositoryIndexResponse``.

    Raises:
        Unreadable: It is none, or is too long.
    """
    return states_of([_indexed(entry) for entry in _entries(message)])


def read_statistics(message: bytes) -> Numbers:
    """The numbers of a ``ModelStatisticsResponse``.

    Raises:
        Unreadable: It is none, or is too long.
    """
    return numbers_of([_counted(entry) for entry in _entries(message)])


def _entries(message: bytes) -> list[Bytes]:
    found = [protobuf.view(value) for field, value in protobuf.read(message) if field == 1]
    if len(found) > MAX_MODELS:
        raise Unreadable(f"lists more than {MAX_MODELS} models")
    return found


def _indexed(message: Bytes) -> dict[str, str]:
    names = {1: "name", 2: "version", 3: "state", 4: "reason"}
    found = {names[field]: protobuf.as_text(value) for field, value in protobuf.read(message) if field in names}
    return {"name": "", **found}


def _counted(message: Bytes) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": "", "version": ""}
    for field, value in protobuf.read(message):
        match field:
            case 1:
                plain["name"] = protobuf.as_text(value)
            case 2:
                plain["version"] = protobuf.as_text(value)
            case 3:
                plain["last_inference"] = _count(value)
            case 4:
                plain["inference_count"] = _count(value)
            case 5:
                plain["execution_count"] = _count(value)
            case 6:
                plain["inference_stats"] = _durations(protobuf.view(value))
    return plain


def _durations(message: Bytes) -> dict[str, dict[str, int]]:
    return {
        DURATIONS[field - 1]: {
            ("count", "ns")[part - 1]: _count(number)
            for part, number in protobuf.read(protobuf.view(value))
            if part in (1, 2)
        }
        for field, value in protobuf.read(message)
        if 1 <= field <= len(DURATIONS)
    }


def _count(value: Any) -> int:
    if not isinstance(value, int):
        raise Unreadable("sent a message with bytes where a number belongs")
    return value

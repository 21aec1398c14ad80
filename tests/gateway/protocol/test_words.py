"""What several servers say of a version comes to one word, over both transports."""

import json
from typing import Any

import pytest

from gateway.protocol import protobuf
from gateway.protocol.grpc_models import read_index, read_statistics
from gateway.protocol.protobuf import Unreadable
from gateway.protocol.words import (
    DURATIONS,
    UnreadableWords,
    best,
    parse_index,
    parse_statistics,
    summed,
    worse,
)


def as_json(**counts: Any) -> bytes:
    times = {name: {"count": number, "ns": 1000 * number} for number, name in enumerate(DURATIONS, 1)}
    entry = {"name": "scale", "version": "3", "inference_stats": times, "batch_stats": [], **counts}
    return json.dumps({"model_stats": [entry]}).encode()


def as_grpc(last_inference: int, inference_count: int, execution_count: int) -> bytes:
    times = b"".join(
        protobuf.data(number, protobuf.number(1, number) + protobuf.number(2, 1000 * number))
        for number in range(1, len(DURATIONS) + 1)
    )
    counts = protobuf.number(3, last_inference), protobuf.number(4, inference_count)
    entry = b"".join((protobuf.text(1, "scale"), protobuf.text(2, "3"), *counts))
    return protobuf.data(1, entry + protobuf.number(5, execution_count) + protobuf.data(6, times))


def test_both_transports_tell_the_same_numbers() -> None:
    plain = parse_statistics(as_json(last_inference=1_700_000_000_000, inference_count=8, execution_count=3))
    assert read_statistics(as_grpc(1_700_000_000_000, 8, 3)) == plain
    numbers = plain["scale", "3"]
    assert (numbers["inference_count"], numbers["execution_count"]) == (8, 3)
    assert numbers["inference_stats"]["queue"] == {"count": 3, "ns": 3000}


def test_counts_and_times_add_up_and_the_last_inference_is_the_latest() -> None:
    one = parse_statistics(as_json(last_inference=20, inference_count=8, execution_count=3))["scale", "3"]
    two = parse_statistics(as_json(last_inference=10, inference_count=1, execution_count=1))["scale", "3"]
    total = summed([one, two])
    assert (total["last_inference"], total["inference_count"], total["execution_count"]) == (20, 9, 4)
    assert total["inference_stats"]["success"] == {"count": 2, "ns": 2000}
    assert total["inference_stats"]["cache_miss"] == {"count": 16, "ns": 16_000}
    assert one["inference_count"] == 8, "what is added up stays as it was"


def test_the_sum_over_no_server_is_nothing() -> None:
    total = summed([])
    assert (total["last_inference"], total["inference_count"], total["execution_count"]) == (0, 0, 0)
    assert set(total["inference_stats"]) == set(DURATIONS)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"model_stats":1}',
        b'{"model_stats":[1]}',
        b'{"model_stats":[{"name":"m"}]}',
        b'{"model_stats":[{"name":"m","version":"1","inference_count":"many"}]}',
    ],
)
def test_what_is_no_statistics_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableWords):
        parse_statistics(body)


@pytest.mark.parametrize("body", [b"", b"1", b"[1]", b"{", b'[{"version":"1"}]'])
def test_what_is_no_index_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableWords):
        parse_index(body)


@pytest.mark.parametrize("message", [b"\x0a\x05ab", protobuf.number(1, 7), protobuf.data(1, protobuf.data(4, b"ab"))])
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(Unreadable):
        read_statistics(message)


def test_both_transports_tell_the_same_states() -> None:
    ready = {"name": "scale", "version": "3", "state": "READY"}
    gone = {"name": "scale", "version": "4", "state": "UNAVAILABLE", "reason": "unloaded"}
    never = {"name": "other"}
    odd = {"name": "scale", "version": "5", "state": "DREAMING"}
    every = [ready, gone, never, odd]
    numbers = {"name": 1, "version": 2, "state": 3, "reason": 4}
    entries = [b"".join(protobuf.text(numbers[name], text) for name, text in one.items()) for one in every]
    plain = parse_index(json.dumps(every).encode())
    assert read_index(b"".join(protobuf.data(1, one) for one in entries)) == plain
    assert plain == {
        ("scale", "3"): ("READY", ""),
        ("scale", "4"): ("UNAVAILABLE", "unloaded"),
        ("scale", "5"): ("UNAVAILABLE", ""),
    }


def test_the_best_instance_decides_and_on_one_the_worse_word_does() -> None:
    assert best(["UNAVAILABLE", "READY", "LOADING"]) == "READY"
    assert best(["UNAVAILABLE", "UNLOADING"]) == "UNLOADING"
    assert best([]) == "UNAVAILABLE"
    assert worse("READY", "LOADING") == worse("LOADING", "READY") == "LOADING"
    assert worse("UNAVAILABLE", "UNLOADING") == "UNAVAILABLE"

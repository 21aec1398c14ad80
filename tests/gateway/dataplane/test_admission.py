"""What goes first near the limit, and who may say that a request matters less."""

from hashlib import sha256

import pytest

from gateway.dataplane.admission import Gate, LowPriorityRefused, Priorities
from gateway.errors import BadRequest, Overloaded
from gateway.settings import Overload, Settings

SHARES = Overload(mirrors=0.4, canaries=0.6, low_priority=0.8)
SETTINGS = Settings(
    consumers=[
        {"name": "batch", "sha256": sha256(b"secret").hexdigest(), "may": ["priority"]},
        {"name": "shop", "sha256": sha256(b"other").hexdigest()},
    ]
)


def what_is_left(gate: Gate) -> str:
    """The first letters of what there is room for: copies, canaries, low priority, the rest."""
    rooms = {
        "m": gate.takes_copies,
        "c": gate.takes_canaries,
        "l": gate.has_room(True),
        "s": gate.has_room(False),
    }
    return "".join(letter for letter, has in rooms.items() if has)


def test_the_order_is_copies_canaries_low_priority_and_the_rest() -> None:
    gate = Gate(10, SHARES)
    left = []
    for gate.in_hand in range(11):
        left.append(what_is_left(gate))
    assert left == ["mcls"] * 5 + ["cls"] * 2 + ["ls"] + ["s"] * 2 + [""]


def test_a_late_loop_has_room_for_answers_alone() -> None:
    gate = Gate(10, SHARES)
    gate.is_late = True
    assert what_is_left(gate) == "ls"


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_small_limit_leaves_room_for_one_of_everything(limit: int) -> None:
    gate = Gate(limit)
    assert gate.has_room(True)
    gate.in_hand = 1
    assert gate.takes_copies
    assert gate.takes_canaries


def test_each_refusal_says_what_was_full() -> None:
    gate = Gate(10, SHARES)
    gate.in_hand = 8
    gate.check()
    with pytest.raises(LowPriorityRefused, match="low priority"):
        gate.check(is_low=True)
    gate.in_hand = 10
    with pytest.raises(Overloaded, match="10 requests are in work"):
        gate.check(is_low=True)


@pytest.mark.parametrize(
    ("headers", "is_low"),
    [
        ({}, False),
        ({b"x-turnout-priority": b"low", b"x-turnout-key": b"secret"}, True),
        ({b"x-turnout-priority": b"LOW", b"x-turnout-key": b"secret"}, True),
        ({b"x-turnout-priority": b"normal", b"x-turnout-key": b"secret"}, False),
        ({b"x-turnout-priority": b"low"}, False),
        ({b"x-turnout-priority": b"low", b"x-turnout-key": b"wrong"}, False),
        ({b"x-turnout-priority": b"low", b"x-turnout-key": b"other"}, False),
        ({b"x-turnout-priority": b"nonsense", b"x-turnout-key": b"other"}, False),
        ({b"x-turnout-key": b"secret"}, False),
    ],
)
def test_only_a_consumer_that_may_sets_the_priority(headers: dict[bytes, bytes], is_low: bool) -> None:
    assert Priorities(SETTINGS).is_low(headers) == is_low


def test_a_consumer_that_may_is_told_of_a_mistake() -> None:
    with pytest.raises(BadRequest, match="normal or low"):
        Priorities(SETTINGS).is_low({b"x-turnout-priority": b"high", b"x-turnout-key": b"secret"})

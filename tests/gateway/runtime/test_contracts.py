"""A version has draws only while it keeps stable's contract, or a person has accepted that it does not."""

from typing import Any

from gateway.backends.base import State
from gateway.backends.registry import BackendKey, Slot
from gateway.protocol.shapes import Signature, TensorSpec
from gateway.runtime.contracts import ContractCheck
from routing.table import ONNX_DEFAULT


class Described:
    """The part of a backend that the check looks at."""

    def __init__(self, signature: Signature | None, state: State = State.READY) -> None:
        self.signature = signature
        self.state = state


def promise(datatype: str = "FP32") -> Signature:
    return Signature("", (TensorSpec("x", datatype, (-1, 4)),), (TensorSpec("y", "FP32", (-1,)),))


def slot(version: str, backend: Any) -> Slot:
    return Slot(BackendKey("credit", version, ONNX_DEFAULT), backend)


def check(stable: Described, version: Described, accepted: tuple[str, ...] = ()) -> ContractCheck:
    return ContractCheck(slot("1", stable), slot("2", version), accepted)


def test_a_version_that_keeps_the_contract_passes() -> None:
    held = check(Described(promise()), Described(promise()))
    assert held.passes()
    assert held.as_json() == {"verdict": "kept", "breaks": []}


def test_a_version_that_breaks_it_is_held_back_until_a_person_accepts_it() -> None:
    stable, version = Described(promise()), Described(promise("FP64"))
    held = check(stable, version)
    assert not held.passes()
    said = "input 'x' is FP64, stable's is FP32"
    breaks = [{"pointer": "/inputs/x/datatype", "code": "datatype", "message": said}]
    assert held.as_json() == {"verdict": "broken", "breaks": breaks}
    accepted = check(stable, version, (said,))
    assert accepted.passes()
    assert accepted.as_json() == {"verdict": "accepted", "breaks": breaks}
    version.signature = promise("INT64")
    assert not accepted.passes()


def test_another_build_behind_the_same_address_is_compared_before_its_first_draw() -> None:
    stable, version = Described(promise()), Described(promise())
    held = check(stable, version)
    assert held.passes()
    version.signature = promise("FP64")
    assert not held.passes()
    stable.signature = promise("FP64")
    assert held.passes()
    stable.signature = promise()
    assert not held.passes()
    version.signature = promise()
    assert held.passes()


def test_where_stable_was_never_there_draws_go_on_unless_it_is_just_being_loaded() -> None:
    stable, version = Described(None, State.LOADING), Described(promise())
    held = check(stable, version)
    assert not held.passes()
    stable.state = State.FAILED
    assert held.passes()
    assert held.verdict() == "unchecked"
    stable.state, stable.signature = State.READY, promise("FP64")
    assert not held.passes()
    stable.state = State.FAILED  # what it described is still what clients know
    assert not held.passes()


def test_a_version_that_describes_nothing_is_not_compared() -> None:
    held = check(Described(promise()), Described(None))
    assert held.passes()
    assert held.verdict() == "unchecked"

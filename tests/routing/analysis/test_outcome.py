"""Every row of the table of charges."""

import pytest

from routing.analysis.outcome import Charge, Kind, charge, is_fault, kind_of_status, may_fail_over

FAULTS = [Kind.ERROR, Kind.TIMEOUT, Kind.BROKEN, Kind.CONTRACT]
NEVER_CHARGED = [Kind.OK, Kind.UNREACHABLE, Kind.OVERLOADED, Kind.CANCELLED]


@pytest.mark.parametrize("canary", FAULTS)
def test_a_fault_is_charged_when_stable_answers(canary: Kind) -> None:
    assert charge(canary, Kind.OK) is Charge.CHARGED


@pytest.mark.parametrize("canary", FAULTS)
def test_a_fault_is_charged_when_stable_cannot_be_asked(canary: Kind) -> None:
    assert charge(canary, None) is Charge.CHARGED


@pytest.mark.parametrize("canary", FAULTS)
@pytest.mark.parametrize("stable", FAULTS)
def test_a_fault_that_stable_has_too_is_shared(canary: Kind, stable: Kind) -> None:
    assert charge(canary, stable) is Charge.SHARED


@pytest.mark.parametrize("canary", FAULTS)
def test_a_fault_on_a_request_that_stable_refuses_is_the_callers(canary: Kind) -> None:
    assert charge(canary, Kind.REJECTED) is Charge.NONE


def test_a_refusal_is_charged_when_stable_accepts_the_request() -> None:
    assert charge(Kind.REJECTED, Kind.OK) is Charge.CHARGED


@pytest.mark.parametrize("stable", [None, *(kind for kind in Kind if kind is not Kind.OK)])
def test_a_refusal_without_proof_is_charged_to_nobody(stable: Kind | None) -> None:
    assert charge(Kind.REJECTED, stable) is Charge.NONE


@pytest.mark.parametrize("canary", NEVER_CHARGED)
@pytest.mark.parametrize("stable", [None, *Kind])
def test_what_is_no_fault_is_never_charged(canary: Kind, stable: Kind | None) -> None:
    assert charge(canary, stable) is Charge.NONE


@pytest.mark.parametrize("stable", [Kind.UNREACHABLE, Kind.OVERLOADED, Kind.CANCELLED])
def test_a_stable_that_proves_nothing_charges_nobody(stable: Kind) -> None:
    assert charge(Kind.ERROR, stable) is Charge.NONE


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Kind.OK),
        (302, Kind.OK),
        (400, Kind.REJECTED),
        (404, Kind.REJECTED),
        (408, Kind.ERROR),
        (422, Kind.REJECTED),
        (429, Kind.ERROR),
        (500, Kind.ERROR),
        (503, Kind.ERROR),
    ],
)
def test_a_status_has_one_kind(status: int, kind: Kind) -> None:
    assert kind_of_status(status) is kind


def test_only_backend_kinds_are_faults() -> None:
    assert [kind for kind in Kind if is_fault(kind)] == FAULTS


def test_stable_is_asked_for_all_but_good_answers_unreadable_bodies_and_clients_that_left() -> None:
    assert {kind for kind in Kind if not may_fail_over(kind)} == {Kind.OK, Kind.MALFORMED, Kind.CANCELLED}

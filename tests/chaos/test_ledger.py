"""The drills' own judgement: what must be noticed is noticed."""

from tests.chaos.ledger import Death, Entry, Fate, Ledger
from tests.chaos.operators import REGISTERS, Operator, Operators
from tests.chaos.subject import CANARY, STABLE, CreditSubject
from tests.faults.model import label_of, probability_of
from tests.gateway_process import corpus


def entry(fate: Fate, *, replica: int = 0, port: int = 1, sent_s: float = 10.0, done_s: float = 11.0) -> Entry:
    return Entry(0, replica, port, sent_s, fate, done_s)


def test_a_broken_connection_is_excused_only_on_the_process_that_was_killed_and_only_then() -> None:
    worker = Death(0, 10.5, frozenset({1}))
    assert Ledger([entry(Fate.BROKEN)], [worker]).problems() == []
    assert len(Ledger([entry(Fate.BROKEN, port=2)], [worker]).problems()) == 1, "another worker's"
    assert len(Ledger([entry(Fate.BROKEN, replica=1)], [worker]).problems()) == 1, "another replica's"
    assert len(Ledger([entry(Fate.BROKEN, done_s=10.4)], [worker]).problems()) == 1, "before the kill"
    assert len(Ledger([entry(Fate.BROKEN)]).problems()) == 1, "nobody was killed"


def test_a_dead_replica_excuses_nothing_once_it_is_up_again() -> None:
    ledger = Ledger([entry(Fate.BROKEN, sent_s=20, done_s=21)], [Death(0, 10.0)])
    assert ledger.problems() == []
    ledger.up_again[0] = 19.0
    assert len(ledger.problems()) == 1


def test_wrong_and_missing_answers_are_never_excused_and_errors_are_counted() -> None:
    dead = [Death(0, 10.0)]
    assert len(Ledger([entry(Fate.WRONG), entry(Fate.UNANSWERED)], dead).problems()) == 2
    assert Ledger([entry(Fate.RIGHT), entry(Fate.GIVEN_UP)]).problems() == []
    assert len(Ledger([entry(Fate.HONEST)]).problems()) == 1
    assert Ledger([entry(Fate.HONEST)]).problems(honest=1) == []
    assert len(Ledger(nowhere=1).problems()) == 1


def judged(status: int, version: str, body: bytes, **headers: str) -> Fate:
    subject, found = CreditSubject(), entry(Fate.UNANSWERED)
    given = {"x-request-id": "r", "x-turnout-version": version, "x-turnout-role": "stable"}
    given |= {"x-turnout-attempts": "1", "x-turnout-revision": "3", **headers}
    subject.judge(found, subject.request(0), "r", status, given, body)
    return found.fate


def body(version: str, probability: float, label: int) -> bytes:
    text = (
        f'{{"model_name": "credit", "model_version": "{version}", "outputs": [{{"name": "label", "data": [{label}]}},'
        f'{{"name": "probabilities", "data": [{1 - probability}, {probability}]}}]}}'
    )
    return text.encode()


def test_an_answer_is_right_only_as_that_of_the_version_that_it_names() -> None:
    row = corpus("credit")[0]["request"]["inputs"][0]["data"]
    good, label = probability_of(row), label_of(row)
    assert judged(200, CANARY, body(CANARY, good, label)) is Fate.RIGHT
    assert judged(200, STABLE, body(STABLE, good, label)) is Fate.WRONG, "another version's numbers"
    assert judged(200, CANARY, body(STABLE, good, label)) is Fate.WRONG, "head and body name two versions"
    assert judged(200, CANARY, body(CANARY, good + 0.01, label)) is Fate.WRONG
    assert judged(503, "", b'{"error": "not ready"}') is Fate.HONEST
    assert judged(503, "", b"<html>") is Fate.WRONG
    assert judged(500, "", b'{"error": "internal error"}') is Fate.WRONG


def test_a_lost_or_doubled_write_is_noticed() -> None:
    shadow = dict.fromkeys(REGISTERS, 7)
    document = {"route": {"shadows": [shadow]}}
    operators = Operators([], document)
    one = Operator(None, REGISTERS[0], 8, acknowledged=7, revisions=[4, 5])  # type: ignore[arg-type]
    one.replica = type("Named", (), {"number": 0})()  # type: ignore[assignment]
    operators.people = [one]
    assert operators.problems(document) == []
    one.acknowledged = 8
    assert len(operators.problems(document)) == 1
    one.acknowledged, one.revisions = 7, [4, 5, 5]
    assert len(operators.problems(document)) == 1

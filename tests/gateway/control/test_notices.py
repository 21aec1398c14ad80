from gateway.control.notices import CLEAR_S, Notices
from gateway.metrics.families import WARNINGS
from gateway.runtime.warnings import RouteWarning

IDLE = RouteWarning("variant_idle", "2", "canary '2' is idle")
DOWN = RouteWarning("unreachable", "2", "an instance is not ready", "http://a:1")
OTHER = RouteWarning("unreachable", "2", "an instance is not ready", "http://b:1")


def told(notices: Notices, now_s: float, *warnings: RouteWarning) -> list[tuple[str, str]]:
    return [(notice.event, notice.warning.about) for notice in notices.look({"credit": warnings}, now_s)]


def test_a_warning_is_told_once_when_two_looks_in_a_row_have_seen_it() -> None:
    notices = Notices()
    assert told(notices, 0, DOWN) == []
    assert told(notices, 3) == []
    assert told(notices, 6, DOWN) == []
    assert notices.samples() == {WARNINGS.name: {}}
    assert told(notices, 9, DOWN) == [("warning", "http://a:1")]
    assert [told(notices, now_s, DOWN) for now_s in (12, 15, 18)] == [[], [], []]
    assert notices.samples() == {WARNINGS.name: {("unreachable", "credit", "2"): 1}}


def test_a_warning_that_comes_and_goes_is_told_once_and_cleared_once() -> None:
    notices = Notices()
    events = []
    for look in range(40):
        events += told(notices, look * 3.0, *([DOWN] if look < 2 or look % 3 == 0 else []))
    assert events == [("warning", "http://a:1")]
    last_s = 39 * 3.0
    assert told(notices, last_s + CLEAR_S - 1) == []
    assert told(notices, last_s + CLEAR_S) == [("cleared", "http://a:1")]
    assert told(notices, last_s + CLEAR_S + 3) == []
    assert notices.samples() == {WARNINGS.name: {}}


def test_a_sentence_that_changes_is_the_same_warning() -> None:
    notices = Notices()
    told(notices, 0, IDLE)
    assert told(notices, 3, RouteWarning("variant_idle", "2", "canary '2' is idle for longer")) == [("warning", "")]


def test_several_of_a_kind_are_told_apart_and_counted() -> None:
    notices = Notices()
    told(notices, 0, DOWN, OTHER, IDLE)
    assert len(told(notices, 3, DOWN, OTHER, IDLE)) == 3
    counts = {("unreachable", "credit", "2"): 2, ("variant_idle", "credit", "2"): 1}
    assert notices.samples() == {WARNINGS.name: counts}


def test_a_route_that_is_gone_has_no_warnings_at_once() -> None:
    notices = Notices()
    told(notices, 0, DOWN)
    told(notices, 3, DOWN)
    assert [notice.event for notice in notices.look({}, 6)] == ["cleared"]


def test_a_notice_says_who_where_and_what() -> None:
    notices = Notices()
    told(notices, 0, DOWN)
    (notice,) = notices.look({"credit": [DOWN]}, 3)
    assert notice.as_json("host-1") == {
        "model": "credit",
        "version": "2",
        "kind": "unreachable",
        "warning": "an instance is not ready",
        "replica": "host-1",
    }

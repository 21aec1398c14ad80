"""Two operators and a guard on one document: what each knew when it acted may be old, and no rule breaks."""

from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from routing.document import DeletedRoute, Document, RouteDocument
from routing.edit import Change, Delete, Flip, Lower, Release, Replace, next_document
from routing.errors import InvalidDocument, NothingToFlip, RouteNotFound, VersionLatched
from routing.intervals import size
from routing.table import PPM, Route
from tests.builders import document
from tests.routing.test_laws import VERSIONS, routes

OPERATORS = st.sampled_from(["olga", "oskar"])
VERSION = st.sampled_from(VERSIONS)


class OneRoute(RuleBasedStateMachine):
    """The stored document, what each operator read last, and the evidence that guards hold."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Document] = []
        self.read: dict[str, Document] = {}
        self.acknowledged: list[tuple[int, str]] = []
        self.evidence: set[tuple[str, int]] = set()  # version and epoch in which a guard tripped

    @initialize()
    def begin(self) -> None:
        self.history = [document(weights={"1": 70, "2": 10, "3": 10, "4": 10})]
        self.read = {"olga": self.current, "oskar": self.current}

    @property
    def current(self) -> Document:
        return self.history[-1]

    def write(self, change: Change, expected: Document | None = None) -> bool:
        """A compare-and-set: on what was read, or taken up again until it is on the newest."""
        base = self.current if expected is None else expected
        change_id = f"{len(self.acknowledged):032x}"
        following = next_document(base, change, change_id)
        if base.revision != self.current.revision:
            return False  # stale
        if following is not None:
            self.history.append(following)
            self.acknowledged.append((following.revision, change_id))
        return True

    @rule(who=OPERATORS)
    def reads(self, who: str) -> None:
        self.read[who] = self.current

    @rule(who=OPERATORS, wanted=routes)
    def puts(self, who: str, wanted: Route) -> None:
        read, is_latched = self.read[who], False
        weights = wanted.weights()
        may = not any(weights.get(version) or version == wanted.stable for version in read.guard.latched)
        with suppress(InvalidDocument):  # too many pieces
            try:
                self.write(Replace(wanted), read)
            except VersionLatched:
                is_latched = True
            assert is_latched != may

    @rule(who=OPERATORS)
    def deletes(self, who: str) -> None:
        try:
            self.write(Delete("credit"), self.read[who])
        except RouteNotFound:
            assert isinstance(self.read[who], DeletedRoute)

    @rule(version=VERSION)
    def flips(self, version: str) -> None:
        try:
            self.write(Flip("credit", version, "because", 0.0))
        except (NothingToFlip, RouteNotFound):
            return
        assert version in self.current.guard.latched

    @rule(version=VERSION)
    def releases(self, version: str) -> None:
        try:
            self.write(Release("credit", version, "fixed"))
        except (InvalidDocument, RouteNotFound):
            return
        assert version not in self.current.guard.latched

    @rule(version=VERSION)
    def a_guard_trips(self, version: str) -> None:
        """On the document that serves somewhere, which may be an old one."""
        if isinstance(self.current, RouteDocument) and version in self.current.epoch:
            self.evidence.add((version, self.current.epoch[version]))

    @rule()
    def lowers_come_home(self) -> None:
        for version, epoch in sorted(self.evidence):
            before = self.current
            try:
                self.write(Lower("credit", version, epoch, "errors", {"odds": 1e6}, 0.0))
            except RouteNotFound:
                continue
            assert isinstance(before, RouteDocument)
            if before.epoch.get(version) == epoch and version != before.route.stable:
                assert version in self.current.guard.latched, "the flip wins"
            else:
                assert self.current is before, "evidence of what is over changes nothing"
        self.evidence.clear()

    @invariant()
    def a_latched_version_has_no_weight(self) -> None:
        if self.history and isinstance(self.current, RouteDocument):
            weights = self.current.route.weights()
            assert not any(weights.get(version) for version in self.current.guard.latched)
            assert self.current.route.stable not in self.current.guard.latched
            assert sum(weights.values()) == PPM
            for version, pieces in self.current.intervals.pieces.items():
                assert sum(map(size, [pieces])) == weights[version]

    @invariant()
    def every_acknowledged_write_is_in_the_history_in_order(self) -> None:
        assert [(kept.revision, kept.change_id) for kept in self.history[1:]] == self.acknowledged
        assert [kept.revision for kept in self.history] == list(range(1, len(self.history) + 1))

    @invariant()
    def a_latch_goes_by_a_release_alone(self) -> None:
        if len(self.history) > 1:
            before, after = self.history[-2:]
            gone = before.guard.latched.keys() - after.guard.latched.keys()
            assert not gone or (
                isinstance(after, RouteDocument)
                and all(after.epoch.get(version, after.revision) == after.revision for version in gone)
            )


TestOneRoute = OneRoute.TestCase
TestOneRoute.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

"""The worker's side: a stored document becomes what requests are served from, or is refused and changes nothing."""

import logging
from collections.abc import Callable, Mapping
from time import monotonic

from gateway.backends.registry import Registry
from gateway.control.messages import Applied, Down, Forget, Lower, Refused, StoredDocument, Up
from gateway.metrics.ledger import Ledger
from gateway.runtime.arms import Arm
from gateway.runtime.compile import CompiledRoute, compile_route
from gateway.runtime.snapshot import Runtime, Snapshot
from routing.codec import decode, lowered_as_in
from routing.document import DeletedRoute, Document, RouteDocument
from routing.errors import InvalidDocument, NewerSchema, Problem

log = logging.getLogger("turnout.sync")


class Sync:
    """Applies documents to the runtime of one worker.

    Args:
        repository: Arms of the model repository, for pins.
        tell: Sends to the supervisor.
        ledger: Where versions and routes are counted; ``None``: for nobody to see.
        is_alone: No other worker or gateway serves these routes.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        runtime: Runtime,
        registry: Registry,
        repository: Mapping[tuple[str, str], Arm],
        tell: Callable[[Up], None],
        ledger: Ledger | None = None,
        *,
        opaque: bool,
        is_alone: bool = True,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._ledger = ledger or Ledger()
        self._runtime = runtime
        self._registry = registry
        self._repository = repository
        self._tell = tell
        self._opaque = opaque
        self._is_alone = is_alone
        self._routes: dict[str, CompiledRoute] = {}
        self._untold: dict[str, int] = {}  # revisions that serve when stable's own backend does
        runtime.current = Snapshot({}, repository)

    def receive(self, message: Down) -> None:
        """Do what the supervisor says."""
        match message:
            case StoredDocument():
                self._apply(message)
            case Forget():
                self._remove(message.model)
            case Lower():
                self._lower(message)

    def look(self) -> None:
        """Let versions serve whose backends have become ready since something stands in for them."""
        for route in list(self._routes.values()):
            if route.is_overdue:
                self._compile(route.document, route)
                self._tell_applied(route.model)

    def _apply(self, message: StoredDocument) -> None:
        known = self._routes.get(message.model)
        problems: tuple[Problem, ...] = ()
        try:
            document: Document | None = decode(message.data)
        except InvalidDocument as error:
            document, problems = None, error.problems
        except NewerSchema as error:
            problems = (Problem("/schema", "newer_schema", str(error)),)
            document = self._follow(message, known)
        if problems:
            self._refuse(message, problems)
        if document is None:
            return
        if isinstance(document, DeletedRoute):
            self._remove(document.model)
        else:
            self._compile(document, known)
        if not problems:
            self._untold[message.model] = document.revision
            self._tell_applied(message.model)

    def _compile(self, document: RouteDocument, known: CompiledRoute | None) -> None:
        compiled = compile_route(
            document,
            known,
            self._registry,
            self._ledger,
            opaque=self._opaque,
            now_s=self._clock(),
            is_alone=self._is_alone,
        )
        self._routes = {**self._routes, document.model: compiled}
        self._swap()
        if known is not None:
            known.retire()

    def _tell_applied(self, model: str) -> None:
        """Say that a revision serves, unless what was there before it stands in for stable."""
        route = self._routes.get(model)
        if model in self._untold and (route is None or route.stand_ins.stable is None):
            self._tell(Applied(model, self._untold.pop(model)))

    @staticmethod
    def _follow(message: StoredDocument, known: CompiledRoute | None) -> Document | None:
        """What can be obeyed of a newer release's document."""
        try:
            return lowered_as_in(message.data, known.document if known else None)
        except InvalidDocument:
            return None

    def _refuse(self, message: StoredDocument, problems: tuple[Problem, ...]) -> None:
        log.error(
            "a document was refused",
            extra={
                "model": message.model,
                "revision": message.revision,
                "problems": [f"{p.pointer}: {p.message}" for p in problems],
            },
        )
        self._untold.pop(message.model, None)
        self._tell(Refused(message.model, message.revision, problems))

    def _remove(self, model: str) -> None:
        known = self._routes.get(model)
        if known is None:
            return
        self._untold.pop(model, None)
        self._routes = {name: route for name, route in self._routes.items() if name != model}
        self._swap()
        known.retire()

    def _lower(self, message: Lower) -> None:
        route = self._routes.get(message.model)
        arm = route.by_version.get(message.version) if route else None
        if arm is not None and arm.evidence.epoch == message.epoch and not arm.is_stable:
            arm.evidence.lowered = True

    def _swap(self) -> None:
        self._runtime.current = Snapshot(self._routes, self._repository)

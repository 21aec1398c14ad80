"""The one way from a person's wish to a stored document: build, check, compare-and-set, or only say what would be."""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.admin.contracts import Describe, Known, Signatures, Unasked, check, describe_nothing
from gateway.admin.json_patch import diff
from gateway.errors import DamagedDocument, Overloaded
from routing import edit
from routing.codec import as_json, decode, encode
from routing.document import Document, utc
from routing.edit import next_document
from routing.errors import InvalidDocument, Problem, StaleRevision, StoreUnavailable
from routing.parse import parse_route
from routing.store import Draft, Record, Store, write
from routing.table import Route

log = logging.getLogger("turnout.admin")

RAISING = frozenset({"put", "patch", "restore"})  # verbs that may give a version more of the traffic

Make = Callable[[Document | None], edit.Change]
Revision = Callable[[str], int]
Keep = Callable[[Record], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Wish:
    """A change that somebody asks for.

    Attributes:
        model: Whose route.
        verb: What is done, for the history.
        actor: Who.
        reason: Why; may be empty.
        is_dry: Do everything but the write.
        retries: Lost races to take up again.
        wait_s: How long to wait for replicas; None: not at all.
        is_override: Versions that break stable's contract are accepted; ``reason`` says why.
    """

    model: str
    verb: str
    actor: str
    reason: str
    is_dry: bool
    retries: int = 0
    wait_s: float | None = None
    is_override: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a wish came to; ``after`` equals ``before`` when it changes nothing.

    Attributes:
        warnings: What whoever asked should know; the change is made all the same.
    """

    before: Document | None
    after: Document
    is_changed: bool
    warnings: tuple[str, ...] = ()


def nothing_known(_model: str) -> int:
    """Of a process that keeps no copy."""
    return 0


async def keep_nothing(_record: Record) -> None:
    """In a process that keeps no copy."""


class Changes:
    """Applies wishes to a store.

    Args:
        store: Where documents are kept.
        check_route: Problems of a route that only this process can see, such as a host that is not allowed.
        now: Wall clock, seconds since 1970.
        signatures: Tells what workers know of the versions of a model; None: there are none, and no check.
        describe: Finds out what versions are that no worker has.
        known: Newest revision of a route in this replica's copy. A store that holds less has lost something: until that
            is offered back, whatever is built on the rest would take its place.
        keep: Takes what was stored into this replica's copy, before anybody is told that it is done.
    """

    def __init__(
        self,
        store: Store,
        check_route: Callable[[Route], Sequence[Problem]],
        now: Callable[[], float],
        signatures: Signatures | None = None,
        known: Revision = nothing_known,
        keep: Keep = keep_nothing,
        describe: Describe = describe_nothing,
    ) -> None:
        self._store = store
        self._check_route = check_route
        self._signatures = signatures
        self._describe = describe
        self._known = known
        self._keep = keep
        self.now = now

    async def apply(self, wish: Wish, make: Make) -> Result:
        """Bring a change about, or tell what it would do.

        Args:
            make: Makes the change from the stored document; what it raises passes through. Called again after each
                lost race.
        """
        known: Known | None = None
        if self._signatures and wish.verb in RAISING:
            known = Known(await self._signatures(wish.model))
        while True:
            try:
                return await self._apply(wish, make, known)
            except Unasked as unasked:  # nothing was written
                assert known is not None
                known = await known.asking(self._describe, wish.model, unasked.wanted)

    async def _apply(self, wish: Wish, make: Make, known: Known | None) -> Result:
        change_id = secrets.token_hex(16)
        result: Result | None = None

        def build(record: Record | None) -> Draft | None:
            nonlocal result
            self._refuse_loss(wish.model, record)
            before = stored(record)
            change, warnings = self._checked(wish, before, make(before), change_id, known)
            after = next_document(before, change, change_id)
            if after is None:
                assert before is not None
                result = Result(before, before, is_changed=False)
                return None
            result = Result(before, after, is_changed=True, warnings=warnings)
            return Draft(after.revision, encode(after), wish.verb, _evidence(change))

        if wish.is_dry:
            build(await self._store.load(wish.model))
        else:
            await self._write(wish, build, change_id)
        assert result is not None
        if result.is_changed and not wish.is_dry:
            _log(wish, result.after)
        return result

    def _checked(
        self, wish: Wish, before: Document | None, change: edit.Change, change_id: str, known: Known | None
    ) -> tuple[edit.Change, tuple[str, ...]]:
        """The change, when every version that it trusts with more keeps stable's contract, or that was accepted.

        Raises:
            ContractBroken: It does not, and nobody has accepted it.
            Unasked: There is somebody to ask first.
        """
        if known is None or not isinstance(change, edit.Replace):
            return change, ()
        next_document(before, change, change_id)  # what else is wrong with it comes first
        findings = check(before, change.route, known, is_override=wish.is_override)
        known.require(findings.wanted)
        if findings.breaks and not wish.is_override:
            raise findings.refusal(change.route)
        accepted = findings.overrides(utc(self.now()), wish.actor, wish.reason, before)
        return replace(change, overrides=accepted), tuple(findings.warnings())

    async def _write(self, wish: Wish, build: Callable[[Record | None], Draft | None], change_id: str) -> None:
        try:
            done = await write(
                self._store,
                wish.model,
                build,
                actor=wish.actor,
                reason=wish.reason,
                at=self.now(),
                change_id=change_id,
                retries=wish.retries,
            )
        except StaleRevision:
            if not wish.retries:
                raise
            raise Overloaded(f"{wish.model!r} is being changed too often right now: try again") from None
        if done is not None:
            await self._keep(done)

    def _refuse_loss(self, model: str, record: Record | None) -> None:
        held, known = record.revision if record else 0, self._known(model)
        if held < known:
            raise StoreUnavailable(
                f"the store has lost revisions of {model!r}: it holds {held}, this replica knows {known} and offers it "
                "back; nothing was changed"
            )

    def route_from(self, model: str, plain: Any) -> Route:
        """The route in a body for the path of ``model``; the body may leave its name out.

        Raises:
            InvalidDocument: With all problems.
        """
        problems: list[Problem] = []
        if isinstance(plain, Mapping):
            if plain.get("model", model) != model:
                problems.append(
                    Problem("/model", "mismatch", f"the path says {model!r}: leave `model` out or repeat it")
                )
            plain = {**plain, "model": model}
        try:
            route = parse_route(plain)
        except InvalidDocument as error:
            raise InvalidDocument([*problems, *error.problems]) from None
        return self.allowed(route, problems)

    def allowed(self, route: Route, problems: Sequence[Problem] = ()) -> Route:
        """The route, when this process may serve it.

        Raises:
            InvalidDocument: With ``problems`` and those that only this process can see.
        """
        if found := [*problems, *self._check_route(route)]:
            raise InvalidDocument(found)
        return route


def stored(record: Record | None) -> Document | None:
    """The document of a record.

    Raises:
        NewerSchema: A newer release wrote it.
        DamagedDocument: It cannot be read.
    """
    if record is None:
        return None
    try:
        return decode(record.document)
    except InvalidDocument as error:
        raise DamagedDocument(
            f"the stored document of {record.model!r}, revision {record.revision}, cannot be read: {error}"
        ) from None


def without_names(plain: Any) -> Any:
    """A plain document without what differs between any two revisions."""
    if not isinstance(plain, Mapping):
        return plain
    return {key: value for key, value in plain.items() if key not in {"revision", "change_id"}}


def preview(result: Result) -> dict[str, Any]:
    """What a dry run answers."""
    before = as_json(result.before) if result.before else None
    after = as_json(result.after)
    return {
        "dry_run": True,
        "would_change": result.is_changed,
        "document": after,
        "diff": diff(without_names(before), without_names(after)),
        **noted(result),
    }


def noted(result: Result) -> dict[str, Any]:
    """What an answer says beside the document."""
    return {"warnings": list(result.warnings)} if result.warnings else {}


def _evidence(change: edit.Change) -> Any:
    """What the history keeps of an override."""
    if not isinstance(change, edit.Replace) or not change.overrides:
        return None
    return {"override": "contract", "breaks": {version: list(o.breaks) for version, o in change.overrides.items()}}


def _log(wish: Wish, after: Document) -> None:
    details = {
        "model": wish.model,
        "revision": after.revision,
        "verb": wish.verb,
        "actor": wish.actor,
        "reason": wish.reason,
        "change_id": after.change_id,
        "evidence": None,
    }
    log.info("route changed", extra=details)

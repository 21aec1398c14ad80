"""What Triton servers say of the versions on them, beside what this gateway says: one entry for each version."""

from collections.abc import Sequence
from typing import Any

from gateway.backends.base import State
from gateway.backends.inquiry import NOT_IN_TIME, Inquiry, Question, Words
from gateway.dataplane import models
from gateway.protocol.words import UNLISTED, best, summed, worse
from gateway.runtime.arms import Arm
from routing.table import TritonSpec

Plain = dict[str, Any]

REASON_CHARS = 100  # of a server's reason that a client sees
PRIVATE = frozenset("/\\:")  # a reason with one of these may name folders or addresses
OURS = {"ready": "READY", "loading": "LOADING"}


class Servers:
    """Adds up, version by version, what its instances say. Versions that are elsewhere stay as they are.

    Args:
        inquiry: Asks them.
    """

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry

    async def close(self) -> None:
        """Ask nothing any more."""
        await self._inquiry.close()

    async def statistics(self, arms: Sequence[Arm]) -> list[Plain]:
        """Our own counts of each version, with ``servers`` beside them where it runs on Triton."""
        everything = len({arm.model for arm in arms}) > 1  # one question for each server, then
        asked = {arm: _questions(arm, "statistics", everything=everything) for arm in arms}
        words = await self._inquiry.words(one for questions in asked.values() for one in questions)
        told = []
        for arm, questions in asked.items():
            plain = models.statistics(arm)
            if questions:
                plain["servers"] = added_up([words[one] for one in questions], _place(arm))
            told.append(plain)
        return told

    async def index(self, arms: Sequence[Arm]) -> list[Plain]:
        """State and reason of each version; on Triton, over its instances."""
        asked = {arm: _questions(arm, "index") for arm in arms}
        words = await self._inquiry.words(one for questions in asked.values() for one in questions)
        entries = []
        for arm, questions in asked.items():
            entry = models.entry(arm)
            if questions and arm.slot.backend.state is not State.CLOSED:
                entry |= _combined(arm, entry, [words[one] for one in questions])
            entries.append(entry)
        return entries

    def tell(self, arm: Arm, instances: Sequence[Plain]) -> None:
        """Write into each instance of a status what its server said last; ask again for the next time."""
        for index, statistics in zip(_questions(arm, "index"), _questions(arm, "statistics"), strict=True):
            self._inquiry.refresh((index, statistics))
            for instance in instances:
                if instance["url"] == index.url:
                    said = self._inquiry.last(index), self._inquiry.last(statistics)
                    instance["server"] = _last_words(*said, _place(arm), self._inquiry.now_s)


def _questions(arm: Arm, about: str, *, everything: bool = False) -> list[Question]:
    spec = arm.slot.key.spec
    if not isinstance(spec, TritonSpec):
        return []
    model = "" if everything or about == "index" else _place(arm)[0]
    return [Question(url, about, model) for url in spec.addresses()]


def _place(arm: Arm) -> tuple[str, str]:
    """The servers' names of model and version."""
    key, spec = arm.slot.key, arm.slot.key.spec
    assert isinstance(spec, TritonSpec)
    return spec.model or key.model, spec.version or key.version


def added_up(words: Sequence[Words], place: tuple[str, str]) -> Plain:
    """The numbers of a version over its instances: sums over those that answered, and each one's own.

    Instances are named by their place in the route, from 0: clients see no addresses.
    """
    each: list[Plain] = []
    for number, said in enumerate(words):
        numbers = said.statistics.get(place)
        each.append({"instance": number, **(numbers or {"error": _public(said)})})
    answered = [one for one in each if "error" not in one]
    return {"instances_asked": len(each), "instances_answered": len(answered), **summed(answered), "instances": each}


def _public(said: Words) -> str:
    """Why a server told nothing of a version, without its address."""
    if said.problem == NOT_IN_TIME:
        return NOT_IN_TIME
    return "could not be asked" if said.problem else "does not have the version"


def _combined(arm: Arm, ours: Plain, words: Sequence[Words]) -> Plain:
    seen = getattr(arm.slot.backend, "instances", ())
    each = [
        _on_one(OURS.get(instance.state.value, "UNAVAILABLE"), said, _place(arm))
        for instance, said in zip(seen, words, strict=False)
    ]
    return over_instances(each) if each else {"state": ours["state"], "reason": ours["reason"]}


def _on_one(ours: str, said: Words, place: tuple[str, str]) -> tuple[str, str]:
    """State and reason on one instance: the worse of what the gateway and the server say; silence says nothing."""
    if said.problem:
        return ours, f"its server {_public(said)}"
    state, reason = said.index.get(place, UNLISTED)
    if worse(state, ours) == state and state != "READY":
        is_private = len(reason) > REASON_CHARS or not PRIVATE.isdisjoint(reason)
        return state, "its server says so" if is_private or not reason else reason
    return ours, "" if ours == "READY" else "the gateway does not ask it now"


def over_instances(each: Sequence[tuple[str, str]]) -> Plain:
    """State and reason of a version: as good as the best of its instances, with a word on every other one."""
    state = best(one for one, _ in each)
    words = [f"instance {number}: {one}, {why}" for number, (one, why) in enumerate(each) if why]
    return {"state": state, "reason": "; ".join(words)}


def _last_words(index: Words | None, statistics: Words | None, place: tuple[str, str], now_s: float) -> Plain | None:
    if index is None or statistics is None:
        return None
    state, reason = index.index.get(place, UNLISTED) if not index.problem else ("", "")
    return {
        "state": state,
        "reason": reason,
        "error": index.problem or statistics.problem,
        "age_s": round(now_s - min(index.at_s, statistics.at_s), 3),
        "statistics": statistics.statistics.get(place),
    }

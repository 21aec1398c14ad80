"""The supervisor's view of its workers: what each serves, what is told to all, and what they answer."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import orjson

from gateway.control.link import End
from gateway.control.messages import Applied, Ask, BadMessage, Down, Ping, Pong, Ready, Refused, Serving, Told, Up
from gateway.protocol.metadata import from_plain
from gateway.protocol.shapes import Signature

log = logging.getLogger("turnout.supervisor")

ANSWER_S = 2.0  # how long a status or a scrape waits for a worker
SILENT_BEATS = 3  # beats without an answer after which a worker is not asked anything
MODELS_A_QUESTION = 100


class Member:
    """One worker that is linked.

    Attributes:
        number: Its slot, 0 and up.
        applied: By model, the revision that it serves.
        refused: By model, what it could not serve and why.
        is_serving: It takes connections.
        is_ready: It has loaded what it could.
        has_spoken: Its loop has turned; before that it is being started.
        missed_beats: Pings since its last answer.
    """

    def __init__(self, number: int, end: End) -> None:
        self.number = number
        self.end = end
        self.applied: dict[str, int] = {}
        self.refused: dict[str, Refused] = {}
        self.is_serving = self.is_ready = self.has_spoken = False
        self.missed_beats = 0
        self.asked: dict[int, asyncio.Future[Any]] = {}

    @property
    def is_silent(self) -> bool:
        """Whether it would not answer a question in time."""
        return not self.has_spoken or self.missed_beats > SILENT_BEATS

    def send(self, message: Down) -> None:
        """Send; a message that is too large is logged and lost."""
        try:
            self.end.send(message)
        except BadMessage as error:
            log.error("a message is too large for a link", extra={"worker": self.number, "reason": str(error)})


class Workers:
    """All that are linked.

    Attributes:
        on_join: Told of a new member, which has to be sent the table.
        on_up: Told of messages that are not answers.
        on_change: Told when what all of them serve may have changed, without a message.
        late_answers: Questions that a worker did not answer in time.
        described: Versions that were to be described before an edit, by whether they were.
    """

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}
        self._questions = count()
        self.on_join: Callable[[Member], None] = _unheard
        self.on_up: Callable[[Member, Up], None] = _unheard
        self.on_change: Callable[[], None] = _unheard
        self.late_answers = 0
        self.described = {True: 0, False: 0}

    @property
    def members(self) -> list[Member]:
        """By slot."""
        return [self._members[number] for number in sorted(self._members)]

    def join(self, number: int, end: End) -> Member:
        """A worker in this slot, in place of the one before."""
        member = Member(number, end)
        self._members[number] = member
        end.on_message = lambda message: self._hear(member, message)
        end.start()
        self.on_join(member)
        return member

    def leave(self, member: Member) -> None:
        """It is gone."""
        if self._members.get(member.number) is member:
            del self._members[member.number]
        for answer in member.asked.values():
            answer.cancel()
        self.on_change()

    def down(self, message: Down) -> None:
        """Tell all."""
        for member in self.members:
            member.send(message)

    def beat(self) -> None:
        """Ask all whether their loop turns."""
        for member in self.members:
            member.missed_beats += 1
            member.send(Ping())

    def serves(self, model: str) -> int:
        """The revision of a model that all serve, 0 when one serves none."""
        return min((m.applied.get(model, 0) for m in self.members if m.is_serving), default=0)

    def applied(self) -> dict[str, int]:
        """By model, the revision that every worker serves that takes connections, or a later one."""
        serving = [member.applied for member in self.members if member.is_serving]
        if not serving:
            return {}
        everywhere = set(serving[0]).intersection(*serving[1:])
        return {model: min(applied[model] for applied in serving) for model in everywhere}

    def refused(self) -> dict[str, Refused]:
        """By model, what a worker cannot serve."""
        return {model: refusal for member in self.members for model, refusal in member.refused.items()}

    def forget(self, model: str) -> None:
        """The store holds nothing of it any more."""
        for member in self.members:
            member.applied.pop(model, None)
            member.refused.pop(model, None)

    async def ask(self, about: str, models: Sequence[str] = ()) -> dict[int, Any]:
        """What every worker answers within ``ANSWER_S``, by slot; models are asked for a few at a time.

        Workers that do not answer in time are left out, and counted.
        """
        parts: dict[int, Any] = {}
        for begin in range(0, max(len(models), 1), MODELS_A_QUESTION):
            answers = await self._ask(about, tuple(models[begin : begin + MODELS_A_QUESTION]))
            for number, answer in answers.items():
                parts[number] = {**parts[number], **answer} if number in parts else answer
        return parts

    async def signatures(self, model: str) -> dict[tuple[str, str], list[Signature]]:
        """What the versions of a model take and give, by version and backend as JSON, for those loaded somewhere."""
        found: dict[tuple[str, str], list[Signature]] = {}
        for told in (await self.ask("signatures", [model])).values():
            for version, spec, plain in told.get(model, ()):
                known, signature = found.setdefault((version, spec), []), from_plain(plain)
                if signature not in known:
                    known.append(signature)
        return found

    async def describe(self, model: str, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[Signature]]:
        """The same of versions that are loaded nowhere, as far as one worker can find out now."""
        members = [member for member in self.members if member.is_serving and not member.is_silent][:1]
        told = await self._ask("describe", (model,), members, orjson.dumps(wanted))
        plain = [one for answer in told.values() for one in answer.get(model, ())]
        found = {(version, spec): [from_plain(signature)] for version, spec, signature in plain}
        self.described[True] += len(found)
        self.described[False] += len(wanted) - len(found)
        return found

    async def _ask(
        self, about: str, models: tuple[str, ...], members: Sequence[Member] | None = None, data: bytes = b""
    ) -> dict[int, Any]:
        asked: dict[int, asyncio.Future[Any]] = {}
        question = next(self._questions)
        if members is None:
            members = [member for member in self.members if not member.is_silent]
        for member in members:
            asked[member.number] = member.asked[question] = asyncio.get_running_loop().create_future()
            member.send(Ask(question, about, models, data))
        try:
            if asked:
                await asyncio.wait(asked.values(), timeout=ANSWER_S)
        finally:
            for member in members:
                member.asked.pop(question, None)
        found = {n: answer.result() for n, answer in asked.items() if answer.done() and not answer.cancelled()}
        self.late_answers += len(asked) - len(found)
        return found

    def _hear(self, member: Member, message: Up) -> None:
        member.has_spoken, member.missed_beats = True, 0
        match message:
            case Pong():
                return
            case Told():
                answer = member.asked.pop(message.question, None)
                if answer is not None and not answer.done():
                    answer.set_result(orjson.loads(message.data))
                return
            case Applied():
                member.applied[message.model] = message.revision
                member.refused.pop(message.model, None)
            case Refused():
                member.refused[message.model] = message
            case Serving():
                member.is_serving = True
            case Ready():
                member.is_ready = True
            case _:
                pass
        self.on_up(member, message)


def missing(members: Iterable[Member], answered: Iterable[int]) -> list[int]:
    """Slots that did not answer."""
    return sorted({member.number for member in members} - set(answered))


def _unheard(*_said: object) -> None:
    return

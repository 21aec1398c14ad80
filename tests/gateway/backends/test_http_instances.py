"""A version on several servers: who is asked, and what happens when some of them are gone."""

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from gateway.backends.base import Reply, State
from gateway.backends.http import HttpBackend
from routing.analysis.outcome import Kind
from tests.faults import FaultBackend, probability_of
from tests.gateway.backends.remote import (
    WAIT_S,
    Call,
    Script,
    answers,
    ask,
    backend,
    ok,
    pool_of,
    raw_server,
    read_request,
    request,
    requests_of,
    run,
    submit,
    until,
)
from tests.ports import free_port


@pytest.fixture(scope="module")
def processes() -> Iterator[list[FaultBackend]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FaultBackend()) for _ in range(2)]


@pytest.fixture
def two(processes: list[FaultBackend]) -> list[FaultBackend]:
    for each in processes:
        each.set("ok")
    return processes


def counting(seen: Counter[int], number: int, pause_s: float = 0.0) -> Script:
    """Answers everything and counts it."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _connection: int) -> None:
        while True:
            await read_request(reader)
            seen[number] += 1
            await asyncio.sleep(pause_s)
            writer.write(ok())

    return script


@pytest.mark.parametrize("count", [2, 3])
def test_equal_servers_get_equal_shares_idle_or_busy(count: int) -> None:
    async def scenario() -> None:
        seen: Counter[int] = Counter()
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(raw_server(counting(seen, n))) for n in range(count)]
            made = await stack.enter_async_context(backend(*urls))
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            for _ in range(10 * count):  # one at a time: nothing is ever in flight when the next one comes
                await ask(made)
            assert set(seen.values()) == {10}
            for _ in range(10):
                futures = [submit(made, request())[0] for _ in range(4 * count)]
                assert {instance.connections.in_flight for instance in made.instances} == {4}
                await asyncio.gather(*futures)
            assert set(seen.values()) == {50}

    run(scenario())


def test_a_slow_server_gets_fewer() -> None:
    async def scenario() -> None:
        seen: Counter[int] = Counter()
        slow, quick = counting(seen, 0, 0.05), counting(seen, 1)
        async with raw_server(slow) as one, raw_server(quick) as other, backend(one, other) as made:
            await until(lambda: all(instance.state is State.READY for instance in made.instances))

            async def caller() -> None:
                for _ in range(50):
                    assert (await ask(made)).kind is Kind.OK

            await asyncio.gather(*(caller() for _ in range(4)))
            assert seen.total() == 200
            assert seen[0] < 60

    run(scenario())


def test_the_version_is_ready_with_its_first_server_and_says_which_one_is_missing(two: list[FaultBackend]) -> None:
    async def scenario() -> None:
        nobody = f"http://127.0.0.1:{free_port()}"
        async with backend(nobody, two[0].url) as made:
            assert made.state is State.READY
            await until(lambda: made.instances[0].state is State.FAILED)
            assert made.reason == ""
            first, second = made.instance_status()
            assert (first["url"], first["state"], second["state"]) == (nobody, "failed", "ready")
            assert "refused connections" in first["reason"]
            for _ in range(4):
                assert (await ask(made)).kind is Kind.OK

    run(scenario())


def test_a_host_that_says_nothing_costs_no_request_its_time(two: list[FaultBackend]) -> None:
    """A connection that is neither taken nor refused, as to a machine that is off; a listener's full queue does it."""

    async def scenario() -> None:
        with socket.socket() as deaf, ExitStack() as queued:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
            for _ in range(4):
                one = queued.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(deaf.getsockname())
            async with backend(url, two[0].url, two[1].url) as made:
                await until(lambda: made.state is State.READY)
                first = made.instances[0]
                first._enter(State.READY, "")  # it was, before it fell silent
                begin = asyncio.get_running_loop().time()
                replies = await asyncio.gather(*(ask(made) for _ in range(9)))
                assert {reply.kind for reply in replies} == {Kind.OK}
                assert asyncio.get_running_loop().time() - begin < 1.5
                assert first.state is State.FAILED

    run(scenario())


@pytest.mark.parametrize("may_repeat", [True, False])
def test_a_server_that_goes_away_costs_no_request_and_comes_back(two: list[FaultBackend], may_repeat: bool) -> None:
    async def scenario() -> None:
        states: list[State] = []
        opened: list[HttpBackend] = []
        changed = lambda: states.extend(one.state for one in opened)  # noqa: E731
        async with backend(*(each.url for each in two), on_state=changed) as made:
            opened.append(made)
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            call = Call(request().body, may_repeat=may_repeat)
            replies = await asyncio.gather(*(ask(made, call) for _ in range(8)))
            assert {reply.kind for reply in replies} == {Kind.OK}
            two[0].set("refuse")
            await until(lambda: pool_of(made, 0).open_count == 0)
            assert made.instances[0].state is State.READY  # nobody has noticed yet
            replies = await asyncio.gather(*(ask(made, call) for _ in range(8)))
            assert {reply.kind for reply in replies} == {Kind.OK}
            assert made.statistics.fail == 0
            assert (made.instances[0].state, made.state) == (State.FAILED, State.READY)
            assert pool_of(made, 0).moved > 0
            two[0].set("ok")
            await until(lambda: made.instances[0].state is State.READY)
            before = requests_of(two[0])
            for _ in range(40):  # it comes back slowly: every tenth goes there at first
                assert (await ask(made, call)).kind is Kind.OK
            assert before < requests_of(two[0]) < before + 15
        assert states == [State.CLOSED]

    run(scenario())


def test_a_killed_server_costs_no_request_that_may_be_repeated() -> None:
    async def scenario(first: FaultBackend, second: FaultBackend) -> None:
        async with backend(first.url, second.url) as made:
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            await asyncio.gather(*(ask(made) for _ in range(16)))
            stopped = False
            replies: list[Reply] = []

            async def caller() -> None:
                while not stopped:
                    replies.append(await ask(made))

            callers = [asyncio.create_task(caller()) for _ in range(6)]
            await until(lambda: len(replies) > 30)
            first.kill()
            at = len(replies)
            await until(lambda: len(replies) > at + 60)
            stopped = True
            await asyncio.gather(*callers)
            assert {reply.kind for reply in replies} == {Kind.OK}, [r.detail for r in replies if r.kind is not Kind.OK]
            assert made.instances[0].state is State.FAILED

    with FaultBackend() as first, FaultBackend() as second:
        run(scenario(first, second))


def test_all_servers_gone_is_not_ready_until_one_is_back(two: list[FaultBackend]) -> None:
    async def scenario() -> None:
        async with backend(*(each.url for each in two)) as made:
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            for each in two:
                each.set("refuse")
            for _ in range(2):
                reply = await ask(made)
                assert (reply.kind, reply.status) == (Kind.UNREACHABLE, 503)
                assert "127.0.0.1" not in json.loads(reply.body)["error"]
            assert made.state is State.FAILED
            assert all(each.url in made.reason for each in two)
            assert "127.0.0.1" not in made.public_reason
            two[1].set("ok")
            await until(lambda: made.state is State.READY)
            assert (await ask(made)).kind is Kind.OK
            assert [instance.state for instance in made.instances] == [State.FAILED, State.READY]

    run(scenario())


def test_a_request_that_was_sent_and_broken_off_is_not_moved() -> None:
    seen: Counter[int] = Counter()

    async def breaks(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter, _number: int) -> None:
        await read_request(reader)
        seen[0] += 1

    async def scenario() -> None:
        async with raw_server(breaks) as one, raw_server(counting(seen, 1)) as other, backend(one, other) as made:
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            kinds = Counter([(await ask(made)).kind for _ in range(4)])
            assert kinds == {Kind.BROKEN: 2, Kind.OK: 2}
            assert seen == {0: 2, 1: 2}

    run(scenario())


def test_requests_that_wait_for_a_connection_move_on_too(two: list[FaultBackend]) -> None:
    async def scenario() -> None:
        async with backend(*(each.url for each in two), max_connections=1) as made:
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            two[0].set("refuse")
            replies = await asyncio.gather(*(ask(made) for _ in range(10)))
            assert {reply.kind for reply in replies} == {Kind.OK}
            assert pool_of(made, 0).moved == 5

    run(scenario())


def test_a_server_of_another_build_is_not_asked(two: list[FaultBackend]) -> None:
    async def scenario() -> None:
        async with raw_server(answers(ok())) as other, backend(two[0].url, other) as made:
            await until(lambda: all(instance.state is not State.LOADING for instance in made.instances))
            assert sorted(instance.state for instance in made.instances) == [State.FAILED, State.READY]
            failed = next(instance for instance in made.instances if instance.state is State.FAILED)
            assert "describes other tensors" in failed.reason

    run(scenario())


def test_cancelled_requests_leave_nothing_in_flight(two: list[FaultBackend]) -> None:
    async def scenario() -> None:
        async with backend(*(each.url for each in two), max_connections=2) as made:
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            for each in two:
                each.set("never")
            given_up = [submit(made, request())[1] for _ in range(12)]
            await until(lambda: sum(each.counts()["in_flight"] for each in two) == 4)
            for give_up in given_up:
                give_up()
                give_up()
            assert [instance.connections.in_flight for instance in made.instances] == [0, 0]
            assert made.statistics.fail == 12

    run(scenario())


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_no_answer_reaches_another_request_while_a_server_comes_and_goes(two: list[FaultBackend], loop: str) -> None:
    async def scenario() -> None:
        draws = random.Random(11)
        for each in two:
            each.set("ok", share=0.3, delay_ms=3, seed=11)
        async with backend(*(each.url for each in two), max_connections=8, max_waiting=1_000) as made:
            now_s = asyncio.get_running_loop().time
            answered: dict[int, Reply] = {}
            cancelled: set[int] = set()
            for number in range(400):

                def keep(reply: Reply, number: int = number) -> None:
                    assert number not in answered
                    assert number not in cancelled
                    answered[number] = reply

                cancel = made.submit(request(number / 10_000, id=f"request {number}"), now_s() + WAIT_S, keep)
                if number not in answered and draws.random() < 0.1:
                    cancelled.add(number)
                    cancel()
                if number == 100:
                    await asyncio.to_thread(two[0].set, "refuse")
                if number == 250:
                    await asyncio.to_thread(two[0].set, "ok")
                if number % 20 == 0:
                    await asyncio.sleep(0.002)
            await until(lambda: len(answered) + len(cancelled) == 400)
            good = {number: reply for number, reply in answered.items() if reply.kind is Kind.OK}
            assert len(good) > 300
            for number, reply in good.items():
                answer = json.loads(reply.body)
                assert answer["id"] == f"request {number}"
                assert answer["outputs"][1]["data"][1] == probability_of([number / 10_000] * 7)

    run(scenario(), loop)

"""One of several servers that fails: when it goes, who has to stay, how it comes back."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends.base import State
from gateway.backends.health import FIRST_SHARE, LONGEST_SPELLS, Health, HealthRules
from routing.analysis.outcome import Kind
from tests.faults import FaultBackend
from tests.gateway.backends.grpc_server import END_HEADERS, END_STREAM, HEADERS, Peer, answer, frame, grpc_server
from tests.gateway.backends.grpc_server import refusal as grpc_refusal
from tests.gateway.backends.remote import Call, ask, backend, request, requests_of, run, submit, until
from tests.gateway.backends.test_grpc import call as grpc_call

RULES = HealthRules(eject_after=3, eject_s=2.0, slow_start_s=10.0, max_ejected=0.5)


def test_failures_in_a_row_are_too_many_and_a_good_answer_between_begins_anew() -> None:
    health = Health(RULES)
    assert [health.fault(), health.fault()] == [False, False]
    health.good()
    assert [health.fault(), health.fault(), health.fault(), health.fault()] == [False, False, True, True]


def test_with_a_bound_of_0_nothing_is_too_many() -> None:
    health = Health(HealthRules(eject_after=0))
    assert not any(health.fault() for _ in range(1000))


def test_each_time_that_it_fails_on_its_way_back_it_is_out_twice_as_long() -> None:
    health, spans = Health(RULES), []
    for _ in range(6):
        health.eject(100.0)
        spans.append(health.until_s - 100.0)
        health.come_back(health.until_s)
        assert health.fault()  # once is enough now
    assert spans == [2.0, 4.0, 8.0, 16.0, 2.0 * LONGEST_SPELLS, 2.0 * LONGEST_SPELLS]
    health.come_back(0.0)
    health.good()
    assert health.share(10.0) == 1.0  # the whole way back: all is forgiven
    health.eject(100.0)
    assert health.until_s == 102.0


@given(st.floats(0, 20), st.floats(0, 20))
def test_its_share_grows_to_the_whole_and_never_shrinks(one_s: float, other_s: float) -> None:
    health = Health(RULES)
    health.come_back(50.0)
    earlier, later = (health.share(50.0 + age_s) for age_s in sorted((one_s, other_s)))
    assert FIRST_SHARE <= earlier <= later <= 1.0


@given(st.floats(0, 9.9), st.integers(1, 300))
def test_of_many_calls_it_takes_its_share(age_s: float, count: int) -> None:
    health = Health(RULES)
    health.come_back(0.0)
    share = health.share(age_s)
    taken = sum(health.takes(age_s) for _ in range(count))
    assert abs(taken - share * count) <= 1


@given(st.floats(0, 1), st.integers(1, 16), st.data())
def test_never_do_all_go_nor_more_than_the_bound(max_ejected: float, servers: int, data: st.DataObject) -> None:
    rules = HealthRules(max_ejected=max_ejected)
    out = data.draw(st.integers(0, servers))
    if rules.may_eject(servers, out):
        assert out + 1 < servers or servers > out + 1
        assert out + 1 <= max_ejected * servers
    assert not HealthRules(max_ejected=1.0).may_eject(servers, servers - 1)


# With servers.


@pytest.fixture(scope="module")
def other() -> FaultBackend:
    with FaultBackend() as started:
        yield started


QUICK = HealthRules(eject_after=3, eject_s=0.3, slow_start_s=0.5)


@pytest.mark.parametrize("mode", ["error_500", "never", "reset_before_head"])
def test_one_that_fails_is_not_asked_and_comes_back_slowly(
    faults: FaultBackend, other: FaultBackend, mode: str
) -> None:
    async def scenario() -> None:
        faults.set(mode)
        other.set("ok")
        ejected: list[int] = []
        async with backend(faults.url, other.url, health=QUICK, on_ejected=lambda: ejected.append(1)) as made:
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(10):
                while not ejected:
                    future, cancel = submit(made, request(), 0.05)
                    await asyncio.wait([future], timeout=0.06)
                    if not future.done():
                        cancel()  # as the pipeline does when the time is up
            first, second = made.instance_status()
            assert (first["state"], first["ejections"], second["state"]) == ("ejected", 1, "ready")
            assert "3 times in a row" in made.instances[0].reason
            before, begin_s = requests_of(faults), loop.time()
            for _ in range(20):
                assert (await ask(made)).kind is Kind.OK
            assert requests_of(faults) == before
            faults.set("ok")
            await until(lambda: made.instances[0].state is State.READY)
            assert loop.time() - begin_s > 0.2
            for _ in range(10):
                assert (await ask(made)).kind is Kind.OK
            assert requests_of(faults) - before <= 5
            await asyncio.sleep(0.6)
            before = requests_of(faults)
            for _ in range(20):
                assert (await ask(made)).kind is Kind.OK
            assert requests_of(faults) == before + 10

    run(scenario())


def test_a_client_that_does_not_wait_is_no_failure_of_the_server(faults: FaultBackend, other: FaultBackend) -> None:
    async def scenario() -> None:
        faults.set("never")
        other.set("never")
        async with backend(faults.url, other.url, health=QUICK) as made:
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            for _ in range(12):
                _, cancel = submit(made, request(), 10)
                await asyncio.sleep(0.001)
                cancel()
            assert [one["state"] for one in made.instance_status()] == ["ready", "ready"]
            assert [instance.health.faults for instance in made.instances] == [0, 0]

    run(scenario())


def test_the_last_one_stays_however_it_fails(faults: FaultBackend, other: FaultBackend) -> None:
    async def scenario() -> None:
        faults.set("error_500")
        other.set("error_500")
        async with backend(faults.url, other.url, health=QUICK) as made:
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            for _ in range(30):
                assert (await ask(made)).kind is Kind.ERROR
            states = sorted(one["state"] for one in made.instance_status())
            assert states == ["ejected", "ready"]
            assert sum(one["ejections_refused"] for one in made.instance_status()) > 0
            assert made.state is State.READY

    run(scenario())


def test_what_waited_for_one_that_is_not_asked_any_more_goes_elsewhere(
    faults: FaultBackend, other: FaultBackend
) -> None:
    async def scenario() -> None:
        faults.set("never")
        other.set("ok", ok_delay_ms=200)
        async with backend(faults.url, other.url, health=QUICK, max_connections=3, max_waiting=10) as made:
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            sent = [submit(made, request(), 0.05 if n < 6 else 10) for n in range(16)]
            assert [one["waiting"] for one in made.instance_status()] == [5, 5]
            await asyncio.sleep(0.06)
            riding = [cancel for (future, cancel) in sent[::2][:3]]
            for cancel in riding:
                cancel()
            status = made.instance_status()
            assert [one["state"] for one in status] == ["ejected", "ready"]
            assert (status[0]["waiting"], status[0]["moved"]) == (0, 2)

    run(scenario())


def test_a_server_that_falls_silent_is_not_ready_after_some_checks() -> None:
    async def scenario() -> None:
        silent = False

        async def script(peer: Peer) -> None:
            await peer.reader.read()

        async with grpc_server(script) as url:
            made_with = {"check_s": 0.02}
            async with backend(url, **made_with) as made:
                assert made.state is State.READY
                inspect = made.instances[0]._transport.inspect

                async def quiet() -> object:
                    if silent:
                        from gateway.backends.probe import NoAnswer

                        raise NoAnswer("did not answer a probe within 5 s")
                    return await inspect()

                made.instances[0]._transport.inspect = quiet  # type: ignore[method-assign,assignment]
                await asyncio.sleep(0.1)
                assert made.state is State.READY
                silent = True
                await until(lambda: made.state is State.FAILED)
                assert "did not answer a probe" in made.reason
                silent = False
                await until(lambda: made.state is State.READY)

    run(scenario())


def test_servers_by_grpc_go_and_come_back_likewise() -> None:
    broken = True

    async def bad(peer: Peer) -> None:
        while True:
            stream, _ = await peer.call()
            block = grpc_refusal(13, b"no")
            peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, block) if broken else answer(stream))

    async def good(peer: Peer) -> None:
        while True:
            stream, _ = await peer.call()
            peer.send(answer(stream))

    async def scenario() -> None:
        nonlocal broken
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(grpc_server(script)) for script in (bad, good)]
            made = await stack.enter_async_context(backend(*urls, health=QUICK))
            await until(lambda: all(instance.state is State.READY for instance in made.instances))
            call: Call = grpc_call()
            kinds = [(await ask(made, call)).kind for _ in range(30)]
            assert kinds.count(Kind.ERROR) == 3
            assert made.instance_status()[0]["state"] == "ejected"
            await until(lambda: made.instances[0].state is State.READY)
            kinds = [(await ask(made, call)).kind for _ in range(20)]
            assert kinds.count(Kind.ERROR) == 1  # the first failure on the way back is enough
            broken = False
            await until(lambda: made.instances[0].state is State.READY)
            assert {(await ask(made, call)).kind for _ in range(20)} == {Kind.OK}

    run(scenario())

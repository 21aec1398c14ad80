"""``make run DEMO_TRAFFIC=1``: the demo's gateway, customers who use it, and a live table of who answered them.

Replays the request corpora beside this file at a steady rate, each customer with a key of its own, and shows what the
answers' headers said. Edit a route in another terminal and watch the shares move.
"""

import argparse
import asyncio
import json
import re
import signal
import sys
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

DEMO = Path(__file__).parent
RATE = 40.0  # requests a second, both models together
CUSTOMERS = 500
RECENT = 400  # answers of one model that the shares and latencies are taken from
MAX_IN_FLIGHT = 64
TIMEOUT_S = 10.0
LAST_WORDS_S = 0.3
LEFT = {"model", "version", "role"}


class Seen:
    """What the answers of one model said lately."""

    def __init__(self) -> None:
        self.recent: deque[tuple[str, str, int, float]] = deque(maxlen=RECENT)
        self.total = 0
        self.errors = 0
        self.failovers = 0
        self.revision = "-"

    def take(self, response: httpx.Response, seconds: float) -> None:
        headers = response.headers
        self.total += 1
        self.errors += response.status_code >= 400
        self.failovers += headers.get("x-turnout-attempts") == "2"
        self.revision = headers.get("x-turnout-revision", self.revision)
        version, role = headers.get("x-turnout-version", "-"), headers.get("x-turnout-role", "-")
        self.recent.append((version, role, response.status_code, seconds))


def corpus(model: str) -> list[dict[str, Any]]:
    with (DEMO / "requests" / f"{model}.jsonl").open() as lines:
        return [json.loads(line)["request"] for line in lines]


def table(seen: dict[str, Seen], began_s: float) -> Table:
    view = Table(
        padding=(0, 0),
        title=f"{monotonic() - began_s:.0f} s of traffic",
        caption="Ctrl-C ends it",
        title_justify="left",
    )
    for column in ("model", "rev", "version", "role", "share", "p50 ms", "p99 ms", "asked", "errors", "retried"):
        view.add_column(column, justify="left" if column in LEFT else "right", no_wrap=True)
    for model, one in seen.items():
        arms = Counter((version, role) for version, role, _, _ in one.recent)
        for index, ((version, role), count) in enumerate(sorted(arms.items())):
            times = sorted(s for v, r, _, s in one.recent if (v, r) == (version, role))
            whole = (model, one.revision) if index == 0 else ("", "")
            sums = (str(one.total), str(one.errors), str(one.failovers)) if index == 0 else ("", "", "")
            share = f"{100 * count / len(one.recent):.1f}%"
            p50, p99 = (f"{1000 * times[int(q * (len(times) - 1))]:.1f}" for q in (0.5, 0.99))
            view.add_row(*whole, version, role, share, p50, p99, *sums)
    return view


async def customers(data: str, seen: dict[str, Seen], until_s: float) -> None:
    """Send at a steady rate; never more than ``MAX_IN_FLIGHT`` at a time."""
    bodies = {model: corpus(model) for model in seen}
    room = asyncio.Semaphore(MAX_IN_FLIGHT)
    async with httpx.AsyncClient(base_url=data, timeout=TIMEOUT_S) as client, asyncio.TaskGroup() as group:

        async def ask(model: str, n: int) -> None:
            begin = monotonic()
            body = bodies[model][n % len(bodies[model])]
            with suppress(httpx.TransportError):
                headers = {"x-customer-id": f"customer-{n % CUSTOMERS}"}
                seen[model].take(
                    await client.post(f"/v2/models/{model}/infer", json=body, headers=headers), monotonic() - begin
                )
            room.release()

        n = 0
        while monotonic() < until_s:
            await room.acquire()
            group.create_task(ask(list(seen)[n % len(seen)], n // len(seen)))
            n += 1
            await asyncio.sleep(1 / RATE)


async def address(stdout: asyncio.StreamReader, console: Console) -> str:
    """Show what the gateway says; the data plane's address, empty when it did not start."""
    data = ""
    while line := await words(stdout, LAST_WORDS_S if data else None):
        console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)
        if found := re.search(r"data +(http://\S+)/v2", line):
            data = found[1]
    return data


async def words(stdout: asyncio.StreamReader, patience_s: float | None) -> str:
    """The next line; empty at the end, or when none comes for ``patience_s``."""
    try:
        async with asyncio.timeout(patience_s):
            return (await stdout.readline()).decode()
    except TimeoutError:
        return ""


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so long")
    parser.add_argument("--config", type=Path, default=DEMO / "gateway.yaml")
    given = parser.parse_args()
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(given.config)]
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    console = Console()
    data = await address(server.stdout, console)
    if not data:
        return await server.wait()
    seen = {"credit": Seen(), "sentiment": Seen()}
    began_s = monotonic()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    traffic = asyncio.create_task(customers(data, seen, began_s + given.seconds))
    with Live(console=console, refresh_per_second=4) as live:
        while not (stop.is_set() or traffic.done() or server.returncode is not None):
            live.update(table(seen, began_s))
            await asyncio.sleep(0.25)
        live.update(table(seen, began_s))
    traffic.cancel()
    with suppress(asyncio.CancelledError):
        await traffic
    if server.returncode is None:
        server.terminate()
    return await server.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""How connections spread over workers: ``python -m loadtests.balance``; one socket for all, and one for each.

Two ways to connect: one after another, each with a request, and all at once. Prints a table, writes the raw counts.
"""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from loadtests.fleet import credit_route
from loadtests.result import machine
from tests.gateway_process import GatewayProcess, corpus, eventually

CONNECTIONS = 400
REPEATS = 3
OUTPUT = Path(__file__).parent / "results" / f"{date.today().isoformat()}-balance.json"
REQUEST = json.dumps(corpus("credit")[0]["request"]).encode()
MESSAGE = (
    b"POST /v2/models/credit/infer HTTP/1.1\r\nhost: gateway\r\ncontent-length: %d\r\n\r\n" % len(REQUEST) + REQUEST
)


async def _connect(port: int) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(MESSAGE)
    await reader.readline()
    return writer


async def _connected(port: int, *, at_once: bool) -> list[asyncio.StreamWriter]:
    if at_once:
        return await asyncio.gather(*(_connect(port) for _ in range(CONNECTIONS)))
    return [await _connect(port) for _ in range(CONNECTIONS)]


def _counts(gateway: GatewayProcess) -> list[int]:
    return [worker["connections"] for worker in gateway.overview()["workers"]]


def _measure(gateway: GatewayProcess, *, at_once: bool) -> list[int]:
    """Connections of each worker."""

    async def scene() -> list[int]:
        writers = await _connected(gateway.data_port, at_once=at_once)
        counts = await asyncio.to_thread(_counts, gateway)
        for writer in writers:
            writer.close()
        return counts

    found = asyncio.run(scene())
    eventually(lambda: not sum(_counts(gateway)), 30)
    return found


def main() -> None:
    """Measure, print, write."""
    rows: list[dict[str, Any]] = []
    for reuse_port in (False, True):
        for workers in (2, 4):
            rows += _of_gateway(workers, reuse_port=reuse_port)
    OUTPUT.write_text(json.dumps({"machine": machine(), "connections": CONNECTIONS, "rows": rows}, indent=1) + "\n")


def _of_gateway(workers: int, *, reuse_port: bool) -> Sequence[dict[str, Any]]:
    server = {"workers": workers, "reuse_port": reuse_port}
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        GatewayProcess(Path(folder), routes=[credit_route(5)], settings={"server": server}) as gateway,
    ):
        for at_once in (False, True):
            counts = [_measure(gateway, at_once=at_once) for _ in range(REPEATS)]
            busiest = sorted(max(one) / CONNECTIONS for one in counts)[REPEATS // 2]
            idlest = sorted(min(one) / CONNECTIONS for one in counts)[REPEATS // 2]
            row = {"workers": workers, "reuse_port": reuse_port, "at_once": at_once, "counts": counts}
            rows.append({**row, "busiest": busiest, "idlest": idlest})
            how = "a socket each" if reuse_port else "one socket"
            pace = "all at once" if at_once else "one after another"
            print(f"| {how} | {workers} | {pace} | {busiest:.0%} | {idlest:.0%} |", flush=True)
    return rows


if __name__ == "__main__":
    main()

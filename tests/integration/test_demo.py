"""The demo with traffic: it starts, shows both arms of a canary, and ends."""

import subprocess
import sys
from pathlib import Path

from tests.gateway_process import DEMO, ROOT


def test_demo_traffic_shows_who_answered_and_ends_cleanly(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, str(DEMO / "traffic.py"), "--seconds", "4"],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "120",
            "TURNOUT_SERVER__LISTEN": "127.0.0.1:0",
            "TURNOUT_ADMIN__LISTEN": "127.0.0.1:0",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    rows = [line.split("│") for line in shown.stdout.splitlines() if line.startswith("│")]
    arms = {(row[3].strip(), row[4].strip()) for row in rows}
    assert {("1", "stable"), ("2", "canary")} <= arms
    totals = {row[1].strip(): (int(row[8]), int(row[9])) for row in rows if row[1].strip()}
    assert set(totals) == {"credit", "sentiment"}
    assert all(asked > 10 and errors == 0 for asked, errors in totals.values())

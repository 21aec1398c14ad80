"""No byte can be written any more: what is served goes on, an edit is refused in a sentence, nothing is half done."""

import resource
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.operators import REGISTERS, Operator
from tests.chaos.subject import CANARY, MODEL
from tests.gateway_process import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can take a running process its disk")
RATE = 60.0


def fill(pid: int, *, is_full: bool) -> None:
    """What a full disk does to a process, without being root: no file of its own may grow."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if is_full else hard, hard))


def test_a_gateway_whose_disk_is_full_serves_guards_and_refuses_edits(tmp_path: Path) -> None:
    with Fleet(tmp_path, count=1, store_url=f"sqlite:///{tmp_path}/turnout.db") as fleet:
        replica = fleet.replicas[0]
        shadow = replica.read(f"/routes/{MODEL}")["route"]["shadows"][0]
        operator = Operator(replica, REGISTERS[0], int(shadow[REGISTERS[0]]))
        with fleet.client(RATE) as client:
            operator.edit()
            assert operator.answers == {200: 1}
            fill(replica.pid, is_full=True)
            for _ in range(5):
                operator.edit()
            assert operator.answers == {200: 1, 503: 5}, "refused, and nobody was told otherwise"
            fleet.canary.set("error_500")
            asked = eventually(
                lambda: replica.read("/status")["unsent_lowers"], 10, "the guard's lower, not yet stored"
            )
            assert asked == [f"{MODEL}/{CANARY}"]
            time.sleep(0.3)
            sent = fleet.canary.counts()["requests"]
            time.sleep(0.5)
            assert fleet.canary.counts()["requests"] == sent, "the guard holds without the store"
            fill(replica.pid, is_full=False)
            eventually(lambda: not fleet.disagreement() and fleet.is_latched(), 10, "the latch in the store")
            operator.edit()
        assert operator.answers == {200: 2, 503: 5}
        assert client.ledger.problems() == []
        document = replica.read(f"/routes/{MODEL}")
        assert document["route"]["shadows"][0][operator.register] == operator.acknowledged
        assert replica.read(f"/routes/{MODEL}/history?verify=1")["verified"] is True

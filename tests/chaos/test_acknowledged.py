"""What was acknowledged is there, though the store forgets everything in the next moment."""

import time
from pathlib import Path

from routing.store.redis import WATCH_BLOCK_S
from tests.chaos.fleet import Fleet
from tests.chaos.operators import REGISTERS, Operator
from tests.chaos.subject import MODEL
from tests.gateway_process import eventually

BLOCK_S = WATCH_BLOCK_S + 0.2


def test_an_edit_outlives_a_store_that_forgets_it_before_any_watch_has_seen_it(tmp_path: Path) -> None:
    with Fleet(tmp_path, count=1, workers=1) as fleet:
        replica = fleet.replicas[0]
        shadow = replica.read(f"/routes/{MODEL}")["route"]["shadows"][0]
        operator = Operator(replica, REGISTERS[0], int(shadow[REGISTERS[0]]))
        fleet.store[0].mute(b"XREAD")
        time.sleep(BLOCK_S)  # the watch asks anew, and hears nothing
        operator.edit()
        assert operator.revisions == [2]
        fleet.redis.flush()
        replica.kill_all()  # the disk copy alone is left
        operator.edit()
        assert operator.revisions == [2]
        fleet.store[0].heal()
        replica.start()
        document = eventually(lambda: replica.read(f"/routes/{MODEL}"), 10, "the route in the store")
        assert (document["revision"], document["route"]["shadows"][0][operator.register]) == (2, operator.acknowledged)


def test_nobody_edits_a_store_that_has_lost_what_this_replica_knows(tmp_path: Path) -> None:
    with Fleet(tmp_path, count=1, workers=1) as fleet:
        replica = fleet.replicas[0]
        document = replica.read(f"/routes/{MODEL}")
        edits = [("PATCH", {"enforce": False}, {"if-match": '"1"'}), ("PUT", document["route"], {"if-none-match": "*"})]
        fleet.store[0].mute(b"XREAD")
        time.sleep(BLOCK_S)
        fleet.redis.flush()
        for method, body, match in edits:
            answer = replica.ask(method, f"/routes/{MODEL}", body, match)
            assert answer is not None
            assert (answer.status, answer.json()["code"]) == (503, "store_unavailable"), answer.body
            assert "has lost revisions" in answer.json()["error"]
        fleet.store[0].heal()
        held = eventually(lambda: replica.read(f"/routes/{MODEL}"), 10, "the route in the store")
        assert (held["revision"], held["route"]) == (1, document["route"])

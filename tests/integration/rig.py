"""One route of its own on a shared gateway: a stable and a canary that fails on command."""

import itertools
from typing import Any

from tests.faults import FaultBackend
from tests.gateway_process import Answered, GatewayProcess, corpus, eventually, storm

BODY = corpus("credit")[0]["request"]
NAMES = (f"credit-{n}" for n in itertools.count())
MAX_CHARGED = 5


class Rig:
    """One route of its own on the shared gateway: ``1`` is stable, ``2`` the canary."""

    def __init__(
        self, gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend, weight: float, **parts: Any
    ) -> None:
        self.gateway = gateway
        self.canary = canary
        self.model = next(NAMES)
        at = {"model": "credit", "version": "1", "kind": "oip"}
        route = {
            "model": self.model,
            "stable": "1",
            "variants": [{"version": "1", "weight": 100 - weight}, {"version": "2", "weight": weight}],
            "sticky": {"by": ["header:x-customer-id"]},
            "slo": {"errors": {"max_rate": 0.01}},
            "backends": {"1": {**at, "url": stable.url}, "2": {**at, "url": canary.url}},
            **parts,
        }
        with gateway.admin() as admin:
            made = admin.send("PUT", f"/admin/v1/routes/{self.model}", route, {"if-none-match": "*"})
            assert made.status == 201, made.body
        eventually(self._is_ready, what="both backends to be ready")

    def _is_ready(self) -> bool:
        with self.gateway.admin() as admin:
            status = admin.send("GET", f"/admin/v1/routes/{self.model}/status").json()
        return [v["state"] for v in status.get("variants", [])] == ["ready", "ready"]

    def storm(self, requests: int, clients: int = 1, body: Any = BODY, **headers: str) -> list[Answered]:
        return storm(
            self.gateway.data_port,
            lambda client, n: client.infer(self.model, body, key=f"c{n}", **headers),
            requests=requests,
            clients=clients,
        )

    def arm(self, version: str = "2") -> dict[str, Any]:
        found: dict[str, Any] = self.gateway.arm(self.model, version)
        return found

    def counters(self, version: str = "2") -> dict[str, Any]:
        found: dict[str, Any] = self.arm(version)["counters"]
        return found

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = self.gateway.document(self.model)
        return found

    def latch(self) -> dict[str, Any]:
        """The latch of the canary, once it is in the store."""
        latched = eventually(lambda: self.document()["guard"]["latched"], what="the latch")
        found: dict[str, Any] = latched["2"]
        return found

    def is_latched(self) -> bool:
        return bool(self.document()["guard"]["latched"])

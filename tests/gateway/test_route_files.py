"""What only this gateway can say of a route: which servers it may ask."""

from typing import Any

import pytest

from gateway.route_files import problems_of_backends
from gateway.settings import Settings
from routing.parse import parse_route


def problems(spec: dict[str, Any]) -> dict[str, str]:
    settings = Settings.model_validate({"server": {"listen": "127.0.0.1:8080"}, "admin": {"listen": "127.0.0.1:8081"}})
    plain = {"model": "m", "stable": "1", "variants": [{"version": "1", "weight": 100}], "backends": {"1": spec}}
    return {p.pointer: p.code for p in problems_of_backends(parse_route(plain), settings, frozenset({9999}))}


@pytest.mark.parametrize("kind", ["oip", "triton"])
def test_every_server_is_looked_at_and_every_problem_is_told(kind: str) -> None:
    urls = ["http://127.0.0.1:9000", "http://evil:9000", "http://localhost:8080", "http://h:99999", "http://[::1]:9999"]
    assert problems({"kind": kind, "urls": urls}) == {
        "/backends/1/urls/1": "host",
        "/backends/1/urls/2": "loop",
        "/backends/1/urls/3": "url",
        "/backends/1/urls/4": "loop",
    }


def test_a_single_server_is_pointed_at_by_its_own_key() -> None:
    assert problems({"kind": "oip", "url": "http://evil:1"}) == {"/backends/1/url": "host"}
    assert problems({"kind": "triton", "url": "http://127.0.0.1:8081"}) == {"/backends/1/url": "loop"}
    assert problems({"kind": "oip", "url": "http://127.0.0.1:8082"}) == {}

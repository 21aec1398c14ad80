from routing.codec import decode
from routing.document import RouteDocument
from routing.explain import explain
from tests.gateway.admin.plane import Plane, on_a_plane


def test_a_status_is_the_stored_route_and_what_is_made_of_it() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create()
        await plane.ask(
            "PUT", "/routes/new", {"stable": "1", "variants": [{"version": "1", "weight": 100}]}, if_none_match="*"
        )
        answer = await plane.ask("GET", "/routes/credit/status", who="vera")
        assert answer.json() == {
            "model": "credit",
            "revision": 1,
            "stable": "1",
            "weights_ppm": {"1": 950_000, "2": 50_000},
            "latched": [],
            "applied_revision": 1,
            "versions": {"1": {"state": "ready"}},
        }
        answer = await plane.ask("GET", "/routes/new/status")
        assert answer.json()["applied_revision"] is None
        assert answer.json()["warnings"] == ["this route is stored and not applied here yet"]
        assert (await plane.ask("GET", "/routes/nobody/status")).status_code == 404
        await plane.ask("GET", "/status", who=None)
        whole = (await plane.ask("GET", "/status", who="vera")).json()
        assert (whole["draining"], whole["refused_logins"]) == (False, {"missing": 1})
        assert [item["model"] for item in whole["routes"]] == ["credit", "new"]
        await plane.store.close()
        whole = (await plane.ask("GET", "/status")).json()
        assert (whole["draining"], whole["routes"], whole["store_error"]) == (False, None, "the store is closed")
        assert (await plane.ask("GET", "/routes/credit/status")).status_code == 503

    live = {"credit": {"applied_revision": 1, "revision": 99, "versions": {"1": {"state": "ready"}}}}
    on_a_plane(scenario, status=live.get, overview=lambda: {"draining": False})()


@on_a_plane
async def test_an_explanation_is_of_the_very_bytes(plane: Plane) -> None:
    await plane.create()
    record = await plane.store.load("credit")
    assert record is not None
    document = decode(record.document)
    assert isinstance(document, RouteDocument)
    for asked, key in (("a", b"a"), ("%C3%A9", "é".encode()), ("%ff%00", b"\xff\x00"), ("a+b%2Bc%26", b"a b+c&")):
        answer = await plane.ask("GET", f"/routes/credit/explain?key={asked}", who="vera")
        expected = explain(document, key)
        assert answer.json()["bucket_ppm"] == expected.bucket_ppm
        assert (answer.json()["version"], answer.json()["sentence"]) == (expected.version, expected.sentence)
    for odd in ("", "?key=", "?key=a&key=b", "?kye=a"):
        assert (await plane.ask("GET", f"/routes/credit/explain{odd}")).status_code == 400
    assert (await plane.ask("GET", "/routes/nobody/explain?key=a")).status_code == 404


def test_metrics_need_a_token_and_a_source() -> None:
    async def with_metrics(plane: Plane) -> None:
        answer = await plane.ask("GET", "/metrics", who="vera")
        assert (answer.text, answer.headers["content-type"]) == ("turnout_up 1\n", "text/plain; version=0.0.4")
        assert (await plane.ask("GET", "/metrics", who=None)).status_code == 401
        assert (await plane.ask("POST", "/metrics")).status_code == 405

    async def without(plane: Plane) -> None:
        assert (await plane.ask("GET", "/metrics")).status_code == 404

    async def metrics(_accept: str) -> tuple[bytes, str]:
        return b"turnout_up 1\n", "text/plain; version=0.0.4"

    on_a_plane(with_metrics, metrics=metrics)()
    on_a_plane(without)()

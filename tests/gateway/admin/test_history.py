from routing.store.history import entry_in
from tests.gateway.admin.plane import Plane, on_a_plane


@on_a_plane
async def test_a_history_with_a_broken_row_says_where_and_shows_the_rest(plane: Plane) -> None:
    await plane.create()
    for revision in (1, 2):
        patch = {"enforce": revision != 1}
        await plane.ask("PATCH", "/routes/credit", patch, if_match=str(revision))
    assert "error" not in (await plane.ask("GET", "/routes/credit/history")).json()
    plane.store._history["credit"][1] = entry_in(b"garbage", "credit", 2)
    for query in ("", "?verify=1"):
        answer = await plane.ask("GET", f"/routes/credit/history{query}", who="vera")
        assert answer.status_code == 200
        assert answer.json()["error"].startswith("broken at revision 2")
        assert (answer.json()["verified"], answer.json()["first_broken_revision"]) == (False, 2)
        assert [entry["verb"] for entry in answer.json()["entries"]] == ["patch", "unreadable", "put"]
    restored = await plane.ask("POST", "/routes/credit/restore", {"revision": 2, "reason": "try"}, if_match="3")
    assert (restored.status_code, "not what was written" in restored.json()["error"]) == (500, True)

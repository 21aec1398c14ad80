import asyncio
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.auth import ensure_token
from gateway.errors import CannotStart
from tests.gateway.admin.plane import Plane, on_a_plane, secret

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "Put"]
BODY = b'{"stable": "2", "variants": [{"version": "2", "weight": 100}], "reason": "because", "revision": 1}'


def served_paths(app: Any) -> list[str]:
    while not hasattr(app, "routes"):
        app = app._app
    return [route.path.replace("{model}", "credit") for route in app.routes]


def spellings(path: str) -> Iterator[str]:
    first, last = path.rsplit("/", 1)
    yield "/" + path
    yield path.replace("/", "//")
    yield path + "/"
    yield path + "//"
    yield path.replace("/", "%2f")
    yield path.replace("/", "%2F")
    yield f"{first}%2f{last}"
    yield f"{first}%252f{last}"
    yield f"{first}/{last}%2f"
    yield path.upper()
    yield path.title()
    yield f"{first}/./{last}"
    yield f"{first}/x/../{last}"
    yield f"{first}/%2e/{last}"
    yield f"{first}/x/%2E%2e/{last}"
    yield f"/x/..{path}"
    yield f"/..{path}"
    yield f"{first}/%{ord(last[0]):02x}{last[1:]}"
    yield path + "%00"
    yield path + "%0a"
    yield path + ";a=b"
    yield path + "%3f"
    yield path.replace("/", "\\")
    yield path[1:]


UNKNOWN = [
    "/",
    "",
    "*",
    "/admin",
    "/admin/v1",
    "/admin/v2/routes",
    "/docs",
    "/openapi.json",
    "/v2",
    "/metrics/x",
    "/..",
]


def credentials(who: str | None) -> dict[str, str]:
    tricks = {"x-http-method-override": "GET", "x-original-url": "/metrics", "if-match": '"1"'}
    return tricks | ({"authorization": f"Bearer {secret(who)}"} if who else {})


def everything(plane: Plane) -> Iterator[tuple[str, str]]:
    paths = served_paths(plane.app)
    assert len(paths) == 13
    for path in [*paths, *UNKNOWN, *(spelling for served in paths for spelling in spellings(served))]:
        for method in METHODS:
            yield method, path


@on_a_plane
async def test_without_a_token_every_path_in_every_spelling_is_401(plane: Plane) -> None:
    await plane.create()
    before = await plane.contents()
    seen = {await plane.raw(method, path, credentials(None), BODY) for method, path in everything(plane)}
    assert {status for status, _ in seen} == {401}
    assert len(seen) == 1, "the answer tells nothing about what is there"
    assert await plane.contents() == before


@on_a_plane
async def test_a_viewer_changes_nothing_by_any_method_or_spelling(plane: Plane) -> None:
    await plane.create()
    before = await plane.contents()
    for method, path in everything(plane):
        status, _ = await plane.raw(method, path, credentials("vera"), BODY)
        assert status in ({200, 400, 404, 405} if method in {"GET", "HEAD"} else {403}), (method, path)
    assert await plane.contents() == before


@on_a_plane
async def test_an_odd_spelling_reaches_no_endpoint_even_for_an_admin(plane: Plane) -> None:
    await plane.create()
    before = await plane.contents()
    for path in served_paths(plane.app):
        for spelling in spellings(path):
            for method in METHODS:
                status, _ = await plane.raw(method, spelling, credentials("ada"), BODY)
                assert status == 404, (method, spelling)
    assert await plane.contents() == before


@on_a_plane
async def test_garbage_is_no_token(plane: Plane) -> None:
    good = secret("ada")
    bad = ["", "Bearer", "Bearer ", good, f"Basic {good}", f"Bearer {good}x", f"Bearer {good[:-1]}", f"Bearer {good} x"]
    bad += [f"Bearer {good},{good}", "Bearer " + "a" * 5000, f"Bearer {hashlib.sha256(good.encode()).hexdigest()}"]
    for value in bad:
        status, body = await plane.raw("GET", "/admin/v1/routes", {"authorization": value})
        assert status == 401, value
        assert b"a token is needed" in body
    cookies = {"cookie": f"token={good}; authorization=Bearer {good}"}
    assert (await plane.raw("GET", "/admin/v1/routes", cookies))[0] == 401
    assert (await plane.ask("GET", f"/routes?access_token={good}", who=None)).status_code == 401
    assert (await plane.raw("GET", "/admin/v1/routes", {"authorization": f"bEaReR  {good}"}))[0] == 200
    assert plane.refused["malformed"] + plane.refused["unknown"] == len(bad)
    assert plane.refused["missing"] == 2


def test_refusals_are_logged_without_the_token(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(plane: Plane) -> None:
        guess = "guessed-" + "x" * 30
        await plane.raw("PUT", "/admin/v1/routes/credit", {"authorization": f"Bearer {guess}"})
        answer = await plane.ask("DELETE", "/routes/credit", who="vera", x_request_id="mine")
        assert answer.status_code == 403
        assert answer.json() == {"error": "this needs the role operator, 'vera' has viewer", "needed_role": "operator"}
        unknown, role = caplog.records
        assert (unknown.why, unknown.path, role.why, role.actor) == (
            "unknown",
            "/admin/v1/routes/credit",
            "role",
            "vera",
        )
        assert role.request_id == "mine"
        assert not any(guess in str(r.__dict__) or secret("vera") in str(r.__dict__) for r in caplog.records)

    with caplog.at_level(logging.WARNING, "turnout.admin"):
        on_a_plane(scenario)()


@on_a_plane
async def test_a_refusal_says_how_to_come_in(plane: Plane) -> None:
    answer = await plane.ask("GET", "/routes", who=None)
    assert answer.headers["www-authenticate"] == 'Bearer realm="turnout"'
    assert "Authorization: Bearer" in answer.json()["error"]
    assert answer.headers["cache-control"] == "no-store"


def test_without_tokens_nobody_comes_in() -> None:
    async def scenario(plane: Plane) -> None:
        assert (await plane.ask("GET", "/routes")).status_code == 401

    on_a_plane(scenario, tokens=())()


def test_two_authorization_headers_are_refused() -> None:
    async def scenario(plane: Plane) -> None:
        sent: list[Any] = []
        header = (b"authorization", f"Bearer {secret('ada')}".encode())
        scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": [header, header], "client": None}

        async def send(message: Any) -> None:
            sent.append(message)

        await plane.app(scope, None, send)
        assert sent[0]["status"] == 401

    on_a_plane(scenario)()


def test_a_web_socket_is_closed_before_it_opens() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Plane().app({"type": "websocket", "path": "/admin/v1/routes", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_first_start_makes_a_token_and_later_ones_use_it(tmp_path: Path) -> None:
    made, token = ensure_token(tmp_path / "state")
    file = tmp_path / "state" / "admin.token"
    assert made is not None
    assert made == file.read_text().strip()
    assert len(made) >= 43
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert (token.name, token.role) == ("local-admin", "admin")
    assert token.sha256 == hashlib.sha256(made.encode()).hexdigest()
    assert ensure_token(tmp_path / "state") == (None, token)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_a_token_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    ensure_token(tmp_path)
    (tmp_path / "admin.token").chmod(mode)
    with pytest.raises(CannotStart, match="others may read"):
        ensure_token(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "fewer than 32"),
        ("x" * 31, "fewer than 32"),
        ("x" * 20 + " " + "x" * 20, "no token"),
        ("é" * 40, "no token"),
    ],
)
def test_a_file_without_a_good_secret_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "admin.token"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(CannotStart, match=sentence):
        ensure_token(tmp_path)


def test_a_link_or_a_pipe_is_no_token(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.write_text("x" * 40)
    real.chmod(0o600)
    (tmp_path / "admin.token").symlink_to(real)
    with pytest.raises(CannotStart, match="cannot be used"):
        ensure_token(tmp_path)
    (tmp_path / "admin.token").unlink()
    os.mkfifo(tmp_path / "admin.token", 0o600)
    with pytest.raises(CannotStart, match="no plain file"):
        ensure_token(tmp_path)


def test_a_state_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match="admin token"):
        ensure_token(tmp_path / "file" / "state")

"""The commands against a real gateway: what they print, what they change, how they end."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.gateway_process import DEMO, ROOT, SECRET, GatewayProcess, corpus, eventually, storm

BODY = corpus("credit")[0]["request"]
AGE = re.compile(rb'"age_s":[0-9.]+')  # of a gateway's word, which is another a moment later
CREDIT: dict[str, Any] = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 95}, {"version": "2", "weight": 5}],
    "sticky": {"by": ["header:x-customer-id"]},
    "slo": {"errors": {"max_rate": 0.01}},
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("cli"), routes=[CREDIT]) as process:
        yield process


class Shell:
    """Runs ``turnout`` with the address and the token of one gateway."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.url = f"http://127.0.0.1:{gateway.admin_port}"

    def __call__(self, *arguments: str, stdin: Any = None, code: int = 0, **env: str) -> Result:
        reach = {"TURNOUT_ADMIN_URL": self.url, "TURNOUT_TOKEN": SECRET, **env}
        text = stdin if isinstance(stdin, (str, bytes)) or stdin is None else yaml.safe_dump(stdin)
        result = CliRunner().invoke(main, arguments, input=text, env=reach)
        assert result.exit_code == code, (result.output, result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result


@pytest.fixture
def turnout(gateway: GatewayProcess) -> Shell:
    return Shell(gateway)


def route(model: str, canary: float = 5, **more: Any) -> dict[str, Any]:
    variants = [{"version": "1", "weight": 100 - canary}, {"version": "2", "weight": canary}]
    return {"model": model, "stable": "1", "variants": variants, **more}


def test_put_creates_replaces_and_says_what_changed(turnout: Shell) -> None:
    made = turnout("routes", "put", "-", "--reason", "a new model", stdin=route("made"))
    assert '/route/stable nothing -> "1"' in made.stdout
    assert "made: revision 1; 1: 95 %, 2: 5 %" in made.stdout
    grown = turnout("routes", "put", "-", stdin=route("made", 12.5))
    assert "/route/variants/1/weight_ppm 50000 -> 125000" in grown.stdout
    assert "made: revision 2; 1: 87.5 %, 2: 12.5 %" in grown.stdout
    same = turnout("routes", "put", "-", stdin=route("made", 12.5))
    assert same.stdout == "made: nothing to change, revision 2 stays\n"
    found = json.loads(turnout("routes", "history", "made", "--json").stdout)
    assert [entry["reason"] for entry in found["entries"]] == ["", "a new model"]


def test_a_dry_run_writes_nothing(turnout: Shell, gateway: GatewayProcess) -> None:
    shown = turnout("routes", "put", "-", "--dry-run", stdin=route("dry"))
    assert "dry run: nothing was written" in shown.stdout
    assert "no route" in turnout("routes", "get", "dry", code=1).stderr
    shown = turnout("routes", "flip", "credit", "--reason", "only looking", "--dry-run")
    assert "/guard/latched/2 nothing -> " in shown.stdout
    assert gateway.document("credit")["revision"] == 1


@pytest.mark.parametrize("canary", [0, 0.0001, 1.1, 33.3333, 99.9999, 100])
def test_what_get_prints_put_takes_back_unchanged(turnout: Shell, canary: float) -> None:
    more = {"sticky": {"by": ["cookie:session"]}, "slo": {"latency": {"p99_ms": 20}}, "on_failure": "pass"}
    plain = route("round", canary, **more, shadows=[{"version": "3", "sample": 12.5}])
    turnout("routes", "put", "-", stdin=plain)
    printed = turnout("routes", "get", "round").stdout
    assert "nothing to change" in turnout("routes", "put", "-", stdin=printed).stdout
    assert f"weight: {canary:g}" in printed or canary == 0.0001


def test_refused_routes_show_every_problem_with_its_pointer(turnout: Shell, tmp_path: Path) -> None:
    refused = turnout("routes", "put", "-", code=1, stdin={**route("bad"), "stable": 1, "colour": "red"})
    assert "/stable: a name is text" in refused.stderr
    assert "/colour: unknown key" in refused.stderr
    assert not refused.stdout
    file = tmp_path / "r.yaml"
    for text, words in {
        "{model: bad, stable: 2024-01-01}": "/stable: date 2024-01-01: write it in quotes",
        "{model: bad, backends: {2: {kind: onnx}}}": "/backends/2: the key 2: write it in quotes",
        "{model: 7}": "/model: 7 is no name",
        "{stable: '1'}": "/model: this key is required",
        "&a {model: bad, x: *a}": "nested deeper than 32",
        "{model: a, model: b}": "stands twice",
        "model: 2024-99-99": "no valid YAML",
        "[": "no valid YAML",
        "- 1": "is not a route",
        "": "is not a route",
    }.items():
        file.write_text(text)
        assert words in turnout("routes", "put", str(file), code=1).stderr
        assert words in turnout("routes", "put", "-", code=1, stdin=text).stderr
    assert "cannot be read" in turnout("routes", "put", str(tmp_path / "nowhere"), code=1).stderr
    assert "no UTF-8" in turnout("routes", "put", "-", code=1, stdin=b"\xff\xfe").stderr


def test_flip_latches_release_frees_and_restore_brings_back(turnout: Shell) -> None:
    turnout("routes", "put", "-", stdin=route("swing", 20))
    flipped = turnout("routes", "flip", "swing", "--reason", "p99 doubled", "--version", "2")
    assert flipped.stdout == "swing: revision 2; 1: 100 %, 2: 0 %; latched: 2\n"
    latched = turnout("routes", "get", "swing").stdout
    assert "# latched: 2 since 20" in latched
    assert latched.splitlines()[1].endswith("Z: p99 doubled")
    assert "is latched by a flip" in turnout("routes", "put", "-", code=1, stdin=route("swing", 1)).stderr
    assert "is latched" in turnout("routes", "restore", "swing", "1", "--reason", "too early", code=1).stderr
    assert "swing: revision 3" in turnout("routes", "release", "swing", "--reason", "fixed").stdout
    assert "2: 20 %" in turnout("routes", "restore", "swing", "1", "--reason", "as before").stdout
    assert "/revision: the history has no" in turnout("routes", "restore", "swing", "9", "--reason", "x", code=1).stderr
    told = turnout("routes", "history", "swing", "--verify").stdout
    assert [verb for verb in ("put", "flip", "release", "restore") if f" {verb} " in told] == [
        "put",
        "flip",
        "release",
        "restore",
    ]
    assert "p99 doubled" in told
    assert "the hash chain is whole" in told


def test_a_broken_history_ends_with_1(turnout: Shell, gateway: GatewayProcess) -> None:
    turnout("routes", "put", "-", "--reason", "honest words", stdin=route("forged"))
    script = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=20); "
        "db.execute(\"UPDATE history SET entry = CAST(replace(CAST(entry AS TEXT), 'honest', 'forged') AS BLOB) "
        "WHERE model = 'forged'\"); db.commit()"
    )
    subprocess.run([sys.executable, "-c", script, str(gateway.folder / "state/turnout.db")], check=True)
    broken = turnout("routes", "history", "forged", "--verify", code=1)
    assert "the hash chain is broken at revision 1" in broken.stdout


def test_status_shows_what_serves(turnout: Shell, gateway: GatewayProcess) -> None:
    storm(gateway.data_port, lambda client, n: client.infer("credit", BODY, key=f"c{n}"), requests=200)
    lines = turnout("status", "credit").stdout.splitlines()
    stable, canary = (line.split() for line in lines[2:4])
    assert stable[:7] == ["credit", "@1", "1", "stable", "95", "%", "ready"]
    assert canary[:5] == ["2", "canary", "5", "%", "ready"]
    assert int(stable[7]) + int(canary[5]) == 200
    assert "odds 1 : 1 of 1,000,000" in lines[3]
    assert lines[-1].startswith("gateway ready, 0 in work")
    assert lines[-1].endswith("store sqlite reachable")
    turnout("routes", "put", "-", stdin=route("absent"))
    eventually(lambda: "warning: absent: version '2' is not ready: there is no" in turnout("status").stdout)


def test_explain_takes_any_bytes_as_a_key(turnout: Shell) -> None:
    assert "stable version '1' answers" in turnout("routes", "explain", "credit", "a/b?c&d=ü").stdout
    assert "answers" in turnout("routes", "explain", "credit", os.fsdecode(b"\xff%00")).stdout


def test_json_is_what_the_admin_plane_answered(turnout: Shell, gateway: GatewayProcess) -> None:
    with gateway.admin() as admin:
        for path, arguments in {
            "/routes": ["routes", "list"],
            "/routes/credit": ["routes", "get", "credit"],
            "/routes/credit/history?limit=5&verify=1": ["routes", "history", "credit", "--limit", "5", "--verify"],
            "/routes/credit/explain?key=a": ["routes", "explain", "credit", "a"],
            "/routes/credit/status": ["status", "credit"],
        }.items():
            expected = admin.send("GET", f"/admin/v1{path}").body
            printed = turnout(*arguments, "--json").stdout_bytes
            assert AGE.sub(b"", printed) == AGE.sub(b"", expected) + b"\n"
    assert turnout("routes", "--json", "list").stdout.startswith('[{"model"')
    assert json.loads(turnout("status", "--json").stdout)["store"]["kind"] == "sqlite"
    preview = turnout("routes", "put", "-", "--dry-run", "--json", stdin=route("jason"))
    assert json.loads(preview.stdout)["would_change"]
    written = turnout("routes", "put", "-", "--json", stdin=route("jason"))
    assert json.loads(written.stdout)["revision"] == 1
    refused = turnout("routes", "put", "-", "--json", stdin={**route("jason"), "stable": "7"}, code=1)
    assert json.loads(refused.stdout)["problems"]
    assert refused.stderr


def test_a_gateway_that_cannot_be_reached_or_does_not_let_in_is_exit_3(
    turnout: Shell, gateway: GatewayProcess, tmp_path: Path
) -> None:
    empty = tmp_path / "token"
    empty.write_text("\n")
    cases: list[tuple[str, list[str], Mapping[str, str]]] = [
        ("Connection refused. Start the gateway", ["--admin", "http://127.0.0.1:1"], {}),
        ("is no admin plane", ["--admin", f"http://127.0.0.1:{gateway.data_port}"], {}),
        ("cannot reach", ["--admin", turnout.url.replace("http", "https")], {}),
        ("cannot reach", ["--admin", turnout.url.replace("http", "HTTPS")], {}),
        ("a token is needed here", [], {"TURNOUT_TOKEN": "not-this-one"}),
        ("no-such-file cannot be read", ["--token-file", "no-such-file"], {}),
        ("holds no token", ["--token-file", str(empty)], {}),
        ("TURNOUT_TOKEN holds no token", [], {"TURNOUT_TOKEN": "two words"}),
    ]
    for words, arguments, env in cases:
        for command in (["status"], ["routes", "list"], ["routes", "flip", "credit", "--reason", "x"]):
            assert words in turnout(*command, *arguments, code=3, **env).stderr
    assert gateway.document("credit")["revision"] == 1


def test_a_command_s_own_option_goes_before_its_group_s_and_the_environment(turnout: Shell, tmp_path: Path) -> None:
    token = tmp_path / "admin.token"
    token.write_text(SECRET + "\n")
    nowhere = "http://127.0.0.1:1"
    turnout("routes", "--admin", turnout.url, "list", TURNOUT_ADMIN_URL=nowhere)
    turnout("routes", "--admin", nowhere, "list", "--admin", turnout.url)
    turnout("routes", "--admin", nowhere, "list", code=3)
    turnout("routes", "--token-file", str(token), "list", TURNOUT_TOKEN="wrong")
    turnout("status", "--token-file", str(token), TURNOUT_TOKEN="wrong")


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--admin", "127.0.0.1:8081"],
        ["status", "--admin", "http://user:secret@127.0.0.1:8081"],
        ["status", "--admin", "http://127.0.0.1:99999"],
        ["status", "--admin", "http://a..b:1"],
        ["status", "--admin", "http://xn--:1"],
        ["routes", "get", "../tokens"],
        ["routes", "flip", "credit"],
        ["routes", "flip", "credit", "--reason", " "],
        ["routes", "flip", "credit", "--reason", "x" * 1001],
        ["routes", "flip", "credit", "--reason", "x", "--version", "a..b"],
        ["routes", "restore", "credit", "0", "--reason", "x"],
        ["routes", "explain", "credit", ""],
        ["routes", "paint", "credit"],
    ],
)
def test_usage_errors_are_exit_2(turnout: Shell, arguments: list[str]) -> None:
    assert "Usage:" in turnout(*arguments, code=2).stderr


def test_words_of_others_do_not_steer_the_terminal(turnout: Shell) -> None:
    turnout("routes", "put", "-", "--reason", "\x1b[2Jgone [red]\x9b1m", stdin=route("dirty"))
    told = turnout("routes", "history", "dirty").stdout
    assert "\\x1b[2Jgone [red]\\x9b1m" in told
    assert not {"\x1b", "\x9b"} & set(told)


def test_the_commands_variables_are_no_settings() -> None:
    env = {"TURNOUT_ADMIN_URL": "http://127.0.0.1:1", "TURNOUT_TOKEN": "x", "_TURNOUT_COMPLETE": ""}
    result = CliRunner().invoke(main, ["check", str(DEMO / "gateway.yaml")], env=env)
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["check", str(DEMO / "gateway.yaml")], env={"TURNOUT_ADMIN_URI": "x"})
    assert "TURNOUT_ADMIN_URI is no setting" in result.output


def test_a_real_process_in_a_poor_place_says_it_in_one_sentence(turnout: Shell, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "TURNOUT_ADMIN_URL": turnout.url, "PYTHONIOENCODING": "ascii"}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gateway", "status"]
        return subprocess.run(command, cwd=tmp_path, env={**env, **more}, capture_output=True, text=True, check=False)

    locked_out = run()
    assert (locked_out.returncode, locked_out.stdout) == (3, "")
    assert locked_out.stderr.startswith("no token: .turnout/admin.token cannot be read")
    assert locked_out.stderr.count("\n") == 1
    served = run(TURNOUT_TOKEN=SECRET, HTTP_PROXY="http://127.0.0.1:1", ALL_PROXY="http://127.0.0.1:1")
    assert (served.returncode, served.stderr) == (0, "")
    assert "store sqlite reachable" in served.stdout


def test_a_what_if_says_who_would_move(turnout: Shell) -> None:
    sticky = {"sticky": {"by": ["header:x-customer-id"]}}
    turnout("routes", "put", "-", stdin=route("moving", 5, **sticky))
    told = turnout("routes", "whatif", "-", "--key", "user-42", stdin=route("moving", 20, **sticky)).stdout
    assert "15 % of the keys would move\n  15 % from 1 to 2\nkey user-42: 1 -> 2\n" in told
    drawn = turnout("routes", "whatif", "-", stdin=route("moving", 20, sticky={**sticky["sticky"], "salt": "b"}))
    assert "about 23 % of the keys would move" in drawn.stdout
    assert "note: a new salt draws every key anew" in drawn.stdout
    assert "moving: nothing to change" in turnout("routes", "put", "-", stdin=route("moving", 5, **sticky)).stdout
    assert "/stable" in turnout("routes", "whatif", "-", code=1, stdin={**route("moving"), "stable": "9"}).stderr


def test_a_write_can_wait_until_it_is_served(turnout: Shell, gateway: GatewayProcess) -> None:
    put = turnout("routes", "put", "-", "--wait", "--reason", "at once", stdin=route("waited", 20)).stdout
    assert put.endswith("waited: revision 1; 1: 80 %, 2: 20 %\nevery gateway on the store serves it\n")
    assert gateway.status("waited")["variants"]
    flip = json.loads(turnout("routes", "flip", "waited", "--reason", "bad", "--wait", "--json").stdout)
    assert flip["applied"] == {"all": True, "waiting_for": [], "refused_by": []}
    assert "serves it" in turnout("routes", "release", "waited", "--reason", "fixed", "--wait").stdout
    assert "serves it" in turnout("routes", "restore", "waited", "1", "--reason", "back", "--wait").stdout
    turnout("routes", "flip", "waited", "--reason", "x", "--wait", "--dry-run", code=2)

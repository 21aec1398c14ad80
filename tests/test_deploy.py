"""What the deployment files name exists: flags, paths, ports, variables, services."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from gateway.cli import main
from gateway.route_files import read_seeds
from gateway.settings import split_address
from gateway.settings_file import load_settings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
GATEWAYS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}


def instructions(word: str) -> list[str]:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    return [line.removeprefix(word).strip() for line in text.splitlines() if line.startswith(word + " ")]


def ports() -> set[int]:
    """Ports that the containers listen on, by their settings file."""
    settings = yaml.safe_load((DEPLOY / "gateway.yaml").read_text())
    return {split_address(settings[plane]["listen"])[1] for plane in ("server", "admin", "metrics")}


def test_the_settings_are_accepted_with_the_variables_of_compose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in COMPOSE["x-gateway"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{TURNOUT_TOKEN_SHA256:[^}]*\}", "0" * 64, value))
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "gateway.yaml").write_text((DEPLOY / "gateway.yaml").read_text())
    (folder / "routes").symlink_to(ROOT / "configs/demo/routes")
    settings = load_settings(folder / "gateway.yaml")
    assert settings.admin.tokens[0].role == "operator"
    assert [route.model for route in read_seeds(settings)] == ["credit", "sentiment"]


def test_the_image_copies_what_is_there_and_runs_as_nobody_special() -> None:
    for line in instructions("COPY"):
        *sources, _ = shlex.split(line)
        for source in sources:
            assert (ROOT / source).exists(), source
    assert instructions("USER") == ["10001"]
    assert {int(port) for port in instructions("EXPOSE")[0].split()} == ports()


def test_the_image_starts_a_command_and_options_that_exist() -> None:
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["turnout"]
    command, *options = json.loads(instructions("CMD")[-1])
    known = {name for parameter in main.commands[command].params for name in parameter.opts}
    assert {option for option in options if option.startswith("-")} <= known
    assert options[options.index("--config") + 1] == "/etc/turnout/gateway.yaml"
    assert "deploy/gateway.yaml /etc/turnout/gateway.yaml" in instructions("COPY")


def test_the_health_check_asks_a_path_of_the_data_plane() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert f"127.0.0.1:{8080}/v2/health/ready" in text
    assert 8080 in ports()


def test_compose_maps_ports_that_are_listened_on_and_names_services_that_exist() -> None:
    assert len(GATEWAYS) == 2
    for service in GATEWAYS.values():
        assert {int(mapping.rpartition(":")[2]) for mapping in service["ports"]} <= ports()
        assert all(mapping.startswith("127.0.0.1:") for mapping in service["ports"])
        assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        assert set(service["depends_on"]) <= set(COMPOSE["services"])
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).exists(), source
    url = yaml.safe_load((DEPLOY / "gateway.yaml").read_text())["store"]["url"]
    assert re.match(r"redis://(\w+):", url)[1] in COMPOSE["services"]  # type: ignore[index]


def test_prometheus_scrapes_the_gateways_where_metrics_are() -> None:
    targets = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]["static_configs"]
    listen = yaml.safe_load((DEPLOY / "gateway.yaml").read_text())["metrics"]["listen"]
    port = split_address(listen)[1]
    assert set(targets[0]["targets"]) == {f"{name}:{port}" for name in GATEWAYS}


def test_the_grace_period_is_longer_than_a_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    grace_s = float(COMPOSE["x-gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > load_settings(None).drain_s

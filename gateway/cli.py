"""The command: ``turnout serve``, ``turnout check``, and what talks to a running gateway."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway import __version__
from gateway.commands.events import events
from gateway.commands.routes import routes as routes_group
from gateway.commands.status import status
from gateway.errors import CannotStart, InvalidSettings
from gateway.logs import configure
from gateway.processes import Spawned
from gateway.route_files import problems_of_backends, read_seeds
from gateway.settings import MAX_WORKERS, Settings
from gateway.settings_file import load_settings, read_yaml
from routing.errors import InvalidDocument, Problem, StoreUnavailable
from routing.parse import parse_route
from routing.store import store_from_url
from routing.store.redis_url import unusable_file

if TYPE_CHECKING:
    from gateway.host import Host
    from gateway.serve import Gateway


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="turnout")
def main() -> None:
    """An inference gateway that flips a bad canary to stable in the data path."""


main.add_command(routes_group)
main.add_command(status)
main.add_command(events)


@main.command()
@click.option("--config", type=click.Path(path_type=Path), help="Settings, YAML. TURNOUT_<SECTION>__<KEY> overrides.")
@click.option("--workers", type=click.IntRange(1, MAX_WORKERS), help="Processes that serve; else server.workers, 1.")
def serve(config: Path | None, workers: int | None) -> None:
    """Serve until a signal."""
    try:
        settings = load_settings(config)
        if workers is not None:
            settings = settings.model_copy(update={"server": settings.server.model_copy(update={"workers": workers})})
        seeds = read_seeds(settings)
    except InvalidSettings as error:
        _refuse(error.problems)
    configure(settings.log_level)
    first = Spawned(settings.server.workers, settings.hash_seed)  # they import what they need while this process does
    from gateway.serve import run  # noqa: PLC0415  see above

    try:
        run(settings, seeds, first, lambda host, gateway: _greet(settings, host, gateway))
    except CannotStart as error:
        raise click.ClickException(str(error)) from None
    finally:
        first.kill()


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="Settings that routes are checked under.")
@click.option("--store", "asks", is_flag=True, help="Ask the shared store that settings name, too.")
def check(files: tuple[Path, ...], config: Path | None, asks: bool) -> None:
    """Validate settings or routes; prints every problem with its pointer, exit 1 when there is one."""
    failed = False
    for file in files:
        notes: list[str] = []
        problems = _problems_of(file, config, notes if asks else None)
        failed = failed or bool(problems)
        for problem in problems:
            click.echo(f"{file}: {problem.pointer or '/'}: {problem.message}")
        if not problems:
            click.echo(f"{file}: ok")
        for note in notes:
            click.echo(f"{file}: {note}")
    sys.exit(1 if failed else 0)


def _problems_of(file: Path, config: Path | None, notes: list[str] | None) -> Sequence[Problem]:
    """Problems of one file: of a route if it looks like one, else of settings, and with ``notes`` of their store."""
    try:
        plain = read_yaml(file)
        if isinstance(plain, dict) and {"model", "stable", "variants"} & set(plain):
            return problems_of_backends(parse_route(plain), load_settings(config))
        settings = load_settings(file)
        read_seeds(settings)
    except (InvalidDocument, InvalidSettings) as error:
        return error.problems
    return _problems_of_store(settings, notes)


def _problems_of_store(settings: Settings, notes: list[str] | None) -> Sequence[Problem]:
    """What keeps a store from being used: a shared one's files, and when asked, what it says itself."""
    if not settings.is_embedded and (problem := unusable_file(settings.store_url)):
        return (Problem("/store/url", "file", problem),)
    try:
        if notes is not None and not asyncio.run(_is_begun(settings)):
            notes.append("the store is empty: the first gateway that serves begins it")
    except StoreUnavailable as error:
        return (Problem("/store/url", "store", str(error)),)
    return ()


async def _is_begun(settings: Settings) -> bool:
    """Whether there is something in the store; nothing is written."""
    return await store_from_url(settings.store_url, timeout_s=settings.store.timeout_s).is_begun()


def _refuse(problems: Sequence[Problem]) -> None:
    for problem in problems:
        click.echo(f"{problem.pointer or '/'}: {problem.message}", err=True)
    sys.exit(1)


def _greet(settings: Settings, host: "Host", gateway: "Gateway") -> None:
    with suppress(BrokenPipeError):  # nobody reads; that is no reason to stop serving
        _say_hello(settings, host, gateway)


def _say_hello(settings: Settings, host: "Host", gateway: "Gateway") -> None:
    """What to try, on standard output."""
    data = f"http://{settings.server.listen.rpartition(':')[0]}:{gateway.data_port}"
    admin = f"http://{settings.admin.listen.rpartition(':')[0]}:{gateway.admin_port}"
    routes = host.models
    click.echo(f"turnout {__version__} serves {', '.join(routes) or 'no route yet'}")
    click.echo(f"  data   {data}/v2")
    if settings.metrics.listen is not None:
        click.echo(f"  metrics http://{settings.metrics.listen.rpartition(':')[0]}:{gateway.metrics_port}/metrics")
    click.echo(f"  admin  {admin}/admin/v1/routes")
    if host.token_file is not None:
        click.echo(f"  token  in {host.token_file}")
    if "sentiment" in routes:
        click.echo("try:")
        click.echo(
            f"  curl -i {data}/v2/models/sentiment/infer -d "
            """'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["A joy to use."]}]}'"""
        )
    if host.token_file is not None and routes:
        model = routes[0]
        click.echo(f'  curl -H "authorization: Bearer $(cat {host.token_file})" {admin}/admin/v1/routes/{model}/status')
    sys.stdout.flush()

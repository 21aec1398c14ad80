"""How a command reaches the gateway: its options, its token, its exit codes."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from gateway.commands.client import AdminClient, NotAuthorised, Refused, Reply, Unreachable, is_secure
from gateway.commands.console import clean
from gateway.settings import ADMIN_URL_VARIABLE, TOKEN_VARIABLE
from routing.table import NAME_PATTERN

ADMIN_URL = "http://127.0.0.1:8081"
TOKEN_FILE = Path(".turnout/admin.token")
MAX_REASON_CHARS = 1000
REFUSED, NO_ANSWER = 1, 3
META = "turnout."
HELD = "warning: the store is away: this is what the gateway serves, it may be old, and edits are refused meanwhile"

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class AdminUrl(click.ParamType[str]):
    """``http://host:port`` or ``https://host:port``, without credentials, query or fragment."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The address, or a usage error."""
        try:
            parts = urlsplit(value)
            fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
            is_secure(value)
        except ValueError:
            fits = False
        if not fits or re.search(r"[@?#\s\x00-\x1f]", value) or not value.isascii():
            self.fail("an address is http://host:port or https://host:port", param, ctx)
        return str(value)


class Name(click.ParamType[str]):
    """Name of a model or a version."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, or a usage error."""
        if re.fullmatch(NAME_PATTERN, value) is None:
            self.fail(
                "a name is 1 to 128 letters, digits, '.', '_', '-', begins with no sign, and has no '..'", param, ctx
            )
        return str(value)


class Reason(click.ParamType[str]):
    """Why, in words that can be kept."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The reason, or a usage error."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail("a reason is UTF-8 text", param, ctx)
        if not 1 <= len(value.strip()) <= len(value) <= MAX_REASON_CHARS:
            self.fail(f"say why in 1 to {MAX_REASON_CHARS} characters", param, ctx)
        return str(value)


class AdminCommand(click.Command):
    """A command whose conditions are sentences and exit codes: 1 refused, 3 not reached or not let in."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except Refused as refused:
            if wants_json():
                click.echo(refused.body)
            for line in [f"{p.pointer or '/'}: {p.message}" for p in refused.problems] or [str(refused)]:
                click.echo(clean(line), err=True)
            sys.exit(REFUSED)
        except (Unreachable, NotAuthorised) as error:
            click.echo(clean(str(error)), err=True)
            sys.exit(NO_ANSWER)


def reaching(command: Decorated) -> Decorated:
    """Add ``--admin``, ``--token-file`` and ``--json``; given to a group, they hold for its commands."""
    options = [
        click.option(
            "--admin",
            type=AdminUrl(),
            default=ADMIN_URL,
            show_default=True,
            envvar=ADMIN_URL_VARIABLE,
            show_envvar=True,
            expose_value=False,
            callback=_keep,
            help="Address of the admin plane.",
        ),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            default=TOKEN_FILE,
            show_default=True,
            expose_value=False,
            callback=_keep,
            help=f"Where the token is; {TOKEN_VARIABLE}, the token itself, goes before the default.",
        ),
        click.option(
            "--json",
            is_flag=True,
            expose_value=False,
            callback=_keep,
            help="Print the admin plane's answer as it came.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """What stands on the line goes before the environment and defaults, the command's option before its group's."""
    assert param.name is not None
    is_given = ctx.get_parameter_source(param.name) == ParameterSource.COMMANDLINE
    if is_given or META + param.name not in ctx.meta:
        ctx.meta[META + param.name] = value
        ctx.meta[f"{META}{param.name}.given"] = is_given


def wants_json() -> bool:
    """Whether the answer is printed as it came."""
    return bool(click.get_current_context().meta.get(META + "json"))


def connected() -> AdminClient:
    """A client for the address and token of this command.

    Raises:
        NotAuthorised: There is no token.
    """
    meta = click.get_current_context().meta
    return AdminClient(meta[META + "admin"], _token(meta[META + "token_file"], meta[META + "token_file.given"]))


def _token(file: Path, is_given: bool) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    place = TOKEN_VARIABLE
    if is_given or not token:
        place = str(file)
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is no text"
            raise NotAuthorised(
                f"no token: {file} cannot be read ({cause}). A gateway that made its own keeps it in admin.token in "
                f"its state_dir: name it with --token-file, or put a token's text into {TOKEN_VARIABLE}"
            ) from None
    if re.fullmatch(r"[!-~]+", token) is None:
        raise NotAuthorised(f"{place} holds no token: one word of visible ASCII characters")
    return token


def answer(reply: Reply, show: Callable[[Any], None]) -> None:
    """Print an answer as it came, or for people; beside it, once, that it may be old."""
    meta = click.get_current_context().meta
    if reply.is_held and not meta.get(META + "held"):
        meta[META + "held"] = True
        click.echo(HELD, err=True)
    if wants_json():
        click.echo(reply.body)
        return
    try:
        show(reply.plain)
    except (LookupError, TypeError, AttributeError, ArithmeticError):
        click.echo("this gateway answers in a shape that this release does not know: use --json", err=True)
        sys.exit(REFUSED)

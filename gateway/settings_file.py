"""Settings from a YAML file and the environment: read, checked key by key and across keys, all problems at once."""

import os
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from gateway.errors import InvalidSettings
from gateway.settings import ENV_PREFIX, MAX_PORT, NO_SETTINGS, Directory, Settings, is_loopback, split_address
from routing.errors import Problem
from routing.store.redis_url import place_in


class _StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys, which the library would let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice in one mapping", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Plain data of a YAML file.

    Raises:
        InvalidSettings: It cannot be read, is no YAML, or repeats a key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidSettings([Problem("", "file", f"{path} cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise InvalidSettings([Problem("", "yaml", f"{path} is no valid YAML: {error}")]) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Plain data of YAML text; ``source`` names it in problems.

    Raises:
        InvalidSettings: It is no YAML, or repeats a key.
    """
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506  a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InvalidSettings([Problem("", "yaml", f"{source} is no valid YAML: {error}")]) from None


def load_settings(path: Path | None) -> Settings:
    """Read settings from a file and the environment.

    Relative folders in the file are relative to it, so that a gateway may be started from anywhere; ``state_dir``
    is relative to the working directory.

    Raises:
        InvalidSettings: With all problems.
    """
    plain = (read_yaml(path) or {}) if path else {}
    if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
        raise InvalidSettings([Problem("", "type", f"{path} is not a mapping of settings")])
    if problems := [*_unknown_variables(), *_truths(plain, Settings)]:
        raise InvalidSettings(problems)
    try:
        settings = Settings(**plain)
    except SettingsError as error:
        raise InvalidSettings([Problem("", "variable", f"{error}: write it as JSON")]) from None
    except ValidationError as error:
        raise InvalidSettings(
            [
                Problem("".join(f"/{part}" for part in d["loc"]), d["type"], _sentence(d["type"], d["msg"]))
                for d in error.errors(include_url=False)
            ]
        ) from None
    base = path.parent if path else Path()
    folders = {
        name: Directory(dir=base / folder.dir)
        for name in ("models", "routes")
        if (folder := getattr(settings, name)).dir is not None and not folder.dir.is_absolute()
    }
    settings = settings.model_copy(update=folders)
    if problems := list(_across(settings)):
        raise InvalidSettings(problems)
    return settings


def _truths(plain: dict[str, Any], model: type[BaseModel], pointer: str = "") -> Iterator[Problem]:
    """YAML's ``true`` where a number belongs: it is no 1."""
    for key, value in plain.items():
        field = model.model_fields.get(key)
        kind = field.annotation if field is not None else None
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _truths(value, kind, f"{pointer}/{key}")
        elif isinstance(value, bool) and kind in {int, float, int | None}:
            yield Problem(f"{pointer}/{key}", "number", "a number belongs here, not true or false")


def _unknown_variables() -> Iterator[Problem]:
    """Environment variables that look like settings and are none."""
    for name in sorted(os.environ.keys() - NO_SETTINGS):
        section = name.removeprefix(ENV_PREFIX).partition("__")[0].lower()
        if name.startswith(ENV_PREFIX) and section not in Settings.model_fields:
            yield Problem(f"/{section}", "extra_forbidden", f"the variable {name} is no setting: check the spelling")


def _sentence(kind: str, message: str) -> str:
    return "unknown key: check the spelling, unknown keys are never ignored" if kind == "extra_forbidden" else message


def _across(settings: Settings) -> list[Problem]:
    problems = []
    data, admin = split_address(settings.server.listen), split_address(settings.admin.listen)
    for pointer, port in (("/server/listen", data[1]), ("/admin/listen", admin[1])):
        if port > MAX_PORT:
            problems.append(Problem(pointer, "range", f"there is no port {port}: {MAX_PORT} is the last"))
    if data == admin and data[1] != 0:
        problems.append(Problem("/admin/listen", "listen", "the admin plane never shares the data plane's port"))
    if not is_loopback(admin[0]) and not settings.admin.insecure:
        message = (
            f"{admin[0]} is reachable from outside: put TLS in front and set admin.insecure: true, or use 127.0.0.1"
        )
        problems.append(Problem("/admin/listen", "insecure", message))
    problems += _of_metrics(settings)
    problems += _of_overload(settings)
    if settings.deadline.default_ms > settings.deadline.max_ms:
        problems.append(Problem("/deadline/default_ms", "range", "the default deadline is beyond deadline.max_ms"))
    if not settings.admin.tokens and not settings.is_embedded:
        message = "a shared store needs tokens: give admin.tokens: [{name, role, sha256}] with the hash of a secret"
        problems.append(Problem("/admin/tokens", "missing", message))
    if re.match(r"^(memory:|sqlite:///.+|rediss?(\+sentinel)?://.+)$", settings.store_url) is None:
        message = (
            "store.url is memory:, sqlite:///PATH, redis://host:port or redis+sentinel://host:port,host:port/service"
        )
        problems.append(Problem("/store/url", "url", message))
    elif not settings.is_embedded:
        try:
            place_in(settings.store_url)
        except ValueError as error:
            problems.append(Problem("/store/url", "url", str(error)))
    return problems


def _of_overload(settings: Settings) -> Iterator[Problem]:
    shares = settings.overload
    if not shares.mirrors <= shares.canaries <= shares.low_priority:
        message = "copies go first, then canaries, then low priority: mirrors <= canaries <= low_priority"
        yield Problem("/overload", "order", message)
    for what in ("name", "sha256"):
        values = [getattr(consumer, what) for consumer in settings.consumers]
        for index, value in enumerate(values):
            if value in values[:index]:
                yield Problem(f"/consumers/{index}/{what}", "duplicate", f"two consumers have one {what}")


def _of_metrics(settings: Settings) -> Iterator[Problem]:
    if settings.metrics.listen is None:
        return
    address = split_address(settings.metrics.listen)
    taken = {split_address(settings.server.listen), split_address(settings.admin.listen)}
    if address in taken and address[1] != 0:
        yield Problem("/metrics/listen", "listen", "metrics have an address of their own, or none")
    if not is_loopback(address[0]) and not settings.metrics.open and not settings.admin.insecure:
        message = (
            f"{address[0]} is reachable from outside, and tokens would cross the network in the clear: set "
            "metrics.open: true to need none, or admin.insecure: true with TLS in front"
        )
        yield Problem("/metrics/listen", "insecure", message)

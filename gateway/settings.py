"""Settings of one process: what each is, and what holds for it alone. ``settings_file.py`` reads them."""

import re
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


ADDRESS = re.compile(r"^(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]]+):(?P<port>\d{1,5})$")
Address = Annotated[str, Field(pattern=ADDRESS.pattern)]
MAX_PORT = 65_535
MAX_WORKERS = 64
ENV_PREFIX = "TURNOUT_"
ADMIN_URL_VARIABLE = "TURNOUT_ADMIN_URL"  # these two are the commands', see gateway/commands/reach.py
TOKEN_VARIABLE = "TURNOUT_TOKEN"  # noqa: S105  the name of a variable
NO_SETTINGS = frozenset({ADMIN_URL_VARIABLE, TOKEN_VARIABLE})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def split_address(address: str) -> tuple[str, int]:
    """Host without brackets, and port."""
    match = ADDRESS.match(address)
    assert match is not None
    return match["host"].strip("[]"), int(match["port"])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    return host in LOOPBACK or host.startswith("127.")


class Server(Section):
    """The data plane's listener and its bounds.

    Attributes:
        listen: ``host:port``.
        max_body_bytes: Largest request body.
        max_concurrency: Requests in work at one time; more are answered 503.
        max_connections: Connections of clients; one more is answered 503 and closed.
        max_connections_per_client: The same of one address; half of ``max_connections`` when not given.
        max_pipelined: Requests of one connection that wait behind the one in work.
        max_url_bytes: Longest request target.
        max_line_bytes: Longest header field, name and value.
        max_head_bytes: Largest head of a request.
        max_headers: Header fields of a request.
        silent_timeout_s: A connection on which nothing comes is closed after this.
        head_timeout_s: Time for a head, from its first byte.
        body_timeout_s: Time for a body, whatever deadline its request has.
        write_timeout_s: Time in which a client takes an answer.
        half_close_s: A client that sends nothing more is waited for so long, then it counts as gone.
        linger_s: What still comes after a last answer is thrown away so long, then the connection is closed.
        linger_bytes: The same in bytes.
        drain_notice_ms: How long listeners stay open after a signal while readiness already says 503.
        keep_alive_s: Idle connections are closed after this.
        fast_lane: Whether plain infer requests may pass by Starlette; the answers are the same.
        access_log: Whether each request of the data plane is one line in the log.
        workers: Processes that serve; all bounds of this section but this one are each worker's own.
        reuse_port: A listening socket for each worker instead of one for all.
        worker_silent_s: A worker that has said nothing for so long is killed and replaced.
        spare_worker: Keep a process that can take a dead worker's place at once.
    """

    listen: Address = "127.0.0.1:8080"
    max_body_bytes: int = Field(default=64 << 20, ge=1024)
    max_concurrency: int = Field(default=4096, ge=1)
    max_connections: int = Field(default=8192, ge=1)
    max_connections_per_client: int | None = Field(default=None, ge=1)
    max_pipelined: int = Field(default=64, ge=1)
    max_url_bytes: int = Field(default=8 << 10, ge=256)
    max_line_bytes: int = Field(default=16 << 10, ge=256)
    max_head_bytes: int = Field(default=64 << 10, ge=1024)
    max_headers: int = Field(default=100, ge=8)
    silent_timeout_s: float = Field(default=30, gt=0)
    head_timeout_s: float = Field(default=10, gt=0)
    body_timeout_s: float = Field(default=300, gt=0)
    write_timeout_s: float = Field(default=60, gt=0)
    half_close_s: float = Field(default=1, ge=0)
    linger_s: float = Field(default=2, gt=0)
    linger_bytes: int = Field(default=16 << 20, ge=0)
    drain_notice_ms: float = Field(default=200, ge=0, le=60_000)
    keep_alive_s: int = Field(default=75, ge=1)
    fast_lane: bool = True
    access_log: bool = False
    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)
    reuse_port: bool = False
    worker_silent_s: float = Field(default=10, ge=1, le=3600)
    spare_worker: bool = True


class Token(Section):
    """A person's or a program's right to the admin plane; only the hash of its secret is kept."""

    name: Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")]
    role: Literal["viewer", "operator", "admin"]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Admin(Section):
    """The admin plane.

    Attributes:
        listen: ``host:port``, never the data plane's.
        tokens: Who may do what.
        insecure: Allow an address beyond loopback without TLS in front.
    """

    listen: Address = "127.0.0.1:8081"
    tokens: tuple[Token, ...] = ()
    insecure: bool = False


class Metrics(Section):
    """Metrics; ``/metrics`` is on the admin plane in any case.

    Attributes:
        listen: ``host:port`` of one more listener that has ``/metrics`` and nothing else.
        open: Whether ``/metrics`` needs no token, on either.
    """

    listen: Address | None = None
    open: bool = False


class Store(Section):
    """Where documents are kept.

    Attributes:
        url: ``memory:``, ``sqlite:///PATH`` or ``redis://…``; by default SQLite inside ``state_dir``.
        check_s: How often the whole table is compared with the store, beside the watch.
        stale_after_s: How long the store may be away until readiness, status and metrics say so.
        timeout_s: Time of one command of a Redis store.
    """

    url: str | None = None
    check_s: float = Field(default=60, gt=0, le=3600)
    stale_after_s: float = Field(default=10, gt=0, le=3600)
    timeout_s: float = Field(default=1, gt=0, le=60)


class Directory(Section):
    """A folder; relative ones are relative to the settings file."""

    dir: Path | None = None


class Deadline(Section):
    """How long a request may take: ``x-request-timeout-ms`` up to ``max_ms``, else ``default_ms``."""

    default_ms: float = Field(default=30_000, gt=0)
    max_ms: float = Field(default=300_000, gt=0)


class Guards(Section):
    """What holds for all guards.

    Attributes:
        unready_flip_s: A canary that was ready and is not for so long is flipped.
        idle_s: A canary, shadow or guard that has seen nothing for so long is a warning.
    """

    unready_flip_s: float = Field(default=30, gt=0)
    idle_s: float = Field(default=300, gt=0)


class Backends(Section):
    """Remote backends.

    Attributes:
        allow_hosts: Hosts that routes may name, ``*`` for any; loopback by default.
        max_connections: Connections to one instance of a version.
        max_waiting: Requests that wait for one of them.
        check_s: Pause between two looks at an instance that is ready.
        eject_after: Failures in a row after which one of several instances is not asked for a while; 0: never.
        eject_s: How long, at first; twice as long each time that it fails again on its way back.
        slow_start_s: How long the share of an instance grows that has come back.
        max_ejected: Share of a version's instances that may be out; one is always left.
        unload_after_s: How long a managed model on Triton stays after the table has stopped to name it.
    """

    allow_hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "::1")
    max_connections: int = Field(default=64, ge=1)
    max_waiting: int = Field(default=256, ge=0)
    check_s: float = Field(default=5, gt=0, le=3600)
    eject_after: int = Field(default=5, ge=0)
    eject_s: float = Field(default=5, gt=0, le=3600)
    slow_start_s: float = Field(default=10, ge=0, le=3600)
    max_ejected: float = Field(default=0.5, ge=0, le=1)
    unload_after_s: float = Field(default=30, ge=0, le=86_400)


class Mirror(Section):
    """Copies to shadows.

    Attributes:
        max_queue_bytes: Bound on copies that wait, are in flight or are being compared; more are dropped, counted.
    """

    max_queue_bytes: int = Field(default=64 << 20, ge=0)


class Retries(Section):
    """Second attempts: a draw of a canary that failed, asked again of stable.

    Attributes:
        ratio: Second attempts for each draw of a route; what is beyond goes out as the canary answered.
        min_per_s: So many a second in any case.
        burst_s: What this long would allow may be spent at once.
    """

    ratio: float = Field(default=0.2, ge=0, le=1)
    min_per_s: float = Field(default=50, ge=0)
    burst_s: float = Field(default=10, gt=0, le=3600)


class Overload(Section):
    """What goes first when requests in work near ``server.max_concurrency``; shares of it, rising.

    Attributes:
        mirrors: From here on shadows get no copies.
        canaries: From here on draws of canaries go to stable.
        low_priority: From here on requests of low priority are answered 503.
        lag_ms: A loop that is later than this makes no copies and draws no canaries either.
    """

    mirrors: float = Field(default=0.5, ge=0, le=1)
    canaries: float = Field(default=0.75, ge=0, le=1)
    low_priority: float = Field(default=0.9, ge=0, le=1)
    lag_ms: float = Field(default=250, gt=0)


class Consumer(Section):
    """A program that sends requests and may say more in their headers than others; only the hash of its key is kept.

    Attributes:
        may: ``priority``: it sets ``x-turnout-priority``.
    """

    name: Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    may: tuple[Literal["priority"], ...] = ()


class Headers(Section):
    """Answer headers; ``opaque`` hides version and role."""

    opaque: bool = False


class Settings(BaseSettings):
    """All settings, frozen."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    server: Server = Server()
    admin: Admin = Admin()
    metrics: Metrics = Metrics()
    store: Store = Store()
    models: Directory = Directory()
    routes: Directory = Directory()
    state_dir: Path = Path(".turnout")
    deadline: Deadline = Deadline()
    guards: Guards = Guards()
    backends: Backends = Backends()
    mirror: Mirror = Mirror()
    retries: Retries = Retries()
    overload: Overload = Overload()
    consumers: tuple[Consumer, ...] = ()
    headers: Headers = Headers()
    drain_s: float = Field(default=30, ge=0, le=3600)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings

    @property
    def store_url(self) -> str:
        """The store's URL; embedded SQLite when none is given."""
        return self.store.url or f"sqlite:///{self.state_dir / 'turnout.db'}"

    @property
    def hash_seed(self) -> int | None:
        """Seed of the hashes of sticky keys that gateways on one store share; ``None``: any will do.

        Made of the tokens, which gateways on one store have in common and clients cannot know.
        """
        if self.is_embedded:
            return None
        known = "".join(sorted(token.sha256 for token in self.admin.tokens))
        return int.from_bytes(blake2b(b"turnout keys" + known.encode(), digest_size=4).digest(), "big")

    @property
    def is_embedded(self) -> bool:
        """Whether the store belongs to this machine alone."""
        return not self.store_url.startswith("redis")

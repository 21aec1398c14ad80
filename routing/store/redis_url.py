"""What a Redis URL says: one server, or the Sentinels that know which one it is."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

SENTINEL = "+sentinel"
SENTINEL_PORT = 26_379
MAX_SENTINELS = 16
TLS_CHOICES = {"ssl_cert_reqs": ("none", "optional", "required"), "ssl_check_hostname": ("true", "false")}
OF_SENTINELS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is.

    Attributes:
        url: ``redis://`` or ``rediss://``; with Sentinels its host is the first of them.
        sentinels: Host and port of each; none: the URL names the server itself.
        service: Name that the Sentinels know the server by.
        username, password: Of the Sentinels, where they ask for any.
    """

    url: str = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def place_in(url: str) -> Place:
    """Read a URL.

    Raises:
        ValueError: It is none; the sentence never repeats the URL, which may hold a password.
    """
    try:
        parts = urlsplit(url)
        scheme, is_sentinel = parts.scheme.removesuffix(SENTINEL), parts.scheme.endswith(SENTINEL)
        options = dict(parse_qsl(parts.query))
        _check_options(options, OF_SENTINELS if is_sentinel else ())
        _check_tls(scheme, options)
        if is_sentinel:
            return _with_sentinels(scheme, parts.netloc, parts.path, options)
        host = parts.hostname
        _check_port(parts.port)
    except ValueError as error:
        raise ValueError(f"the redis URL cannot be read: {error}") from None
    database = parts.path.removeprefix("/")
    if not host or parts.fragment or (database and not database.isdigit()):
        raise ValueError("a redis URL is redis://HOST:PORT/DB, where DB is a number and may be left out")
    return Place(url)


def unusable_file(url: str) -> str:
    """Why TLS cannot use a file that a URL names; empty where it can use all of them."""
    options = dict(parse_qsl(urlsplit(place_in(url).url).query))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authorities, own, key = (options.get(f"ssl_{name}") for name in ("ca_certs", "certfile", "keyfile"))
    password = options.get("ssl_password", "")
    uses: tuple[tuple[str, str | None, Callable[[str], None]], ...] = (
        ("ssl_ca_certs", authorities, context.load_verify_locations),
        ("ssl_keyfile", key, _readable),
        ("ssl_certfile", own, lambda file: context.load_cert_chain(file, key, password)),
    )
    for option, file, use in uses:
        try:
            if file is not None:
                use(file)
        except OSError as error:  # those of TLS too
            return f"{option} {file} cannot be used: {error.strerror or error}"
    return ""


def said_by(error: Exception) -> str:
    """What a server or the library says, as part of a sentence; a server that knows no command of ours is no store."""
    if "unknown command" in (said := str(error).strip().rstrip(".")):
        name = said.partition("unknown command")[2].strip(" '`").partition("'")[0].partition("`")[0]
        if name.upper() == "SENTINEL":
            return "it is no Sentinel: a Redis server itself is redis://HOST:PORT/DB"
        return (
            f"it does not know {name}, as Sentinels do not: if it is one, write redis+sentinel://HOST:PORT/SERVICE/DB"
        )
    return said


def _readable(file: str) -> None:
    with open(file, "rb"):
        pass


def _check_port(port: int | None) -> None:
    if port == 0:
        raise ValueError("nobody listens on port 0: leave the port out for the usual one")


def _check_options(options: dict[str, str], also: tuple[str, ...]) -> None:
    unknown = sorted(name for name in options if not name.startswith("ssl_") and name not in also)
    if unknown:
        raise ValueError(f"it takes only ssl_* options, not {', '.join(unknown)}: timeouts are turnout's own")


def _check_tls(scheme: str, options: dict[str, str]) -> None:
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if tls and scheme != "rediss":
        raise ValueError(f"{', '.join(sorted(tls))} belong to rediss://")
    for name, values in TLS_CHOICES.items():
        if name in tls and tls[name].lower() not in values:
            raise ValueError(f"{name} is one of {', '.join(values)}")


def _with_sentinels(scheme: str, netloc: str, path: str, options: dict[str, str]) -> Place:
    credentials, at, hosts = netloc.rpartition("@")
    sentinels = tuple(_address(host) for host in hosts.split(","))
    service, _, database = path.removeprefix("/").partition("/")
    if len(sentinels) > MAX_SENTINELS:
        raise ValueError(f"it names {len(sentinels)} Sentinels, more than {MAX_SENTINELS}")
    if not service or (database and not database.isdigit()):
        raise ValueError("with Sentinels it is redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB")
    own = urlencode({name: value for name, value in options.items() if name not in OF_SENTINELS})
    host, port = sentinels[0]
    shown = f"[{host}]" if ":" in host else host
    url = urlunsplit((scheme, f"{credentials}{at}{shown}:{port}", f"/{database or 0}", own, ""))
    name, password = (options.get(option) for option in OF_SENTINELS)
    return Place(url, sentinels, unquote(service), name, password)


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a Sentinel is HOST:PORT")
    _check_port(parts.port)
    return parts.hostname, parts.port or SENTINEL_PORT

"""Which heads of requests are taken. Framing itself is the parser's; this is what it lets through."""

import re
from collections.abc import Sequence

from gateway.dataplane.doorkeeper import Bounds

Header = tuple[bytes, bytes]

# A name, an IPv4 address or an IPv6 address in brackets, and a port.
HOST = re.compile(rb"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
TAKEN_VERSIONS = frozenset({"1.1", "1.0"})
LINE_ENDS = 4  # ": " and CR LF beside name and value


class Refused(Exception):
    """A message is not taken. ``bound`` is the name of what it hit, without the section."""

    def __init__(self, status: int, sentence: str, bound: str = "malformed") -> None:
        super().__init__(sentence)
        self.status = status
        self.bound = bound


def too_many_headers(bounds: Bounds) -> Refused:
    """More header fields than may be."""
    return Refused(431, f"the request has more than {bounds.max_headers} header fields", "max_headers")


def line_too_long(bounds: Bounds) -> Refused:
    """A header line beyond the bound."""
    return Refused(431, f"a header line is longer than {bounds.max_line_bytes} bytes", "max_line_bytes")


def head_too_large(bounds: Bounds) -> Refused:
    """A head beyond the bound."""
    return Refused(431, f"the request's head is larger than {bounds.max_head_bytes} bytes", "max_head_bytes")


def url_too_long(bounds: Bounds) -> Refused:
    """A request target beyond the bound."""
    return Refused(414, f"the URL is longer than {bounds.max_url_bytes} bytes", "max_url_bytes")


def check_head(version: str, method: bytes, url_bytes: int, headers: Sequence[Header], bounds: Bounds) -> None:
    """Names are in lower case; count and length of single lines are checked where they are read.

    Raises:
        Refused: The head is not taken.
    """
    if version not in TAKEN_VERSIONS:
        raise Refused(505, "this port speaks HTTP/1.1")
    if method == b"CONNECT":
        raise Refused(501, "this port is no proxy: CONNECT is not offered")
    names = [name for name, _ in headers]
    joined = b",".join(names)
    if len(joined) + sum([len(value) for _, value in headers]) + LINE_ENDS * len(names) + url_bytes > (
        bounds.max_head_bytes
    ):
        raise head_too_large(bounds)
    if b"_" in joined:
        raise Refused(400, "a header's name holds an underscore, which others read as a hyphen")
    _check_host(version, names, headers)
    if b"transfer-encoding" in names:
        _check_coding(version, names, headers)


def _check_host(version: str, names: list[bytes], headers: Sequence[Header]) -> None:
    if b"host" not in names:
        if version == "1.1":
            raise Refused(400, "the header Host is missing")
        return
    if names.count(b"host") > 1:
        raise Refused(400, "the header Host is given more than once")
    if HOST.fullmatch(headers[names.index(b"host")][1].strip(b" \t")) is None:
        raise Refused(400, "the header Host is no name or address with an optional port")


def _check_coding(version: str, names: list[bytes], headers: Sequence[Header]) -> None:
    """RFC 9112, section 6.1: with HTTP/1.0 the framing is faulty; a coding that is not known is 501."""
    if version == "1.0":
        raise Refused(400, "Transfer-Encoding has no meaning in HTTP/1.0")
    if b"content-length" in names:
        raise Refused(400, "Content-Length and Transfer-Encoding exclude one another")
    codings = [value.strip(b" \t").lower() for name, value in headers if name == b"transfer-encoding"]
    if codings != [b"chunked"]:
        raise Refused(501, "of transfer codings only chunked is understood")


def has_body(headers: Sequence[Header]) -> bool:
    """Whether a head announces a body."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b" \t").lstrip(b"0") != b"")
        for name, value in headers
    )


def announced_bytes(headers: Sequence[Header]) -> int:
    """The content length; 0 when there is none, or none that is a number."""
    for name, value in headers:
        if name == b"content-length":
            digits = value.strip(b" \t")
            return int(digits) if digits.isdigit() else 0
    return 0

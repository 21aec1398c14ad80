"""Header blocks of HTTP/2 (RFC 7541) without a dynamic table: none is allowed to the other side, and none is used.

So a block means the same wherever it stands, and may be remembered by its bytes.
"""

from collections.abc import Iterator

from gateway.backends.http2.frames import Violation

# Names of the static table, from 1; of the values only those of ``:status`` matter here.
_NAMES = (
    b":authority :method :method :path :path :scheme :scheme :status :status :status :status :status :status :status "
    b"accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin age allow "
    b"authorization cache-control content-disposition content-encoding content-language content-length "
    b"content-location content-range content-type cookie date etag expect expires from host if-match if-modified-since "
    b"if-none-match if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate "
    b"proxy-authorization range referer refresh retry-after server set-cookie strict-transport-security "
    b"transfer-encoding user-agent vary via www-authenticate"
).split()
_VALUES = {8: b"200", 9: b"204", 10: b"206", 11: b"304", 12: b"400", 13: b"404", 14: b"500"}
# Lengths of the Huffman codes of all bytes and of the end mark, one letter each. The codes follow from them: of one
# length they count up in the order of the bytes, and the first of a length goes on where the shorter ones end.
_LENGTHS = (
    "dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad67777777777777777777777878djde6f565"
    "65666577666567655677777fbedskmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllmlnmnnkmmmnmmnqqkjmnmp"
    "qqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu"
)
_END = 256
_SHORTEST, _LONGEST = 5, 30
_PADDING_BITS = 8  # fewer than that, all ones, fill the last byte


def _codes() -> dict[tuple[int, int], int]:
    """The byte for each code, by length and value."""
    lengths = [int(letter, 36) for letter in _LENGTHS]
    found: dict[tuple[int, int], int] = {}
    code = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths)):
        code <<= length - before
        found[length, code] = symbol
        code, before = code + 1, length
    return found


_CODES = _codes()


def literal(name: bytes, value: bytes) -> bytes:
    """One header, as it stands."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: bytes) -> bytes:
    return _integer(len(text), 7) + text


def _integer(value: int, bits: int) -> bytes:
    """An integer behind a prefix whose other bits are 0."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    out = bytearray((most,))
    value -= most
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_block(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and values, in order.

    Raises:
        Violation: It is no header block, or speaks of a dynamic table.
    """
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            index, at = _read_integer(block, at, 7)
            yield _name(index), _VALUES.get(index, b"")
        elif first & 0xE0 == 0x20:
            size, at = _read_integer(block, at, 5)
            if size:
                raise Violation("keeps a table of headers, which was not allowed")
        else:
            index, at = _read_integer(block, at, 6 if first & 0x40 else 4)
            name, at = (_name(index), at) if index else _read_text(block, at)
            value, at = _read_text(block, at)
            yield name, value


def _name(index: int) -> bytes:
    if not 0 < index <= len(_NAMES):
        raise Violation("names a header that is in no table")
    return _NAMES[index - 1]


def _read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    if at >= len(block):
        raise Violation("sent a header block that ends too early")
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in (0, 7, 14, 21):
        if at >= len(block):
            break
        byte = block[at]
        value += (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise Violation("sent a header block with a number that does not end")


def _read_text(block: bytes, at: int) -> tuple[bytes, int]:
    is_packed = at < len(block) and block[at] & 0x80
    size, at = _read_integer(block, at, 7)
    if size > len(block) - at:
        raise Violation("sent a header block that ends too early")
    text = block[at : at + size]
    return _unpacked(text) if is_packed else text, at + size


def _unpacked(text: bytes) -> bytes:
    """Huffman's code taken off."""
    out = bytearray()
    code = length = 0
    for byte in text:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            length += 1
            if length < _SHORTEST:
                continue
            symbol = _CODES.get((length, code))
            if symbol is not None and symbol != _END:
                out.append(symbol)
                code = length = 0
            elif length >= _LONGEST:
                raise Violation("sent a header that is no Huffman code")
    if length >= _PADDING_BITS or code != (1 << length) - 1:
        raise Violation("sent a header that is no Huffman code")
    return bytes(out)

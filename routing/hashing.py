"""Where a key falls: the same place in every process, release and language."""

from hashlib import blake2b

from routing.table import PPM


def bucket(salt: bytes, key: bytes) -> int:
    """Place a key in ``range(1_000_000)``.

    Different salts give unrelated placements: whether a caller is in the shadow sample says nothing about the
    variant that serves it. The first 8 bytes of BLAKE2b (RFC 7693) of ``salt 0x1f key``, big endian, modulo
    1,000,000; the modulo's bias is below 1e-13.
    """
    digest = blake2b(salt + b"\x1f" + key, digest_size=8).digest()
    return int.from_bytes(digest, "big") % PPM


def split_salt(salt: str, draw: int) -> bytes:
    """Salt that divides keys between variants."""
    return f"{salt}/{draw}/split".encode()


def shadow_salt(salt: str, draw: int, version: str) -> bytes:
    """Salt that picks the keys whose requests are copied to ``version``."""
    return f"{salt}/{draw}/shadow/{version}".encode()

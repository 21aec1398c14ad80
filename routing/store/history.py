"""The audit: who changed a route, when, why and on what evidence, as one hash chain per model.

An entry's hash covers every field and the hash of the entry before it, so changing, dropping or reordering entries
shows. It does not stop somebody who can rewrite the whole chain; keep a head hash elsewhere against that.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

GENESIS_SHA256 = "0" * 64  # what the first entry of a model follows
UNREADABLE = "unreadable"  # verb of what stands for a row that is no entry
YEAR_ONE_S, YEAR_9999_S = -62_135_596_800, 253_402_300_799


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of one route.

    Attributes:
        model: The route's model.
        revision: Revision of the document after the change.
        at: Wall clock, seconds since 1970. Only a record; nothing is decided by it.
        actor: Who changed it.
        reason: Why, in that person's or guard's words.
        change_id: 32 hex digits that name this one change, however often it is sent.
        verb: What was done, such as ``"flip"``.
        evidence: The numbers behind it: plain JSON data or None.
        document: The stored document after the change, opaque here.
        prev_sha256: Hash of the entry before, ``GENESIS_SHA256`` for the first.
        sha256: Hash of this entry, 64 hex digits.
    """

    model: str
    revision: int
    at: float
    actor: str
    reason: str
    change_id: str
    verb: str
    evidence: Any
    document: bytes
    prev_sha256: str
    sha256: str


def chain(
    prev_sha256: str,
    *,
    model: str,
    revision: int,
    at: float,
    actor: str,
    reason: str,
    change_id: str,
    verb: str,
    evidence: Any,
    document: bytes,
) -> HistoryEntry:
    """Append to a chain: the entry that follows the one hashed ``prev_sha256``.

    Raises:
        ValueError: ``evidence`` or ``at`` holds NaN or infinity, which JSON cannot.
        TypeError: ``evidence`` is not plain JSON data.
    """
    plain = json.loads(canonical(evidence))  # tuples and non-string keys take the shape they will have when read back
    unsigned = HistoryEntry(
        model, revision, float(at), actor, reason, change_id, verb, plain, document, prev_sha256, sha256=""
    )
    return replace(unsigned, sha256=digest(unsigned))


def digest(entry: HistoryEntry) -> str:
    """The hash this entry should carry: SHA-256 of its canonical JSON, the document standing in by its own hash."""
    return hashlib.sha256(canonical(_hashed_fields(entry))).hexdigest()


def verify(entries: Sequence[HistoryEntry], *, head_sha256: str | None = None) -> int | None:
    """Revision of the first entry that is not what was written, or None when the chain holds.

    Args:
        entries: Oldest first. The first may follow entries that were not read, unless it is revision 1.
        head_sha256: Hash of the newest entry as the route's record has it; shows entries cut off at the end.
            The revision after the last one read is then the broken one.
    """
    previous: HistoryEntry | None = None
    for entry in entries:
        if entry.sha256 != digest(entry) or not _follows(previous, entry):
            return entry.revision
        previous = entry
    if head_sha256 is not None and head_sha256 != (previous.sha256 if previous else GENESIS_SHA256):
        return previous.revision + 1 if previous else 1
    return None


def _follows(previous: HistoryEntry | None, entry: HistoryEntry) -> bool:
    if previous is None:
        return entry.revision > 1 or entry.prev_sha256 == GENESIS_SHA256
    return entry.prev_sha256 == previous.sha256 and entry.revision > previous.revision and entry.model == previous.model


def encode(entry: HistoryEntry) -> bytes:
    """An entry as bytes: one line of JSON, then the document as it is."""
    fields = {**_hashed_fields(entry), "sha256": entry.sha256}
    return canonical(fields) + b"\n" + entry.document


def decode(data: bytes) -> HistoryEntry:
    """The entry in ``data``, with the hash it claims; ``verify`` checks the claim.

    Raises:
        ValueError: ``data`` is not an encoded entry.
    """
    head, newline, document = data.partition(b"\n")
    try:
        fields = json.loads(head)
        del fields["document_sha256"]
        entry = HistoryEntry(**fields, document=document)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a history entry: {error}") from error
    if not newline:
        raise ValueError("not a history entry: the document is missing")
    return entry


def entry_in(data: bytes, model: str, revision: int) -> HistoryEntry:
    """The entry in a row of a store; when it is none, one of the verb ``UNREADABLE`` that ``verify`` refuses."""
    try:
        entry = decode(data)
        if _is_sound(entry) and (entry.model, entry.revision) == (model, revision):
            digest(entry)  # can be hashed: no NaN in it
            return entry
    except (ValueError, TypeError, RecursionError):
        pass
    reason = "this entry of the history cannot be read: somebody changed it"
    kept = data if isinstance(data, bytes) else str(data).encode()
    return HistoryEntry(model, revision, 0.0, "", reason, "", UNREADABLE, None, kept, "", sha256="")


def _is_sound(entry: HistoryEntry) -> bool:
    words = (entry.model, entry.actor, entry.reason, entry.change_id, entry.verb, entry.prev_sha256, entry.sha256)
    is_time = type(entry.at) in (int, float) and YEAR_ONE_S <= entry.at <= YEAR_9999_S
    return all(isinstance(word, str) for word in words) and is_time and type(entry.revision) is int


def canonical(value: Any) -> bytes:
    """The one way to write plain JSON data: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _hashed_fields(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "model": entry.model,
        "revision": entry.revision,
        "at": entry.at,
        "actor": entry.actor,
        "reason": entry.reason,
        "change_id": entry.change_id,
        "verb": entry.verb,
        "evidence": entry.evidence,
        "document_sha256": hashlib.sha256(entry.document).hexdigest(),
        "prev_sha256": entry.prev_sha256,
    }

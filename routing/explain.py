"""Why a key gets the version it gets, from the same plan that serves."""

from dataclasses import dataclass

from routing.document import RouteDocument
from routing.hashing import bucket, split_salt
from routing.split import in_shadow_sample, split_plan


@dataclass(frozen=True, slots=True)
class Explanation:
    """One key's place in a route.

    Attributes:
        bucket_ppm: Where the key falls.
        version: Version that owns it.
        role: ``stable`` or ``canary``.
        shadows: Versions that get copies of its requests.
        sentence: The same for people.
    """

    model: str
    revision: int
    bucket_ppm: int
    version: str
    role: str
    shadows: tuple[str, ...]
    sentence: str


def explain(document: RouteDocument, key: bytes) -> Explanation:
    """Explain where ``key`` goes while every version is ready and no guard has lowered one."""
    route = document.route
    versions = [variant.version for variant in route.variants]
    plan = split_plan(document, {version: index for index, version in enumerate(versions)})
    version = versions[plan.choose(key)]
    place = bucket(split_salt(document.salt, document.intervals.draw), key)
    role = "stable" if version == route.stable else "canary"
    pieces = document.intervals.pieces.get(version)
    owner = (
        f"which {version!r} owns ({', '.join(f'{a} to {b}' for a, b in pieces)})" if pieces else "which no canary owns"
    )
    copies = tuple(s.version for s in route.shadows if in_shadow_sample(document, s.version, s.sample_ppm, key))
    sentence = f"the key falls on {place} of 1000000, {owner}: {role} version {version!r} answers"
    return Explanation(route.model, document.revision, place, version, role, copies, sentence)

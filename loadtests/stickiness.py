"""Who may change sides, and when: the law of sticky routes, checked on what customers saw."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from loadtests.samples import Sample


def moved_within_a_revision(samples: Iterable[Sample], *, may_lower: bool = False) -> list[str]:
    """Customers that one revision gave two versions.

    An answer that failed over says nothing about where its customer belongs. A guard lowers a canary before the store
    has the new revision, so with ``may_lower`` a customer may go from the canary to stable, once, and not back.
    """
    places: dict[tuple[str, str, str], Sample] = {}
    violations = []
    for sample in sorted(samples, key=lambda s: s.sent_s):
        if sample.status != 200 or sample.failed_over or sample.role == "pinned":
            continue
        place = (sample.model, sample.key, sample.revision)
        before = places.setdefault(place, sample)
        if before.version == sample.version:
            continue
        if may_lower and (before.role, sample.role) == ("canary", "stable"):
            places[place] = sample
            continue
        violations.append(
            f"{sample.key} went from {before.version} to {sample.version} within revision {sample.revision}"
        )
    return violations


def moved_against_the_edit(samples: Iterable[Sample], share_ppm: Mapping[int, int]) -> list[str]:
    """Customers that moved the wrong way between revisions of one route with one canary.

    While its share only grows nobody leaves the canary; while it only shrinks nobody joins.

    Args:
        samples: Of one model.
        share_ppm: Share of the canary, by revision; all revisions between the lowest and the highest.
    """
    seen: dict[str, dict[int, Sample]] = {}
    for sample in samples:
        if sample.status == 200 and not sample.failed_over and sample.role != "pinned":
            seen.setdefault(sample.key, {}).setdefault(int(sample.revision), sample)
    violations = []
    for key, by_revision in seen.items():
        for old, new in pairwise(sorted(by_revision)):
            shares = [share_ppm[revision] for revision in range(old, new + 1)]
            before, after = by_revision[old].role, by_revision[new].role
            if _is_wrong(before, after, shares):
                violations.append(f"{key} went from {before} to {after} while the canary's share went {shares}")
    return violations


def _is_wrong(before: str, after: str, shares: Sequence[int]) -> bool:
    grows = all(a <= b for a, b in pairwise(shares))
    shrinks = all(a >= b for a, b in pairwise(shares))
    return (grows and (before, after) == ("canary", "stable")) or (shrinks and (before, after) == ("stable", "canary"))

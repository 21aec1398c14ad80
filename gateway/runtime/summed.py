"""The status of a route: what each worker says of it, added up."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.runtime.warnings import IDLE_S, route_warnings, same
from routing.analysis.compare import Pairs
from routing.analysis.histogram import CELLS, Histogram

QUANTILES = (0.5, 0.9, 0.99)
VERDICTS_WORST_FIRST = ("broken", "unchecked", "accepted", "kept")
WORST_FIRST = ("failed", "ejected", "closed", "loading", "ready")
COPIES = ("offered", "waiting", "sent", "in_flight", "not_sent", "results", "not_paired", "not_compared")
NO_MERGED: Mapping[str, Any] = {}

Facts = Mapping[str, Any]
Totals = Mapping[str, Mapping[str, Any]]


def route_status(
    facts: Sequence[Facts],
    merged: Mapping[str, Mapping[str, Any]] = NO_MERGED,
    totals: Totals | None = None,
    joint: Mapping[str, Mapping[str, Any]] = NO_MERGED,
    *,
    idle_s: float = IDLE_S,
) -> dict[str, Any]:
    """One route over all workers, and over all gateways where their totals are known.

    Counters, histograms and pairs are sums; a version is as ready as in the worker where it is least so; evidence of
    detectors is the strongest, that of each worker stands beside it.

    Args:
        facts: What each worker says, at least one.
        merged: By version, what the detector over all workers says.
        totals: By place, what adds up over all gateways; ``None``: the workers' sums are all there is.
        joint: By version, what the judge over all gateways says.
        idle_s: What is configured and has seen nothing for so long is idle.
    """
    newest = max(facts, key=lambda one: int(one["revision"]))  # an edit may be on its way to the others
    arms = [same(facts, "variants", arm) for arm in newest["variants"]]
    shadows = [same(facts, "shadows", shadow) for shadow in newest["shadows"]]
    variants = [_arm(arm, merged.get(arm[0]["version"], NO_MERGED), totals) for arm in arms]
    for variant in variants:
        if known := joint.get(variant["version"]):
            _add_joint(variant, known)
    return {
        "model": newest["model"],
        "revision": newest["revision"],
        "variants": variants,
        "shadows": [_shadow(shadow, totals) for shadow in shadows],
        "counted_over": "gateway" if totals is None else "gateways",
        "warnings": [warning.sentence for warning in route_warnings(facts, merged, joint, idle_s=idle_s)],
    }


def worker_status(facts: Facts) -> dict[str, Any]:
    """What one worker serves of a route, and how far its own guards are."""
    return {
        "revision": facts["revision"],
        "variants": [
            {
                "version": arm["version"],
                "state": arm["state"],
                "drawn": arm["counters"]["drawn"],
                **{name: arm[name] for name in ("guard", "evidence") if name in arm},
            }
            for arm in facts["variants"]
        ],
    }


def _add_joint(variant: dict[str, Any], joint: Mapping[str, Any]) -> None:
    """What the judge over all gateways knows of a variant, if it is of the same epoch."""
    if joint.get("epoch") != variant["epoch"]:
        return
    variant["over_gateways"] = {name: joint[name] for name in ("sources", "evidence") if name in joint}
    for name in ("alarm", "would_have_flipped"):
        if name in variant and not variant[name]:
            variant[name] = joint.get(name, "")


def _arm(arms: Sequence[Facts], merged: Mapping[str, Any], totals: Totals | None) -> dict[str, Any]:
    worst = _worst(arms)
    plain: dict[str, Any] = {
        **{name: arms[0][name] for name in ("version", "role", "weight_ppm", "epoch")},
        **{name: worst[name] for name in ("state", "reason", "note")},
        "counters": _counters(arms, totals),
        "latency": _latency([arm["cells"] for arm in arms] if totals is None else [_cells(arms[0], totals)]),
    }
    if "instances" in arms[0]:
        plain["instances"] = _instances(arms)
    if arms[0]["role"] == "stable":
        plain["evidence"] = _strongest([arm.get("evidence", {}) for arm in arms])
    else:
        plain |= {
            "guard": _guard([arm["guard"] for arm in arms if "guard" in arm]),
            "lowered": any(arm["lowered"] for arm in arms),
            **{name: _first([*arms, merged], name) for name in ("alarm", "would_have_flipped")},
        }
    if contracts := [arm["contract"] for arm in arms if arm.get("contract")]:
        plain["contract"] = min(contracts, key=lambda contract: VERDICTS_WORST_FIRST.index(contract["verdict"]))
    if merged and len(arms) > 1:
        plain["merged"] = merged["evidence"]
    return plain


def _instances(arms: Sequence[Facts]) -> list[dict[str, Any]]:
    """The servers of a remote version, by address: as ready as where they are least so, counts added up."""
    by_url: dict[str, list[Facts]] = {}
    for arm in arms:
        for instance in arm.get("instances", ()):
            by_url.setdefault(instance["url"], []).append(instance)
    said = ("url", "state", "reason")
    return [
        {
            **{name: _worst(seen)[name] for name in said},
            **_sum({name: count for name, count in one.items() if name not in said} for one in seen),
        }
        for seen in by_url.values()
    ]


def _worst(items: Sequence[Facts]) -> Facts:
    return min(items, key=lambda item: WORST_FIRST.index(item["state"]) if item["state"] in WORST_FIRST else 0)


def _sum(counters: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts added up, those of mappings within too."""
    total: dict[str, Any] = {}
    for one in counters:
        for name, value in one.items():
            if isinstance(value, Mapping):
                total[name] = _sum([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total


def _counters(arms: Sequence[Facts], totals: Totals | None) -> dict[str, Any]:
    """Counts over workers, or over gateways; what is in flight is so here."""
    here = _sum(arm["counters"] for arm in arms)
    if totals is None:
        return here
    found: dict[str, Any] = {name: {} if isinstance(count, Mapping) else 0 for name, count in here.items()}
    return _sum([found, totals.get(arms[0]["place"], {}).get("counters", {}), {"in_flight": here["in_flight"]}])


def _cells(arm: Facts, totals: Totals) -> Sequence[int]:
    counts = totals.get(arm["place"], {}).get("cells", {})
    return [int(counts.get(str(cell), 0)) for cell in range(CELLS)]


def _latency(cells: Sequence[Sequence[int]]) -> dict[str, Any]:
    histogram = Histogram()
    for counts in cells:
        histogram.add(Histogram(counts))
    quantiles = {f"p{q * 100:g}_ms": histogram.quantile(q) for q in QUANTILES}
    return {
        "count": histogram.count,
        **{name: None if value is None else round(value * 1000, 3) for name, value in quantiles.items()},
    }


def _strongest(evidence: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in evidence for name in one)
    return {name: max(one.get(name, 1.0) for one in evidence) for name in names}


def _guard(guards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of detectors of one version: the strongest evidence of each, counts added up."""
    first = guards[0]
    fuses = [guard["fuse"] for guard in guards]
    return {
        "tripped": any(guard["tripped"] for guard in guards),
        "fuse": {
            **first["fuse"],
            "run": max(fuse["run"] for fuse in fuses),
            "charged": sum(fuse["charged"] for fuse in fuses),
        },
        "objectives": {
            name: {
                **watch,
                "odds": max(guard["objectives"].get(name, watch)["odds"] or 0.0 for guard in guards),
                **{
                    count: sum(guard["objectives"].get(name, {}).get(count, 0) for guard in guards)
                    for count in ("attempts", "charged", "capped", "late")
                },
            }
            for name, watch in first["objectives"].items()
        },
    }


def _first(items: Iterable[Mapping[str, Any]], name: str) -> str:
    return next((item[name] for item in items if item.get(name)), "")


def _shadow(shadows: Sequence[Facts], totals: Totals | None) -> dict[str, Any]:
    worst, pairs = _worst(shadows), Pairs()
    counts: Sequence[Facts] = shadows
    if totals is not None:
        empty: dict[str, Any] = {name: {} if isinstance(shadows[0][name], Mapping) else 0 for name in COPIES}
        now = _sum({name: shadow[name] for name in ("waiting", "in_flight")} for shadow in shadows)
        counts = [{"pairs": {}, **empty, **totals.get(shadows[0]["place"], {}), **now}]
    for count in counts:
        pairs.add_counts(count["pairs"])
    return {
        **{name: shadows[0][name] for name in ("version", "sample_ppm", "epoch")},
        **{name: worst[name] for name in ("state", "reason")},
        **_sum({name: count[name] for name in COPIES} for count in counts),
        **pairs.as_json(),
    }

"""The sentence a study ends with: what to ship, why, how sure that is, and what to expect of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.study.measure import COVERAGES

__all__ = ["shown", "verdict"]

_NAMES = {
    "erm": "ERM",
    "groupdro": "GroupDRO",
    "coral": "CORAL",
    "irm": "IRM",
    "vrex": "VREx",
    "mixup": "Mixup",
    "dann": "DANN",
    "label-dro": "label-DRO",
    "adaptive-label-dro": "adaptive label-DRO",
}


def shown(method: str) -> str:
    """Return a method's name as people write it.

    Examples:
        >>> shown("vrex"), shown("my-method")
        ('VREx', 'my-method')
    """
    return _NAMES.get(method, method)


def _with_interval(e: Mapping[str, float], signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    return f"{e['mean']:{form}} [{e['low']:{form}}, {e['high']:{form}}]"


def verdict(
    rows: Sequence[Mapping[str, Any]], baseline: str, held_out: Sequence[str], selection: str
) -> dict[str, Any] | None:
    """Return the method to ship with the sentences about it; ``None`` when no method finished.

    A method is shipped instead of the baseline only when the interval of its paired difference, at 5% divided by the
    number of comparisons, lies above zero over at least two seeds; of several, the one with the best mean.
    """
    finished = {r["method"]: r for r in rows if "average" in r}
    if not finished:
        return None
    oracle = (
        " (oracle selection: hyper-parameters were picked on the test environments)" if selection == "oracle" else ""
    )
    compared = [r for r in finished.values() if "difference" in r]
    # One seed says nothing of other seeds, however many samples there are.
    repeated = [r for r in compared if r["difference"]["seeds"] > 1]
    better = [r for r in repeated if r["difference"]["adjusted_low"] > 0]
    n = len(held_out)
    where = f"{n} held-out environment{'s' if n > 1 else ''}"
    if better:
        best = max(better, key=lambda r: r["average"]["mean"])
        wins = sum(e["difference"]["low"] > 0 for e in best["environments"].values())
        sentence = (
            f"Ship {shown(best['method'])}: over {where} it had never seen, its accuracy is "
            f"{_with_interval(best['average'])}, {_with_interval(best['difference'], signed=True)} against "
            f"{shown(baseline)}; it is clearly better on {wins} of {n}{oracle}."
        )
    elif baseline in finished:
        best = finished[baseline]
        closest = max(compared, key=lambda r: r["difference"]["mean"]) if compared else None
        because = f"; ship {shown(baseline)}"
        if closest is not None:
            difference = closest["difference"]
            # The plain interval can lie above zero although the one corrected for looking at several methods does not.
            corrected = (
                f", too little for the best of {len(compared)} comparisons"
                if difference["low"] > 0 and closest in repeated
                else ""
            )
            because = (
                f" (the best of the others, {shown(closest['method'])}, differs by "
                f"{_with_interval(difference, signed=True)}{corrected}){because}"
            )
        lead = f"One seed cannot show that a method beats {shown(baseline)}" if compared and not repeated else ""
        lead = (
            lead or f"No method is shown to beat {shown(baseline)}"
            if len(rows) > 1
            else f"Only {shown(baseline)} was run"
        )
        sentence = f"{lead}{because}: its accuracy over {where} is {_with_interval(best['average'])}{oracle}."
    else:
        best = max(finished.values(), key=lambda r: r["average"]["mean"])
        sentence = (
            f"{shown(baseline)} did not finish, so nothing can be compared with it; {shown(best['method'])} has the "
            f"best mean accuracy over {where}: {_with_interval(best['average'])}{oracle}."
        )
    worse = [shown(r["method"]) for r in repeated if r["difference"]["adjusted_high"] < 0]
    return {
        "method": best["method"],
        "beats_baseline": bool(better),
        "sentence": sentence,
        "worse": f"Shown to be worse than {shown(baseline)}: {', '.join(worse)}." if worse else "",
        "expect": _expect(best),
        "distrust": _distrust(best),
        "few_seeds": len(best["seeds"]) < 3,
    }


def _expect(row: Mapping[str, Any]) -> str:
    points = {e: v["accuracy"]["mean"] for e, v in row["environments"].items()}
    low, high = min(points, key=points.__getitem__), max(points, key=points.__getitem__)
    if len(points) == 1:
        seen = f"{points[low]:.2f}, as on {low}; one held-out environment says little of others"
    else:
        ran = f"from {points[low]:.2f} ({low}) to {points[high]:.2f} ({high})"
        seen = f"{row['average']['mean']:.2f}; on the held-out ones it ran {ran}"
    gap = row["validation"] - row["average"]["mean"]
    return (
        f"On a new environment expect an accuracy of about {seen}. On held-out samples of the environments it was "
        f"trained on it has {row['validation']:.2f}, {abs(gap):.2f} {'more' if gap >= 0 else 'less'}. Its calibration "
        f"error on a new environment is {row['ece']:.2f}."
    )


def _distrust(row: Mapping[str, Any]) -> str:
    d = row["distrust"]
    if d is None:
        return ""
    i = int(np.argmin(np.abs(COVERAGES - 0.7)))
    before, after = d["coverage"][-1], d["coverage"][i]
    gain = f"answering only the 70% it trusts most changes accuracy from {before:.2f} to {after:.2f}."
    if d["flagged"] == d["false_alarms"] == 0:
        return (
            "Too few samples were held out of training to flag any at the 5% level; the distrust score tells a new "
            f"environment from the known ones with AUROC {d['auroc']:.2f}, and {gain}"
        )
    return (
        f"At a threshold that flags {d['false_alarms']:.0%} of ordinary samples, the distrust score flags "
        f"{d['flagged']:.0%} of those from a new environment (AUROC {d['auroc']:.2f}); {gain}"
    )

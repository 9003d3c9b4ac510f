"""What a study found: estimates with intervals, differences to the baseline, and what to ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.study.measure import COVERAGES
from holdfast.study.methods import METHODS
from holdfast.study.plan import Cell, SettingInfo, held_out_of
from holdfast.study.resample import Bootstrap, interval
from holdfast.study.selection import SELECTION_RULES, Records
from holdfast.study.spec import StudySpec
from holdfast.study.store import Outcome
from holdfast.study.verdict import verdict

__all__ = ["summarise"]

_SCORES = ("balanced_accuracy", "macro_f1", "nll", "brier", "ece")
_DISTRUST = ("auroc", "fpr95", "flagged", "false_alarms", "aurc", "aurc_confidence")


def summarise(
    spec: StudySpec,
    infos: Sequence[SettingInfo],
    cells: Sequence[Cell],
    outcomes: Mapping[str, Outcome],
    *,
    versions: Mapping[str, str],
    draws: int = 2000,
) -> dict[str, Any]:
    """Return the JSON-ready summary that the table, the report and ``--json`` show; a function of its arguments."""
    status = [outcomes[c.key].status if c.key in outcomes else "missing" for c in cells]
    return {
        "study": spec.name,
        "selection": spec.selection,
        "oracle": spec.selection == "oracle",
        "rule": SELECTION_RULES[spec.selection],
        "baseline": spec.reference,
        "seeds": list(spec.seeds),
        "trials": {m.label: m.trials or spec.trials for m in spec.methods},
        "cells": {"planned": len(cells)} | {s: status.count(s) for s in ("done", "failed", "missing")},
        "settings": [_setting(spec, info, cells, outcomes, draws) for info in infos],
        "coverages": COVERAGES.tolist(),
        "spec": spec.to_dict(),
        "versions": dict(versions),
    }


def _setting(
    spec: StudySpec, info: SettingInfo, cells: Sequence[Cell], outcomes: Mapping[str, Outcome], draws: int
) -> dict[str, Any]:
    own = [c for c in cells if c.setting == info.name]
    records = Records(own, outcomes, environments=info.environments)
    held_out = held_out_of(spec, info)
    chosen = {
        m.label: {
            (e, s): t
            for e in held_out
            for s in spec.seeds
            if (t := records.select(m.label, e, s, spec.selection)) is not None
        }
        for m in spec.methods
    }
    # A seed counts where the method finished it on every held-out environment, so that rows are comparable.
    complete = {m: [s for s in spec.seeds if all((e, s) in c for e in held_out)] for m, c in chosen.items()}
    complete = {m: s for m, s in complete.items() if s}

    def of(method: str, environment: str, seed: int) -> Outcome:
        found = records.outcome(method, environment, seed, chosen[method][environment, seed])
        if found is None:
            raise LookupError(f"no stored outcome of {method} on {environment}, seed {seed}")
        return found

    bootstrap = Bootstrap(
        {e: {m: np.stack([of(m, e, s).correct[e] for s in seeds]) for m, seeds in complete.items()} for e in held_out}
        if complete
        else {},
        complete,
        draws=draws,
    )
    rows = []
    for method in spec.methods:
        label = method.label
        row: dict[str, Any] = {
            "method": label,
            "class": METHODS[method.name].path if method.name in METHODS else method.name,
            "about": METHODS[method.name].about if method.name in METHODS else "",
            "failed": sum(outcomes[c.key].status == "failed" for c in own if c.label == label and c.key in outcomes),
            "seeds": complete.get(label, []),
        }
        if label in complete:
            results = {(e, s): of(label, e, s).result for e in held_out for s in complete[label]}
            row |= _estimates(bootstrap, label, spec.reference, held_out, complete, len(complete) - 1)
            row |= _means(results, held_out)
            final = records.select_final(label, held_out, complete[label], spec.selection)
            row["chosen"] = [
                {"held_out": e, "seed": s, "trial": chosen[label][e, s]} for e in held_out for s in complete[label]
            ]
            row["final"] = {"trial": final, "params": records.params[label, final] if final is not None else {}}
        rows.append(row)
    failures = [
        {"cell": c.title, "message": outcomes[c.key].message}
        for c in own
        if c.key in outcomes and outcomes[c.key].status == "failed"
    ]
    warned = sorted({w for c in own if c.key in outcomes for w in outcomes[c.key].result.get("warnings", ())})
    return {
        "name": info.name,
        "shift": info.shift,
        "kind": info.kind,
        "counts": info.counts,
        "classes": info.classes,
        "fingerprint": info.fingerprint,
        "held_out": list(held_out),
        "baseline": spec.reference,
        "methods": rows,
        "failures": failures,
        "warnings": warned,
        "verdict": verdict(rows, spec.reference, held_out, spec.selection),
    }


def _estimates(
    b: Bootstrap, label: str, baseline: str, held_out: Sequence[str], complete: Mapping[str, Any], others: int
) -> dict[str, Any]:
    draws = {e: b.accuracy(label, e) for e in held_out}
    points = {e: b.point(label, e) for e in held_out}
    out: dict[str, Any] = {
        "environments": {e: {"accuracy": interval(points[e], draws[e])} for e in held_out},
        "average": interval(float(np.mean(list(points.values()))), np.mean(list(draws.values()), axis=0)),
    }
    worst = min(held_out, key=lambda e: points[e])
    out["worst"] = interval(points[worst], np.min(list(draws.values()), axis=0)) | {"environment": worst}
    shared = b.shared_seeds(label, baseline) if baseline in complete else []
    if label == baseline or not shared:
        return out
    gaps = {e: b.accuracy(label, e, shared) - b.accuracy(baseline, e, shared) for e in held_out}
    gap_points = {e: b.point(label, e, shared) - b.point(baseline, e, shared) for e in held_out}
    for e in held_out:
        out["environments"][e]["difference"] = interval(gap_points[e], gaps[e])
    mean_gap, mean_draws = float(np.mean(list(gap_points.values()))), np.mean(list(gaps.values()), axis=0)
    # Many methods are compared with one baseline: deciding at 5% / (number of comparisons) keeps the chance of any
    # false "better than the baseline" below 5% (Bonferroni).
    adjusted = interval(mean_gap, mean_draws, level=1 - 0.05 / max(1, others))
    out["difference"] = interval(mean_gap, mean_draws) | {
        "adjusted_low": adjusted["low"],
        "adjusted_high": adjusted["high"],
        "seeds": len(shared),
    }
    return out


def _means(results: Mapping[tuple[str, int], dict], held_out: Sequence[str]) -> dict[str, Any]:
    """Averages over held-out environments and seeds of everything that has no interval."""
    entries = {key: result["held_out"][key[0]] for key, result in results.items()}
    measured = [e["distrust"] for e in entries.values() if "auroc" in e["distrust"]]
    probes = [r["probe"] for r in results.values() if r["probe"]]
    out: dict[str, Any] = {k: float(np.mean([e[k] for e in entries.values()])) for k in _SCORES}
    out["by_environment"] = {
        name: {k: float(np.mean([e[k] for (n, _), e in entries.items() if n == name])) for k in _SCORES}
        for name in held_out
    }
    out["validation"] = float(np.mean([r["validation_score"] for r in results.values()]))
    out["curve"] = _pool_curves([e["curve"] for e in entries.values()])
    out["distrust"] = None
    if measured:
        out["distrust"] = {k: float(np.mean([d[k] for d in measured])) for k in _DISTRUST} | {
            k: np.mean([d[k] for d in measured], axis=0).tolist() for k in ("coverage", "coverage_confidence")
        }
        out["distrust"]["by_environment"] = {
            name: {k: float(np.mean([e["distrust"][k] for e in part])) for k in ("auroc", "flagged")}
            for name in held_out
            if (part := [e for (n, _), e in entries.items() if n == name and "auroc" in e["distrust"]])
        }
    out["probe"] = {k: float(np.mean([p[k] for p in probes])) for k in probes[0]} if probes else None
    for k in ("fit_seconds", "evaluate_seconds", "parameters", "n_fit"):
        out[k] = float(np.mean([r[k] for r in results.values()]))
    return out


def _pool_curves(curves: Sequence[Sequence[Sequence[float]]], bins: int = 10) -> list[list[float]]:
    """One reliability curve from several: bins of equal width, weighted by their samples."""
    points = np.array([p for curve in curves for p in curve], dtype=float).reshape(-1, 3)
    place = np.clip((points[:, 0] * bins).astype(int), 0, bins - 1)
    pooled = []
    for i in range(bins):
        part = points[place == i]
        if len(part):
            weight = part[:, 2] / part[:, 2].sum()
            pooled.append([float(weight @ part[:, 0]), float(weight @ part[:, 1]), float(part[:, 2].sum())])
    return pooled

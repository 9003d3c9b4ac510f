"""Running a paper's claims: seeds in processes, verdicts from their intervals, evidence on disk."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from holdfast.papers.catalogue import load_paper
from holdfast.papers.record import SCALES, Claim, Interval, Paper, Scale, Verdict, mean_interval

__all__ = ["ClaimResult", "Reproduction", "evidence_path", "read_verdicts", "reproduce", "seed_plan", "write_evidence"]

EVIDENCE = Path(__file__).parent / "evidence"
_VERSIONS = ("holdfast", "torch", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class ClaimResult:
    """One claim with the value of every seed and the verdict they give."""

    claim: Claim
    values: tuple[float, ...]
    interval: Interval
    verdict: Verdict | None
    """``None`` at smoke scale, which decides nothing."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "key": self.claim.key,
            "statement": self.claim.statement,
            "threshold": self.claim.threshold,
            "values": list(self.values),
            "mean": self.interval.mean,
            "low": _finite(self.interval.low),
            "high": _finite(self.interval.high),
            "verdict": self.verdict,
        }


@dataclass
class Reproduction:
    """What the seeds of one paper at one scale measured."""

    paper: Paper
    scale: Scale
    seeds: tuple[int, ...]
    values: dict[int, dict[str, float]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def claims(self) -> list[ClaimResult]:
        """Every claim with its verdict."""
        out = []
        for claim in self.paper.claims:
            values = tuple(float(claim.statistic(self.values[s])) for s in self.seeds)
            verdict = None if self.scale == "smoke" else claim.verdict(values)
            out.append(ClaimResult(claim, values, mean_interval(values), verdict))
        return out

    @property
    def rows(self) -> dict[str, dict[str, Interval]]:
        """Everything measured: method, metric, and the mean with its interval over seeds."""
        out: dict[str, dict[str, Interval]] = {}
        for key in self.values[self.seeds[0]]:
            method, _, metric = key.rpartition("/")
            out.setdefault(method or "all", {})[metric] = mean_interval([self.values[s][key] for s in self.seeds])
        return out

    @property
    def held(self) -> bool:
        """Whether every claim that was judged is held."""
        return all(c.verdict in (None, "held") for c in self.claims)

    def to_dict(self) -> dict[str, Any]:
        """Return the evidence as it is written to disk."""
        return {
            "paper": self.paper.number,
            "title": self.paper.title,
            "scale": self.scale,
            "seeds": list(self.seeds),
            "claims": [c.to_dict() for c in self.claims],
            "rows": {
                m: {k: [i.mean, _finite(i.low), _finite(i.high)] for k, i in metrics.items()}
                for m, metrics in self.rows.items()
            },
            "values": {str(s): self.values[s] for s in self.seeds},
            "seconds": {str(s): round(self.seconds[s], 2) for s in self.seeds},
            "versions": {name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
            "device": self.device,
            "commit": _commit(),
        }


def _finite(x: float) -> float | None:
    return x if abs(x) != float("inf") else None


def _commit() -> str:
    here = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True)
    if head.returncode != 0:
        return "unknown"
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no", "--", "."], cwd=here, capture_output=True, text=True
    )
    own = [line for line in changed.stdout.splitlines() if not line.endswith(".json")]
    return head.stdout.strip() + ("+changes" if own else "")


def _measure(number: int, scale: Scale, seed: int, threads: int) -> tuple[dict[str, float], float]:
    torch.set_num_threads(threads)
    paper = load_paper(number)
    if paper.experiment is None:
        raise ValueError(f"paper {number} has no experiment")
    start = time.perf_counter()
    values = paper.experiment(scale, seed)
    return {k: float(v) for k, v in values.items()}, time.perf_counter() - start


def seed_plan(number: int, scale: Scale, seeds: int | None = None, first_seed: int = 0) -> tuple[int, ...]:
    """Return the seeds that a run uses: ``seeds`` of them, or the paper's own number (two at smoke scale)."""
    n = seeds if seeds is not None else (2 if scale == "smoke" else load_paper(number).seeds)
    return tuple(range(first_seed, first_seed + n))


def reproduce(
    numbers: Iterable[int],
    scale: Scale = "small",
    *,
    seeds: int | None = None,
    first_seed: int = 0,
    workers: int | None = None,
    on_seed: Callable[[int, int], None] | None = None,
) -> list[Reproduction]:
    """Run the claims of papers on several seeds, one process and one thread per seed.

    Args:
        numbers: papers to run.
        scale: ``"smoke"`` (seconds: the code path), ``"small"`` (the claim, minutes on two cores) or ``"gpu"``.
        seeds: number of seeds; each paper's own number when omitted (two at smoke scale).
        first_seed: seeds are ``first_seed, first_seed + 1, ...``.
        workers: processes at once; the number of cores by default, one at gpu scale.
        on_seed: called with (paper, seed) when a seed is done.

    Raises:
        ValueError: for an unknown scale, fewer than one seed, or a paper that is not built.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {scale!r}")
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    if first_seed < 0:
        raise ValueError(f"first_seed must be non-negative, got {first_seed}")
    chosen = [load_paper(n) for n in dict.fromkeys(numbers)]
    planned = [p.number for p in chosen if p.state == "planned"]
    if planned:
        raise ValueError(f"paper {planned[0]} is planned, not built: there is nothing to run yet")
    device = "cuda" if scale == "gpu" and torch.cuda.is_available() else "cpu"
    runs = {
        p.number: Reproduction(p, scale, seed_plan(p.number, scale, seeds, first_seed), device=device) for p in chosen
    }
    jobs = [(number, seed) for number, run in runs.items() for seed in run.seeds]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers is None:
        workers = 1 if scale == "gpu" else cores
    workers = max(1, min(workers, len(jobs)))
    threads = cores if scale == "gpu" else 1
    # A fresh interpreter per worker: forking a process in which torch has started threads can deadlock.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_measure, n, scale, s, threads): (n, s) for n, s in jobs}
        try:
            for future in as_completed(futures):
                number, seed = futures[future]
                runs[number].values[seed], runs[number].seconds[seed] = future.result()
                if on_seed is not None:
                    on_seed(number, seed)
        except BaseException:
            pool.shutdown(cancel_futures=True, wait=False)
            raise
    return list(runs.values())


def evidence_path(number: int, scale: Scale, folder: Path | None = None) -> Path:
    """Return where the evidence of a paper at a scale is kept."""
    name = f"{number:02d}.json" if scale == "small" else f"{number:02d}-{scale}.json"
    return (folder or EVIDENCE) / name


def write_evidence(run: Reproduction, folder: Path | None = None) -> Path:
    """Write the evidence file of a run and return its path.

    Raises:
        ValueError: at smoke scale, which tests the code path and not the claim, or with fewer than five seeds.
    """
    if run.scale == "smoke":
        raise ValueError("smoke scale tests the code path, not the claim: it is no evidence")
    if len(run.seeds) < 5:
        raise ValueError(f"evidence needs at least five seeds, got {len(run.seeds)}")
    path = evidence_path(run.paper.number, run.scale, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run.to_dict(), indent=1) + "\n", encoding="utf-8")
    return path


def read_verdicts(folder: Path | None = None) -> Sequence[dict[str, Any]]:
    """Return every evidence file, in order of paper and scale."""
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted((folder or EVIDENCE).glob("*.json"))]

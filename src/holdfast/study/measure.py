"""One cell: train on the training environments, measure on the held-out ones, and on what was held out of training."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from holdfast.core.random import spawn_seed
from holdfast.data import Environments
from holdfast.metrics import aurc, auroc, fpr_at_tpr, risk_coverage_curve
from holdfast.metrics.invariance import environment_probe
from holdfast.representation.trust import DistrustScore
from holdfast.study.methods import build
from holdfast.study.plan import Cell
from holdfast.study.scores import calibration_points, classification_scores
from holdfast.study.store import Outcome

__all__ = ["COVERAGES", "Parts", "one_thread", "parts_of", "run_cell"]

COVERAGES = np.round(np.arange(0.1, 1.0001, 0.05), 2)
_ROWS = 4000  # features kept per part for densities and probes


class Parts:
    """The parts of a setting's samples as one cell uses them; no held-out sample is in any but ``held_out``.

    Attributes:
        fit: what the method is trained on.
        validation: samples of the training environments kept from it; ``calibration`` and ``check`` are its halves.
        held_out: per held-out environment, all its samples.
    """

    def __init__(self, cell: Cell, data: Environments) -> None:
        training = data.without(*cell.held_out)
        seed = spawn_seed(cell.seed, "validation")
        self.fit, self.validation = training.split(cell.validation, seed=seed)
        self.calibration: Environments | None = None
        self.check: Environments | None = None
        if len(self.validation) >= 4:
            self.calibration, self.check = self.validation.split(0.5, seed=spawn_seed(seed, "halves"))
        self.held_out = {name: data.only(name) for name in cell.held_out}


def parts_of(cell: Cell, data: Environments) -> Parts:
    """Return the parts of ``data`` that ``cell`` uses; a function of the cell's seed and held-out environments."""
    return Parts(cell, data)


@contextmanager
def one_thread() -> Iterator[None]:
    """Give torch and the numerical libraries one thread, so that cells do not fight over cores and results do not
    depend on how many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def run_cell(cell: Cell, data: Environments) -> Outcome:
    """Train and measure; an exception of the method becomes a failed outcome with its message."""
    start = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            result, correct = _measure(cell, data)
        result["warnings"] = list(dict.fromkeys(f"{w.category.__name__}: {w.message}" for w in caught))[:5]
    except Exception as error:  # whatever a method raises must not end the study
        message = f"{type(error).__name__}: {error}"
        return Outcome("failed", message, {}, {}, time.perf_counter() - start)
    return Outcome("done", "", result, correct, time.perf_counter() - start)


def _measure(cell: Cell, data: Environments) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    parts = parts_of(cell, data)
    model = build(cell.method, cell.params, random_state=spawn_seed(cell.seed, "model"))
    x, y, environment = parts.fit.pooled()
    start = time.perf_counter()
    model.fit(x, y, environment=environment)
    fit_seconds = time.perf_counter() - start

    classes = data.classes
    validation = _probabilities(model, parts.validation.x, classes)
    val_labels = np.searchsorted(classes, parts.validation.y)
    per_environment = {}
    for code, name in enumerate(parts.validation.names):
        rows = parts.validation.environment == code
        if rows.any():
            per_environment[name] = classification_scores(validation[rows], val_labels[rows])
    trust = _Trust(model, parts, cell.seed)
    held_out, correct = {}, {}
    for name, part in parts.held_out.items():
        p = _probabilities(model, part.x, classes)
        labels = np.searchsorted(classes, part.y)
        correct[name] = p.argmax(1) == labels
        held_out[name] = {
            **classification_scores(p, labels),
            "curve": calibration_points(p, labels),
            "distrust": trust.measure(part, correct[name], p.max(1)),
        }
    result = {
        "held_out": held_out,
        "validation": per_environment,
        "validation_score": float(np.mean([s["accuracy"] for s in per_environment.values()])),
        "probe": trust.probe(),
        "n_fit": len(parts.fit),
        "parameters": _parameters(model),
        "fit_seconds": fit_seconds,
        "evaluate_seconds": time.perf_counter() - start - fit_seconds,
    }
    return result, correct


def _probabilities(model: Any, x: Any, classes: np.ndarray) -> np.ndarray:
    """Probabilities with a column for every class of the data; one that training never saw has probability 0."""
    known = model.predict_proba(x)
    out = np.zeros((len(known), len(classes)))
    out[:, np.searchsorted(classes, model.classes_)] = known
    return out


def _parameters(model: Any) -> int:
    network = getattr(model, "network_", None)
    return sum(p.numel() for p in network.parameters()) if network is not None else 0


class _Trust:
    """Distrust and probe of a fitted model's representation, measured on samples that training has not seen."""

    def __init__(self, model: Any, parts: Parts, seed: int) -> None:
        self.model, self.seed, self.score, self.reason = model, seed, None, ""
        if parts.calibration is None or parts.check is None:
            self.reason = "too few samples held out of training to calibrate on"
            return
        fit, calibration = self._few(parts.fit, "fit"), self._few(parts.calibration, "calibration")
        self.check = self._few(parts.check, "check")
        self.calibration = calibration
        try:
            self.z_calibration = model.transform(calibration.x)
            self.z_check = model.transform(self.check.x)
            self.score = DistrustScore().fit(
                model.transform(fit.x),
                fit.y,
                fit.environment_names,
                calibration_features=self.z_calibration,
                calibration_environment=calibration.environment_names,
            )
            self.inside = self.score.score(self.z_check)
        except ValueError as error:  # a collapsed representation has no density; that is a finding, not a failure
            self.score, self.reason = None, str(error)

    def _few(self, part: Environments, what: str) -> Environments:
        if len(part) <= _ROWS:
            return part
        rng = np.random.default_rng(spawn_seed(self.seed, what))
        return part.subset(np.sort(rng.permutation(len(part))[:_ROWS]))

    def measure(self, part: Environments, correct: np.ndarray, confidence: np.ndarray) -> dict[str, Any]:
        """How well the score tells ``part`` from known environments, and wrong predictions from right ones."""
        if self.score is None:
            return {"missing": self.reason}
        rows = np.arange(len(part))
        if len(part) > _ROWS:
            rng = np.random.default_rng(spawn_seed(self.seed, "held-out"))
            rows = np.sort(rng.permutation(len(part))[:_ROWS])
        outside = self.score.score(self.model.transform(part.subset(rows).x))
        wrong = 1.0 - correct[rows]
        names, counts = np.unique(outside.nearest_environment, return_counts=True)
        return {
            "auroc": auroc(self.inside.distance, outside.distance),
            "fpr95": fpr_at_tpr(self.inside.distance, outside.distance),
            "flagged": float((outside.p_value <= 0.05).mean()),
            "false_alarms": float((self.inside.p_value <= 0.05).mean()),
            "aurc": aurc(wrong, outside.distance),
            "aurc_confidence": aurc(wrong, -confidence[rows]),
            "coverage": _accuracy_at(wrong, outside.distance),
            "coverage_confidence": _accuracy_at(wrong, -confidence[rows]),
            "nearest": {str(n): int(c) for n, c in zip(names, counts)},
        }

    def probe(self) -> dict[str, float] | None:
        """How well the training environment can be read off the representation, and what chance would give."""
        if self.score is None or len(self.score.environments_) < 2:
            return None
        z = np.concatenate([self.z_calibration, self.z_check])
        names = np.concatenate([self.calibration.environment_names, self.check.environment_names])
        try:
            found = environment_probe(z, names, n_folds=3, max_samples=1500, seed=self.seed)
        except ValueError:  # an environment with fewer samples than folds
            return None
        return {"accuracy": found.balanced_accuracy, "chance": found.chance}


def _accuracy_at(wrong: np.ndarray, distrust: np.ndarray) -> list[float]:
    """Accuracy when only the most trusted share is answered, at every share of ``COVERAGES``."""
    coverage, risk = risk_coverage_curve(wrong, distrust)
    at = torch.searchsorted(coverage, torch.from_numpy(COVERAGES) - 1e-12).clamp(max=len(risk) - 1)
    return [round(1.0 - float(r), 6) for r in risk[at]]

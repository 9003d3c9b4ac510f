"""Model selection: which trial of a random search counts, by a rule that is always named with its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from holdfast.study.plan import Cell
from holdfast.study.store import Outcome

__all__ = ["SELECTION_RULES", "Records"]

SELECTION_RULES = {
    "training": "the best mean accuracy on held-out parts of the training environments",
    "leave-one-out": "the best mean accuracy on training environments left out one at a time",
    "oracle": "the best accuracy on the held-out environment itself (oracle: it looks at the test labels)",
}


class Records:
    """Finished cells of one setting, found by method, held-out environment, seed and trial.

    Examples:
        >>> Records([], {}, environments=("A", "B")).select("erm", "A", 0, "training") is None
        True
    """

    def __init__(self, cells: Sequence[Cell], outcomes: Mapping[str, Outcome], *, environments: Sequence[str]) -> None:
        self.environments = tuple(environments)
        self._single: dict[tuple[str, str, int, int], Outcome] = {}
        self._pair: dict[tuple[str, frozenset[str], int, int], Outcome] = {}
        self._trials: dict[str, set[int]] = {}
        self.params: dict[tuple[str, int], dict] = {}
        for cell in cells:
            self._trials.setdefault(cell.label, set()).add(cell.trial)
            self.params[cell.label, cell.trial] = cell.params
            outcome = outcomes.get(cell.key)
            if outcome is None or outcome.status != "done":
                continue
            if len(cell.held_out) == 1:
                self._single[cell.label, cell.held_out[0], cell.seed, cell.trial] = outcome
            else:
                self._pair[cell.label, frozenset(cell.held_out), cell.seed, cell.trial] = outcome

    def outcome(self, method: str, environment: str, seed: int, trial: int) -> Outcome | None:
        """Return the outcome of a model that has not seen ``environment``."""
        return self._single.get((method, environment, seed, trial))

    def __getitem__(self, key: tuple[str, str, int, int]) -> Outcome:
        return self._single[key]

    def trials(self, method: str) -> list[int]:
        """Return the trials planned for a method."""
        return sorted(self._trials.get(method, ()))

    def score(self, method: str, environment: str, seed: int, trial: int, rule: str) -> float | None:
        """Return a trial's selection score, or ``None`` where what it needs has not finished."""
        own = self.outcome(method, environment, seed, trial)
        if own is None:
            return None
        if rule == "oracle":
            return own.result["held_out"][environment]["accuracy"]
        if rule == "training" or len(self.trials(method)) == 1:
            return own.result["validation_score"]
        scores = []
        for other in self.environments:
            if other == environment:
                continue
            pair = self._pair.get((method, frozenset((environment, other)), seed, trial))
            if pair is None:
                return None
            scores.append(pair.result["held_out"][other]["accuracy"])
        return float(np.mean(scores))

    def select(self, method: str, environment: str, seed: int, rule: str) -> int | None:
        """Return the trial that ``rule`` picks for one held-out environment and seed; ties go to the earlier one."""
        scored = [(t, self.score(method, environment, seed, t, rule)) for t in self.trials(method)]
        known = [(t, s) for t, s in scored if s is not None]
        return max(known, key=lambda p: (p[1], -p[0]))[0] if known else None

    def select_final(self, method: str, held_out: Sequence[str], seeds: Sequence[int], rule: str) -> int | None:
        """Return the trial for the model that is trained on all environments.

        For ``training`` the mean of the validation scores decides; for the other two rules the held-out environments
        of the study are the ones left out one at a time, so their mean accuracy decides.
        """
        best: tuple[float, int] | None = None
        for trial in self.trials(method):
            values = []
            for environment in held_out:
                for seed in seeds:
                    outcome = self.outcome(method, environment, seed, trial)
                    if outcome is not None:
                        own = outcome.result["held_out"][environment]["accuracy"]
                        values.append(outcome.result["validation_score"] if rule == "training" else own)
            if values and (best is None or np.mean(values) > best[0]):
                best = (float(np.mean(values)), trial)
        return None if best is None else best[1]

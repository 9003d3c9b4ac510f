"""Is a posterior calibrated? Simulation-based checks, on problems whose states are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from scipy.stats import chisquare
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.distribution.transformer.problem import InferenceProblem

__all__ = ["CalibrationReport", "simulation_based_calibration"]


class _CanSample(Protocol):
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...


@dataclass(frozen=True)
class CalibrationReport:
    """Ranks of true states among draws of the posterior, which are uniform where the posterior is right.

    Attributes:
        ranks: (n, D), from 0 to ``draws``.
        draws: of every posterior.
        p_values: of a chi-square test of uniform ranks, for each dimension.
        histogram: (D, bins) counts. A bulge in the middle says too wide, at the ends too narrow.
    """

    ranks: Int[Tensor, "n dim"]
    draws: int
    p_values: Float[Tensor, "dim"]
    histogram: Int[Tensor, "dim bins"]

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of dimensions (Bonferroni)."""
        return min(1.0, float(self.p_values.min()) * len(self.p_values))

    def coverage(self, level: float = 0.9) -> float:
        """Return the share of states inside the central interval of probability ``level``."""
        check_number("level", level, low=0, high=1)
        place = (2 * self.ranks + 1) / (self.draws + 1) - 1
        return float((place.abs() < level).double().mean())


def simulation_based_calibration(
    posterior: Callable[[Any, dict[str, Tensor], dict[str, Tensor]], _CanSample],
    problem: InferenceProblem,
    n: int = 1000,
    draws: int = 99,
    bins: int = 10,
    generator: torch.Generator | None = None,
) -> CalibrationReport:
    """Rank true states among ``draws`` of their posteriors on ``n`` new problems.

    Args:
        posterior: from priors, observations and masks to laws of states with ``sample``.
        problem: where priors, states and observations come from.
        n: problems.
        draws: of every posterior; ``draws + 1`` is a multiple of ``bins``.
        bins: of the histogram.
        generator: random state.

    Raises:
        ValueError: where ``draws + 1`` is no multiple of ``bins``, or a bin expects fewer than 5 states.

    Source: Talts et al., "Validating Bayesian inference algorithms with simulation-based calibration", 2018.

    Examples:
        A posterior that ignores what is observed is calibrated too, as the prior is.

        >>> from holdfast.distribution.transformer import LinearObservation, MixtureMetaPrior
        >>> problem = InferenceProblem(MixtureMetaPrior(3), {"z": LinearObservation(torch.eye(1), torch.eye(1))})
        >>> rng = torch.Generator().manual_seed(0)
        >>> simulation_based_calibration(lambda phi, obs, mask: phi, problem, generator=rng).p_value > 0.001
        True
    """
    for name, value in (("n", n), ("draws", draws), ("bins", bins)):
        check_number(name, value, low=2 if name == "bins" else 1, integer=True)
    if (draws + 1) % bins:
        raise ValueError(f"draws + 1 must be a multiple of bins, got draws={draws} and bins={bins}")
    if n < 5 * bins:
        raise ValueError(f"{bins} bins need at least {5 * bins} problems, got {n}")
    batch = problem.sample(n, generator)
    drawn = posterior(batch.phi, batch.obs, batch.mask).sample(draws, generator)
    ranks = (drawn < batch.x).sum(0)
    which = ranks * bins // (draws + 1)
    counts = torch.stack([torch.bincount(column, minlength=bins) for column in which.T])
    p = [float(chisquare(row.cpu().numpy()).pvalue) for row in counts]
    return CalibrationReport(ranks, draws, torch.tensor(p, dtype=torch.float64), counts)

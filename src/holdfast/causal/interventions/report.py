"""What there is to say for and against an extrapolation, in the order in which it should be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["DoPrediction", "IdentifiabilityReport"]


class DoPrediction(NamedTuple):
    """Expected outcomes under actions.

    Attributes:
        mean: (m,) prediction.
        low, high: (m,) ends of the interval; NaN without resamples.
        outside: (m,) share of the shifted codes that leave the training codes.
    """

    mean: Float[np.ndarray, " m"]
    low: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]
    outside: Float[np.ndarray, " m"]


@dataclass(frozen=True)
class IdentifiabilityReport:
    """Reconstruction, the constraint, overlap, the curve with its interval, and other curves beside it.

    Attributes:
        reconstruction_r2: share of the features' variance that the decoder gives back; below 0.95 the code may have
            lost part of the state, and then satisfies the constraint for nothing.
        p_before, p_after: of the test that the code's mean is linear in the action, before and after training.
        condition: of code and control variable, see :class:`ShiftDiagnostics`.
        actions: (m, k) of the curve.
        curve: the prediction there.
        ci: level of its interval.
        baselines: (m,) by name.
    """

    reconstruction_r2: float
    p_before: float
    p_after: float
    condition: float
    actions: Float[np.ndarray, "m k"]
    curve: DoPrediction
    ci: float
    baselines: dict[str, Float[np.ndarray, " m"]]

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons not to believe the curve, in words; none where nothing speaks against it."""
        found = []
        if self.reconstruction_r2 < 0.95:
            found.append(
                f"the reconstruction R^2 is {self.reconstruction_r2:.3f}, below 0.95: the code may not be injective; "
                "train longer or lower lam"
            )
        if self.p_after < 0.05:
            found.append(
                f"the code is not linear in the action (p = {self.p_after:.3f}): raise dim or lam, transform A, or do "
                "not extrapolate"
            )
        if self.condition > 100:
            found.append(f"code and control variable are nearly collinear (condition number {self.condition:.0f})")
        if (far := int((self.curve.outside > 0.9).sum())) > 0:
            found.append(f"at {far} of {len(self.actions)} actions over 90% of the codes lie where none was seen")
        return tuple(found)

    def __str__(self) -> str:
        columns = {
            "outside": self.curve.outside,
            "mean": self.curve.mean,
            "low": self.curve.low,
            "high": self.curve.high,
            **self.baselines,
        }
        width = 2 + max(7, *map(len, columns))
        head = "".join(f"{name:>{width}}" for name in columns)
        label = max(8, 8 * self.actions.shape[1])
        lines = [
            f"reconstruction R^2        {self.reconstruction_r2:.4f}",
            f"linear in the action?     p = {self.p_before:.3f} before training, {self.p_after:.3f} after",
            f"condition number          {self.condition:.1f}",
            f"interval                  {self.ci:.0%}",
            f"{'action':>{label}}{head}",
        ]
        for i, a in enumerate(self.actions):
            values = [
                f"{v[i]:>{width}.0%}" if name == "outside" else f"{v[i]:>{width}.2f}" for name, v in columns.items()
            ]
            lines.append("".join(f"{x:>8.2f}" for x in a) + "".join(values))
        lines += [f"doubt: {d}" for d in self.doubts] or ["nothing seen that speaks against the curve"]
        return "\n".join(lines)

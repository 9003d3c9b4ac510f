"""How much is hidden in a training sample: a law of mask ratios on a cosine grid, and the step to the larger mask."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float64, Int64
from scipy.stats import truncnorm
from torch import Tensor

from holdfast.core.checks import check_choice, check_number

__all__ = ["RatioLaw"]


class RatioLaw:
    r"""Discrete law of mask ratios: points of a cosine grid, weighted by a truncated normal density.

    .. math:: r_j = \cos\frac{\pi j}{2 G} \in [\mathrm{lo}, \mathrm{hi}), \qquad
              P(r_j) \propto \varphi\Bigl(\frac{r_j - \mu}{\sigma}\Bigr)

    The grid is that of a cosine schedule of :math:`G` generation steps. A training sample needs two nested masks: one
    of ratio index :math:`i` (in ascending order) for the target, and a larger one of index :math:`i + U\{1..o\}`
    (capped at the last) for what the network sees; ``offset`` :math:`o` of ``grid / N`` spans one of ``N`` steps.

    Args:
        kind: ``"truncnorm_cosine"``, or ``"uniform_cosine"``: the same points, equally likely.
        lo, hi: bounds of the ratios, :math:`0 < \mathrm{lo} < \mathrm{hi} \le 1`; ``hi`` itself is left out.
        mu, sd: of the normal density.
        grid: :math:`G`, points of the whole quarter of the cosine.
        offset: :math:`o \ge 1`, the largest step of the index.

    Attributes:
        ratios: the points in ascending order, float64.
        weights: their probabilities, float64.

    Raises:
        ValueError: for bounds outside (0, 1], reversed ones, or so close that no grid point lies between them.

    Source: Tian et al., "ADDP: Learning General Representations for Image Recognition and Generation with Alternating
    Denoising Diffusion Process", ICLR 2024; the truncated normal law of ratios is that of Li et al., "MAGE", CVPR 2023.

    Examples:
        >>> law = RatioLaw()
        >>> len(law.ratios), round(float(law.ratios[0]), 3), round(float(law.ratios[-1]), 4)
        (66, 0.509, 0.9999)
        >>> now, more = law.sample_counts(4, 256, generator=torch.Generator().manual_seed(0))
        >>> bool((now >= 128).all() and (more >= now).all())
        True
    """

    ratios: Float64[Tensor, " points"]
    weights: Float64[Tensor, " points"]

    def __init__(
        self,
        kind: Literal["truncnorm_cosine", "uniform_cosine"] = "truncnorm_cosine",
        lo: float = 0.5,
        hi: float = 1.0,
        mu: float = 0.55,
        sd: float = 0.25,
        grid: int = 100,
        offset: int = 5,
    ) -> None:
        check_choice("kind", kind, ["truncnorm_cosine", "uniform_cosine"])
        check_number("lo", lo, low=0, high=1, open_low=True)
        check_number("hi", hi, low=0, high=1, open_low=True)
        check_number("mu", mu)
        check_number("sd", sd, low=0, open_low=True)
        check_number("grid", grid, low=1, integer=True)
        check_number("offset", offset, low=1, integer=True)
        if lo >= hi:
            raise ValueError(f"lo must be below hi, got lo={lo} and hi={hi}")
        self.kind, self.lo, self.hi, self.mu, self.sd = kind, float(lo), float(hi), float(mu), float(sd)
        self.grid, self.offset = int(grid), int(offset)
        points = torch.cos(math.pi / 2 * torch.arange(self.grid, -1, -1, dtype=torch.float64) / self.grid)
        self.ratios = points[(points >= lo) & (points < hi)]
        if len(self.ratios) == 0:
            raise ValueError(f"no point of a cosine grid of {grid} lies in [{lo}, {hi}); widen the bounds or the grid")
        density = torch.ones_like(self.ratios)
        if kind == "truncnorm_cosine":
            bounds = (lo - mu) / sd, (hi - mu) / sd
            density = torch.from_numpy(truncnorm.pdf(self.ratios.numpy(), *bounds, loc=mu, scale=sd))
        self.weights = density / density.sum()

    def __repr__(self) -> str:
        return (
            f"RatioLaw({self.kind!r}, lo={self.lo:g}, hi={self.hi:g}, mu={self.mu:g}, sd={self.sd:g}, "
            f"grid={self.grid}, offset={self.offset})"
        )

    def sample(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
        """Draw a ratio and the larger one that goes with it, for each of ``n`` samples.

        Raises:
            ValueError: for ``n`` below 1.
        """
        check_number("n", n, low=1, integer=True)
        device = torch.device("cpu") if generator is None else generator.device
        u = torch.rand(n, dtype=torch.float64, device=device, generator=generator)
        cumulative = self.weights.cumsum(0).to(device)
        last = len(self.ratios) - 1
        index = torch.searchsorted(cumulative, u, right=True).clamp(max=last)
        step = torch.randint(1, self.offset + 1, (n,), device=device, generator=generator)
        ratios = self.ratios.to(device)
        return ratios[index], ratios[(index + step).clamp(max=last)]

    def sample_counts(
        self, n: int, length: int, *, generator: torch.Generator | None = None
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        r"""Draw how many of ``length`` positions are hidden: :math:`\lceil L r_i \rceil`, and more for what is seen.

        Where rounding makes the two equal (short sequences) the second is one larger, up to ``length``: a network
        that saw the prediction it has to make would have nothing to do but copy.

        Raises:
            ValueError: for ``n`` or ``length`` below 1.
        """
        check_number("length", length, low=1, integer=True)
        now, more = ((length * r).ceil().long() for r in self.sample(n, generator=generator))
        return now, torch.maximum(more, now + 1).clamp(max=length)

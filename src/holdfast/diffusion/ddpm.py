"""The discrete variance-preserving process of denoising diffusion models."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.paths import Coefficients, Path

__all__ = ["DDPMSchedule"]


class DDPMSchedule(Path):
    r"""``steps`` noise levels :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)`, times in steps from 0 to T - 1.

    .. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon

    Between whole times :math:`\log \bar\alpha` is interpolated linearly, so that ODE samplers have derivatives. Time 0
    already carries the first step's noise, and :math:`\bar\alpha_{-1} = 1`.

    Args:
        steps: number T of noise levels.
        kind: "linear" betas; "scaled_linear", linear in their square roots; or "cosine" in the cumulative signal.
        beta_start, beta_end: first and last beta (not used by "cosine").

    Raises:
        ValueError: for a number out of range or an unknown kind.

    Source: Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020; cosine by Nichol and
    Dhariwal, ICML 2021, equation 17.

    Examples:
        >>> schedule = DDPMSchedule(1000)
        >>> schedule.alpha_bar[[0, 999]].round(decimals=5).tolist()
        [0.9999, 4e-05]
    """

    t_min = 0.0
    discrete = True

    def __init__(
        self,
        steps: int = 1000,
        kind: Literal["linear", "scaled_linear", "cosine"] = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
    ) -> None:
        self.steps = int(check_number("steps", steps, low=2, integer=True))
        self.kind = check_choice("kind", kind, ("linear", "scaled_linear", "cosine"))
        check_number("beta_start", beta_start, low=0, open_low=True)
        check_number("beta_end", beta_end, low=beta_start, high=1, open_high=True)
        self.beta_start, self.beta_end = float(beta_start), float(beta_end)
        if kind == "cosine":
            u = torch.arange(steps + 1, dtype=torch.float64) / steps
            signal = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
            self.betas = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
        elif kind == "linear":
            self.betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        else:
            self.betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64).square()
        self.alphas = 1 - self.betas
        self.log_alpha_bar = torch.log1p(-self.betas).cumsum(0)
        self.alpha_bar = self.log_alpha_bar.exp()
        self.t_max = float(steps - 1)

    @property
    def alpha_bar_previous(self) -> Float[Tensor, " steps"]:
        """The cumulative signal one step nearer to the data; 1 at time 0."""
        return torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    def coefficients(self, t: Float[Tensor, " batch"]) -> Coefficients:
        """Return alpha, sigma and their derivatives per step."""
        dtype = t.dtype if t.is_floating_point() else torch.get_default_dtype()
        table = self.log_alpha_bar.to(t.device)
        low = t.long().clamp(0, self.steps - 2)
        slope = table[low + 1] - table[low]
        value = table[low] + (t.double() - low) * slope
        alpha = torch.exp(0.5 * value)
        sigma = torch.sqrt(-torch.expm1(value))
        dalpha = 0.5 * slope * alpha
        return Coefficients(*(c.to(dtype) for c in (alpha, sigma, dalpha, -alpha * dalpha / sigma)))

    def shift_coefficient(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        r"""Return the factor that turns a shift of the posterior mean into one of the predicted noise.

        .. math:: s_t = -\sqrt{1 - \beta_t}\,(1 - \bar\alpha_{t-1}) / \sqrt{1 - \bar\alpha_t}

        Source: Zhang, Zhao and Lin, "Unsupervised representation learning from pre-trained diffusion probabilistic
        models", NeurIPS 2022, equation 10.
        """
        table = -self.alphas.sqrt() * (1 - self.alpha_bar_previous) / (1 - self.alpha_bar).sqrt()
        return table.to(t.device)[t.long()].to(t.dtype if t.is_floating_point() else torch.get_default_dtype())

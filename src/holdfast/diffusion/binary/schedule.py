"""The diffusion of bits: every step moves each bit towards a fair coin, and its reversal in closed form."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.autoencoder.bernoulli import check_bits
from holdfast.diffusion.draws import bernoulli

__all__ = ["POSTERIORS", "BinarySchedule", "PosteriorKind"]

PosteriorKind = Literal["mixture", "plug_in"]
POSTERIORS: tuple[PosteriorKind, ...] = ("mixture", "plug_in")
Steps = int | Int[Tensor, " batch"]


class BinarySchedule:
    r"""Bernoulli diffusion of T steps, :math:`q(z_t \mid z_{t-1}) = \mathcal B(z_{t-1}(1 - \beta_t) + \beta_t / 2)`.

    .. math:: q(z_t \mid z_0) = \mathcal B\bigl(k_t z_0 + (1 - k_t) / 2\bigr), \quad
              k_t = \prod_{i \le t} (1 - \beta_i)

    At t = 0 are data (:math:`k_0 = 1`), at t = T fair coins (:math:`k_T = 0`). With u = t / T and s the logistic
    function: *linear* :math:`k = 1 - u`; *cosine* :math:`k = (1 + \cos \pi u) / 2`; *sigmoid*
    :math:`k = (s(3 / \tau) - s(3 u / \tau)) / (s(3 / \tau) - s(0))` with :math:`\tau = 0.8`.

    Args:
        steps: T.
        kind: "linear", "cosine", "sigmoid", or a tensor of T + 1 values of k.

    Raises:
        ValueError: for an unknown kind, or k that does not fall from 1 to 0.

    Source: Wang et al., "Binary Latent Diffusion", CVPR 2023, Section 3.2; the process is that of Sohl-Dickstein et
    al., "Deep Unsupervised Learning using Nonequilibrium Thermodynamics", ICML 2015.

    Examples:
        >>> schedule = BinarySchedule(4)
        >>> schedule.k.tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
        >>> schedule.q_sample(torch.zeros(2, 3), 4, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """

    def __init__(self, steps: int, kind: Literal["linear", "cosine", "sigmoid"] | Tensor = "linear") -> None:
        self.steps = int(check_number("steps", steps, low=1, integer=True))
        if isinstance(kind, Tensor):
            self.kind, k = "custom", kind.detach().to("cpu", torch.float64)
            if k.shape != (self.steps + 1,):
                raise ValueError(f"k needs {self.steps + 1} values, t = 0 to {self.steps}, got {tuple(k.shape)}")
        else:
            self.kind = check_choice("kind", kind, ("linear", "cosine", "sigmoid"))
            u = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
            if kind == "linear":
                k = 1 - u
            elif kind == "cosine":
                k = 0.5 * (1 + torch.cos(math.pi * u))
            else:
                top = torch.sigmoid(torch.tensor(3 / 0.8, dtype=torch.float64))
                k = (top - torch.sigmoid(3 * u / 0.8)) / (top - 0.5)
            k[0], k[-1] = 1.0, 0.0
        if abs(float(k[0]) - 1) > 1e-6 or abs(float(k[-1])) > 1e-6:
            raise ValueError(f"k must fall from 1 to 0, got {float(k[0]):g} to {float(k[-1]):g}")
        if not bool((k.diff() < 0).all()):
            t = int((~(k.diff() < 0)).nonzero()[0]) + 1
            raise ValueError(f"k must decrease at every step, but goes from {k[t - 1]:g} to {k[t]:g} at t = {t}")
        self.k: Float[Tensor, " levels"] = k
        self._copies: dict[torch.device, Tensor] = {}

    def __repr__(self) -> str:
        return f"BinarySchedule({self.steps}, {self.kind!r})"

    def at(self, t: Steps, like: Tensor, *, low: int = 1) -> Float[Tensor, "batch *ones"]:
        """Return :math:`k_t` in float64, shaped to multiply the batch ``like``.

        Raises:
            ValueError: for t that is not whole, or outside ``low`` to T (on a GPU, where a look would wait for the
                device, indexing fails instead).
        """
        if not isinstance(t, Tensor):
            step = int(check_number("t", t, integer=True))
            self._check_range(step, step, low)
            return self._k(like.device)[step]
        if t.is_floating_point() or t.dtype == torch.bool or (t.ndim and t.shape != (len(like),)):
            raise ValueError(f"t must be whole numbers, one per sample, ({len(like)},); got {t.dtype} {tuple(t.shape)}")
        if t.device.type == "cpu" and t.numel():
            self._check_range(int(t.min()), int(t.max()), low)
        k = self._k(like.device)[t.to(like.device)]
        return k.view(-1, *[1] * (like.ndim - 1)) if k.ndim else k

    def _check_range(self, first: int, last: int, low: int) -> None:
        if first < low or last > self.steps:
            raise ValueError(f"t must lie in {low}..{self.steps}, got {first if first < low else last}")

    def _k(self, device: torch.device) -> Tensor:
        if device not in self._copies:
            self._copies[device] = self.k.to(device)
        return self._copies[device]

    def beta(self, t: Steps) -> Float[Tensor, "*batch"]:
        r"""Return :math:`\beta_t = 1 - k_t / k_{t-1}`, the rate of step t in 1..T."""
        like = t if isinstance(t, Tensor) else self.k
        return 1 - self.at(t, like) / self.at(t - 1, like, low=0)

    def marginal(self, z0: Float[Tensor, "batch *shape"], t: Steps) -> Float[Tensor, "batch *shape"]:
        """Return the probability that a bit of :math:`z_t` is 1, for z0 of bits or probabilities."""
        k = self.at(t, z0)
        return (k * z0.double() + (1 - k) / 2).to(z0.dtype)

    def q_sample(
        self, z0: Shaped[Tensor, "batch *shape"], t: Steps, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch *shape"]:
        r"""Draw :math:`z_t` from :math:`q(z_t \mid z_0)`.

        Raises:
            ValueError: for entries other than 0 and 1, or t outside 1..T.
        """
        check_bits("z0", z0)
        return _draw(self.marginal(z0.double(), t), z0, generator)

    def one_step(
        self, z: Shaped[Tensor, "batch *shape"], t: Steps, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch *shape"]:
        r"""Draw :math:`z_t` from :math:`q(z_t \mid z_{t-1})`."""
        check_bits("z", z)
        beta = 1 - self.at(t, z) / self.at(t - 1, z, low=0)
        return _draw((1 - beta) * z.double() + beta / 2, z, generator)

    def posterior(
        self,
        z_t: Shaped[Tensor, "batch *shape"],
        p0: Float[Tensor, "batch *shape"],
        t: Steps,
        s: Steps,
        kind: PosteriorKind = "mixture",
    ) -> Float[Tensor, "batch *shape"]:
        r"""Return :math:`P(z_s = 1 \mid z_t)` for s < t, given the probability p0 of every bit of :math:`z_0`.

        With :math:`\kappa = k_t / k_s`, the likelihood :math:`\ell_v = (1 + \kappa)/2` of the observed value under
        :math:`z_s = v` where they agree, :math:`(1 - \kappa)/2` where not, and :math:`m(p) = k_s p + (1 - k_s)/2`,

        .. math:: r(p) = \frac{m(p)\,\ell_1}{m(p)\,\ell_1 + (1 - m(p))\,\ell_0}, \qquad
                  \textit{plug-in: } r(p_0), \qquad \textit{mixture: } p_0\,r(1) + (1 - p_0)\,r(0)

        The mixture is exact for exact :math:`p_0 = P(z_0 = 1 \mid z_t)`. The plug-in, which was published, takes p0,
        which knows z_t already, for a prior and counts the evidence of z_t twice; it sharpens as a temperature below
        1 does, and more steps do not mend it. Both agree where p0 is 0 or 1. At s = 0 both are p0.

        Args:
            z_t: bits at t.
            p0: probabilities; computed with in float64, returned in its own dtype.
            t, s: whole numbers, or one per sample.

        Raises:
            ValueError: for s >= t, t outside 1..T, or an unknown kind.

        Source: Wang et al., "Binary Latent Diffusion", CVPR 2023, equation 9 (plug-in).

        Examples:
            >>> schedule = BinarySchedule(4)
            >>> z, p0 = torch.tensor([[1.0]]), torch.tensor([[0.5]])
            >>> [round(float(schedule.posterior(z, p0, 3, 1, kind)), 3) for kind in ("mixture", "plug_in")]
            [0.578, 0.667]
        """
        check_choice("kind", kind, POSTERIORS)
        k_t, k_s = self.at(t, z_t), self.at(s, z_t, low=0)
        if k_s.device.type == "cpu" and bool((k_s <= k_t).any()):
            raise ValueError(f"s must be earlier than t, got s={_show(s)} and t={_show(t)}")
        p, one = p0.double(), z_t.double()
        kappa = k_t / k_s
        like1 = kappa * one + (1 - kappa) / 2
        like0 = 1 - like1

        def reverse(m: Tensor) -> Tensor:
            return m * like1 / (m * like1 + (1 - m) * like0)

        low = (1 - k_s) / 2
        if kind == "mixture":
            return (p * reverse(k_s + low) + (1 - p) * reverse(low)).to(p0.dtype)
        return torch.where(k_s == 1, p, reverse(k_s * p + low)).to(p0.dtype)

    def grid(self, steps: int) -> list[int]:
        r"""Return the times of a sampler with ``steps`` steps, from noise to data: T, ..., 1.

        .. math:: t_i = \lfloor i (T - 1) / (N - 1) \rfloor + 1, \qquad i = N - 1, \dots, 0

        Raises:
            ValueError: for more steps than the schedule has.

        Examples:
            >>> BinarySchedule(64).grid(4)
            [64, 43, 22, 1]
        """
        n = int(check_number("steps", steps, low=1, integer=True))
        if n > self.steps:
            raise ValueError(f"a schedule of {self.steps} steps cannot be sampled with {n}")
        if n == 1:
            return [self.steps]
        return [i * (self.steps - 1) // (n - 1) + 1 for i in range(n - 1, -1, -1)]


def _draw(p: Tensor, like: Tensor, generator: torch.Generator | None) -> Tensor:
    bits: Bool[Tensor, "batch *shape"] = bernoulli(p, generator=generator)
    return bits.to(like.dtype if like.is_floating_point() else torch.get_default_dtype())


def _show(t: Steps) -> str:
    return str(t.tolist()[:8] if isinstance(t, Tensor) and t.ndim else int(t))

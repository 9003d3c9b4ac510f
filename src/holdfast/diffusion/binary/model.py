"""A model of the reversed binary diffusion: a network that predicts flips, or the bits themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_number, check_same_length
from holdfast.diffusion.autoencoder.bernoulli import check_bits
from holdfast.diffusion.binary.sampler import binary_ancestral
from holdfast.diffusion.binary.schedule import POSTERIORS, BinarySchedule, PosteriorKind
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.objective import drop_labels
from holdfast.diffusion.samples import Samples

__all__ = ["BinaryDiffusion"]


class BinaryDiffusion(nn.Module):
    r"""Binary diffusion model: loss, probability of the data, and an upper bound on the negative log-likelihood.

    The network sees :math:`(z_t, t)` and gives one logit per bit: that it was flipped, :math:`f = P(z_t \ne z_0)`, so
    that :math:`p_0 = z_t (1 - f) + (1 - z_t) f`; or, with ``predict="direct"``, that :math:`z_0 = 1`.

    .. math:: \mathcal L = \operatorname*{E}_{t \sim U\{1..T\}} w_t\,
              \mathrm{BCE}\bigl(f_\theta(z_t, t),\; z_t \oplus z_0\bigr) + \lambda\,
              \mathrm{BCE}\bigl(p_\theta(z_{t-1} \mid z_t),\; q(z_{t-1} \mid z_t, z_0)\bigr)

    Plain cross-entropy: weights that balance rare flips against the others would pull the probabilities to 1/2, and
    the posterior needs them calibrated. The network counts time from 1, as the sampler does.

    Args:
        denoiser: network ``(z_t, t, y) -> Output`` or logits, e.g. a
            :class:`~holdfast.diffusion.backbones.bit_transformer.BitTransformer`.
        schedule: the process.
        predict: "flip" or "direct".
        vlb_weight: :math:`\lambda \ge 0`.
        weighting: "mean" (:math:`w_t = 1`) or "linear" (:math:`w_t = 1 - (t - 1)/T`).
        posterior: kernel of the reversed step, "mixture" (exact) or "plug_in" (as published), see
            :meth:`~holdfast.diffusion.binary.schedule.BinarySchedule.posterior`.

    Raises:
        ValueError: for codes that are not bits, labels the network does not take, or numbers out of range.

    Source: Wang et al., "Binary Latent Diffusion", CVPR 2023, equations 6-11.

    Examples:
        >>> from holdfast.diffusion.backbones.bit_transformer import BitTransformer
        >>> schedule = BinarySchedule(8)
        >>> model = BinaryDiffusion(BitTransformer(4, (2, 2), width=16, depth=1, heads=2, steps=8), schedule)
        >>> bits = torch.ones(3, 4, 2, 2)
        >>> round(model.loss(bits, generator=torch.Generator().manual_seed(0)).item(), 1)  # log 2: nothing learnt
        0.7
    """

    def __init__(
        self,
        denoiser: nn.Module,
        schedule: BinarySchedule,
        *,
        predict: Literal["flip", "direct"] = "flip",
        vlb_weight: float = 0.0,
        weighting: Literal["mean", "linear"] = "mean",
        posterior: PosteriorKind = "mixture",
    ) -> None:
        super().__init__()
        steps = getattr(denoiser, "steps", schedule.steps)
        if steps != schedule.steps:
            raise ValueError(f"the network knows {steps} times, but the schedule has {schedule.steps} steps")
        self.denoiser, self.schedule = denoiser, schedule
        self.predict = check_choice("predict", predict, ("flip", "direct"))
        self.vlb_weight = check_number("vlb_weight", vlb_weight, low=0)
        self.weighting = check_choice("weighting", weighting, ("mean", "linear"))
        self.posterior: PosteriorKind = check_choice("posterior", posterior, POSTERIORS)

    @property
    def null_class(self) -> int | None:
        """The label that stands for none, where the network was trained to take it."""
        if getattr(self.denoiser, "class_dropout", 0.0) > 0:
            return getattr(self.denoiser, "null_class", None)
        return None

    def logits(
        self, z_t: Float[Tensor, "batch *shape"], t: Int[Tensor, " batch"], y: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch *shape"]:
        """Return the network's own logits, of flips or of bits."""
        out = self.denoiser(z_t, t) if y is None else self.denoiser(z_t, t, y)
        return out if isinstance(out, Tensor) else out.pred

    def flip_logits(
        self, z_t: Float[Tensor, "batch *shape"], t: Int[Tensor, " batch"], y: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch *shape"]:
        r"""Return the logits of flips, :math:`(1 - 2 z_t)` times those of bits."""
        logits = self.logits(z_t, t, y)
        return logits if self.predict == "flip" else (1 - 2 * z_t) * logits

    def probability(
        self, z_t: Float[Tensor, "batch *shape"], t: Int[Tensor, " batch"], y: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch *shape"]:
        """Return :math:`p_0 = P(z_0 = 1 \\mid z_t)`."""
        return ((1 - 2 * z_t) * self.flip_logits(z_t, t, y)).sigmoid()

    def forward(
        self, z_t: Float[Tensor, "batch *shape"], t: Int[Tensor, " batch"], y: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch *shape"]:
        """The same as :meth:`flip_logits`."""
        return self.flip_logits(z_t, t, y)

    def loss(
        self,
        z0: Shaped[Tensor, "batch *shape"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch of bits, with times, noise and dropped labels from ``generator``."""
        return self.losses(z0, y, generator=generator)["loss"]

    def losses(
        self,
        z0: Shaped[Tensor, "batch *shape"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss with its parts: "bce", unweighted, and "vlb" where it counts."""
        z0 = self._enter(z0, y)
        steps = self.schedule.steps
        device = z0.device if generator is None else generator.device
        t = torch.randint(1, steps + 1, (len(z0),), generator=generator, device=device).to(z0.device)
        z_t = self.schedule.q_sample(z0, t, generator=generator)
        if y is not None and self.null_class is not None and self.training and generator is not None:
            y = drop_labels(y, getattr(self.denoiser, "class_dropout", 0.0), self.null_class, generator)
        logits = self.logits(z_t, t, y)
        target = (z_t - z0).abs() if self.predict == "flip" else z0
        bce = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").flatten(1).mean(1)
        weight = 1.0 if self.weighting == "mean" else 1 - (t - 1) / steps
        out = {"loss": (weight * bce).mean(), "bce": bce.mean().detach()}
        if self.vlb_weight:
            sign = 1 - 2 * z_t if self.predict == "flip" else 1.0
            p0 = (sign * logits.float()).sigmoid()
            vlb = _cross_entropy(*self._reverse(z0, z_t, p0, t)).flatten(1).mean(1).mean().to(p0)
            out |= {"loss": out["loss"] + self.vlb_weight * vlb, "vlb": vlb.detach()}
        return out

    def step_kl(
        self,
        z0: Shaped[Tensor, "batch *shape"],
        z_t: Float[Tensor, "batch *shape"],
        t: Int[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        r"""Return :math:`\mathrm{KL}(q(z_{t-1} \mid z_t, z_0) \,\|\, p_\theta(z_{t-1} \mid z_t))` in nats, exactly.

        Both are products of Bernoullis. At t = 1 it is :math:`-\log p_\theta(z_0 \mid z_1)`.
        """
        z0 = self._enter(z0, y)
        p0 = ((1 - 2 * z_t) * self.flip_logits(z_t, t, y)).double().sigmoid()
        q, p = self._reverse(z0, z_t, p0, t)
        entropy = torch.special.entr(q) + torch.special.entr(1 - q)
        return (_cross_entropy(q, p) - entropy).flatten(1).sum(1)

    @torch.no_grad()
    def nelbo(
        self,
        z0: Shaped[Tensor, "batch *shape"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        draws: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " batch"]:
        r"""Return an upper bound on :math:`-\log_2 p(z_0)` per dimension, with all T terms and ``draws`` paths each.

        .. math:: \sum_{t=1}^{T} \operatorname*{E}_{q(z_t \mid z_0)}
                  \mathrm{KL}\bigl(q(z_{t-1} \mid z_t, z_0) \,\|\, p_\theta(z_{t-1} \mid z_t)\bigr)

        The term of :math:`z_T` is zero, as the process ends in fair coins. T x ``draws`` calls of the network.
        """
        check_number("draws", draws, low=1, integer=True)
        z0 = self._enter(z0, y)
        total = z0.new_zeros(len(z0), dtype=torch.float64)
        for step in range(1, self.schedule.steps + 1):
            t = torch.full((len(z0),), step, device=z0.device)
            for _ in range(draws):
                total += self.step_kl(z0, self.schedule.q_sample(z0, t, generator=generator), t, y)
        return total / (draws * math.log(2) * z0[0].numel())

    def sample(
        self,
        shape: Sequence[int],
        *,
        steps: int | None = None,
        y: Int[Tensor, " batch"] | None = None,
        temperature: float = 1.0,
        guidance: Guidance | None = None,
        known: tuple[Tensor, Tensor] | None = None,
        last: Literal["draw", "argmax"] = "draw",
        draw_dtype: torch.dtype = torch.float64,
        generator: torch.Generator | None = None,
        progress: bool | str = False,
    ) -> Samples:
        """Draw codes of that shape, batch first: :func:`~holdfast.diffusion.binary.sampler.binary_ancestral`."""
        return binary_ancestral(
            self,
            shape,
            steps=steps,
            y=y,
            temperature=temperature,
            guidance=guidance,
            known=known,
            last=last,
            posterior=self.posterior,
            draw_dtype=draw_dtype,
            generator=generator,
            progress=progress,
        )

    def _enter(self, z0: Tensor, y: Tensor | None) -> Tensor:
        if z0.ndim < 2:
            raise ValueError(f"z0 must be a batch of bits, (n, ...), got {tuple(z0.shape)}")
        check_bits("z0", z0)
        if y is not None:
            check_same_length(z0=z0, y=y)
        return z0 if z0.is_floating_point() else z0.to(torch.get_default_dtype())

    def _reverse(self, z0: Tensor, z_t: Tensor, p0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of z_{t-1}: the true one, and the model's."""
        q = self.schedule.posterior(z_t, z0.double(), t, t - 1)
        return q, self.schedule.posterior(z_t, p0.double(), t, t - 1, self.posterior)


def _cross_entropy(q: Tensor, p: Tensor) -> Tensor:
    # The smallest normal number keeps 0 log 0 at 0, and its gradient finite, without touching any other p.
    tiny = torch.finfo(p.dtype).tiny
    return -(q * p.clamp(min=tiny).log() + (1 - q) * (1 - p).clamp(min=tiny).log())

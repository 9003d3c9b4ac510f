"""What an autoencoder is trained on: pixels, optionally perception and an adversary, and its code's own term."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_finite, check_number
from holdfast.core.results import TrainResult
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.diffusion.autoencoder.adversarial import (
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from holdfast.diffusion.autoencoder.convolutional import ConvAutoencoder

__all__ = ["PerceptualDistance", "ReconstructionLoss", "train_autoencoder"]


class PerceptualDistance(nn.Module):
    r"""Distance between images as a frozen network sees them: unit-length features compared cell by cell.

    .. math:: d(x, \hat x) = \sum_l \operatorname*{mean}_{ij} \lVert w_l \odot (\bar f_l(x) - \bar f_l(\hat x))\rVert^2

    With the features of VGG-16 and learned w this is LPIPS; the module of the ``lpips`` package can be given to
    :class:`ReconstructionLoss` in its place, where its weights are at hand.

    Args:
        features: frozen module from images to a sequence of maps [B, C_l, H_l, W_l].
        weights: per map, one non-negative weight per channel; 1 when omitted.

    Raises:
        ValueError: where ``features`` gives another number of maps than there are weights.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018.

    Examples:
        >>> class Maps(nn.Module):
        ...     def forward(self, x): return [x]
        >>> d = PerceptualDistance(Maps())
        >>> d(torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
        tensor([0., 0.])
    """

    def __init__(self, features: nn.Module, weights: Sequence[Float[Tensor, " channels"]] | None = None) -> None:
        super().__init__()
        self.features = features.eval().requires_grad_(False)
        self.weights = None if weights is None else [w.detach().sqrt() for w in weights]

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, x: Float[Tensor, "batch c h w"], other: Float[Tensor, "batch c h w"]) -> Float[Tensor, " batch"]:
        """Return one distance per image."""
        ours, theirs = list(self.features(x)), list(self.features(other))
        weights = self.weights or [torch.ones(1)] * len(ours)
        if len(weights) != len(ours):
            raise ValueError(f"the network gives {len(ours)} maps, but there are weights for {len(weights)}")
        parts = []
        for a, b, w in zip(ours, theirs, weights):
            gap = nn.functional.normalize(a, dim=1) - nn.functional.normalize(b, dim=1)
            parts.append((gap * w.to(gap).view(1, -1, 1, 1)).square().sum(1).mean((1, 2)))
        return torch.stack(parts).sum(0)


class ReconstructionLoss(nn.Module):
    r"""Loss of an autoencoder, to be given to :func:`holdfast.core.training.train` as it is.

    .. math:: \mathcal L = w_1 |x - \hat x|_1 + w_2 |x - \hat x|_2^2 + w_p d_p(x, \hat x)
              + \mathbb 1[\text{step} \ge s]\, d_w \mathcal L_{\text{adv}} + \mathcal L_{\text{code}}

    The discriminator learns in the same backward pass: its hinge loss sees the decoded images without gradient, and
    the autoencoder's adversarial term sees the discriminator with its weights held fixed. The two gradients do not
    mix, and Adam works entry by entry, so one optimizer over both does what two would do that step at the same time.
    A norm to clip the gradient at (``clip_norm``) would tie the two together: leave it out with an adversary.

    Args:
        l1, l2: weights of absolute and squared error, means over pixels.
        perceptual: module from (x, x_hat) to distances; ``None`` for none.
        perceptual_weight: :math:`w_p`.
        adversarial: a discriminator; ``None`` for none. It is trained along with the loss.
        adversarial_weight: largest :math:`d_w`, see
            :func:`~holdfast.diffusion.autoencoder.adversarial.adaptive_weight`.
        start_step: first step with the adversary.
        augment: ``(x, generator) -> x`` on what the discriminator sees, for instance
            :func:`~holdfast.diffusion.autoencoder.adversarial.augment_differentiably`.

    Raises:
        ValueError: for weights out of range or all zero.

    Source: Wang et al., "Binary Latent Diffusion", CVPR 2023, equation 4; Esser et al., CVPR 2021, equations 5-7.

    Examples:
        >>> from holdfast.diffusion.autoencoder import BernoulliCode
        >>> net = ConvAutoencoder(BernoulliCode(4, 8), channels=1, widths=(8, 8), blocks=1)
        >>> loss = ReconstructionLoss(l1=1.0, l2=1.0)
        >>> sorted(loss(net, torch.zeros(2, 1, 8, 8), StepInfo(0, 1, 0, torch.Generator())))
        ['bit_entropy', 'confidence', 'dead_bits', 'l1', 'l2', 'loss']
    """

    def __init__(
        self,
        l1: float = 1.0,
        l2: float = 0.0,
        *,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        adversarial: nn.Module | None = None,
        adversarial_weight: float = 1.0,
        start_step: int = 30_000,
        augment: Callable[[Tensor, torch.Generator | None], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.l1, self.l2 = check_number("l1", l1, low=0), check_number("l2", l2, low=0)
        if l1 == l2 == 0 and perceptual is None:
            raise ValueError("there is nothing to minimise: l1 and l2 are 0 and there is no perceptual distance")
        self.perceptual_weight = check_number("perceptual_weight", perceptual_weight, low=0)
        self.adversarial_weight = check_number("adversarial_weight", adversarial_weight, low=0)
        self.start_step = int(check_number("start_step", start_step, low=0, integer=True))
        self.perceptual = None if perceptual is None else perceptual.requires_grad_(False)
        self.adversarial = adversarial
        self.augment = augment

    def forward(self, autoencoder: nn.Module, batch: Any, info: StepInfo) -> dict[str, Tensor]:
        """Return the loss with its parts; ``batch`` is x, or a tuple that begins with x."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        out = autoencoder(x, generator=info.generator)
        gap = out.x - x
        parts = {"l1": gap.abs().mean(), "l2": gap.square().mean()}
        rec = self.l1 * parts["l1"] + self.l2 * parts["l2"]
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(x, out.x).mean()
            rec = rec + self.perceptual_weight * parts["perceptual"]
        loss = rec + out.code.loss
        if self.adversarial is not None and info.step >= self.start_step:
            loss = loss + self._adversary(autoencoder, x, out.x, rec, info, parts)
        return {"loss": loss, **parts, **out.code.stats}

    def _adversary(
        self, autoencoder: Any, x: Tensor, x_hat: Tensor, rec: Tensor, info: StepInfo, parts: dict[str, Tensor]
    ) -> Tensor:
        net = self.adversarial
        if net is None:
            return torch.zeros_like(rec)
        if self.augment is not None:
            # One set of draws per side, and the same decoded images for both losses.
            x, x_hat = self.augment(x, info.generator), self.augment(x_hat, info.generator)
        fixed = {k: v.detach() for k, v in (*net.named_parameters(), *net.named_buffers())}
        fool = hinge_generator_loss(functional_call(net, fixed, (x_hat,)))
        if torch.is_grad_enabled():
            weight = adaptive_weight(rec, fool, autoencoder.last_layer, high=self.adversarial_weight)
        else:
            weight = torch.zeros_like(rec)
        detect = hinge_discriminator_loss(net(x.detach()), net(x_hat.detach()))
        parts |= {"fool": fool, "detect": detect, "adaptive_weight": weight}
        return weight * fool + detect


def train_autoencoder(
    autoencoder: ConvAutoencoder,
    x: Float[Tensor, "n channels height width"],
    *,
    loss: ReconstructionLoss | None = None,
    steps: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    optimizer: str | Callable[[list[dict[str, Any]]], torch.optim.Optimizer] = "adam",
    seed: int = 0,
    **settings: Any,
) -> TrainResult:
    """Train an autoencoder on images in memory; further settings are those of :func:`holdfast.core.training.train`.

    Args:
        x: images in [-1, 1].
        loss: absolute error when omitted.

    Raises:
        ValueError: for images of another shape, not finite, or outside [-1, 1].

    Examples:
        >>> from holdfast.diffusion.autoencoder import BernoulliCode
        >>> net = ConvAutoencoder(BernoulliCode(4, 8), channels=1, widths=(8, 8), blocks=1)
        >>> train_autoencoder(net, torch.zeros(8, 1, 8, 8), steps=2, device="cpu").steps
        2
    """
    if x.ndim != 4 or x.shape[1] != autoencoder.channels:
        raise ValueError(f"images must have shape (n, {autoencoder.channels}, height, width), got {tuple(x.shape)}")
    check_finite("images", x)
    if float(x.min()) < -1 or float(x.max()) > 1:
        raise ValueError(f"images must lie in [-1, 1], got {float(x.min()):g} to {float(x.max()):g}")
    autoencoder.grid(x.shape[2], x.shape[3])
    batches = Batches(BatchPlan(len(x), batch_size, seed=seed), lambda rows: x[rows])
    objective = loss if loss is not None else ReconstructionLoss()
    return train(autoencoder, objective, batches, steps=steps, lr=lr, optimizer=optimizer, seed=seed, **settings)

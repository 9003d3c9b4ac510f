"""Training a binary diffusion model on codes that are drawn afresh at every visit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_number, check_same_length
from holdfast.core.results import TrainResult
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.diffusion.autoencoder.bernoulli import BernoulliCode
from holdfast.diffusion.autoencoder.convolutional import ConvAutoencoder
from holdfast.diffusion.binary.model import BinaryDiffusion
from holdfast.diffusion.draws import bernoulli

__all__ = ["bit_probabilities", "train_binary_diffusion"]


@torch.no_grad()
def bit_probabilities(
    autoencoder: ConvAutoencoder, x: Float[Tensor, "n channels height width"], *, batch_size: int = 500
) -> Float[Tensor, "n c h w"]:
    """Return the probability of every bit of every image's code, on the CPU: what codes are drawn from.

    Raises:
        TypeError: for an autoencoder whose code is not made of bits.

    Examples:
        >>> from holdfast.diffusion.autoencoder import BernoulliCode, ConvAutoencoder
        >>> net = ConvAutoencoder(BernoulliCode(4, 8), channels=1, widths=(8, 8), blocks=1)
        >>> bit_probabilities(net, torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 4, 4, 4])
    """
    check_number("batch_size", batch_size, low=1, integer=True)
    bottleneck = autoencoder.bottleneck
    if not isinstance(bottleneck, BernoulliCode):
        raise TypeError(f"the autoencoder's bottleneck must be a BernoulliCode, got {type(bottleneck).__name__}")
    device = next(autoencoder.parameters()).device
    parts = [bottleneck.probabilities(autoencoder.features(part.to(device))).cpu() for part in x.split(batch_size)]
    y = torch.cat(parts)
    return (y > 0.5).to(y) if bottleneck.deterministic else y


def train_binary_diffusion(
    model: BinaryDiffusion,
    codes: Shaped[Tensor, "n *shape"],
    y: Int[Tensor, " n"] | None = None,
    *,
    steps: int,
    batch_size: int = 128,
    lr: float = 2e-4,
    warmup: float = 0.02,
    ema: float | None = 0.9999,
    optimizer: str | Callable[[list[dict[str, Any]]], Optimizer] = "adam",
    seed: int = 0,
    **settings: Any,
) -> TrainResult:
    """Train in place; afterwards the model holds the averaged weights, if ``ema`` is given.

    Args:
        model: what is trained.
        codes: probabilities of the bits, e.g. from :func:`bit_probabilities`: each visit draws a new code, since the
            decoder of a stochastic code has learnt to read such draws. Codes of bits are the case of 0 and 1.
        y: labels, for a network that takes them.
        steps, batch_size, lr, warmup, ema, optimizer, seed: of training.
        settings: further ones of :func:`holdfast.core.training.train` (device, precision, progress, ...).

    Raises:
        ValueError: for codes outside [0, 1], or labels of another length.

    Source: Wang et al., "Binary Latent Diffusion", CVPR 2023, Section 4.

    Examples:
        >>> from holdfast.diffusion.backbones.bit_transformer import BitTransformer
        >>> from holdfast.diffusion.binary import BinarySchedule
        >>> net = BitTransformer(4, (2, 2), width=16, depth=1, heads=2, steps=8)
        >>> model = BinaryDiffusion(net, BinarySchedule(8))
        >>> train_binary_diffusion(model, torch.full((16, 4, 2, 2), 0.9), steps=2, device="cpu").steps
        2
    """
    rows = codes if codes.is_floating_point() else codes.to(torch.get_default_dtype())
    low, high = (float(rows.min()), float(rows.max())) if rows.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"codes must be bits or probabilities in [0, 1], got {low if not low >= 0 else high:g}")
    if y is not None:
        check_same_length(codes=codes, y=y)
    batches = Batches(
        BatchPlan(len(rows), batch_size, seed=seed),
        lambda index: (rows[index],) if y is None else (rows[index], y[index]),
    )

    def loss(net: nn.Module, batch: tuple[Tensor, ...], info: StepInfo) -> dict[str, Tensor]:
        z0 = bernoulli(batch[0], generator=info.generator).to(batch[0].dtype)
        return net.losses(z0, *batch[1:], generator=info.generator)  # pyright: ignore[reportCallIssue]

    return train(
        model,
        loss,
        batches,
        steps=steps,
        lr=lr,
        warmup=warmup,
        ema=ema,
        optimizer=optimizer,
        seed=seed,
        **settings,
    )

"""Training the two networks of the alternating process on images in memory, by the one training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.results import TrainResult
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.diffusion.alternating.addp import ADDP
from holdfast.diffusion.alternating.ratio_law import RatioLaw
from holdfast.diffusion.alternating.token_predictor import MaskedTokenPredictor
from holdfast.diffusion.alternating.tokenizer import FrozenTokenizer
from holdfast.diffusion.masked.masking import lowest

__all__ = ["Augment", "adamw", "train_addp", "train_token_predictor"]

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""From images in [0, 1] and a generator to images of the same shape."""


def adamw(
    lr: float, betas: tuple[float, float] = (0.9, 0.95)
) -> Callable[[list[dict[str, Any]]], torch.optim.Optimizer]:
    """Return AdamW with the second moment that masked pre-training is run with, for ``train(optimizer=...)``.

    Examples:
        >>> adamw(1e-3)([{"params": list(nn.Linear(2, 2).parameters()), "weight_decay": 0.05}]).defaults["betas"]
        (0.9, 0.95)
    """

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        params = [p for group in groups for p in group["params"]]
        fused = all(p.device.type in ("cpu", "cuda") for p in params)
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused)

    make.__name__ = f"adamw{betas}"
    return make


def _settings(lr: float, given: dict[str, Any]) -> dict[str, Any]:
    usual = {
        "optimizer": adamw(lr),
        "lr": lr,
        "weight_decay": 0.05,
        "decay_norms_and_biases": False,
        "schedule": "cosine",
        "warmup": 0.05,
        "clip_norm": 3.0,
    }
    return usual | given


def _encode(tokenizer: FrozenTokenizer, x: Tensor, batch: int = 1000) -> Tensor:
    device = next(tokenizer.parameters()).device
    return torch.cat([tokenizer.encode(part.to(device)).cpu() for part in x.split(batch)])


def _batches(tokenizer: FrozenTokenizer, x: Tensor, batch_size: int, augment: Augment | None, seed: int) -> Batches:
    """Deal out images where they change from step to step, else their tokens, found once."""
    plan = BatchPlan(len(x), batch_size, seed=seed, drop_last=len(x) > batch_size)
    held = x if augment is not None else _encode(tokenizer, x)
    return Batches(plan, lambda rows: held[rows])


def _tokens(tokenizer: FrozenTokenizer, batch: Tensor, augment: Augment | None, generator: torch.Generator) -> Tensor:
    if augment is None:
        return batch
    return tokenizer.to(batch.device).encode(augment(batch, generator).clamp(0, 1))


def train_token_predictor(
    predictor: MaskedTokenPredictor,
    tokenizer: FrozenTokenizer,
    x: Float[Tensor, "n channels height width"],
    *,
    steps: int,
    law: RatioLaw | None = None,
    label_smoothing: float = 0.1,
    augment: Augment | None = None,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    **settings: Any,
) -> TrainResult:
    r"""Train a predictor on the tokens of images: hide a share drawn from ``law``, predict what was there.

    .. math:: \min\; -\mathbb E \operatorname*{mean}_{l \in m} \log P(z_l \mid z \text{ off } m)

    with label smoothing. The fingerprint of the codebook is kept in the predictor.

    Args:
        x: images in [0, 1].
        law: of the ratio of hidden tokens; the truncated normal of :class:`RatioLaw` where omitted.
        augment: see :data:`Augment`; without, the tokens of an image are found once.
        settings: further settings of :func:`holdfast.core.training.train`; AdamW (0.9, 0.95) with weight decay
            0.05, a cosine schedule and clipping at 3 are usual.

    Raises:
        ValueError: for images outside [0, 1] or of another shape, or another number of codes or tokens.

    Source: Li et al., "MAGE", CVPR 2023, section 3.

    Examples:
        >>> from holdfast.diffusion.autoencoder import ConvAutoencoder, VectorQuantizer
        >>> vq = ConvAutoencoder(VectorQuantizer(8, 8, dim=4), channels=1, widths=(8, 8), blocks=0, middle=False)
        >>> tokenizer = FrozenTokenizer(vq, size=8)
        >>> net = MaskedTokenPredictor(8, 16, width=16, depth=1, heads=2, decoder_depth=1)
        >>> x = torch.rand(8, 1, 8, 8)
        >>> result = train_token_predictor(net, tokenizer, x, steps=2, batch_size=4, device="cpu")
        >>> net.trained_on == tokenizer.hash()
        True
    """
    if (predictor.codes, predictor.length) != (tokenizer.codes, tokenizer.length):
        raise ValueError(
            f"the predictor is made for {predictor.codes} codes and {predictor.length} tokens, the tokenizer gives "
            f"{tokenizer.codes} and {tokenizer.length}"
        )
    ratios = RatioLaw() if law is None else law

    def loss(net: nn.Module, batch: Tensor, info: StepInfo) -> dict[str, Tensor]:
        ids = _tokens(tokenizer, batch, augment, info.generator)
        counts = ratios.sample_counts(len(ids), predictor.length, generator=info.generator)[0].to(ids.device)
        scores = torch.rand(ids.shape, dtype=torch.float64, device=ids.device, generator=info.generator)
        mask = lowest(scores, counts)
        logits = net(ids, mask, generator=info.generator)[mask].float()
        right = (logits.detach().argmax(-1) == ids[mask]).float().mean()
        entropy = nn.functional.cross_entropy(logits, ids[mask], label_smoothing=label_smoothing)
        return {"loss": entropy, "accuracy": right}

    batches = _batches(tokenizer, x, batch_size, augment, seed)
    result = train(predictor, loss, batches, steps=steps, seed=seed, **_settings(lr, settings))
    predictor.trained_on = tokenizer.hash()
    return result


def train_addp(
    addp: ADDP,
    x: Float[Tensor, "n channels height width"],
    *,
    steps: int,
    augment: Augment | None = None,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    **settings: Any,
) -> TrainResult:
    """Train the network of the alternating process on images.

    Args:
        x: images in [0, 1].
        augment: see :data:`Augment`; without, the tokens of an image are found once.
        settings: as in :func:`train_token_predictor`. The published recipe is a batch of 4096, ``lr=1.6e-3``,
            crops of a share 0.2 to 1 and mirroring, for 800 or 1600 epochs.

    Raises:
        ValueError: for images outside [0, 1] or of another shape.

    Source: Tian et al., "ADDP", ICLR 2024, appendix.
    """
    batches = _batches(addp.tokenizer, x, batch_size, augment, seed)

    def loss(module: Any, batch: Tensor, info: StepInfo) -> dict[str, Tensor]:
        ids = _tokens(addp.tokenizer, batch, augment, info.generator)
        return module.loss(module.draw(ids, info.generator))

    return train(addp, loss, batches, steps=steps, seed=seed, **_settings(lr, settings))

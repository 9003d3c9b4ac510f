"""Training a head on frozen features: kept ones, or computed with fresh noise at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.arrays import as_tensor
from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_number
from holdfast.core.random import spawn_seed
from holdfast.core.training import StepInfo, TrainResult, train
from holdfast.diffusion.feature_table import FeatureTable
from holdfast.diffusion.features import DiffusionFeatures

__all__ = ["crop_and_flip", "head_logits", "train_head"]


def crop_and_flip(
    x: Float[Tensor, "batch channels height width"], generator: torch.Generator, *, pad: int = 4, flip: bool = True
) -> Float[Tensor, "batch channels height width"]:
    """Move every image by up to ``pad`` pixels (edges repeat), and mirror every second one.

    Examples:
        >>> x = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> crop_and_flip(x, torch.Generator().manual_seed(0), pad=0, flip=False).equal(x)
        True
    """
    n, _, height, width = x.shape
    moved = torch.randint(-pad, pad + 1, (2, n, 1), generator=generator, device=x.device)
    rows = (torch.arange(height, device=x.device) + moved[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + moved[1]).clamp(0, width - 1)
    if flip:
        mirrored = torch.rand(n, 1, generator=generator, device=x.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    index = torch.arange(n, device=x.device)[:, None, None]
    return x[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train_head(
    head: nn.Module,
    x: Any,
    y: Any,
    *,
    features: DiffusionFeatures | None = None,
    condition: int | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    epochs: int = 28,
    lr: float = 1e-2,
    backbone_lr: float | None = None,
    batch_size: int = 128,
    optimizer: str = "sgd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    schedule: str = "step",
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75),
    gamma: float = 0.1,
    device: str | torch.device = "auto",
    progress: bool | str = False,
    seed: int = 0,
) -> TrainResult:
    """Minimise the cross-entropy of ``head``, in place; the diffusion network stays as it is.

    The defaults are the paper's: plain SGD, 28 epochs, a tenth of the rate after every seventh; it uses rate 1e-2
    for linear heads and 5e-2 for attention.

    Args:
        head: from a map (or a dictionary of maps) to logits.
        x: maps (n, channels, d, d) or a :class:`holdfast.diffusion.feature_table.FeatureTable`; images, with
            ``features``.
        y: classes (n,), counted from 0.
        features: computes the maps of every batch anew; with fresh noise, a new draw at every access.
        condition: label of every image for a class-conditional network, usually its ``null_class``.
        augment: from images and a generator to images, such as :func:`crop_and_flip`; needs ``features``.
        epochs, lr, batch_size, optimizer, momentum, weight_decay, schedule, milestones, gamma, device, progress, seed:
            see :func:`holdfast.core.training.train`.
        backbone_lr: fine-tune the diffusion network too, at this rate; needs ``features`` made with ``frozen=False``.

    Raises:
        ValueError: for lengths that differ, ``augment`` or ``backbone_lr`` without ``features``, or fine-tuning of
            features that are frozen.

    Examples:
        >>> from holdfast.diffusion.heads import LinearHead
        >>> y = torch.arange(40) % 2
        >>> x = y[:, None, None, None] + torch.zeros(40, 3, 2, 2)
        >>> head = LinearHead(3, 2)
        >>> result = train_head(head, x, y, lr=0.5, batch_size=20)
        >>> bool((head_logits(head, x).argmax(1) == y).all())
        True
    """
    y = as_tensor(y).long()
    if features is None:
        if augment is not None or backbone_lr is not None:
            what = "augment" if augment is not None else "backbone_lr"
            raise ValueError(f"{what} needs features, the module that computes maps from images")
        maps = _maps_of(x)
    else:
        maps = {None: as_tensor(x)}
        if backbone_lr is not None and features.frozen:
            raise ValueError("these features are frozen; make them with frozen=False to fine-tune the network")
        if backbone_lr is None and not features.frozen:
            raise ValueError("these features are not frozen: give backbone_lr to fine-tune the network")
    n = len(next(iter(maps.values())))
    if len(y) != n:
        raise ValueError(f"lengths differ: x has {n}, y has {len(y)}")
    check_number("epochs", epochs, low=1, integer=True)
    plan = BatchPlan(n, batch_size, seed=spawn_seed(seed, "order"))
    trained: nn.Module = head if features is None else nn.ModuleList([head, features])

    def groups(_: nn.Module) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{"params": [p for p in head.parameters() if p.requires_grad], "lr": lr}]
        if features is not None and features.feedback is not None:
            found.append({"params": list(features.feedback.parameters()), "lr": lr})
        if features is not None and backbone_lr is not None:
            found.append({"params": [p for p in features.model.parameters() if p.requires_grad], "lr": backbone_lr})
        return [g | {"weight_decay": weight_decay} for g in found]

    def loss(_: nn.Module, batch: tuple[Tensor, Any, Tensor], info: StepInfo) -> Tensor:
        rows, inputs, labels = batch
        if features is not None:
            images = inputs if augment is None else augment(inputs, info.generator)
            inputs = features(images, condition, rows=rows, generator=info.generator)
        return F.cross_entropy(head(inputs), labels)

    def take(rows: Tensor) -> tuple[Tensor, Any, Tensor]:
        found = {k: h[rows] for k, h in maps.items()}
        return rows, next(iter(found.values())) if None in found or len(found) == 1 else found, y[rows]

    return train(
        trained,
        loss,
        Batches(plan, take),
        steps=epochs * len(plan),
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        param_groups=groups,
        schedule=schedule,
        milestones=milestones if schedule == "step" else (),
        gamma=gamma,
        device=device,
        progress=progress,
        seed=spawn_seed(seed, "steps"),
    )


@torch.no_grad()
def head_logits(
    head: nn.Module,
    x: Any,
    *,
    features: DiffusionFeatures | None = None,
    condition: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> Float[Tensor, "rows classes"]:
    """Return the logits of every row, on the CPU; arguments as for :func:`train_head`."""
    maps = _maps_of(x) if features is None else {None: as_tensor(x)}
    n = len(next(iter(maps.values())))
    device = next((p.device for p in head.parameters()), torch.device("cpu"))
    was_training = head.training
    head.eval()
    parts = []
    for rows in torch.arange(n).split(batch_size):
        inputs: Any = {k: h[rows].to(device) for k, h in maps.items()}
        inputs = next(iter(inputs.values())) if None in inputs or len(inputs) == 1 else inputs
        if features is not None:
            inputs = features(inputs, condition, rows=rows.to(device), generator=generator)
        parts.append(head(inputs).float().cpu())
    head.train(was_training)
    return torch.cat(parts)


def _maps_of(x: Any) -> dict[Any, Tensor]:
    if isinstance(x, FeatureTable):
        return dict(x.maps)
    if isinstance(x, Mapping):
        return {k: as_tensor(h) for k, h in x.items()}
    return {None: as_tensor(x)}

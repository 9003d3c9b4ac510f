"""Fine-tuning a pre-trained transformer encoder: learning rates that fall with depth, and the usual regularisers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_labels, check_number, check_same_length
from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.nn.network import Network

__all__ = ["finetune", "layer_decay_groups", "mix_images", "stochastic_depth"]


def layer_decay_groups(
    module: nn.Module, blocks: Sequence[nn.Module], last: Sequence[nn.Module], *, lr: float, decay: float
) -> list[dict[str, Any]]:
    r"""Parameter groups whose learning rate falls from the head to the input: :math:`\eta\, d^{\,D + 1 - i}`.

    Layer i is 0 for the embedding (whatever is in neither list), 1 to D for the blocks, and D + 1 for what comes
    last. Biases, norms' scales and other vectors get no weight decay; the rest get the optimizer's.

    Args:
        module: what is trained.
        blocks: D modules within it, first to last.
        last: modules within it that come after the blocks, such as the head.
        lr: of the last layer.
        decay: d in (0, 1]; 1 trains all layers alike.

    Raises:
        ValueError: for a decay out of range, or a parameter that is in two of the modules listed.

    Source: Clark et al., "ELECTRA", ICLR 2020; for vision transformers Bao et al., "BEiT", ICLR 2022.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
        >>> groups = layer_decay_groups(net, [net[1]], [net[2]], lr=1.0, decay=0.5)
        >>> sorted({g["lr"] for g in groups})
        [0.25, 0.5, 1.0]
    """
    check_number("lr", lr, low=0, open_low=True)
    check_number("decay", decay, low=0, high=1, open_low=True)
    layer: dict[nn.Parameter, int] = {}
    for number, parts in [*enumerate(([b] for b in blocks), start=1), (len(blocks) + 1, last)]:
        for part in parts:
            for p in part.parameters():
                if layer.setdefault(p, number) != number:
                    raise ValueError(f"a parameter is listed in layer {layer[p]} and again in layer {number}")
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for p in dict.fromkeys(module.parameters()):
        if p.requires_grad:
            key = layer.get(p, 0), p.ndim > 1
            rate = lr * decay ** (len(blocks) + 1 - key[0])
            start: dict[str, Any] = {"params": [], "lr": rate} | ({} if key[1] else {"weight_decay": 0.0})
            groups.setdefault(key, start)["params"].append(p)
    return [groups[key] for key in sorted(groups)]


@contextmanager
def stochastic_depth(
    blocks: Sequence[nn.Module], rate: float, generator: Callable[[], torch.Generator | None]
) -> Iterator[None]:
    r"""While training, leave out residual blocks at random, sample by sample: :math:`x + \frac{b}{1 - p}(f(x) - x)`.

    The rate p grows linearly from 0 at the first block to ``rate`` at the last. Blocks in evaluation mode are whole.

    Args:
        blocks: modules from a tensor to one of the same shape.
        rate: in [0, 1).
        generator: returns the source of randomness, at every call.

    Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.

    Examples:
        >>> block = nn.Linear(1, 1)
        >>> with stochastic_depth([block], 0.5, lambda: torch.Generator().manual_seed(0)):
        ...     x = torch.ones(100, 1)
        ...     whole = (block(x) != x).float().mean()
        >>> 0.3 < float(whole) < 0.7
        True
    """
    check_number("rate", rate, low=0, high=1, open_high=True)

    def hook(p: float) -> Callable[..., Tensor]:
        def drop(module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:
            if not module.training:
                return out
            u = torch.rand(len(out), device=out.device, generator=generator())
            keep = (u >= p).to(out) / (1 - p)
            return inputs[0] + keep.view(-1, *[1] * (out.ndim - 1)) * (out - inputs[0])

        return drop

    n = len(blocks)
    rates = [rate * (i + 1) / n if n == 1 else rate * i / (n - 1) for i in range(n)]
    handles = [block.register_forward_hook(hook(p)) for block, p in zip(blocks, rates) if p > 0]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mix_images(
    x: Float[Tensor, "batch c h w"],
    target: Float[Tensor, "batch classes"],
    mixup: float,
    cutmix: float,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch classes"]]:
    r"""Blend every image with another of the batch, or paste a box of that one into it, and mix the labels likewise.

    One of the two is chosen for the batch, evenly where both are on, with a share
    :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)`; a box has the area :math:`1 - \lambda` before it is cut at the
    border, and labels follow the area that is left.

    Args:
        x: images.
        target: laws over the classes.
        mixup, cutmix: :math:`\alpha` of either, 0 for off.
        generator: source of randomness.

    Source: Zhang et al., "mixup", ICLR 2018; Yun et al., "CutMix", ICCV 2019.

    Examples:
        >>> x, y = torch.rand(4, 1, 8, 8), torch.eye(4)
        >>> mixed, labels = mix_images(x, y, 0.8, 1.0, torch.Generator().manual_seed(0))
        >>> mixed.shape, bool(torch.allclose(labels.sum(1), torch.ones(4)))
        (torch.Size([4, 1, 8, 8]), True)
    """
    check_number("mixup", mixup, low=0)
    check_number("cutmix", cutmix, low=0)
    if mixup == cutmix == 0 or len(x) < 2:
        return x, target
    device = x.device if generator is None else generator.device
    rng = np.random.default_rng(int(torch.randint(2**31 - 1, (), device=device, generator=generator)))
    box = rng.random() < (cutmix > 0) / ((cutmix > 0) + (mixup > 0))
    alpha = cutmix if box else mixup
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    if not box:
        x = share * x + (1 - share) * x[other]
    else:
        height, width = x.shape[2:]
        half = 0.5 * (1 - share) ** 0.5
        cy, cx = rng.random(2)
        top, bottom = (round(float(np.clip(v, 0, 1)) * height) for v in (cy - half, cy + half))
        left, right = (round(float(np.clip(v, 0, 1)) * width) for v in (cx - half, cx + half))
        x = x.clone()
        x[:, :, top:bottom, left:right] = x[other][:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return x, share * target + (1 - share) * target[other]


class _Features(nn.Module):
    """An encoder's ``features`` as a module's call."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        encoder: Any = self.encoder
        return encoder.features(x)


def finetune(
    encoder: nn.Module,
    x: Shaped[Tensor, "n *shape"],
    y: Int[Tensor, " n"],
    *,
    head: nn.Module | None = None,
    classes: int | None = None,
    blocks: Callable[[Any], Sequence[nn.Module]] = lambda encoder: encoder.transformer.blocks,
    epochs: int = 100,
    batch_size: int = 128,
    lr: float = 1e-3,
    layer_decay: float = 0.65,
    weight_decay: float = 0.05,
    drop_path: float = 0.1,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    label_smoothing: float = 0.1,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Network:
    """Train a copy of an encoder with a head on labelled samples, and return the classifier.

    Args:
        encoder: offers ``features(x)`` [n, d], as :class:`holdfast.diffusion.backbones.vit.ViTEncoder` does; left as
            it is.
        x: images, or whatever ``features`` takes.
        y: class indices.
        head: from features to logits, copied too; a linear layer that starts near zero where omitted.
        classes: number of classes; by default the largest label plus one.
        blocks: from the encoder to its blocks, first to last.
        epochs, batch_size, lr, weight_decay: of AdamW, with a cosine schedule after a twentieth of warm-up.
        layer_decay: factor on the learning rate from a layer to the one before it, see :func:`layer_decay_groups`.
        drop_path: see :func:`stochastic_depth`.
        mixup, cutmix: see :func:`mix_images`; 0 for both where x holds no images.
        label_smoothing: in [0, 1).
        augment: from a batch and a generator to a batch.
        seed: of the head, the order and everything drawn.
        settings: further settings of :func:`holdfast.core.training.train`.

    Raises:
        TypeError: for an encoder without ``features``.
        ValueError: for labels out of range, lengths that differ, or numbers out of range.

    Source: the recipe of He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, appendix A.1, as
    Tian et al., "ADDP", ICLR 2024, use it.

    Examples:
        >>> from holdfast.diffusion.backbones.vit import ViTEncoder
        >>> net = ViTEncoder(1, 8, patch=4, width=16, depth=2, heads=2)
        >>> x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 2
        >>> finetune(net, x, y, epochs=1, batch_size=4, device="cpu")(x).shape
        torch.Size([8, 2])
    """
    if not callable(getattr(encoder, "features", None)):
        raise TypeError(f"the encoder must offer features(x), but {type(encoder).__name__} does not")
    check_same_length(x=x, y=y)
    count = int(y.max()) + 1 if classes is None else int(check_number("classes", classes, low=1, integer=True))
    check_labels("y", y, count)
    check_number("epochs", epochs, low=1, integer=True)
    tuned: Any = copy.deepcopy(encoder).requires_grad_(True)
    if head is None:
        with isolated_rng(spawn_seed(seed, "head")), torch.no_grad():
            head = nn.Linear(tuned.features(x[:1].to(next(tuned.parameters()).device)).shape[1], count)
            nn.init.trunc_normal_(head.weight, std=2e-5)
            nn.init.zeros_(head.bias)
    else:
        head = copy.deepcopy(head)
    network = Network(_Features(tuned), head)
    layers, last = (
        list(blocks(tuned)),
        [head, *([tuned.norm] if isinstance(getattr(tuned, "norm", None), nn.Module) else [])],
    )
    plan = BatchPlan(len(x), batch_size, seed=seed, drop_last=len(x) > batch_size)
    drawn: dict[str, torch.Generator] = {}

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor], info: StepInfo) -> Tensor:
        images, labels = batch
        drawn["generator"] = info.generator
        target = F.one_hot(labels, count).float()
        if augment is not None:
            images = augment(images, info.generator)
        if mixup > 0 or cutmix > 0:
            images, target = mix_images(images, target, mixup, cutmix, info.generator)
        return F.cross_entropy(net(images), target, label_smoothing=label_smoothing)

    usual: dict[str, Any] = {"schedule": "cosine", "warmup": 0.05, "weight_decay": weight_decay, "lr": lr, "seed": seed}
    with stochastic_depth(layers, drop_path, lambda: drawn.get("generator")):
        train(
            network,
            loss,
            Batches(plan, lambda rows: (x[rows], y[rows])),
            steps=epochs * len(plan),
            param_groups=lambda module: layer_decay_groups(module, layers, last, lr=lr, decay=layer_decay),
            **(usual | settings),
        )
    return network

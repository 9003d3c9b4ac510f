"""Wrong labels: uniform, pairwise, next-class and instance-dependent noise, on arrays and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_finite, check_labels, check_number, check_same_length
from holdfast.core.random import generator as make_generator
from holdfast.core.random import spawn_seed

__all__ = [
    "instance_dependent_label_noise",
    "next_class_noise",
    "pairwise_label_noise",
    "uniform_label_noise",
]

Labels = TypeVar("Labels", np.ndarray, Tensor)


def _source(seed: int | None, generator: torch.Generator | None) -> torch.Generator:
    if (seed is None) == (generator is None):
        raise ValueError("give exactly one of seed and generator")
    if generator is not None:
        return generator
    # A stream of its own: inputs or labels drawn from the same seed elsewhere stay independent of it.
    return make_generator(spawn_seed(int(check_number("seed", seed, low=0, integer=True)), "label noise"))


def _codes(y: Any, n_classes: int) -> Tensor:
    check_number("n_classes", n_classes, low=2, integer=True)
    if not isinstance(y, (np.ndarray, Tensor)):
        raise TypeError(f"y must be an array or a tensor of integer codes, got {type(y).__name__}")
    codes = y if isinstance(y, Tensor) else torch.from_numpy(np.array(y))
    check_labels("y", codes, n_classes)
    return codes.long().cpu()


def _like(y: Any, codes: Tensor) -> Any:
    if isinstance(y, Tensor):
        return codes.to(device=y.device, dtype=y.dtype)
    return codes.numpy().astype(y.dtype)


def _hit(n: int, rate: Any, g: torch.Generator) -> Tensor:
    check_number("rate", rate, low=0, high=1)
    return torch.rand(n, dtype=torch.float64, generator=g) < rate


def uniform_label_noise(
    y: Labels,
    rate: float,
    n_classes: int,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    include_true: bool = True,
) -> Labels:
    r"""Replace each label, with probability ``rate``, by a class drawn uniformly (symmetric noise).

    With ``include_true`` the draw is over all K classes, so a share ``rate * (K - 1) / K`` of the labels is wrong;
    without it, over the K - 1 others, and a share ``rate`` is wrong.

    Args:
        y: (n,) integer codes, array or tensor.
        rate: probability of a draw, in [0, 1].
        n_classes: K, at least 2.
        seed, generator: exactly one of the two.
        include_true: whether a drawn label may be the true one.

    Source: Angluin and Laird, "Learning from noisy examples", Machine Learning 1988; van Rooyen et al., "Learning
    with symmetric label noise", NeurIPS 2015.

    Examples:
        >>> uniform_label_noise(np.array([0, 1]), 1.0, 2, seed=1, include_true=False).tolist()
        [1, 0]
    """
    codes, g = _codes(y, n_classes), _source(seed, generator)
    hit = _hit(len(codes), rate, g)
    if include_true:
        other = torch.randint(n_classes, codes.shape, generator=g)
    else:
        other = (codes + torch.randint(1, n_classes, codes.shape, generator=g)) % n_classes
    return _like(y, torch.where(hit, other, codes))


def pairwise_label_noise(
    y: Labels,
    rate: float,
    pairs: Mapping[int, int],
    n_classes: int | None = None,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Labels:
    """Turn each label that ``pairs`` names, with probability ``rate``, into its partner (asymmetric noise).

    Args:
        y: (n,) integer codes, array or tensor.
        rate: probability of a flip, in [0, 1].
        pairs: wrong class for every class that can be mistaken; the others stay clean.
        n_classes: number of classes; the largest code and pair where None.
        seed, generator: exactly one of the two.

    Source: Patrini et al., "Making deep neural networks robust to label noise: a loss correction approach",
    CVPR 2017, section 5.

    Examples:
        >>> pairwise_label_noise(np.array([9, 3, 5, 1]), 1.0, {9: 1, 3: 5, 5: 3}, seed=1).tolist()
        [1, 5, 3, 1]
    """
    if not pairs:
        raise ValueError("pairs must name at least one class and its partner, got none")
    flat = [int(check_number("pairs", c, low=0, integer=True)) for pair in pairs.items() for c in pair]
    if n_classes is None:
        n_classes = max([1, *flat, int(y.max()) if len(y) else 0]) + 1
    codes, g = _codes(y, n_classes), _source(seed, generator)
    if max(flat) >= n_classes:
        raise ValueError(f"pairs must lie in [0, {n_classes}), got {max(flat)}")
    partner = torch.arange(n_classes)
    partner[list(pairs.keys())] = torch.tensor(list(pairs.values()))
    return _like(y, torch.where(_hit(len(codes), rate, g), partner[codes], codes))


def next_class_noise(
    y: Labels,
    rate: float,
    n_classes: int,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Labels:
    """Turn each label, with probability ``rate``, into the next class, the last into the first.

    Source: Han et al., "Co-teaching: robust training of deep neural networks with extremely noisy labels",
    NeurIPS 2018, section 4 (pair flipping).

    Examples:
        >>> next_class_noise(np.array([0, 1, 2]), 1.0, 3, seed=1).tolist()
        [1, 2, 0]
    """
    codes, g = _codes(y, n_classes), _source(seed, generator)
    return _like(y, torch.where(_hit(len(codes), rate, g), (codes + 1) % n_classes, codes))


def instance_dependent_label_noise(
    x: Float[np.ndarray, "n ..."] | Float[Tensor, "n ..."],
    y: Int[np.ndarray, "n"] | Int[Tensor, "n"],
    rate: float,
    n_classes: int,
    *,
    spread: float = 0.1,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Any:
    r"""Draw wrong labels whose rate and direction depend on the sample.

    Sample i has the flip rate ``q_i``, normal around ``rate`` with deviation ``spread`` and cut to [0, 1]. Class y
    has a random matrix ``W_y``; the wrong label is drawn from ``softmax(x_i W_y)`` without the true class. Features
    are standardised first, so that the units of ``x`` do not decide how one-sided the noise is.

    Args:
        x: (n, ...) inputs; flattened.
        y: (n,) integer codes, array or tensor.
        rate: centre of the flip rates, in [0, 1], and their mean where both ends are several ``spread`` away;
            0 leaves the labels.
        n_classes: K, at least 2.
        spread: deviation of the flip rate between samples; 0 gives all samples the same.
        seed, generator: exactly one of the two.

    Source: Xia et al., "Part-dependent label noise: towards instance-dependent label noise", NeurIPS 2020,
    algorithm 2.

    Examples:
        >>> y = instance_dependent_label_noise(np.eye(4), np.array([0, 1, 0, 1]), 0.0, 2, seed=1)
        >>> y.tolist()
        [0, 1, 0, 1]
    """
    check_same_length(x=x, y=y)
    check_number("rate", rate, low=0, high=1)
    check_number("spread", spread, low=0)
    codes, g = _codes(y, n_classes), _source(seed, generator)
    if len(codes) == 0 or rate == 0:
        return _like(y, codes.clone())
    flat = torch.as_tensor(np.array(x) if isinstance(x, np.ndarray) else x.detach().cpu()).float().flatten(1)
    check_finite("x", flat)
    deviation = flat.std(dim=0, correction=0)
    flat = (flat - flat.mean(dim=0)) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    # The cut normal by its inverse distribution function: one uniform draw per sample, no rejection.
    u = torch.rand(len(codes), dtype=torch.float64, generator=g)
    q = torch.full_like(u, rate)
    if spread > 0:
        low, high = (torch.special.ndtr(torch.tensor((b - rate) / spread, dtype=torch.float64)) for b in (0.0, 1.0))
        q = (rate + spread * torch.special.ndtri(low + u * (high - low))).clamp(0.0, 1.0)
    logits = torch.empty(len(codes), n_classes)
    for k in range(n_classes):
        weight = torch.randn(flat.shape[1], n_classes, generator=g)
        logits[codes == k] = flat[codes == k] @ weight
    logits.scatter_(1, codes[:, None], -torch.inf)
    other = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=g).squeeze(1)
    hit = torch.rand(len(codes), dtype=torch.float64, generator=g) < q
    return _like(y, torch.where(hit, other, codes))

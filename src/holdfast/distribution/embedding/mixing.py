"""New sets from old ones: mixtures of sets, and sets of the points that carry a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_choice, check_finite, check_number, check_same_length

__all__ = ["SetMixer", "sets_from_labels"]


class SetMixer:
    r"""Mix every set of a batch anew from ``k`` sets of the batch, in proportions from a Dirichlet law.

    .. math:: w \sim \mathrm{Dirichlet}(\alpha, \dots, \alpha), \qquad
              x_j = \text{a random point of source } s_j, \quad s_j \sim w

    Args:
        k: sources of a set.
        alpha: of the Dirichlet law; 1 is uniform over all proportions.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> x = torch.arange(4.0).view(4, 1, 1).expand(4, 6, 1)
        >>> SetMixer(2)(x, torch.Generator().manual_seed(0)).shape
        torch.Size([4, 6, 1])
    """

    def __init__(self, k: int = 3, alpha: float = 1.0) -> None:
        self.k = int(check_number("k", k, low=1, integer=True))
        self.alpha = check_number("alpha", alpha, low=0, open_low=True)

    def proportions(self, n: int, generator: torch.Generator) -> Float[Tensor, "n k"]:
        """Draw ``n`` vectors of proportions."""
        shape = torch.full((n, self.k), float(self.alpha), device=generator.device)
        drawn = torch._standard_gamma(shape, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
        drawn = drawn.clamp_min(1e-30)
        return drawn / drawn.sum(1, keepdim=True)

    def __call__(
        self, x: Shaped[Tensor, "batch points *shape"], generator: torch.Generator
    ) -> Shaped[Tensor, "batch points *shape"]:
        """Return as many mixed sets as there are, of as many points.

        Raises:
            ValueError: where ``k`` is larger than the batch.
        """
        if self.k > len(x):
            raise ValueError(f"k = {self.k} sources cannot be taken from a batch of {len(x)} sets; lower k")
        order = torch.rand(len(x), len(x), generator=generator, device=generator.device)
        return self.mix(x, order.topk(self.k, dim=1).indices, self.proportions(len(x), generator), generator)

    def mix(
        self,
        x: Shaped[Tensor, "batch points *shape"],
        sources: Int[Tensor, "new k"],
        weights: Float[Tensor, "new k"],
        generator: torch.Generator,
    ) -> Shaped[Tensor, "new points *shape"]:
        """Return sets mixed from the given sources in the given proportions."""
        m, device = x.shape[1], generator.device
        which = torch.multinomial(weights.to(device), m, replacement=True, generator=generator)
        point = torch.randint(m, which.shape, generator=generator, device=device)
        return x[sources.to(device).gather(1, which).to(x.device), point.to(x.device)]


def sets_from_labels(
    x: Any,
    y: Any,
    kind: Literal["kernel", "discrete", "likelihood"] = "kernel",
    *,
    n_sets: int,
    set_size: int,
    generator: torch.Generator,
    bandwidth: float | None = None,
    likelihood: Callable[[Tensor, Tensor], Tensor] | None = None,
    targets: Any = None,
) -> tuple[Shaped[Tensor, "sets size *shape"], Tensor]:
    r"""Make sets of labelled points: each set holds points whose label is about one target label.

    Point k joins the set of target :math:`y^*` with weight :math:`e^{-\lVert y_k - y^* \rVert^2 / 2 \sigma^2}`
    (``"kernel"``), 1 where the labels are equal (``"discrete"``), or :math:`p(y_k \mid y^*)` (``"likelihood"``).

    Args:
        x: points (n, ...).
        y: labels (n,) or (n, q).
        kind: how labels are compared.
        n_sets, set_size: of what is made; points are drawn with repetition.
        generator: of targets and points.
        bandwidth: sigma of the kernel.
        likelihood: from all labels (n, ...) and targets (sets, ...) to weights (sets, n).
        targets: the target labels; by default labels of random points.

    Returns:
        The sets and their targets.

    Raises:
        ValueError: for lengths that differ, a missing bandwidth or likelihood, negative weights, or a target that no
            point has weight for.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> x, y = torch.randn(100, 2), torch.arange(100) % 3
        >>> sets, t = sets_from_labels(x, y, "discrete", n_sets=5, set_size=8, generator=torch.Generator())
        >>> sets.shape, t.shape
        (torch.Size([5, 8, 2]), torch.Size([5]))
    """
    check_choice("kind", kind, ["kernel", "discrete", "likelihood"])
    points, labels = as_tensor(x), as_tensor(y)
    n = check_same_length(x=points, y=labels)
    check_number("n_sets", n_sets, low=1, integer=True)
    check_number("set_size", set_size, low=1, integer=True)
    check_finite("labels", labels)
    if targets is None:
        wanted = labels[torch.randint(n, (n_sets,), generator=generator).to(labels.device)]
    else:
        wanted = as_tensor(targets)
        if len(wanted) != n_sets or wanted.shape[1:] != labels.shape[1:]:
            raise ValueError(f"targets must have shape {(n_sets, *labels.shape[1:])}, got {tuple(wanted.shape)}")
    a, b = wanted.reshape(n_sets, 1, -1), labels.reshape(1, n, -1)
    if kind == "discrete":
        weights = (a == b).all(-1).float()
    elif kind == "kernel":
        if bandwidth is None:
            raise ValueError("kind='kernel' needs bandwidth, the distance of labels that still counts")
        check_number("bandwidth", bandwidth, low=0, open_low=True)
        weights = torch.exp(-(a.double() - b.double()).square().sum(-1) / (2 * bandwidth**2))
    else:
        if likelihood is None:
            raise ValueError("kind='likelihood' needs likelihood, a function of all labels and of the targets")
        weights = likelihood(labels, wanted)
        if weights.shape != (n_sets, n):
            raise ValueError(f"likelihood must return weights of shape {(n_sets, n)}, got {tuple(weights.shape)}")
        check_finite("weights", weights)
        if bool((weights < 0).any()):
            raise ValueError(f"weights must be non-negative, got {float(weights.min()):g}")
    empty = weights.sum(1) <= 0
    if bool(empty.any()):
        raise ValueError(f"no point has any weight for target {wanted[empty][0].tolist()}")
    chosen = torch.multinomial(weights, set_size, replacement=True, generator=generator)
    return points[chosen.to(points.device)], wanted

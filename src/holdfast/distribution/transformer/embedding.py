"""Components of mixtures as tokens, and back."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.distribution.gaussian_mixture import GaussianMixture
from holdfast.nn.feed_forward import feed_forward

__all__ = [
    "BlindPrior",
    "ComponentDecoder",
    "ComponentEmbedding",
    "ParametricPriorEmbedding",
    "component_size",
    "component_vectors",
    "mixture_of_vectors",
]

_EDGE = 1e-6


def component_size(dim: int) -> int:
    """Return the numbers that describe a component: 1 + D + D (D + 1) / 2."""
    return 1 + dim + dim * (dim + 1) // 2


def component_vectors(p: GaussianMixture, jitter: float = _EDGE) -> Float[Tensor, "*batch k size"]:
    r"""Return :math:`[\mathrm{logit}\, w_k;\, \mu_k;\, \log \mathrm{diag} L_k;\, \text{strict lower part of } L_k]`.

    Weights are brought to [1e-6, 1 - 1e-6] first, diagonals lose the jitter that :func:`mixture_of_vectors` adds.

    Examples:
        >>> p = GaussianMixture.gaussian(torch.zeros(2), torch.eye(2)).pad_components(3)
        >>> component_vectors(p).shape
        torch.Size([3, 6])
    """
    rows, cols = torch.tril_indices(p.dim, p.dim, -1)
    diag = p.scale_tril.diagonal(dim1=-2, dim2=-1)
    logit = torch.logit(p.weights, eps=_EDGE)[..., None]
    return torch.cat([logit, p.means, (diag - jitter).clamp_min(jitter).log(), p.scale_tril[..., rows, cols]], -1)


def mixture_of_vectors(v: Float[Tensor, "*batch k size"], dim: int, jitter: float = _EDGE) -> GaussianMixture:
    r"""Undo :func:`component_vectors`: weights are sigmoids divided by their sum, diagonals exponentials plus jitter.

    A softmax would not undo the logits of weights.

    Examples:
        >>> p = GaussianMixture.gaussian(torch.zeros(2), torch.eye(2)).pad_components(3)
        >>> mixture_of_vectors(component_vectors(p), 2).weights.round(decimals=4)
        tensor([0.1667, 0.3333, 0.5000])
    """
    logit, means, log_diag, below = v.split([1, dim, dim, dim * (dim - 1) // 2], -1)
    factor = torch.diag_embed(log_diag.exp() + jitter)
    if dim > 1:
        rows, cols = torch.tril_indices(dim, dim, -1)
        factor[..., rows, cols] = below
    return GaussianMixture.from_logits(F.logsigmoid(logit[..., 0]), means, factor)


class ComponentEmbedding(nn.Module):
    """A token of width d for each component: :func:`component_vectors`, then a perceptron with one hidden layer.

    Examples:
        >>> p = GaussianMixture.gaussian(torch.zeros(5, 2), torch.eye(2)).pad_components(3)
        >>> ComponentEmbedding(2, 16, hidden=32)(p).shape
        torch.Size([5, 3, 16])
    """

    def __init__(self, dim: int, width: int, hidden: int, jitter: float = _EDGE) -> None:
        super().__init__()
        self.jitter = jitter
        self.net = feed_forward(component_size(dim), hidden, width, layers=1, activation=nn.GELU)

    def forward(self, phi: GaussianMixture) -> Float[Tensor, "batch k width"]:
        return self.net(component_vectors(phi, self.jitter))


class ComponentDecoder(nn.Module):
    """Mixtures from tokens: the mirror of :class:`ComponentEmbedding`.

    Examples:
        >>> ComponentDecoder(2, 16, hidden=32)(torch.zeros(5, 3, 16))
        GaussianMixture(batch_shape=(5,), n_components=3, dim=2)
    """

    def __init__(self, dim: int, width: int, hidden: int, jitter: float = _EDGE) -> None:
        super().__init__()
        self.dim, self.jitter = dim, jitter
        self.net = feed_forward(width, hidden, component_size(dim), layers=1, activation=nn.GELU)

    def forward(self, tokens: Float[Tensor, "batch k width"]) -> GaussianMixture:
        return mixture_of_vectors(self.net(tokens), self.dim, self.jitter)


class ParametricPriorEmbedding(nn.Module):
    """K tokens from the parameters of a prior that is no mixture: a perceptron, then one more for each token.

    ``transform="log"`` reads the logarithms of the parameters, which must be positive.

    Examples:
        >>> ParametricPriorEmbedding(2, 5, 16)(torch.ones(3, 2)).shape
        torch.Size([3, 5, 16])
    """

    def __init__(
        self, n_parameters: int, components: int, width: int, transform: Literal["log", "none"] = "log"
    ) -> None:
        super().__init__()
        self.transform = transform
        self.shared = feed_forward(n_parameters, width, width, layers=1, activation=nn.GELU)
        self.each = nn.ModuleList(
            feed_forward(width, width, width, layers=1, activation=nn.GELU) for _ in range(components)
        )

    def forward(self, phi: Float[Tensor, "batch n"]) -> Float[Tensor, "batch k width"]:
        h = self.shared(phi.log() if self.transform == "log" else phi)
        return torch.stack([net(h) for net in self.each], 1)


class BlindPrior(nn.Module):
    """K learned tokens, whatever the prior is: the control that bakes one prior into the weights.

    Examples:
        >>> BlindPrior(5, 16)(torch.ones(3, 2)).shape
        torch.Size([3, 5, 16])
    """

    def __init__(self, components: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(components, width))

    def forward(self, phi: GaussianMixture | Tensor) -> Float[Tensor, "batch k width"]:
        n = phi.batch_shape[0] if isinstance(phi, GaussianMixture) else len(phi)
        return self.tokens.expand(n, -1, -1)

"""The network from a prior and observations to a posterior, both mixtures of Gaussians."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Transform

from holdfast.core.checks import check_number
from holdfast.distribution.gaussian_mixture import GaussianMixture
from holdfast.distribution.transformer.embedding import BlindPrior, ComponentDecoder, ComponentEmbedding
from holdfast.nn.feed_forward import feed_forward

__all__ = ["DistributionTransformer", "MappedMixture", "prior_blind"]

_LARGE_DIM = 10


class MappedMixture:
    r"""The law of :math:`x = f^{-1}(u)`, u from a mixture: :math:`\log p(x) = \log q(f(x)) + \log |f'(x)|`.

    Args:
        mixture: the law of u.
        f: map of every coordinate; ``None`` is the identity.

    Examples:
        >>> normal = GaussianMixture.gaussian(torch.zeros(1), torch.eye(1))
        >>> p = MappedMixture(normal, torch.distributions.ExpTransform().inv)
        >>> bool((p.sample(100) > 0).all())
        True
    """

    def __init__(self, mixture: GaussianMixture, f: Transform | None = None) -> None:
        self.mixture, self.f = mixture, f

    def log_prob(self, x: Float[Tensor, "*sample dim"]) -> Float[Tensor, "*sample"]:
        """Return the log-density of states."""
        if self.f is None:
            return self.mixture.log_prob(x)
        u = to_real(self.f, x)
        return self.mixture.log_prob(u) + self.f.log_abs_det_jacobian(x, u).sum(-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n *batch dim"]:
        """Draw ``n`` states of every law."""
        u = self.mixture.sample(n, generator)
        return u if self.f is None else cast("Tensor", self.f.inv(u))


def to_real(f: Transform, x: Tensor) -> Tensor:
    """Map states, which must lie in the domain of ``f``."""
    inside = f.domain.check(x)
    if not bool(inside.all()):
        bad = float(x[~inside.expand_as(x)][0]) if inside.shape == x.shape else float("nan")
        raise ValueError(f"states must lie in the domain of the sample-space map ({f.domain}), got {bad:g}")
    return cast("Tensor", f(x))


class DistributionTransformer(nn.Module):
    r"""Components of the prior are tokens that read the observations and become the components of the posterior.

    .. math:: q(x \mid z, \phi) = \sum_{k \le K} w_k\, N(f(x); \mu_k, \Sigma_k)

    Tokens attend to each other and to the observations through ``torch.nn.TransformerDecoder`` (post-norm, no
    positions), so the map is equivariant in the components and invariant in the observations. One learned token stands
    beside the observations, so that there may be none. At the start every block is cross-attention plus identity.

    Args:
        components: K.
        dim: D.
        observations: numbers of one observation, by type.
        prior: module from ``phi`` to tokens (B, K, width); ``None`` is a :class:`ComponentEmbedding` of mixtures.
        width, heads, layers, hidden: of the decoder; ``hidden`` is its feed-forward width.
        sample_space: the map f of every coordinate to the real line, e.g. ``ExpTransform().inv`` for positive states.

    Raises:
        ValueError: for sizes that do not fit.

    Source: Whittle et al., "Distribution transformers", ICML 2026.

    Examples:
        >>> model = DistributionTransformer(3, 1, {"z": 1}, width=16, heads=2, layers=1, hidden=32)
        >>> prior = GaussianMixture.gaussian(torch.zeros(4, 1), torch.eye(1)).pad_components(3)
        >>> before, after = model(prior, {"z": torch.zeros(4, 2, 1)})
        >>> after
        GaussianMixture(batch_shape=(4,), n_components=3, dim=1)
    """

    def __init__(
        self,
        components: int,
        dim: int,
        observations: Mapping[str, int],
        *,
        prior: nn.Module | None = None,
        width: int = 64,
        heads: int = 8,
        layers: int = 6,
        hidden: int = 2048,
        sample_space: Transform | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("components", components), ("dim", dim), ("layers", layers), ("heads", heads)):
            check_number(name, value, low=1, integer=True)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got width={width} and heads={heads}")
        if not observations:
            raise ValueError("observations must name at least one type")
        if dim > _LARGE_DIM:
            warnings.warn(
                f"a full covariance of {dim} dimensions is {dim * (dim + 1) // 2} outputs a component; beyond "
                f"{_LARGE_DIM} dimensions expect slow training",
                stacklevel=2,
            )
        self.components, self.dim, self.sample_space = components, dim, sample_space
        self.shape = {"width": width, "heads": heads, "layers": layers, "hidden": hidden}
        self.observations = dict(observations)
        self.prior = ComponentEmbedding(dim, width, 2 * width) if prior is None else prior
        self.decode = ComponentDecoder(dim, width, 2 * width)
        self.read = nn.ModuleDict(
            {k: feed_forward(p, 2 * width, width, layers=1, activation=nn.GELU) for k, p in observations.items()}
        )
        self.nothing = nn.Parameter(torch.zeros(width))
        layer = nn.TransformerDecoderLayer(width, heads, hidden, dropout=0.0, activation="gelu", batch_first=True)
        for p in (layer.self_attn.out_proj.weight, layer.self_attn.out_proj.bias, layer.linear2.weight):
            nn.init.zeros_(p)
        nn.init.zeros_(layer.linear2.bias)
        self.core = nn.TransformerDecoder(layer, layers)
        # The decoder copies one layer; its blocks should start apart.
        for block in self.core.layers:
            for q in block.parameters():
                if q.ndim == 2 and bool(q.any()):
                    nn.init.xavier_uniform_(q)

    def forward(
        self,
        phi: Any,
        obs: Mapping[str, Float[Tensor, "batch m p"]],
        mask: Mapping[str, Bool[Tensor, "batch m"]] | None = None,
    ) -> tuple[GaussianMixture, GaussianMixture]:
        """Return the prior as its tokens are decoded, and the posterior, both in the coordinates f(x).

        Types that are left out of ``obs`` were not observed; entries where ``mask`` is false count as absent.
        """
        tokens = self.prior(phi)
        memory, absent = self._memory(len(tokens), obs, mask or {})
        return self.decode(tokens), self.decode(self.core(tokens, memory, memory_key_padding_mask=absent))

    def _memory(
        self, n: int, obs: Mapping[str, Tensor], mask: Mapping[str, Tensor]
    ) -> tuple[Tensor, Bool[Tensor, "batch keys"]]:
        parts = [self.nothing.expand(n, 1, -1)]
        absent = [torch.zeros(n, 1, dtype=torch.bool, device=self.nothing.device)]
        for name, z in obs.items():
            if name not in self.observations:
                raise ValueError(f"unknown observation type {name!r}; known are {sorted(self.observations)}")
            parts.append(self.read[name](z.to(self.nothing)))
            seen = mask.get(name)
            absent.append(torch.zeros_like(z[..., 0], dtype=torch.bool) if seen is None else ~seen)
        return torch.cat(parts, 1), torch.cat(absent, 1)

    def to_real(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Return f(x).

        Raises:
            ValueError: for states outside the domain of f.
        """
        return x if self.sample_space is None else to_real(self.sample_space, x)

    def posterior(self, phi: Any, obs: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None = None) -> MappedMixture:
        """Return the posterior as a law of states, without gradients.

        Raises:
            ValueError: for priors of another number of components or dimension, NaN or unknown observations.
        """
        if isinstance(phi, GaussianMixture):
            check_components(phi, self.components, self.dim)
        for name, z in obs.items():
            if bool(torch.isnan(z).any()):
                raise ValueError(f"observations of {name!r} hold NaN; leave absent ones out by mask={{{name!r}: ...}}")
        with torch.no_grad():
            return MappedMixture(self(phi, obs, mask)[1], self.sample_space)


def check_components(phi: GaussianMixture, components: int, dim: int) -> None:
    """Raise unless mixtures have the number of components and the dimension that a network was trained for."""
    k = phi.n_components
    if k != components:
        way = f"pad_components({components})" if k < components else f"reduce_components({components})"
        raise ValueError(f"the prior has {k} components, the network was made for {components}; use prior.{way}")
    if phi.dim != dim:
        raise ValueError(f"the prior has dimension {phi.dim}, the network was made for {dim}")
    if len(phi.batch_shape) != 1:
        raise ValueError(f"priors must be a batch (B,) of mixtures, got batch shape {tuple(phi.batch_shape)}")


def prior_blind(model: DistributionTransformer) -> DistributionTransformer:
    """Return an untrained network of the same sizes that does not see the prior, as a control.

    Examples:
        >>> model = DistributionTransformer(3, 1, {"z": 1}, width=16, heads=2, layers=1, hidden=32)
        >>> type(prior_blind(model).prior).__name__
        'BlindPrior'
    """
    return DistributionTransformer(
        model.components,
        model.dim,
        model.observations,
        prior=BlindPrior(model.components, model.shape["width"]),
        sample_space=model.sample_space,
        **model.shape,
    )

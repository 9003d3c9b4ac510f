"""A network as a filter: the posterior of one step is the prior of the next."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.distribution.gaussian_mixture import GaussianMixture
from holdfast.distribution.transformer.model import DistributionTransformer, check_components

__all__ = ["MixtureFilter", "series_log_prob"]


class MixtureFilter:
    r"""Filter of :math:`x' = A x + b + N(0, Q)`: the prediction is exact, the update learned.

    The cost of a step does not grow with time. The network must work on mixtures of the states themselves.

    Args:
        model: a network trained on the observations; its priors are mixtures.
        A, Q, b: of the dynamics, (D, D), (D, D) and (D,).

    Raises:
        ValueError: for shapes that do not fit, or a network with a sample-space map.

    Source: Whittle et al., "Distribution transformers", ICML 2026.

    Examples:
        >>> model = DistributionTransformer(3, 1, {"z": 1}, width=16, heads=2, layers=1, hidden=32)
        >>> track = MixtureFilter(model, 0.9 * torch.eye(1), torch.eye(1))
        >>> start = GaussianMixture.gaussian(torch.zeros(4, 1), torch.eye(1))
        >>> len(track.run({"z": torch.zeros(4, 10, 1, 1)}, start))
        10
    """

    def __init__(
        self,
        model: DistributionTransformer,
        A: Float[Tensor, "dim dim"],
        Q: Float[Tensor, "dim dim"],
        b: Float[Tensor, "dim"] | None = None,
    ) -> None:
        d = model.dim
        if model.sample_space is not None:
            raise ValueError("a filter needs a network without a sample-space map, whose mixtures are of the states")
        if A.shape != (d, d) or Q.shape != (d, d) or (b is not None and b.shape != (d,)):
            raise ValueError(f"A and Q must be ({d}, {d}) and b ({d},), got {tuple(A.shape)} and {tuple(Q.shape)}")
        self.model, self.A, self.Q, self.b = model, A, Q, b

    def start(self, prior: GaussianMixture) -> GaussianMixture:
        """Return a first prior with the K components of the network.

        Equal components would stay equal for ever, so copies get the weights 1 : 2 : ... .
        """
        if prior.n_components < self.model.components:
            prior = prior.pad_components(self.model.components)
        check_components(prior, self.model.components, self.model.dim)
        return prior

    def predict(self, posterior: GaussianMixture) -> GaussianMixture:
        """Return the law of the next state."""
        return posterior.affine(self.A, self.b, self.Q)

    def step(
        self, prior: GaussianMixture, obs: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None = None
    ) -> GaussianMixture:
        """Return the posterior of the state that ``obs`` (B, m, p) by type were made of."""
        return self.model.posterior(prior, obs, mask).mixture

    def run(
        self,
        obs_series: Mapping[str, Float[Tensor, "batch time m p"]],
        x0: GaussianMixture,
        mask: Mapping[str, Tensor] | None = None,
    ) -> list[GaussianMixture]:
        """Return the posterior at every time.

        Args:
            obs_series: observations by type; the masks are (B, T, m).
            x0: law of the state before the first time: the first observations are of its successor.
            mask: which observations are present.
        """
        lengths = {z.shape[1] for z in obs_series.values()}
        if len(lengths) != 1:
            raise ValueError(f"every type must have observations of the same times, got lengths {sorted(lengths)}")
        found, law = [], self.start(x0)
        for t in range(lengths.pop()):
            now = {k: z[:, t] for k, z in obs_series.items()}
            seen = None if mask is None else {k: m[:, t] for k, m in mask.items()}
            law = self.step(self.predict(law), now, seen)
            found.append(law)
        return found


def series_log_prob(laws: list[GaussianMixture], x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time"]:
    """Return the log-density of the true states under a filter's posteriors."""
    return torch.stack([law.log_prob(x[:, t]) for t, law in enumerate(laws)], 1)

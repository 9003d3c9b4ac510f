"""An inference problem to be amortised: a law over priors and what is observed of the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast.core.checks import check_finite, check_number
from holdfast.distribution.transformer.meta_priors import MetaPrior
from holdfast.distribution.transformer.observations import ObservationModel

__all__ = ["InferenceProblem", "Simulated"]

Observations = Mapping[str, Float[Tensor, "batch m p"]]
Masks = Mapping[str, Bool[Tensor, "batch m"]]


class Simulated(NamedTuple):
    """Problems with their true states: priors, x (B, D), observations by type (B, m, p), and which are present."""

    phi: Any
    x: Float[Tensor, "batch dim"]
    obs: dict[str, Tensor]
    mask: dict[str, Tensor]


class InferenceProblem:
    r"""Priors :math:`\phi \sim p(\phi)`, states :math:`x \sim p(x \mid \phi)`, observations :math:`z \sim p(z \mid x)`.

    Args:
        meta_prior: the law over priors.
        observation_models: by type.
        counts: largest number of observations of every type; 1 where nothing is said.
        keep: probability of every observation to be present.

    Raises:
        ValueError: without observation models, for counts of other types or below 1, or ``keep`` outside (0, 1].

    Examples:
        >>> from holdfast.distribution.transformer import InverseGammaMetaPrior, VarianceObservation
        >>> problem = InferenceProblem(InverseGammaMetaPrior(), {"z": VarianceObservation()}, {"z": 4})
        >>> batch = problem.sample(8, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.obs["z"].shape
        (torch.Size([8, 1]), torch.Size([8, 4, 1]))
    """

    def __init__(
        self,
        meta_prior: MetaPrior,
        observation_models: Mapping[str, ObservationModel],
        counts: Mapping[str, int] | None = None,
        *,
        keep: float = 1.0,
    ) -> None:
        if not observation_models:
            raise ValueError("observation_models must name at least one type of observation")
        self.meta_prior, self.observation_models = meta_prior, dict(observation_models)
        extra = sorted(set(counts or {}) - set(observation_models))
        if extra:
            raise ValueError(f"counts names unknown observation types {extra}; known are {sorted(observation_models)}")
        given = dict.fromkeys(observation_models, 1) | dict(counts or {})
        self.counts = {k: int(check_number(f"counts[{k!r}]", n, low=1, integer=True)) for k, n in given.items()}
        self.keep = check_number("keep", keep, low=0, high=1, open_low=True)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Simulated:
        """Draw ``n`` problems, on the device of ``generator``."""
        phi = self.meta_prior.sample(n, generator)
        x = self.meta_prior.draw(phi, generator)
        obs, mask = {}, {}
        for name, law in self.observation_models.items():
            m = self.counts[name]
            obs[name] = law.sample(x, m, generator)
            present = torch.ones(n, m, dtype=torch.bool, device=x.device)
            if self.keep < 1:
                present = torch.rand(n, m, generator=generator, device=x.device) < self.keep
            mask[name] = present
        return Simulated(phi, x, obs, mask)

    def log_likelihood(
        self, x: Float[Tensor, "*batch dim"], obs: Observations, mask: Masks | None = None
    ) -> Float[Tensor, "*batch"]:
        """Return the log-density of the observations given the states, absent ones left out."""
        total = x.new_zeros(x.shape[:-1])
        for name, z in obs.items():
            each = self.observation_models[name].log_prob(z, x)
            if mask is not None and name in mask:
                each = torch.where(mask[name], each, 0.0)
            total = total + each.sum(-1)
        return total

    def log_joint(
        self, phi: Any, x: Float[Tensor, "*sample batch dim"], obs: Observations, mask: Masks | None = None
    ) -> Float[Tensor, "*sample batch"]:
        """Return log p(x | phi) + log p(z | x)."""
        return self.meta_prior.prior(phi).log_prob(x) + self.log_likelihood(x, obs, mask)

    def check(self, obs: Observations, mask: Masks | None = None) -> None:
        """Raise unless all observations are of a known type and shape, finite and inside their support.

        Raises:
            ValueError: for what is not; entries that the mask leaves out may be anything but NaN or infinite.
        """
        for name, z in obs.items():
            law = self.observation_models.get(name)
            if law is None:
                raise ValueError(f"unknown observation type {name!r}; known are {sorted(self.observation_models)}")
            if z.ndim < 3 or z.shape[-1] != law.dim:
                raise ValueError(f"observations of {name!r} must be (batch, m, {law.dim}), got {tuple(z.shape)}")
            if bool(torch.isnan(z).any()):
                raise ValueError(f"observations of {name!r} hold NaN; leave absent ones out by mask={{{name!r}: ...}}")
            check_finite(f"observations of {name!r}", z)
            possible = law.in_support(z)
            if mask is not None and name in mask:
                if mask[name].shape != z.shape[:-1]:
                    raise ValueError(
                        f"the mask of {name!r} must be {tuple(z.shape[:-1])}, got {tuple(mask[name].shape)}"
                    )
                possible = possible | ~mask[name]
            if not bool(possible.all()):
                bad = tuple((~possible).nonzero()[0].tolist())
                raise ValueError(
                    f"observation {bad} of {name!r} is {z[bad].tolist()}, which {type(law).__name__} cannot yield"
                )

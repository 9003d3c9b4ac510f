"""What a conditional autoencoder is held against: no latent, and no recogniser."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.distribution.generators.cvae import ConditionalVAE, PlainCondition
from holdfast.distribution.generators.likelihood import Likelihood, make_likelihood
from holdfast.distribution.generators.prior import AttributePrior

__all__ = ["DeterministicRegressor", "GaussianStochasticNet", "NoCondition"]


class GaussianStochasticNet(ConditionalVAE):
    r"""Train as it is sampled: :math:`- E_{p(z \mid c)} \log p(x \mid z, c)`, with no recogniser.

    Args:
        prior, generator, embedding, likelihood: as of :class:`ConditionalVAE`.

    Source: Sohn, Lee and Yan, "Learning structured output representation using deep conditional generative models",
    NeurIPS 2015, equation 6.

    Examples:
        >>> from holdfast.nn.coders import MLPDecoder
        >>> model = GaussianStochasticNet(AttributePrior(3, 2), MLPDecoder(5, (4,)))
        >>> model.loss(torch.ones(6, 4), torch.ones(6, 3)).ndim, model.recogniser is None
        (0, True)
    """

    def __init__(
        self,
        prior: AttributePrior,
        generator: nn.Module,
        *,
        embedding: nn.Module | None = None,
        likelihood: Literal["bernoulli", "gaussian", "discretised"] | Likelihood = "bernoulli",
    ) -> None:
        super().__init__(None, prior, generator, embedding=embedding, likelihood=likelihood, beta=0.0, alpha=0.0)


class DeterministicRegressor(nn.Module):
    """One point for every condition: the best guess of the likelihood's mean, with no latent.

    Args:
        generator: from embedded conditions to the likelihood's parameters; its ``shape`` is that of a point and its
            ``in_dim`` the length of an embedded condition.
        embedding, likelihood: as of :class:`ConditionalVAE`.

    Examples:
        >>> from holdfast.nn.coders import MLPDecoder
        >>> model = DeterministicRegressor(MLPDecoder(3, (4,)))
        >>> x = model.sample(torch.ones(2, 3), 5)
        >>> x.shape, float(x.var(1).max())
        (torch.Size([2, 5, 4]), 0.0)
    """

    def __init__(
        self,
        generator: nn.Module,
        *,
        embedding: nn.Module | None = None,
        likelihood: Literal["bernoulli", "gaussian", "discretised"] | Likelihood = "bernoulli",
    ) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = tuple(generator.shape)  # type: ignore[arg-type]
        self.embedding = PlainCondition(generator.in_dim) if embedding is None else embedding  # type: ignore[arg-type]
        self.generator, self.likelihood = generator, make_likelihood(likelihood)

    def loss(
        self,
        x: Float[Tensor, "batch points *shape"] | Float[Tensor, "batch *shape"],
        z: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
        mask: Bool[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return minus the log-likelihood, mean over points; ``generator`` is not used."""
        out = self.generator(self.embedding(z, mask))
        if x.ndim == len(self.shape) + 2 and len(x) == len(z):
            out = out[:, None].expand(-1, x.shape[1], *self.shape).flatten(0, 1)
            x = x.flatten(0, 1)
        if x.shape != out.shape:
            raise ValueError(f"points must have shape {tuple(out.shape)}, got {tuple(x.shape)}")
        self.likelihood.check(x)
        return -self.likelihood.log_prob(x, out).flatten(1).sum(1).mean()

    @torch.no_grad()
    def predict(
        self, c: Float[Tensor, "batch condition"], mask: Bool[Tensor, "batch condition"] | None = None
    ) -> Float[Tensor, "batch *shape"]:
        """Return the mean of every condition."""
        return self.likelihood.mean(self.generator(self.embedding(c, mask)))

    def sample(
        self,
        z: Float[Tensor, "batch condition"],
        n: int,
        generator: torch.Generator | None = None,
        *,
        mask: Bool[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, "batch n *shape"]:
        """Return the mean of every condition, ``n`` times."""
        check_number("n", n, low=1, integer=True)
        return self.predict(z, mask)[:, None].expand(-1, n, *self.shape)


class NoCondition(nn.Module):
    """Forgets the condition, which makes an unconditional model out of a conditional one.

    Examples:
        >>> NoCondition()(torch.ones(2, 3))
        tensor([[0.],
                [0.]])
    """

    out_dim = 1

    def forward(
        self, c: Float[Tensor, "batch condition"], mask: Bool[Tensor, "batch condition"] | None = None
    ) -> Float[Tensor, "batch 1"]:
        """Return a zero for every row."""
        return c.new_zeros(len(c), 1)

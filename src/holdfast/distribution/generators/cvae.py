"""Conditional variational autoencoders: a law of points for every condition, through a latent with its own law."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.distribution.generators.inputs import check_codes
from holdfast.distribution.generators.likelihood import GaussianLikelihood, Likelihood, make_likelihood
from holdfast.distribution.generators.prior import AttributePrior, draw_latent
from holdfast.distribution.variational import (
    BoundTerms,
    KLSchedule,
    elbo,
    free_bits,
    importance_bound,
    iwae,
    mirrored_divergence,
)
from holdfast.nn.coders import MLPDecoder, MLPEncoder
from holdfast.nn.gaussian import DiagonalGaussian, normal, uniform

__all__ = ["ConditionalVAE", "Divergence", "PlainCondition"]

_LOG_VARIANCE = (-8.0, 4.0)
_ROWS = 4096  # points that are decoded at once


class Divergence(NamedTuple):
    """Divergence of every posterior from its prior, and the standard error of the estimate (0 in closed form)."""

    value: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]


class PlainCondition(nn.Module):
    """Takes a condition of finite numbers as it is; it has no missing entries.

    Examples:
        >>> PlainCondition(2)(torch.ones(1, 2))
        tensor([[1., 1.]])
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = self.out_dim = int(check_number("length", length, low=1, integer=True))

    def forward(
        self, c: Float[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length"]:
        """Return the condition.

        Raises:
            ValueError: for another length, or missing entries.
        """
        check_codes(c, self.length)
        if mask is not None and not bool(mask.all()):
            raise ValueError("this condition has no missing entries; AttributeEmbedding takes a mask")
        return c


class ConditionalVAE(nn.Module):
    r"""Law of points given a condition, through a latent whose prior depends on the condition.

    .. math:: \mathcal L = a \Bigl(- E_{q(z \mid x, c)} \log p(x \mid z, c) + \beta\, KL\bigl(q(z \mid x, c) \,\|\,
              p(z \mid c)\bigr)\Bigr) - (1 - a)\, E_{p(z \mid c)} \log p(x \mid z, c)

    The log-likelihood is summed over the entries of a point. With :math:`a = 1` this is the conditional variational
    autoencoder, with :math:`a = 0` the Gaussian stochastic network, which has no recogniser; both terms share their
    noise.

    Args:
        recogniser: from points and embedded conditions to mean and log-variance of q, (batch, 2 L); see
            :class:`holdfast.nn.coders.MLPEncoder`. ``None`` for :math:`a = 0` only.
        prior: from embedded conditions to the law of the latent, see :class:`AttributePrior`.
        generator: from ``[z ; embedded condition]`` to the likelihood's parameters; its ``shape`` is that of a point.
        embedding: from conditions (and a mask of what is known) to vectors of length ``out_dim``; by default
            conditions are taken as they are.
        likelihood: "bernoulli", "gaussian" (deviation 0.1, images in [0, 1]), "discretised", or a
            :class:`Likelihood`.
        beta: weight of the divergence, a number or a :class:`KLSchedule` of training steps, which are counted by the
            calls of :meth:`loss` in training mode and kept in the state.
        free_bits: nats of mean divergence that every latent has for nothing.
        alpha: :math:`a`.
        reduction: "sum" over entries; "mean" multiplies the effective weight by their number.

    Raises:
        ValueError: for numbers out of range, or a missing recogniser with :math:`a > 0`.

    Warns:
        UserWarning: for ``reduction="mean"`` with a weight.

    Source: Sohn, Lee and Yan, "Learning structured output representation using deep conditional generative models",
    NeurIPS 2015, equations 4 to 7; Debbagh, "Learning structured output representations from attributes using deep
    conditional generative models", 2023, for the weight.

    Examples:
        >>> model = ConditionalVAE.of_points(3, 4, latent=2, width=16)
        >>> rng = torch.Generator().manual_seed(0)
        >>> model.loss(torch.randn(2, 5, 3), torch.zeros(2, 4), rng).ndim
        0
        >>> model.sample(torch.zeros(2, 4), 7, rng).shape
        torch.Size([2, 7, 3])
    """

    steps: Tensor

    def __init__(
        self,
        recogniser: nn.Module | None,
        prior: AttributePrior,
        generator: nn.Module,
        *,
        embedding: nn.Module | None = None,
        likelihood: Literal["bernoulli", "gaussian", "discretised"] | Likelihood = "bernoulli",
        beta: float | KLSchedule = 1.0,
        free_bits: float = 0.0,
        alpha: float = 1.0,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        self.beta = beta if isinstance(beta, KLSchedule) else check_number("beta", beta, low=0)
        self.free_bits = check_number("free_bits", free_bits, low=0)
        self.alpha = check_number("alpha", alpha, low=0, high=1)
        check_choice("reduction", reduction, ["sum", "mean"])
        if recogniser is None and alpha > 0:
            raise ValueError(
                f"alpha={alpha:g} needs a recogniser; without one alpha is 0 (Gaussian stochastic network)"
            )
        self.shape: tuple[int, ...] = tuple(generator.shape)  # type: ignore[arg-type]
        self.entries = math.prod(self.shape)
        self.reduction = reduction
        if reduction == "mean" and self.beta != 0:
            warnings.warn(
                f"reduction='mean' divides the log-likelihood by the {self.entries} entries of a point: a weight beta "
                f"acts as {self.entries} beta does with reduction='sum'",
                UserWarning,
                stacklevel=2,
            )
        self.embedding = PlainCondition(prior.condition) if embedding is None else embedding
        self.recogniser, self.prior, self.generator = recogniser, prior, generator
        self.likelihood = make_likelihood(likelihood)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @classmethod
    def of_points(
        cls,
        features: int | Sequence[int],
        code: int,
        *,
        latent: int = 8,
        width: int = 128,
        layers: int = 2,
        likelihood: Likelihood | None = None,
        beta: float | KLSchedule = 1.0,
    ) -> ConditionalVAE:
        """Return perceptrons for points of ``features`` numbers and codes of length ``code``: a generator of sets.

        The likelihood is Gaussian of deviation 0.1 around the output as it is, by default.
        """
        shape = (features,) if isinstance(features, int) else tuple(features)
        return cls(
            MLPEncoder(shape, code, 2 * latent, width=width, layers=layers),
            AttributePrior(code, latent),
            MLPDecoder(latent + code, shape, width=width, layers=layers),
            likelihood=GaussianLikelihood(0.1, "identity") if likelihood is None else likelihood,
            beta=beta,
        )

    # -- learning ------------------------------------------------------------------------------------------------------

    @property
    def weight(self) -> float:
        """Weight of the divergence at the present step."""
        return self.beta(int(self.steps)) if isinstance(self.beta, KLSchedule) else float(self.beta)

    def posterior(self, x: Float[Tensor, "batch *shape"], e: Float[Tensor, "batch embedded"]) -> DiagonalGaussian:
        """Return q(z | x, c) for embedded conditions."""
        if self.recogniser is None:
            raise ValueError("this model has no recogniser: it samples, but neither encodes nor reconstructs")
        mu, log_var = self.recogniser(x, e).chunk(2, dim=-1)
        if mu.shape[-1] != self.prior.latent:
            raise ValueError(f"the recogniser must return 2 x {self.prior.latent} numbers, got {2 * mu.shape[-1]}")
        return DiagonalGaussian(mu, log_var.clamp(*_LOG_VARIANCE))

    def elbo(
        self,
        x: Float[Tensor, "batch *shape"],
        c: Float[Tensor, "batch condition"],
        mask: Bool[Tensor, "batch condition"] | None = None,
        generator: torch.Generator | None = None,
    ) -> BoundTerms:
        """Return the terms of the bound, from one draw of the latent (and its mirror image under a mixture prior)."""
        x, e = self._inputs(x, c, mask)
        q, p = self.posterior(x, e), self.prior(e)
        return elbo(lambda z: self._log_likelihood(x, z, e), q, p, generator)

    def _log_likelihood(self, x: Tensor, z: Tensor, e: Tensor) -> Tensor:
        return self.likelihood.log_prob(x, self._decode(z, e)).flatten(1).sum(1)

    def _decode(self, z: Tensor, e: Tensor) -> Tensor:
        return self.generator(torch.cat([z, e], dim=-1))

    def loss(
        self,
        x: Float[Tensor, "batch points *shape"] | Float[Tensor, "batch *shape"],
        z: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
        mask: Bool[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the training loss, mean over points.

        Args:
            x: one point for every condition, or several along the second axis.
            z: conditions.
            generator: of the latent's noise.
            mask: what is known of every condition, all by default.

        Raises:
            ValueError: for points of another shape or outside the likelihood's range, and conditions of another length.
        """
        return self.objective(x, z, generator, mask)["loss"]

    def objective(
        self,
        x: Float[Tensor, "batch points *shape"] | Float[Tensor, "batch *shape"],
        c: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
        mask: Bool[Tensor, "batch condition"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return :meth:`loss` with what is worth a look: log-likelihood, divergence, and latents that carry any."""
        if x.ndim == len(self.shape) + 2 and len(x) == len(c):
            m, x = x.shape[1], x.flatten(0, 1)
            c = c.repeat_interleave(m, dim=0)
            mask = None if mask is None else mask.repeat_interleave(m, dim=0)
        x, e = self._inputs(x, c, mask)
        p = self.prior(e)
        eps = normal((len(x), self.prior.latent), e, generator)
        scale = 1.0 if self.reduction == "sum" else 1.0 / self.entries
        logs: dict[str, Tensor] = {}
        total = x.new_zeros(())
        if self.alpha > 0:
            terms = elbo(lambda z: self._log_likelihood(x, z, e), self.posterior(x, e), p, eps=eps)
            kl = free_bits(terms.kl, self.free_bits).sum() if self.free_bits else terms.kl.sum(-1).mean()
            total = total + self.alpha * (self.weight * kl - scale * terms.log_likelihood.mean())
            logs["log_likelihood"] = terms.log_likelihood.detach().mean()
            logs["kl"] = terms.kl.detach().sum(-1).mean()
            logs["active_latents"] = (terms.kl.detach().mean(0) > 0.01).sum().to(x.dtype)
        if self.alpha < 1:
            u = uniform((len(x),), e, generator)
            direct = self._log_likelihood(x, draw_latent(p, eps, u), e).mean()
            total = total - (1 - self.alpha) * scale * direct
            logs["prior_log_likelihood"] = direct.detach()
        if self.training:
            self.steps += 1
        return {"loss": total, **logs}

    # -- use -----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        z: Float[Tensor, "batch condition"],
        n: int,
        generator: torch.Generator | None = None,
        *,
        mask: Bool[Tensor, "batch condition"] | None = None,
        temperature: float = 1.0,
        mean: bool = True,
    ) -> Float[Tensor, "batch n *shape"]:
        """Draw ``n`` latents for every condition and decode them.

        Args:
            z: conditions.
            n: points for each.
            generator: of all noise.
            mask: what is known of every condition.
            temperature: factor on the latent's deviation; 0 decodes the prior's mean.
            mean: return the decoder's means, or draw from the likelihood around them.

        Raises:
            ValueError: for no points, a negative temperature, or conditions of another length.
        """
        check_number("n", n, low=1, integer=True)
        check_number("temperature", temperature, low=0)
        e = self.embedding(z, mask)
        eps = normal((n, len(e), self.prior.latent), e, generator)
        u = uniform((n, len(e)), e, generator)
        drawn = draw_latent(self.prior(e), eps, u, temperature)
        rows = drawn.transpose(0, 1).flatten(0, 1)
        out = self._in_pieces(rows, e.repeat_interleave(n, dim=0)).unflatten(0, (len(e), n))
        return self.likelihood.mean(out) if mean else self.likelihood.sample(out, generator)

    def _in_pieces(self, z: Tensor, e: Tensor) -> Tensor:
        return torch.cat([self._decode(a, b) for a, b in zip(z.split(_ROWS), e.split(_ROWS))])

    @torch.no_grad()
    def encode(
        self,
        x: Float[Tensor, "batch *shape"],
        c: Float[Tensor, "batch condition"],
        mask: Bool[Tensor, "batch condition"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch latent"]:
        """Return the posterior's mean, or with a generator a draw."""
        x, e = self._inputs(x, c, mask)
        q = self.posterior(x, e)
        return q.mu if generator is None else q.sample(generator)

    @torch.no_grad()
    def reconstruct(
        self,
        x: Float[Tensor, "batch *shape"],
        c: Float[Tensor, "batch condition"],
        mask: Bool[Tensor, "batch condition"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        """Return the decoder's mean at the posterior's mean, or with a generator at a draw."""
        return self.likelihood.mean(self._in_pieces(self.encode(x, c, mask, generator), self.embedding(c, mask)))

    @torch.no_grad()
    def edit(
        self,
        x: Float[Tensor, "batch *shape"],
        c: Float[Tensor, "batch condition"],
        c_new: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
        *,
        mask: Bool[Tensor, "batch condition"] | None = None,
        mask_new: Bool[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        r"""Return the points as they would be under other conditions, everything else kept.

        .. math:: z' = \mu_p(c') + \frac{s_p(c')}{s_p(c)} \bigl(z - \mu_p(c)\bigr)

        Without a generator, z is the posterior's mean. Of a mixture prior, mean and deviation are meant.
        """
        z = self.encode(x, c, mask, generator)
        old, e = self.prior(self.embedding(c, mask)), self.embedding(c_new, mask_new)
        new = self.prior(e)
        # The move is added to z, so that equal conditions return the reconstruction to the last bit.
        ratio = new.std / old.std
        moved = z + (new.mean - old.mean) + (ratio - 1) * (z - old.mean)
        return self.likelihood.mean(self._in_pieces(moved, e))

    @torch.no_grad()
    def interpolate(
        self,
        c0: Float[Tensor, "batch condition"],
        c1: Float[Tensor, "batch condition"],
        steps: int = 5,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch steps *shape"]:
        """Return decoded means on the line between two embedded conditions, with the latent's noise held fixed."""
        check_number("steps", steps, low=2, integer=True)
        a, b = self.embedding(c0, None), self.embedding(c1, None)
        eps = normal((len(a), self.prior.latent), a, generator)
        u = uniform((len(a),), a, generator)
        frames = []
        for t in torch.linspace(0, 1, steps).tolist():
            e = torch.lerp(a, b, t)
            frames.append(self.likelihood.mean(self._in_pieces(draw_latent(self.prior(e), eps, u), e)))
        return torch.stack(frames, dim=1)

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Float[Tensor, "batch *shape"],
        c: Float[Tensor, "batch condition"],
        S: int = 100,
        method: Literal["is", "mc"] = "is",
        *,
        mask: Bool[Tensor, "batch condition"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " batch"]:
        r"""Estimate log p(x | c) from S latents.

        "is" draws from the recogniser, :math:`\log \tfrac1S \sum_s p(x \mid z_s, c)\, p(z_s \mid c) / q(z_s \mid x,
        c)`; "mc" from the prior, which takes far more latents. Numbers of one likelihood only can be compared.
        """
        check_number("S", S, low=1, integer=True)
        check_choice("method", method, ["is", "mc"])
        x, e = self._inputs(x, c, mask)
        p = self.prior(e)

        def given(z: Tensor) -> Tensor:
            k = len(z)
            return self._log_likelihood(
                x.expand(k, *x.shape).flatten(0, 1), z.flatten(0, 1), e.expand(k, *e.shape).flatten(0, 1)
            ).unflatten(0, (k, len(x)))

        parts = []
        for start in range(0, S, step := max(1, _ROWS // len(x))):
            k = min(step, S - start)
            if method == "is":
                parts.append(iwae(lambda z: given(z) + p.log_prob(z), self.posterior(x, e), k, generator))
            else:
                eps = normal((k, len(x), self.prior.latent), e, generator)
                u = uniform((k, len(x)), e, generator)
                parts.append(given(draw_latent(p, eps, u)))
        return importance_bound(torch.cat(parts))

    @torch.no_grad()
    def divergence(
        self,
        x: Float[Tensor, "batch *shape"],
        c: Float[Tensor, "batch condition"],
        pairs: int = 32,
        *,
        mask: Bool[Tensor, "batch condition"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Divergence:
        """Return KL(q || p) of every point: in closed form, or for a mixture prior from ``pairs`` mirrored draws."""
        check_number("pairs", pairs, low=2, integer=True)
        x, e = self._inputs(x, c, mask)
        q, p = self.posterior(x, e), self.prior(e)
        if isinstance(p, DiagonalGaussian):
            return Divergence(q.kl(p).sum(-1), torch.zeros(len(x), device=x.device, dtype=x.dtype))
        eps = normal((pairs, *q.mu.shape), q.mu, generator)
        each = mirrored_divergence(q, p, eps)
        return Divergence(each.mean(0), each.std(0) / math.sqrt(pairs))

    def _inputs(self, x: Tensor, c: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if tuple(x.shape[1:]) != self.shape:
            inner = ", ".join(map(str, self.shape))
            raise ValueError(f"points must have shape (batch, {inner}), got {tuple(x.shape)}")
        if len(x) != len(c):
            raise ValueError(f"there must be one condition for every point, got {len(c)} for {len(x)}")
        self.likelihood.check(x)
        return x, self.embedding(c, mask)

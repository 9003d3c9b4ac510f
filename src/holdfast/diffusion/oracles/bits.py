"""The exact denoiser of a mixture of noisy bit patterns, and the exact law that a sampler of bits has."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.autoencoder.bernoulli import check_bits
from holdfast.diffusion.binary.sampler import BitPredictor, data_probability
from holdfast.diffusion.binary.schedule import BinarySchedule, PosteriorKind
from holdfast.diffusion.draws import bernoulli, categorical

__all__ = ["ExactBitDenoiser", "bit_states", "sampler_law", "total_variation"]


class ExactBitDenoiser(nn.Module):
    r"""Posterior of bits whose law is a mixture of templates with independent flips, in closed form.

    .. math:: p(z_0) = \sum_k w_k \prod_n \mathcal B(z_{0,n}; m_{kn}), \qquad
              P(z_{0,n} = 1 \mid z_t) = \sum_k P(k \mid z_t)\,
              \frac{m_{kn}\, q(z_{t,n} \mid 1)}{m_{kn}\, q(z_{t,n} \mid 1) + (1 - m_{kn})\, q(z_{t,n} \mid 0)}

    with :math:`m_{kn}` the template's bit, flipped with probability ``flip_prob``. A denoiser with no error: samplers
    and bounds are tested with it, and nothing is trained. With ``classes`` a call with y conditions on the templates
    of that class, and the number of classes stands for none.

    Args:
        templates: (K, ...) bits.
        flip_prob: in [0, 1/2].
        schedule: the process.
        weights: of the templates, positive; equal where omitted.
        classes: (K,) class of every template.

    Raises:
        ValueError: for templates that are not bits, or numbers out of range.

    Source: Bayes' rule; the process is that of Wang et al., "Binary Latent Diffusion", CVPR 2023.

    Examples:
        >>> model = ExactBitDenoiser(torch.tensor([[0, 0], [1, 1]]), 0.0, BinarySchedule(4))
        >>> model.probability(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), 2).float()
        tensor([[0.9000, 0.9000],
                [0.5000, 0.5000]])
    """

    log_weights: Tensor
    means: Tensor
    classes: Tensor | None

    def __init__(
        self,
        templates: Shaped[Tensor, "templates *shape"],
        flip_prob: float,
        schedule: BinarySchedule,
        *,
        weights: Float[Tensor, " templates"] | None = None,
        classes: Int[Tensor, " templates"] | None = None,
    ) -> None:
        super().__init__()
        if templates.ndim < 2 or not len(templates):
            raise ValueError(f"templates must have shape (K, ...) with K >= 1, got {tuple(templates.shape)}")
        check_bits("templates", templates)
        check_number("flip_prob", flip_prob, low=0, high=0.5)
        w = torch.ones(len(templates), dtype=torch.float64) if weights is None else weights.double()
        if w.shape != (len(templates),) or not bool((w > 0).all()) or not bool(torch.isfinite(w).all()):
            raise ValueError(f"weights must be {len(templates)} positive numbers, got {w.tolist()}")
        self.schedule, self.shape = schedule, tuple(templates.shape[1:])
        flat = templates.double().flatten(1)
        self.register_buffer("means", flat * (1 - 2 * flip_prob) + flip_prob)
        self.register_buffer("log_weights", (w / w.sum()).log())
        self.register_buffer("classes", classes)

    @property
    def null_class(self) -> int | None:
        """The label that conditions on nothing, where templates have classes."""
        return None if self.classes is None else int(self.classes.max()) + 1

    def probability(
        self,
        z_t: Float[Tensor, "batch *shape"],
        t: int | Int[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        """Return :math:`P(z_0 = 1 \\mid z_t)` in float64; t = 0 is allowed."""
        flat, k = self._enter(z_t, t)
        q1 = _agree(flat, k)
        both1, both0 = self.means * q1[:, None], (1 - self.means) * (1 - q1)[:, None]
        evidence = both1 + both0
        responsibility = (self._prior(y, len(flat)) + evidence.log().sum(2)).softmax(1)
        p = torch.where(evidence > 0, both1 / evidence, self.means)
        return torch.einsum("bk,bkn->bn", responsibility, p).view(z_t.shape)

    def flip_logits(
        self,
        z_t: Float[Tensor, "batch *shape"],
        t: int | Int[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        """Return the logit of every bit's flip, in float64; infinite where it is certain."""
        return (1 - 2 * z_t.double()) * self.probability(z_t, t, y).logit()

    def log_prob(
        self, z_t: Shaped[Tensor, "batch *shape"], t: int = 0, y: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        """Return the log-probability of :math:`z_t`, of the data themselves at t = 0."""
        flat, k = self._enter(z_t, t)
        m = k[:, None] * self.means + (1 - k[:, None]) / 2
        bits = flat[:, None]
        each = torch.xlogy(bits, m).sum(2) + torch.xlogy(1 - bits, 1 - m).sum(2)
        return (self._prior(y, len(flat)) + each).logsumexp(1)

    def draw(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n *shape"]:
        """Return n draws of the data."""
        check_number("n", n, low=1, integer=True)
        picked = categorical(self.log_weights.exp().expand(int(n), -1), generator=generator)
        return bernoulli(self.means[picked], generator=generator).to(torch.get_default_dtype()).view(-1, *self.shape)

    def _enter(self, z: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        if tuple(z.shape[1:]) != self.shape:
            raise ValueError(f"bits must have the templates' shape {self.shape}, got {tuple(z.shape[1:])}")
        check_bits("z_t", z)
        k = self.schedule.at(t, z, low=0).reshape(-1, 1)
        return z.double().flatten(1), k.expand(len(z), 1)

    def _prior(self, y: Tensor | None, n: int) -> Tensor:
        if y is None:
            return self.log_weights.expand(n, -1)
        if self.classes is None:
            raise ValueError("y needs the classes of the templates, which were not given")
        other = (y[:, None] != self.classes) & (y[:, None] != self.null_class)
        return self.log_weights.masked_fill(other, -torch.inf)


def _agree(z: Tensor, k: Tensor) -> Tensor:
    """Probability of the observed bits given a bit of 1 in the data; of 0 it is one minus this."""
    return k * z + (1 - k) / 2


def bit_states(n: int) -> Float[Tensor, "states n"]:
    """Return all :math:`2^n` vectors of n bits, in float64; the first bit is the least significant.

    Examples:
        >>> bit_states(2).tolist()
        [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """
    check_number("n", n, low=1, high=16, integer=True)
    return (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).double()


@torch.no_grad()
def sampler_law(
    model: BitPredictor,
    n: int,
    *,
    steps: int | None = None,
    temperature: float = 1.0,
    last: Literal["draw", "argmax"] = "draw",
    posterior: PosteriorKind = "mixture",
) -> Float[Tensor, " states"]:
    r"""Return the exact law of :func:`~holdfast.diffusion.binary.sampler.binary_ancestral` over all n-bit vectors.

    The chain's :math:`2^n \times 2^n` transition of every step is written out and multiplied: no draw is made.

    Args:
        n: bits, at most 12.
        steps, temperature, last, posterior: of the sampler.

    Examples:
        >>> model = ExactBitDenoiser(torch.tensor([[0, 0], [1, 1]]), 0.0, BinarySchedule(100))
        >>> [round(p, 2) for p in sampler_law(model, 2).tolist()]
        [0.5, 0.0, 0.0, 0.5]
    """
    check_number("n", n, low=1, high=12, integer=True)
    check_choice("last", last, ("draw", "argmax"))
    schedule, states = model.schedule, bit_states(n)
    law = torch.full((len(states),), 1.0 / len(states), dtype=torch.float64)
    times = schedule.grid(schedule.steps if steps is None else steps)
    for t, s in zip(times, [*times[1:], 0]):
        p = data_probability(model, states, t, temperature=temperature)
        p = (p > 0.5).double() if s == 0 and last == "argmax" else schedule.posterior(states, p, t, s, posterior)
        log1, log0 = p.clamp(min=1e-300).log(), (1 - p).clamp(min=1e-300).log()
        law = law @ (log1 @ states.T + log0 @ (1 - states).T).exp()
    return law


def total_variation(p: Float[Tensor, " states"], q: Float[Tensor, " states"]) -> float:
    """Return half the sum of absolute differences of two laws.

    Examples:
        >>> total_variation(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
        0.5
    """
    return float((p - q).abs().sum() / 2)

"""Laws of a latent given a condition: learned, standard, or a mixture."""

from __future__ import annotations

from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from holdfast.core.checks import check_choice, check_number
from holdfast.nn.feed_forward import feed_forward
from holdfast.nn.gaussian import DiagonalGaussian

__all__ = ["AttributePrior", "LatentLaw", "MixtureLaw", "draw_latent"]

_LOG_VARIANCE = (-4.0, 4.0)


class MixtureLaw(NamedTuple):
    """A mixture of Gaussians with independent coordinates, one for every row.

    Examples:
        >>> import torch
        >>> law = MixtureLaw(torch.zeros(1, 2).log_softmax(-1), torch.tensor([[[-1.0], [1.0]]]), torch.zeros(1, 2, 1))
        >>> law.mean.item(), round(law.std.item() ** 2, 4)
        (0.0, 2.0)
    """

    log_weight: Float[Tensor, "batch components"]
    mu: Float[Tensor, "batch components latent"]
    log_var: Float[Tensor, "batch components latent"]

    @property
    def mean(self) -> Float[Tensor, "batch latent"]:
        """Mean of every row's mixture."""
        return (self.log_weight.exp()[..., None] * self.mu).sum(-2)

    @property
    def std(self) -> Float[Tensor, "batch latent"]:
        """Standard deviation of every coordinate of every row's mixture."""
        second = (self.log_weight.exp()[..., None] * (self.log_var.exp() + self.mu.square())).sum(-2)
        return (second - self.mean.square()).clamp_min(1e-12).sqrt()

    def log_prob(self, z: Float[Tensor, "*draws batch latent"]) -> Float[Tensor, "*draws batch"]:
        """Return the log-density of one point, or several, for every row."""
        each = Normal(self.mu, (0.5 * self.log_var).exp(), validate_args=False).log_prob(z[..., None, :]).sum(-1)
        return (self.log_weight + each).logsumexp(-1)


LatentLaw = DiagonalGaussian | MixtureLaw


def draw_latent(
    law: LatentLaw,
    eps: Float[Tensor, "*draws batch latent"],
    u: Float[Tensor, "*draws batch"],
    temperature: float = 1.0,
) -> Float[Tensor, "*draws batch latent"]:
    """Return the latents at given noise: ``eps`` normal, scaled by the temperature, ``u`` uniform for the component.

    Examples:
        >>> import torch
        >>> law = DiagonalGaussian(torch.ones(1, 2), torch.zeros(1, 2))
        >>> draw_latent(law, torch.ones(3, 1, 2), torch.zeros(3, 1), 0.5)[0]
        tensor([[1.5000, 1.5000]])
    """
    if isinstance(law, DiagonalGaussian):
        return law.mu + temperature * law.std * eps
    total = law.log_weight.exp().cumsum(-1)
    k = (u[..., None] >= total / total[..., -1:]).sum(-1).clamp_max(law.mu.shape[-2] - 1)
    shape = (*k.shape, 1, law.mu.shape[-1])
    at = k[..., None, None].expand(shape)
    mu = law.mu.expand(*k.shape, *law.mu.shape[-2:]).gather(-2, at).squeeze(-2)
    log_var = law.log_var.expand(*k.shape, *law.mu.shape[-2:]).gather(-2, at).squeeze(-2)
    return mu + temperature * (0.5 * log_var).exp() * eps


class AttributePrior(nn.Module):
    r"""Law of the latent given an embedded condition.

    "learned": :math:`p(z \mid c) = N(\mu(c), \mathrm{diag}\, s^2(c))`, a perceptron whose last layer starts at zero,
    so that training starts from the standard normal. "standard": N(0, I) whatever the condition. "mixture":
    :math:`\sum_k \pi_k(c) N(\mu_k(c), \mathrm{diag}\, s_k^2(c))`.

    Args:
        condition: length of the embedded condition.
        latent: length L of the latent.
        kind: "learned", "standard" or "mixture".
        components: K of the mixture.
        width: units of the hidden layer; log-variances are kept in [-4, 4].

    Raises:
        ValueError: for fewer than one latent, or another kind.

    Source: Sohn, Lee and Yan, "Learning structured output representation using deep conditional generative models",
    NeurIPS 2015, section 4.

    Examples:
        >>> import torch
        >>> AttributePrior(3, 2)(torch.ones(4, 3)).std
        tensor([[1., 1.],
                [1., 1.],
                [1., 1.],
                [1., 1.]], grad_fn=<ExpBackward0>)
    """

    def __init__(
        self,
        condition: int,
        latent: int,
        kind: Literal["learned", "standard", "mixture"] = "learned",
        *,
        components: int = 5,
        width: int = 128,
    ) -> None:
        super().__init__()
        self.condition = int(check_number("condition", condition, low=1, integer=True))
        self.latent = int(check_number("latent", latent, low=1, integer=True))
        self.kind = check_choice("kind", kind, ["learned", "standard", "mixture"])
        self.components = int(check_number("components", components, low=1, integer=True)) if kind == "mixture" else 1
        self.net = None
        if kind != "standard":
            out = 2 * latent if kind == "learned" else self.components * (2 * latent + 1)
            self.net = feed_forward(condition, width, out, layers=1, activation=nn.ReLU)
            last = self.net[-1]
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
            if kind == "mixture":
                # Equal components would stay equal for ever.
                nn.init.normal_(last.bias[: self.components * latent])  # type: ignore[index]

    def forward(self, e: Float[Tensor, "batch condition"]) -> LatentLaw:
        """Return the law of every row."""
        if self.net is None:
            zero = e.new_zeros(len(e), self.latent)
            return DiagonalGaussian(zero, zero)
        out = self.net(e)
        if self.kind == "learned":
            mu, log_var = out.chunk(2, dim=-1)
            return DiagonalGaussian(mu, log_var.clamp(*_LOG_VARIANCE))
        k, n = self.components, self.components * self.latent
        mu, log_var = (part.unflatten(-1, (k, self.latent)) for part in (out[:, :n], out[:, n : 2 * n]))
        return MixtureLaw(out[:, 2 * n :].log_softmax(-1), mu, log_var.clamp(*_LOG_VARIANCE))

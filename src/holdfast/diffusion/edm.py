"""Preconditioning by noise level: networks whose inputs and targets have unit variance at every level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.denoiser import Output
from holdfast.diffusion.paths import Coefficients, Path

__all__ = ["EDMPreconditioner", "EDMWeight", "LogNormalSigma", "VEPath"]


class VEPath(Path):
    r"""The variance-exploding path: :math:`x_t = x_0 + t\,\epsilon`, the time is the noise level.

    Its last level has the standard deviation ``sigma_max``, so samplers start from
    :func:`holdfast.diffusion.samplers.prior`, not from standard normal noise.

    Raises:
        ValueError: unless ``sigma_max`` is positive.

    Source: Karras, Aittala, Aila and Laine, "Elucidating the design space of diffusion-based generative models",
    NeurIPS 2022, section 2.

    Examples:
        >>> VEPath().noise(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([3.0]))
        tensor([[4., 4.]])
    """

    def __init__(self, sigma_max: float = 80.0) -> None:
        self.t_max = float(check_number("sigma_max", sigma_max, low=0, open_low=True))

    def coefficients(self, t: Float[Tensor, " batch"]) -> Coefficients:
        """Return alpha, sigma and their derivatives."""
        one = torch.ones_like(t)
        return Coefficients(one, t, torch.zeros_like(t), one)


class EDMPreconditioner(nn.Module):
    r"""A network wrapped so that it predicts data on a :class:`VEPath`.

    .. math:: D(x; \sigma) = c_{skip}\,x + c_{out}\,F(c_{in}\,x;\, c_{noise})

    .. math:: c_{skip} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2},\quad
              c_{out} = \frac{\sigma\sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}},\quad
              c_{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}},\quad c_{noise} = \tfrac14 \ln\sigma

    Use it as the network of a :class:`holdfast.diffusion.denoiser.Denoiser` on a :class:`VEPath` with prediction
    "data", and train with ``time_sampling=LogNormalSigma()`` and ``weighting=EDMWeight()``.

    Args:
        network: from ``(x, t, y, taps=, stop_at=)`` to an :class:`holdfast.diffusion.denoiser.Output` or a tensor;
            ``t`` is :math:`c_{noise}`.
        sigma_data: standard deviation of the data.

    Raises:
        ValueError: unless ``sigma_data`` is positive.

    Source: Karras et al., NeurIPS 2022, equation 7 and table 1.

    Examples:
        >>> class Zero(nn.Module):
        ...     def forward(self, x, t, y=None):
        ...         return torch.zeros_like(x)
        >>> EDMPreconditioner(Zero(), sigma_data=1.0)(torch.ones(1, 1), torch.tensor([1.0])).pred
        tensor([[0.5000]])
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = check_number("sigma_data", sigma_data, low=0, open_low=True)

    @property
    def depth(self) -> int | None:
        """Blocks of the network, where it counts them."""
        return getattr(self.network, "depth", None)

    @property
    def class_dropout(self) -> float:
        """Share of labels that training drops."""
        return getattr(self.network, "class_dropout", 0.0)

    @property
    def null_class(self) -> int | None:
        """The network's label of no class."""
        return getattr(self.network, "null_class", None)

    def scalings(self, sigma: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return :math:`c_{skip}, c_{out}, c_{in}, c_{noise}` at every noise level."""
        total = sigma.square() + self.sigma_data**2
        # Without noise the output is x itself, whatever the network says: its input only has to be finite.
        noise = sigma.clamp_min(1e-5).log() / 4
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), total.rsqrt(), noise

    def forward(
        self,
        x: Float[Tensor, "batch *shape"],
        t: Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
    ) -> Output:
        """Return the predicted data at noise level ``t``, and the network's taps."""
        shape = (-1, *[1] * (x.ndim - 1))
        skip, out, scale, level = self.scalings(t)
        asked = {k: v for k, v in (("taps", taps), ("stop_at", stop_at)) if v}
        labels = () if y is None else (y,)
        found = self.network(scale.view(shape) * x, level, *labels, **asked)
        if not isinstance(found, Output):
            found = Output(found, {})
        if found.pred is None:
            return found
        return Output(skip.view(shape) * x + out.view(shape) * found.like(x), found.taps)


@dataclass(frozen=True)
class LogNormalSigma:
    r"""Training noise levels :math:`\ln\sigma \sim N(m, s^2)`, cut at ``largest``; a ``time_sampling``.

    Raises:
        ValueError: unless ``std`` and ``largest`` are positive.

    Source: Karras et al., NeurIPS 2022, table 1.

    Examples:
        >>> sigma = LogNormalSigma()(10_000, torch.Generator().manual_seed(0))
        >>> round(sigma.log().mean().item(), 1), round(sigma.log().std().item(), 1)
        (-1.2, 1.2)
    """

    mean: float = -1.2
    std: float = 1.2
    largest: float = 80.0

    def __post_init__(self) -> None:
        check_number("mean", self.mean)
        check_number("std", self.std, low=0, open_low=True)
        check_number("largest", self.largest, low=0, open_low=True)

    def __call__(self, n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
        """Draw ``n`` noise levels."""
        z = torch.randn(n, generator=generator, device=generator.device)
        return (self.mean + self.std * z).clamp(max=math.log(self.largest)).exp().clamp(max=self.largest)


@dataclass(frozen=True)
class EDMWeight:
    r"""Weight of the squared error of the data at a noise level, the inverse of :math:`c_{out}^2`.

    .. math:: \lambda(\sigma) = \frac{\sigma^2 + \sigma_d^2}{(\sigma\,\sigma_d)^2}

    At initialisation, where the network's output is near 0, all levels then have about the same loss.

    Raises:
        ValueError: unless ``sigma_data`` is positive.

    Source: Karras et al., NeurIPS 2022, table 1.

    Examples:
        >>> EDMWeight(1.0)(torch.tensor([1.0, 2.0]))
        tensor([2.0000, 1.2500])
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_number("sigma_data", self.sigma_data, low=0, open_low=True)

    def __call__(self, sigma: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the weight at every noise level."""
        return (sigma.square() + self.sigma_data**2) / (sigma * self.sigma_data).square()

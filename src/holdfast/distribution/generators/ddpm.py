"""A diffusion model that is told the code of the law it samples from."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser, Output
from holdfast.diffusion.samplers import ddim, ddpm
from holdfast.distribution.generators.inputs import check_codes, check_points
from holdfast.nn.feed_forward import feed_forward

__all__ = ["CodeAsChannels", "ConditionalDDPM"]

_ROWS = 1 << 16  # points that are sampled at once


class _PerceptronOfAll(nn.Module):
    """``MLP([x_t ; z ; t / T])``."""

    def __init__(self, features: int, code: int, width: int, layers: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.net = feed_forward(features + code + 1, width, features, layers=layers)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        return self.net(torch.cat([x, z, t[:, None] / self.steps], dim=-1))


class CodeAsChannels(nn.Module):
    """Tell a network of images the code: a linear map of it joins the image as constant channels.

    Args:
        network: from (batch, C + ``channels``, H, W) and times to at least C channels, such as
            :class:`holdfast.diffusion.UNet`; the first C are taken.
        code: length l of a code.
        channels: how many channels carry it.

    Examples:
        >>> from holdfast.diffusion import UNet
        >>> net = CodeAsChannels(UNet(1 + 2, 8, 8, (1, 2), 1), code=4, channels=2)
        >>> net(torch.zeros(3, 1, 8, 8), torch.zeros(3), torch.zeros(3, 4)).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(self, network: nn.Module, code: int, channels: int = 8) -> None:
        super().__init__()
        self.network, self.code = network, nn.Linear(code, channels)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Float[Tensor, " batch"],
        z: Float[Tensor, "batch code"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the network's prediction for images ``x`` at times ``t``."""
        planes = self.code(z)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        out = self.network(torch.cat([x, planes], dim=1), t)
        return (out if isinstance(out, Output) else Output(out, {})).like(x)


class ConditionalDDPM(nn.Module):
    r"""Denoising diffusion of single points, conditioned on the code of their set.

    .. math:: \mathrm{loss} = E\,\lVert \epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t}\, x +
              \sqrt{1 - \bar\alpha_t}\, \epsilon,\; t,\; z) \rVert^2 / d

    Args:
        features: dimension d of a point (ignored for the shape when ``network`` and ``shape`` are given).
        code: length l of a code.
        width, layers: of the perceptron ``MLP([x_t ; z ; t / T])``.
        steps, beta_start, beta_end: the noise levels, linear in beta.
        sampler_steps: fewer steps of the deterministic sampler (DDIM); ``None`` samples ancestrally through all.
        loss_points: points of every set that the loss is taken on, drawn at random; ``None`` for all.
        network: another network from noised points, times and codes to the noise; see :class:`CodeAsChannels`.
        shape: of a point, where it is no vector.

    Source: Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020; as a decoder of codes:
    Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> model = ConditionalDDPM(3, 4, steps=20, beta_end=0.3)
        >>> rng = torch.Generator().manual_seed(0)
        >>> model.loss(torch.randn(2, 5, 3), torch.zeros(2, 4), rng).ndim
        0
        >>> model.sample(torch.zeros(2, 4), 7, rng).shape
        torch.Size([2, 7, 3])
    """

    def __init__(
        self,
        features: int,
        code: int,
        *,
        width: int = 128,
        layers: int = 4,
        steps: int = 400,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        sampler_steps: int | None = None,
        loss_points: int | None = None,
        network: nn.Module | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        check_number("features", features, low=1, integer=True)
        check_number("code", code, low=1, integer=True)
        if sampler_steps is not None:
            check_number("sampler_steps", sampler_steps, low=1, high=steps, integer=True)
        if loss_points is not None:
            check_number("loss_points", loss_points, low=1, integer=True)
        self.shape, self.code = (features,) if shape is None else tuple(shape), code
        self.sampler_steps, self.loss_points = sampler_steps, loss_points
        if network is None:
            network = _PerceptronOfAll(features, code, width, layers, steps)
        self.schedule = DDPMSchedule(steps, "linear", beta_start, beta_end)
        self.denoiser = Denoiser(network, self.schedule, "noise")

    def loss(
        self,
        x: Float[Tensor, "batch points *shape"],
        z: Float[Tensor, "batch code"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the predicted noise, at one random level for every point."""
        check_points(x, z, self.shape, self.code)
        if self.loss_points is not None and self.loss_points < x.shape[1]:
            keys = torch.rand(x.shape[:2], generator=generator, device=x.device)
            chosen = keys.topk(self.loss_points, dim=1).indices
            x = x[torch.arange(len(x), device=x.device)[:, None], chosen]
        path = self.schedule
        points, codes = x.flatten(0, 1), z.repeat_interleave(x.shape[1], dim=0)
        t = torch.randint(path.steps, (len(points),), generator=generator, device=x.device).to(x.dtype)
        eps = torch.randn(points.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (self.denoiser(path.noise(points, eps, t), t, codes).like(points) - eps).square().mean()

    @torch.no_grad()
    def sample(
        self, z: Float[Tensor, "batch code"], n: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch n *shape"]:
        """Draw ``n`` points for every code."""
        check_codes(z, self.code)
        check_number("n", n, low=1, integer=True)
        rng = generator if generator is not None else torch.Generator(z.device).manual_seed(0)
        codes, parts = z.repeat_interleave(n, dim=0), []
        for piece in codes.split(_ROWS):
            start = torch.randn((len(piece), *self.shape), generator=rng, device=rng.device, dtype=z.dtype).to(z.device)
            if self.sampler_steps is None:
                levels = self.schedule.steps
                parts.append(ddpm(self.denoiser, start, steps=levels, generator=rng, y=piece).x)
            else:
                parts.append(ddim(self.denoiser, start, steps=self.sampler_steps, y=piece).x)
        return torch.cat(parts).unflatten(0, (len(z), n))

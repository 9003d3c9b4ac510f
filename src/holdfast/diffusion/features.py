"""Features of a frozen diffusion network: one noised pass, read at chosen blocks and times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_finite, check_number
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.feature_table import FeatureTable, extract
from holdfast.diffusion.feedback import DecoderFeedback
from holdfast.diffusion.row_noise import row_noise

__all__ = ["DiffusionFeatures", "Key", "Noise", "pool_map"]

Key = tuple[float, int]
"""Time and block that a feature comes from."""

Noise = Literal["fresh", "fixed", "shared"]

_TOLERANCE = 1e-3


def pool_map(h: Float[Tensor, "batch channels height width"], pool: int | None) -> Float[Tensor, "batch channels d d"]:
    """Average a map to ``pool`` x ``pool`` places; ``None`` leaves it as it is.

    Raises:
        ValueError: for a ``pool`` that is larger than the map.

    Examples:
        >>> pool_map(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), 1)
        tensor([[[[4.]]]])
    """
    if pool is None:
        return h
    if pool > min(h.shape[-2:]):
        raise ValueError(f"pool must be at most the side of the map, got pool={pool} for {tuple(h.shape[-2:])}")
    return h if tuple(h.shape[-2:]) == (pool, pool) else F.adaptive_avg_pool2d(h, pool)


class DiffusionFeatures(nn.Module):
    r"""Maps of a denoising network at times t and blocks b, for images in [-1, 1].

    .. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad F_{t,b} = \mathrm{pool}_d\, h_b(x_t, t)

    One pass serves all blocks of a time, and ends after the last of them. Tokens of a transformer become the map of
    their grid, and hidden units of a network on vectors a map of one place.

    Args:
        model: a :class:`holdfast.diffusion.denoiser.Denoiser` on a network with taps.
        t: one time or several, in the units of the model's path.
        block: one block or several, from 1; print the network's block table to see what they are.
        pool: side d of the map after average pooling; ``None`` keeps the map.
        noise: "fresh" draws anew at every call, from the generator it is given; "fixed" depends on ``seed`` and the
            row's number; "shared" is one draw for all rows, so that a feature depends on the image alone. "mean:k"
            stands for the mean over k fixed draws.
        draws: features are means over so many draws of the noise.
        seed: of fixed and shared noise.
        bound: largest size of an input's value; ``None`` for latents and vectors, which have none.
        feedback: a second pass with what :class:`holdfast.diffusion.feedback.DecoderFeedback` makes of the first.
        frozen: keep the network out of the graph of gradients and in evaluation mode.

    Raises:
        ValueError: for a time outside the path, a block outside the network, a pool larger than a map, images out of
            bound, or a class-conditional network without labels.

    Source: Mukhopadhyay et al., "Diffusion Models Beat GANs on Image Classification", 2023, section 3.

    Examples:
        >>> from holdfast.diffusion.backbones.unet import UNet
        >>> from holdfast.diffusion.ddpm import DDPMSchedule
        >>> model = Denoiser(UNet(1, 8, 8, (1, 2), 1), DDPMSchedule(), "noise")
        >>> features = DiffusionFeatures(model, t=90, block=(4, 6), pool=2)
        >>> {key: tuple(h.shape) for key, h in features(torch.zeros(3, 1, 8, 8)).items()}
        {(90.0, 4): (3, 16, 2, 2), (90.0, 6): (3, 16, 2, 2)}
    """

    def __init__(
        self,
        model: Denoiser,
        t: float | Sequence[float],
        block: int | Sequence[int],
        *,
        pool: int | None = 1,
        noise: Noise | str = "fixed",
        draws: int = 1,
        seed: int = 0,
        bound: float | None = 1.0,
        feedback: DecoderFeedback | None = None,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(model, Denoiser):
            raise TypeError(f"model must be a Denoiser (network, path and prediction), got {type(model).__name__}")
        if found := re.fullmatch(r"mean:(\d+)", noise):
            noise, draws = "fixed", int(found[1])
        self.noise: Noise = check_choice("noise", noise, ("fresh", "fixed", "shared"))
        self.draws = int(check_number("draws", draws, low=1, integer=True))
        self.seed = int(check_number("seed", seed, low=0, integer=True))
        if pool is not None:
            check_number("pool", pool, low=1, integer=True)
        if bound is not None:
            check_number("bound", bound, low=0, open_low=True)
        self.single = isinstance(t, (int, float, np.number)) and isinstance(block, (int, np.integer))
        self.times = tuple(float(v) for v in ([t] if isinstance(t, (int, float, np.number)) else t))
        self.blocks = tuple(int(b) for b in ([block] if isinstance(block, (int, np.integer)) else block))
        if not self.times or not self.blocks:
            raise ValueError(f"give at least one time and one block, got t={t!r} and block={block!r}")
        for v in self.times:
            check_number("t", v, low=model.path.t_min, high=model.path.t_max)
        depth = getattr(model.network, "depth", None)
        if isinstance(depth, int) and (outside := [b for b in self.blocks if not 1 <= b <= depth]):
            raise ValueError(f"blocks are numbered from 1 to {depth}, got {outside[0]}")
        self.model, self.pool, self.bound, self.feedback, self.frozen = model, pool, bound, feedback, frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> DiffusionFeatures:
        """Set the mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    @property
    def keys(self) -> tuple[Key, ...]:
        """Times and blocks of the features."""
        return tuple((t, b) for t in self.times for b in self.blocks)

    def forward(
        self,
        images: Float[Tensor, "batch *shape"],
        y: Int[Tensor, " batch"] | int | None = None,
        *,
        rows: Int[Tensor, " batch"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Return the map (batch, channels, d, d), or a dictionary of maps by (time, block) where there are several.

        Args:
            images: clean inputs, in [-1, 1] unless ``bound`` says otherwise.
            y: labels for a class-conditional network; one number, such as its ``null_class``, for all.
            rows: numbers of the rows in their data set, for fixed noise; 0, 1, ... by default.
            generator: of fresh noise, on the device of the images.
        """
        found: dict[Key, Tensor] = {}
        for t in self.times:
            found |= {(t, b): h for b, h in self.at(images, t, y, rows=rows, generator=generator).items()}
        return next(iter(found.values())) if self.single else found

    def at(
        self,
        images: Float[Tensor, "batch *shape"],
        t: float,
        y: Int[Tensor, " batch"] | int | None = None,
        *,
        rows: Int[Tensor, " batch"] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[int, Float[Tensor, "batch channels d d"]]:
        """Return the maps of one time by block; arguments as in a call."""
        self._check(images)
        labels = self._labels(y, images)
        total: dict[int, Tensor] = {}
        for draw in range(self.draws):
            maps = self._maps(images, self._epsilon(images, t, draw, rows, generator), t, labels)
            total = {b: total[b] + h for b, h in maps.items()} if total else maps
        return {b: h / self.draws for b, h in total.items()} if self.draws > 1 else total

    def _check(self, images: Tensor) -> None:
        check_finite("images", images)
        if self.bound is not None and len(images):
            low, high = float(images.min()), float(images.max())
            if low < -self.bound - _TOLERANCE or high > self.bound + _TOLERANCE:
                raise ValueError(
                    f"images must lie in [{-self.bound:g}, {self.bound:g}], got values from {low:g} to {high:g}; "
                    "scale them, or give bound=None for inputs that have no range"
                )

    def _labels(self, y: Any, images: Tensor) -> Tensor | None:
        if y is None:
            if getattr(self.model.network, "num_classes", 0):
                raise ValueError("this model is class-conditional: give labels y, or its null_class for none")
            return None
        return torch.full((len(images),), y, device=images.device) if isinstance(y, int) else y.to(images.device)

    def _epsilon(
        self, x: Tensor, t: float, draw: int, rows: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        if self.noise == "fresh":
            if generator is None:
                raise ValueError("fresh noise needs a generator to draw from")
            return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        if self.noise == "shared":
            rows = torch.zeros(1, dtype=torch.int64, device=x.device)
        elif rows is None:
            rows = torch.arange(len(x), device=x.device)
        eps = row_noise(rows.to(x.device), x.shape[1:], self.seed, repr(t), draw)
        return eps.to(x.dtype).expand(x.shape)

    def _maps(self, x0: Tensor, eps: Tensor, t: float, y: Tensor | None) -> dict[int, Tensor]:
        times = torch.full((len(x0),), t, dtype=x0.dtype, device=x0.device)
        taps, last = self.blocks, max(self.blocks)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x_t = self.model.path.noise(x0, eps, times)
            if self.feedback is None:
                found = self.model(x_t, times, y, taps=taps, stop_at=last).taps
            else:
                first = self.feedback.sources
                found = self.model(x_t, times, y, taps=first, stop_at=max(first)).taps
        if self.feedback is not None:
            # The graph goes through the network to the feedback, but a frozen network's weights are constants in it.
            network = self.model.network
            weights = {k: v.detach() if self.frozen else v for k, v in network.state_dict(keep_vars=True).items()}
            options = {"taps": taps, "stop_at": last, "add": self.feedback(found, last)}
            found = functional_call(network, weights, (x_t, times, y), options).taps
        return {b: pool_map(self._as_map(found[b]), self.pool).float() for b in taps}

    def _as_map(self, h: Tensor) -> Tensor:
        if h.ndim == 4:
            return h
        if h.ndim == 2:
            return h[:, :, None, None]
        grid = getattr(self.model.network, "grid", None)
        if grid is None or h.shape[1] != grid[0] * grid[1]:
            raise ValueError(f"tokens of shape {tuple(h.shape)} need a network with a grid to become a map, got {grid}")
        return h.mT.unflatten(2, tuple(grid))

    def extract(
        self,
        images: Any,
        y: Any = None,
        *,
        batch_size: int = 256,
        cache: str | Path | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> FeatureTable:
        """Return the features of a whole data set; see :func:`holdfast.diffusion.feature_table.extract`."""
        with torch.no_grad():
            return extract(self, images, y, batch_size=batch_size, cache=cache, generator=generator, progress=progress)

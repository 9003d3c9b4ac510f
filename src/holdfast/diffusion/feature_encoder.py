"""A frozen diffusion network as an encoder: raw input to one feature vector, with nothing drawn at prediction time."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.core.signature import InputSignature
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.features import pool_map
from holdfast.diffusion.networks import NETWORKS, make_denoising_network
from holdfast.diffusion.paths import LinearPath
from holdfast.diffusion.row_noise import row_noise
from holdfast.nn.backbones.mlp import FlatInput, TableInput
from holdfast.nn.standardize import Standardize

__all__ = ["DiffusionEncoder"]


class _ImageInput(nn.Module):
    """Images at the scale of a diffusion process: half the standardised value, at most ``side`` pixels, square."""

    def __init__(self, signature: InputSignature, side: int, factor: int) -> None:
        super().__init__()
        channels, height, width = signature.shape
        self.standardize = Standardize(channels, signature.mean, signature.std, dim=1)
        shrink = min(1.0, side / max(height, width))
        self.inner = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        square = math.ceil(max(self.inner) / factor) * factor
        self.shape = (channels, square, square)
        self.padding = (0, square - self.inner[1], 0, square - self.inner[0])

    def forward(self, x: Tensor) -> Float[Tensor, "batch channels side side"]:
        z = 0.5 * self.standardize(x)
        if tuple(z.shape[-2:]) != self.inner:
            z = F.adaptive_avg_pool2d(z, self.inner)
        return F.pad(z, self.padding, mode="replicate") if any(self.padding) else z


class _RowInput(nn.Module):
    """Vectors and tables as standardised rows."""

    def __init__(self, signature: InputSignature) -> None:
        super().__init__()
        s = signature
        if s.kind == "table":
            self.front: nn.Module = TableInput(s.n_numeric, s.cardinalities, s.mean, s.std, s.median, s.missing)
        else:
            self.front = FlatInput(s.shape, s.mean, s.std)
        self.shape = (int(self.front.out_dim),)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Float[Tensor, "batch features"]:
        return self.front(x)


class DiffusionEncoder(nn.Module):
    r"""What a denoising network sees of an input that is noised with the same noise every time.

    .. math:: \phi(x) = \frac1k \sum_{j=1}^{k} \mathrm{vec}\;\mathrm{pool}_d\; h_b((1 - t) x + t \epsilon_j,\; t)

    The noise is part of the encoder, so the features are a function of the input alone, saved and exported with it.

    Args:
        signature: of the input: vectors, tables or images.
        network: "auto", "unet", "dit", "mlp", or a module of your own.
        size: "tiny", "small", "base" or "large", see :data:`holdfast.diffusion.networks.NETWORKS`.
        resolution: images with a longer side are averaged down to it.
        draws: number k of draws of the noise.
        seed: of the noise.

    Raises:
        ValueError: for input of another kind, or a network that does not take it.

    Examples:
        >>> encoder = DiffusionEncoder(InputSignature("image", (1, 9, 6)), size="tiny")
        >>> encoder.look(time=0.1, block=6, pool=2)
        >>> encoder(torch.zeros(3, 1, 9, 6)).shape, encoder.out_dim
        (torch.Size([3, 64]), 64)
    """

    noise: Tensor

    def __init__(
        self,
        signature: InputSignature,
        *,
        network: str | nn.Module = "auto",
        size: str = "small",
        resolution: int = 32,
        draws: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_number("resolution", resolution, low=4, integer=True)
        check_number("draws", draws, low=1, integer=True)
        if signature.kind == "image":
            levels = len(NETWORKS["unet"].get(size, NETWORKS["unet"]["small"])["mult"])
            self.input: _ImageInput | _RowInput = _ImageInput(signature, resolution, 2 ** (levels - 1))
        elif signature.kind in ("vector", "table"):
            self.input = _RowInput(signature)
        else:
            raise ValueError(f"diffusion features are of vectors, tables and images, got {signature.kind}")
        self.input.requires_grad_(False)
        shape = self.input.shape
        if isinstance(network, str):
            network = make_denoising_network(
                shape,
                name=network,  # pyright: ignore[reportArgumentType]
                size=size,
                time_scale=1000.0,
            )
        else:
            network = copy.deepcopy(network)
        self.denoiser = Denoiser(network, LinearPath(), "velocity")
        eps = [row_noise(torch.zeros(1, dtype=torch.int64), shape, seed, "encoder", j) for j in range(draws)]
        self.register_buffer("noise", torch.cat(eps))
        self.time, self.block, self.pool = 0.0, 1, 1
        self.map_shape: tuple[int, ...] = (0, 1, 1)
        self.look(0.0, 1, 1)

    @property
    def out_dim(self) -> int:
        """Width of the features."""
        return math.prod(self.map_shape)

    def look(self, time: float, block: int, pool: int) -> None:
        """Read the map of ``block`` at ``time``, pooled to ``pool`` x ``pool`` places."""
        check_number("time", time, low=0, high=1)
        self.time, self.block, self.pool = float(time), int(block), int(pool)
        device = self.noise.device
        with torch.no_grad():
            self.map_shape = tuple(self._map(torch.zeros(1, *self.input.shape, device=device)).shape[1:])

    def scaled(self, x: Any) -> Float[Tensor, "batch *shape"]:
        """Return the input as the denoising network is trained on it."""
        return self.input(x)

    def _map(self, x0: Tensor) -> Float[Tensor, "batch channels d d"]:
        t = torch.full((x0.shape[0],), self.time, device=x0.device)
        total: Any = 0.0
        for eps in self.noise:
            x_t = (1 - self.time) * x0 + self.time * eps
            h = self.denoiser.network(x_t, t, taps=(self.block,), stop_at=self.block).taps[self.block]
            if h.ndim == 2:
                h = h[:, :, None, None]
            elif h.ndim == 3:
                rows, columns = self.denoiser.network.grid  # pyright: ignore[reportGeneralTypeIssues]
                h = h.mT.unflatten(2, (rows, columns))
            total = total + pool_map(h, min(self.pool, *h.shape[-2:]))
        return total / len(self.noise)

    def forward(self, x: Any) -> Float[Tensor, "batch out"]:
        """Return the features of raw input."""
        return self._map(self.scaled(x)).flatten(1)

"""A code whose parts hold what diffusion loses at different times, learned by repairing a frozen denoiser."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_finite, check_number
from holdfast.diffusion.samplers import ddim, ddim_invert
from holdfast.diffusion.time_steps.gate import TimeGate
from holdfast.diffusion.time_steps.guided import GuidedDenoiser, check_frozen, noise_and_shift

__all__ = ["PDAE", "DiTi", "Mode", "slerp"]

Mode = Literal["base", "stop_grad", "dual"]


class DiTi(nn.Module):
    r"""Encoder, frozen denoiser, shift and gate: the reconstruction at time t may use only the bands up to t.

    .. math:: E_{t, \epsilon}\; w_t\,\bigl\lVert \epsilon - \epsilon_\theta(x_t, t) - s_t\, g(x_t, t, u)\bigr\rVert^2,
              \qquad w_t = \frac{\mathrm{SNR}_t^{\gamma}}{1 + \mathrm{SNR}_t}

    with :math:`u = M_{i(t)} \odot f(x_0)`, the open part of the code. What the denoiser has just begun to lose is what
    the newest band is paid for, so that fine attributes go to early bands and coarse ones to late. The norm sums over
    pixels, as in the formula; Adam does not mind the scale, but a clipped gradient would. Only the encoder and the
    shift are trained; the frozen model stays in evaluation mode, and its parameters stop requiring gradients.

    Args:
        encoder: f, from clean samples to codes.
        frozen: a trained predictor on a :class:`holdfast.diffusion.DDPMSchedule`, in evaluation mode.
        shift: g, such as :class:`ShiftMLP` or :class:`ShiftUNet`.
        gate: which bands are open when.
        mode: "base" lets every open band learn; "stop_grad" only the newest, so that late losses do not write coarse
            facts into early bands; "dual" is the sum of both losses.
        snr_power: :math:`\gamma` of the weight.
        value_range: smallest and largest pixel that the frozen model was trained on; samples outside it are refused,
            and data predicted while decoding are clamped to it if it is symmetric. ``None`` for no range.

    Raises:
        TypeError, ValueError: for a frozen model that declares no prediction, has no time steps or is in training
            mode; widths that do not fit each other; samples outside the range.

    Source: Yue et al., "Exploring Diffusion Time-steps for Unsupervised Representation Learning", ICLR 2024,
    section 5; the shift and the weight of Zhang, Zhao and Lin, NeurIPS 2022.

    Examples:
        >>> from holdfast.diffusion.ddpm import DDPMSchedule
        >>> from holdfast.diffusion.oracles.empirical import EmpiricalDenoiser
        >>> from holdfast.diffusion.time_steps.code_encoder import MLPCodeEncoder
        >>> from holdfast.diffusion.time_steps.shift_mlp import ShiftMLP
        >>> x = torch.rand(8, 1, 4, 4) * 2 - 1
        >>> frozen = EmpiricalDenoiser(x, DDPMSchedule(1000)).eval()
        >>> model = DiTi(MLPCodeEncoder((1, 4, 4), 6), frozen, ShiftMLP((1, 4, 4), 6), TimeGate(6, 3))
        >>> model.encode(x).shape, model.loss(x, torch.Generator().manual_seed(0)).ndim
        (torch.Size([8, 6]), 0)
    """

    def __init__(
        self,
        encoder: nn.Module,
        frozen: Any,
        shift: Any,
        gate: TimeGate,
        mode: Mode = "stop_grad",
        *,
        snr_power: float = 0.1,
        value_range: tuple[float, float] | None = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        self.mode: Mode = check_choice("mode", mode, ("base", "stop_grad", "dual"))
        self.snr_power = check_number("snr_power", snr_power, low=0, high=1)
        self.path = check_frozen(frozen, gate)
        if getattr(shift, "code_dim", gate.dim) != gate.dim:
            raise ValueError(f"the gate has {gate.dim} entries, but the shift reads {shift.code_dim}")
        if getattr(encoder, "dim", gate.dim) != gate.dim:
            raise ValueError(f"the gate has {gate.dim} entries, but the encoder returns {encoder.dim}")
        if value_range is not None and not value_range[0] < value_range[1]:
            raise ValueError(f"value_range must be (low, high), got {value_range}")
        self.value_range = value_range
        self.encoder, self.shift, self.gate = encoder, shift, gate
        self.frozen = frozen.requires_grad_(False)

    def train(self, mode: bool = True) -> DiTi:
        """Set training or evaluation mode; the frozen model stays in evaluation mode."""
        super().train(mode)
        self.frozen.eval()
        return self

    # -- learning --------------------------------------------------------------------------------------------------

    def loss(self, x0: Float[Tensor, "batch *shape"], generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return the loss at uniform random times."""
        self.check_samples(x0)
        t = torch.randint(self.path.steps, (len(x0),), generator=generator, device=x0.device)
        eps = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
        return self.loss_at(x0, t, eps)

    forward = loss

    def loss_at(
        self,
        x0: Float[Tensor, "batch *shape"],
        t: Float[Tensor, " batch"],
        eps: Float[Tensor, "batch *shape"],
        *,
        frozen_eps: Float[Tensor, "batch *shape"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss at given times and noise.

        Args:
            frozen_eps: the frozen model's noise at ``(x_t, t)``, where it is at hand and the shift reads no taps.
        """
        t = t.to(x0.dtype)
        snr = self.path.snr(t)
        weight = snr**self.snr_power / (1 + snr)
        z, x_t = self.encoder(x0), self.path.noise(x0, eps, t)
        total = x0.new_zeros(())
        for mode in ("base", "stop_grad") if self.mode == "dual" else (self.mode,):
            corrected = self._corrected(x_t, t, self.gate(z, t, mode), frozen_eps)[1]
            total = total + (weight * (eps - corrected).square().flatten(1).sum(1)).mean()
        return total

    def _corrected(self, x_t: Tensor, t: Tensor, u: Tensor, frozen_eps: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the noise predicted by the frozen model, and as the shift corrects it."""
        if frozen_eps is not None and not self.shift.taps:
            noise, g = frozen_eps, self.shift(x_t, t, u, {})
        else:
            noise, g = noise_and_shift(self.frozen, self.shift, x_t, t, u)
        s = self.path.shift_coefficient(t).view(-1, *[1] * (x_t.ndim - 1))
        return noise, noise + s * g

    @torch.no_grad()
    def noise_errors(
        self, x0: Float[Tensor, "n *shape"], *, draws: int = 8, generator: torch.Generator, batch_size: int = 1024
    ) -> Float[Tensor, "bands 2"]:
        """Return per band the mean squared error of the noise: of the frozen model, and corrected.

        Every sample is noised ``draws`` times in every band, at times uniform in the band.
        """
        self.check_samples(x0)
        check_number("draws", draws, low=1, integer=True)
        z, out = self.encode(x0), torch.zeros(self.gate.bands, 2, dtype=torch.float64)
        edges = [-(-i * self.path.steps // self.gate.bands) for i in range(self.gate.bands + 1)]
        for band, (low, high) in enumerate(pairwise(edges)):
            for rows in torch.arange(len(x0)).repeat(int(draws)).split(batch_size):
                x, rng = x0[rows], {"generator": generator, "device": x0.device}
                t = torch.randint(low, high, (len(x),), **rng).to(x.dtype)
                eps = torch.randn(x.shape, dtype=x.dtype, **rng)
                pair = self._corrected(self.path.noise(x, eps, t), t, self.gate(z[rows], t), None)
                out[band] += torch.stack([(eps - p).square().flatten(1).mean(1).sum() for p in pair]).double().cpu()
        return out / (len(x0) * draws)

    # -- codes -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, x0: Float[Tensor, "n *shape"], *, batch_size: int = 1024) -> Float[Tensor, "n dim"]:
        """Return the codes, computed in evaluation mode."""
        self.check_samples(x0)
        training = self.encoder.training
        try:
            self.encoder.eval()
            return torch.cat([self.encoder(part) for part in x0.split(batch_size)])
        finally:
            self.encoder.train(training)

    def guided(self, z: Float[Tensor, "batch dim"]) -> GuidedDenoiser:
        """Return the frozen model guided by codes; every sampler takes it."""
        return GuidedDenoiser(self.frozen, self.shift, self.gate, z)

    def invert(
        self, x0: Float[Tensor, "batch *shape"], steps: int = 100, *, z: Float[Tensor, "batch dim"] | None = None
    ) -> Float[Tensor, "batch *shape"]:
        """Return the noise from which :meth:`decode` comes back to ``x0``, under its code or a given one."""
        self.check_samples(x0)
        return ddim_invert(self.guided(self.encode(x0) if z is None else z), x0, steps=steps).x

    def decode(
        self, z: Float[Tensor, "batch dim"], noise: Float[Tensor, "batch *shape"], steps: int = 100
    ) -> Float[Tensor, "batch *shape"]:
        """Return the samples that deterministic steps reach from ``noise`` under the codes."""
        low, high = self.value_range or (0.0, 0.0)
        return ddim(self.guided(z), noise, steps=steps, clip=high if high > 0 and low == -high else None).x

    def swap(
        self, z_a: Float[Tensor, "batch dim"], z_b: Float[Tensor, "batch dim"], bands: Iterable[int]
    ) -> Float[Tensor, "batch dim"]:
        """Return the first codes with the entries of ``bands`` from the second."""
        return self.interpolate(z_a, z_b, 1.0, bands)

    def interpolate(
        self,
        z_a: Float[Tensor, "batch dim"],
        z_b: Float[Tensor, "batch dim"],
        weight: float,
        bands: Iterable[int] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Return the first codes, moved on a straight line by ``weight`` towards the second in ``bands`` (all)."""
        if z_a.shape != z_b.shape or z_a.shape[-1] != self.gate.dim:
            raise ValueError(
                f"codes must have one shape (n, {self.gate.dim}), got {tuple(z_a.shape)} and {tuple(z_b.shape)}"
            )
        check_number("weight", weight, low=0, high=1)
        moved = self.gate.mask(range(self.gate.bands) if bands is None else bands)
        return torch.where(moved, torch.lerp(z_a, z_b, weight), z_a)

    def counterfactual(
        self,
        x_a: Float[Tensor, "batch *shape"],
        x_b: Float[Tensor, "batch *shape"],
        bands: Iterable[int],
        *,
        weight: float = 1.0,
        noise_weight: float = 0.0,
        steps: int = 100,
    ) -> Float[Tensor, "batch *shape"]:
        """Return the first samples with the attributes of ``bands`` moved by ``weight`` towards the second.

        ``noise_weight`` moves the noise too, on a great circle: noise found by inversion carries attributes, and
        kept as it is (0) it can hold coarse ones back.
        """
        z_a, z_b = self.encode(x_a), self.encode(x_b)
        noise = self.invert(x_a, steps, z=z_a)
        if noise_weight > 0:
            noise = slerp(noise, self.invert(x_b, steps, z=z_b), noise_weight)
        return self.decode(self.interpolate(z_a, z_b, weight, bands), noise, steps)

    def check_samples(self, x: Tensor) -> None:
        """Raise unless samples are finite and within the range of the frozen model."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
            what = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"samples must be a floating tensor (n, ...), got {what}")
        check_finite("samples", x)
        if self.value_range is None or x.numel() == 0:
            return
        low, high = self.value_range
        least, most = float(x.min()), float(x.max())
        if least < low or most > high:
            raise ValueError(
                f"the frozen model was trained on values in [{low:g}, {high:g}], but the samples reach from {least:g} "
                f"to {most:g}; rescale them, or give value_range"
            )


class PDAE(DiTi):
    """The pretrained-diffusion autoencoder: the same parts with one band, so that all of the code is always open.

    Args:
        encoder, frozen, shift, snr_power, value_range: see :class:`DiTi`.
        dim: entries of the code.

    Source: Zhang, Zhao and Lin, "Unsupervised representation learning from pre-trained diffusion probabilistic
    models", NeurIPS 2022.
    """

    def __init__(
        self,
        encoder: nn.Module,
        frozen: Any,
        shift: Any,
        dim: int,
        *,
        snr_power: float = 0.1,
        value_range: tuple[float, float] | None = (-1.0, 1.0),
    ) -> None:
        steps = getattr(getattr(frozen, "path", None), "steps", 1000)
        gate = TimeGate(dim, 1, steps=steps)
        super().__init__(encoder, frozen, shift, gate, "base", snr_power=snr_power, value_range=value_range)


def slerp(
    a: Float[Tensor, "batch *shape"], b: Float[Tensor, "batch *shape"], weight: float
) -> Float[Tensor, "batch *shape"]:
    r"""Move on the great circle from ``a`` to ``b``: :math:`(\sin((1 - w)\theta)\,a + \sin(w\theta)\,b) / \sin\theta`.

    Noise of the right norm stays so. Parallel samples are joined by a line.

    Examples:
        >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
        tensor([[0.7071, 0.7071]])
    """
    check_number("weight", weight, low=0, high=1)
    u, v = a.flatten(1), b.flatten(1)
    cos = nn.functional.cosine_similarity(u, v, dim=1).clamp(-1, 1)[:, None]
    theta, sin = cos.acos(), (1 - cos.square()).sqrt()
    arc = (((1 - weight) * theta).sin() * u + (weight * theta).sin() * v) / sin.clamp_min(1e-6)
    return torch.where(sin > 1e-4, arc, torch.lerp(u, v, weight)).view_as(a)

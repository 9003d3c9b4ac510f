"""A code cut into subsets that open one after the other as diffusion time passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number

__all__ = ["STAGES_512", "GateMode", "TimeGate"]

GateMode = Literal["base", "stop_grad"]

STAGES_512: tuple[tuple[int, int], ...] = ((50, 10), (100, 25), (300, 327), (500, 100), (1000, 50))
"""The published division of 512 entries in 64 bands of 1,000 steps: (end of the stage, entries of its bands)."""


class TimeGate(nn.Module):
    r"""Which entries of a code may help at a time: those of the bands up to :math:`i(t) = \lfloor t k / T \rfloor`.

    .. math:: M_i = [\text{bands } 0..i], \qquad C_i = [\text{band } i], \qquad R_i = M_i - C_i

    Bands are equally long in time; how many entries each holds is free. Without ``widths`` and ``stages`` all bands
    are equally wide, and the last takes the remainder. With ``stages`` the entries of every stage are shared evenly
    among the bands that start in it, and the last of them takes the remainder. One band is a plain code, open at
    all times.

    Args:
        dim: entries d of the code.
        bands: number k.
        widths: entries of every band.
        stages: (end time, entries) of every stage in turn, such as :data:`STAGES_512`; exclusive of ``widths``.
        steps: number T of time steps.
        allow_empty: accept bands without entries, and more bands than steps.

    Raises:
        ValueError: for more bands than steps or entries and for empty bands (unless allowed), widths that do not sum
            to d, stages that do not end at T or do not sum to d, times outside 0 to T - 1, or bands outside 0 to k - 1.

    Source: Yue et al., "Exploring Diffusion Time-steps for Unsupervised Representation Learning", ICLR 2024,
    section 5.

    Examples:
        >>> gate = TimeGate(6, bands=3, steps=300)
        >>> gate.cumulative(torch.tensor([150])).int().tolist(), gate.subset(1)
        ([[1, 1, 1, 1, 0, 0]], slice(2, 4, None))
        >>> gate(torch.ones(1, 6), torch.tensor([0]))
        tensor([[1., 1., 0., 0., 0., 0.]])
        >>> TimeGate(512, bands=64, stages=STAGES_512).widths[:4]
        (2, 2, 2, 4)
    """

    def __init__(
        self,
        dim: int,
        bands: int,
        widths: Sequence[int] | None = None,
        stages: Sequence[tuple[int, int]] | None = None,
        steps: int = 1000,
        *,
        allow_empty: bool = False,
    ) -> None:
        super().__init__()
        self.dim = int(check_number("dim", dim, low=1, integer=True))
        self.bands = int(check_number("bands", bands, low=1, integer=True))
        self.steps = int(check_number("steps", steps, low=1, integer=True))
        if widths is not None and stages is not None:
            raise ValueError("give widths or stages, not both")
        if self.bands > self.steps and not allow_empty:
            raise ValueError(f"{bands} bands do not fit in {steps} steps: some would never open; see allow_empty")
        if stages is not None:
            found = self._from_stages([(int(end), int(width)) for end, width in stages])
        elif widths is not None:
            found = [int(check_number("widths", w, low=0, integer=True)) for w in widths]
        else:
            found = _share(self.dim, self.bands)
        if len(found) != self.bands:
            raise ValueError(f"widths must name the entries of each of the {bands} bands, got {len(found)} numbers")
        if sum(found) != self.dim:
            raise ValueError(f"widths must sum to dim = {dim}, got {sum(found)}")
        if 0 in found and not allow_empty:
            raise ValueError(
                f"band {found.index(0)} would hold none of the {dim} entries; give fewer bands, or allow_empty=True"
            )
        self.widths = tuple(found)
        """Entries of every band."""
        self.band_of: Tensor
        self.register_buffer("band_of", torch.repeat_interleave(torch.arange(bands), torch.tensor(found)))

    def _from_stages(self, stages: list[tuple[int, int]]) -> list[int]:
        ends = [end for end, _ in stages]
        if not stages or ends != sorted(set(ends)) or ends[-1] != self.steps:
            raise ValueError(f"stages must end at rising times, the last at steps = {self.steps}; got {ends}")
        starts = [-(-i * self.steps // self.bands) for i in range(self.bands)]
        widths: list[int] = []
        begin = 0
        for end, width in stages:
            members = sum(begin <= s < end for s in starts)
            if members == 0 and width > 0:
                raise ValueError(f"no band starts in the stage from {begin} to {end}, so its {width} entries have none")
            widths += _share(width, members)
            begin = end
        return widths

    def forward(self, z: Float[Tensor, "batch dim"], t: Tensor, mode: GateMode = "base") -> Float[Tensor, "batch dim"]:
        r"""Return the code as it may be used at ``t``.

        ``"base"`` is :math:`M_i \odot z`; ``"stop_grad"`` has the same value, but only band i(t) gets a gradient:
        :math:`R_i \odot \mathrm{stop}(z) + C_i \odot z`.
        """
        check_choice("mode", mode, ("base", "stop_grad"))
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(f"the code must have shape (batch, {self.dim}), got {tuple(z.shape)}")
        open_ = self.cumulative(t)
        value = z if mode == "base" else torch.where(self.current(t), z, z.detach())
        return torch.where(open_, value, torch.zeros_like(value))

    def band(self, t: Tensor) -> Int[Tensor, " batch"]:
        """Return the band that every time lies in."""
        if t.numel() and not bool(((t >= 0) & (t < self.steps)).all()):
            raise ValueError(
                f"t must lie in [0, {self.steps}), got values from {float(t.min()):g} to {float(t.max()):g}"
            )
        if not t.is_floating_point():
            return t.long() * self.bands // self.steps
        return (t.double() * self.bands / self.steps).floor().long().clamp(max=self.bands - 1)

    def cumulative(self, t: Tensor) -> Bool[Tensor, "batch dim"]:
        """Return the mask of the bands that are open at ``t``."""
        return self.band_of <= self.band(t)[:, None]

    def current(self, t: Tensor) -> Bool[Tensor, "batch dim"]:
        """Return the mask of the band that ``t`` lies in."""
        return self.band_of == self.band(t)[:, None]

    def past(self, t: Tensor) -> Bool[Tensor, "batch dim"]:
        """Return the mask of the bands before the one that ``t`` lies in."""
        return self.band_of < self.band(t)[:, None]

    def subset(self, i: int) -> slice:
        """Return where band ``i`` lies in the code."""
        i = int(check_number("band", i, low=0, high=self.bands - 1, integer=True))
        begin = sum(self.widths[:i])
        return slice(begin, begin + self.widths[i])

    def mask(self, bands: Iterable[int]) -> Bool[Tensor, " dim"]:
        """Return the entries of several bands."""
        out = torch.zeros(self.dim, dtype=torch.bool, device=self.band_of.device)
        for i in bands:
            out[self.subset(i)] = True
        return out


def _share(total: int, parts: int) -> list[int]:
    """Equal parts; the last takes the remainder."""
    if parts == 0:
        return []
    each = total // parts
    return [each] * (parts - 1) + [total - each * (parts - 1)]

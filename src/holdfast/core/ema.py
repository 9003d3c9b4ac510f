"""Exponential moving average of a module's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.checks import check_number

__all__ = ["WeightAverage"]


class WeightAverage:
    """Exponential moving average of the parameters and floating-point buffers of a module.

    After update :math:`n = 1, 2, ...` the average is :math:`d_n \\bar\\theta + (1 - d_n)\\theta` with
    :math:`d_n = \\min(d, (1 + n) / (10 + n))`, so that the first, random weights are forgotten early.

    Buffers that hold infinities (masks) are left alone.

    Source: B. Polyak, A. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control and
    Optimization 1992; the warm-up of the decay is that of TensorFlow's ``ExponentialMovingAverage``.

    Examples:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(net, decay=0.0)
        >>> _ = net.weight.data.fill_(3.0)
        >>> average.update()
        >>> float(average.mean[0])
        3.0
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = check_number("ema", decay, low=0, high=1, open_high=True)
        self.updates = 0
        self._params = [p for p in module.parameters() if p.is_floating_point() or p.is_complex()]
        # Buffers are looked up anew each time: modules may assign a new tensor instead of writing in place.
        self._buffers = [
            (owner, name)
            for owner in module.modules()
            for name, b in owner._buffers.items()
            if b is not None and b.is_floating_point() and bool(torch.isfinite(b).all())
        ]
        self.mean: list[Tensor] = [t.detach().clone() for t in self._live()]

    def _live(self) -> list[Tensor]:
        return [*self._params, *(owner._buffers[name] for owner, name in self._buffers)]  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the module's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.mean, self._live(), 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's weights and the average, in place; a second call undoes the first."""
        for mean, live in zip(self.mean, self._live()):
            kept = live.detach().clone()
            live.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates."""
        return {"updates": self.updates, "mean": [m.detach().clone() for m in self.mean]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state from :meth:`state_dict`."""
        self.updates = int(state["updates"])
        for mean, saved in zip(self.mean, state["mean"], strict=True):
            mean.copy_(saved)

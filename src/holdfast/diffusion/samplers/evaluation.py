"""What all samplers share: asking the model under guidance, counting, showing and tracing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_labels
from holdfast.core.progress import ProgressBar
from holdfast.diffusion.denoiser import Predictor
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.paths import Prediction

__all__ = ["Callback", "Sampling", "normal_like", "sampling"]

Callback = Callable[[int, float, Tensor], None]
"""Called after every step with the number of steps done, the time reached and the state there."""


class Sampling:
    """One run of a sampler: :meth:`predict` asks the model, :meth:`done` ends a step. Made by :func:`sampling`."""

    def __init__(
        self,
        model: Predictor,
        x: Tensor,
        y: Tensor | None,
        guidance: Guidance | None,
        bar: ProgressBar,
        callback: Callback | None,
    ) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
            what = f"shape {tuple(x.shape)}, dtype {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x must be a batch of real noise, (n, ...), got {what}")
        if guidance is not None:
            if y is None:
                raise ValueError("guidance needs the labels y to guide towards")
            guidance.null_class(model)
        if y is not None:
            if not isinstance(y, Tensor):
                raise TypeError(f"y must be a torch.Tensor, got {type(y).__name__}")
            if len(y) != len(x):
                raise ValueError(f"y must have one label per sample: x has {len(x)} rows, y has {len(y)}")
            null = getattr(model, "null_class", None)
            if null is not None and not y.is_floating_point():
                check_labels("y", y, null + 1)
        self.model, self.x_dtype, self.y, self.guidance = model, x.dtype, y, guidance
        self.calls = 0
        self._n, self._device, self._bar, self._callback = len(x), x.device, bar, callback

    def predict(self, x: Float[Tensor, "batch *shape"], t: float, target: Prediction) -> Float[Tensor, "batch *shape"]:
        """Return the (guided) prediction at time ``t`` in the precision of ``x``; the model sees that of the input."""
        times = torch.full((self._n,), t, dtype=self.x_dtype, device=self._device)
        seen = x.to(self.x_dtype)
        if self.guidance is not None and self.y is not None and self.guidance.active(t):
            self.calls += 2
            value = self.guidance.predict(self.model, seen, times, self.y, target=target)
        else:
            self.calls += 1
            value = self.model.predict(seen, times, self.y, target=target)
        return value.to(x.dtype)

    def done(self, steps: int, t: float, x: Float[Tensor, "batch *shape"]) -> None:
        """Say that ``steps`` steps are done and that the state at ``t`` is ``x``."""
        self._bar.tick(steps)
        if self._callback is not None:
            self._callback(steps, t, x)


@contextmanager
def sampling(
    model: Predictor,
    x: Float[Tensor, "batch *shape"],
    *,
    y: Int[Tensor, " batch"] | None = None,
    guidance: Guidance | None = None,
    steps: int,
    progress: bool | str = False,
    callback: Callback | None = None,
) -> Iterator[Sampling]:
    """Check the arguments every sampler takes, and hold the model in evaluation mode during a run.

    Raises:
        TypeError: for a state that is no batch of real numbers.
        ValueError: for labels that do not fit, or guidance of a model without labels or null class.
    """
    modules = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    label = progress if isinstance(progress, str) else "sampling"
    with ProgressBar(label, total=steps, enabled=bool(progress), measure=None) as bar:
        run = Sampling(model, x, y, guidance, bar, callback)
        try:
            for m in modules:
                m.training = False
            yield run
        finally:
            for m in modules:
                m.training = True


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise of the shape, precision and device of ``x``."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)

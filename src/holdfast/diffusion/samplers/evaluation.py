"""What all samplers share: asking the model under guidance, counting, showing and tracing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_labels
from holdfast.core.progress import ProgressBar
from holdfast.diffusion.denoiser import Denoiser, Predictor
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.paths import Prediction

__all__ = ["Callback", "Sampling", "check_defined", "normal_like", "sampling"]

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
        if self.calls == 0:
            check_defined(self.model, t, target)
        times = torch.full((self._n,), t, dtype=self.x_dtype, device=self._device)
        seen = x.to(self.x_dtype)
        if self.guidance is not None and self.y is not None and self.guidance.active(t):
            self.calls += 2
            value = self.guidance.predict(self.model, seen, times, self.y, target=target)
        else:
            self.calls += 1
            value = self.model.predict(seen, times, self.y, target=target)
        return value.to(x.dtype)

    def data_and_variance(
        self, x: Float[Tensor, "batch channels *shape"], t: float
    ) -> tuple[Float[Tensor, "batch channels *shape"], Float[Tensor, "batch channels *shape"]]:
        """Return the (guided) data, and the (conditional) share of the larger variance that the network learned."""
        times = torch.full((self._n,), t, dtype=self.x_dtype, device=self._device)
        seen, y = x.to(self.x_dtype), self.y
        if not isinstance(self.model, Denoiser):
            raise TypeError(f"a learned variance needs a Denoiser, got {type(self.model).__name__}")
        if self.calls == 0:
            check_defined(self.model, t, "data")
        guidance = self.guidance if self.guidance is not None and self.guidance.active(t) else None
        self.calls += 1 if guidance is None else 2
        if guidance is not None and y is not None:
            seen, times = torch.cat([seen, seen]), torch.cat([times, times])
            y = torch.cat([y, torch.full_like(y, guidance.null_class(self.model))])
        out, channels = self.model(seen, times, y).pred, x.shape[1]
        if out.shape[1] != 2 * channels:
            raise ValueError(
                f"a learned variance needs a network with {2 * channels} output channels, got {out.shape[1]}; "
                'use variance="posterior"'
            )
        data = self.model.path.convert(out[:, :channels], seen, times, self.model.prediction, "data")
        if guidance is not None:
            conditional, unconditional = data.chunk(2)
            data = torch.lerp(unconditional, conditional, guidance.scale)
        return data.to(x.dtype), ((out[: self._n, channels:] + 1) / 2).to(x.dtype)

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


def check_defined(model: Predictor, t: float, target: Prediction) -> None:
    """Raise ``ValueError`` where a network's kind of prediction says nothing of ``target`` at time ``t``.

    Noise says nothing of the data where alpha is 0, and data nothing of the noise where sigma is 0. Asked there, a
    sampler would return numbers that are not finite, or enormous.
    """
    if not isinstance(model, Denoiser) or model.prediction == target:
        return
    one, time = torch.ones(1, 1, dtype=torch.float64), torch.tensor([t], dtype=torch.float64)
    factor = float(model.path.convert(0.5 * one, one, time, model.prediction, target).abs())
    if not factor < 1e6:
        raise ValueError(
            f"a network that predicts {model.prediction} says nothing of the {target} at time {t:g} of this "
            f"{type(model.path).__name__}: leave its end out, as in steps=time_grid(path, 50, start=0.999) for the "
            "noise or end=0.001 for the data, or train it to predict something else"
        )


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise of the shape, precision and device of ``x``."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)

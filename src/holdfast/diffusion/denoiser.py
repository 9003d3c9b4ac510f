"""A network together with what it was trained to predict, on which path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_choice
from holdfast.diffusion.paths import PREDICTIONS, Path, Prediction

__all__ = ["Denoiser", "Output", "Predictor", "as_times"]


class Output(NamedTuple):
    """What a network of this package returns: the prediction, or ``None`` if it stopped early, and the taps asked for.

    ``taps`` maps a block's number, counted from 1, to the block's output.
    """

    pred: Tensor | None
    taps: dict[int, Tensor]

    def like(self, x: Tensor) -> Tensor:
        """Return the prediction in the shape of ``x``: channels beyond (a learned variance) are left out."""
        if self.pred is None:
            raise ValueError("there is no prediction: the network stopped early")
        return self.pred if self.pred.shape == x.shape else self.pred[:, : x.shape[1]]


class Predictor(Protocol):
    """What samplers need: predictions at noisy samples of a path. Networks and exact oracles both offer it."""

    @property
    def path(self) -> Path:
        """The path that the samples lie on."""
        ...

    def predict(
        self,
        x: Float[Tensor, "batch *shape"],
        t: Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        target: Prediction = "velocity",
    ) -> Float[Tensor, "batch *shape"]:
        """Return the prediction of ``target`` at ``(x, t)``, for labels ``y`` where the model takes them."""
        ...


def as_times(t: float | Tensor, x: Tensor) -> Float[Tensor, " batch"]:
    """Return one time per sample of ``x``, from a number or from a tensor of times."""
    if isinstance(t, Tensor) and t.ndim == 1 and len(t) == len(x):
        return t if t.device == x.device else t.to(x.device)
    if isinstance(t, Tensor) and t.ndim:
        raise ValueError(f"t must be one number, or one per sample: shape ({len(x)},), got {tuple(t.shape)}")
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return torch.full((len(x),), float(t), dtype=dtype, device=x.device)


class Denoiser(nn.Module):
    """A network with its path and the kind of its prediction; converts to any other kind.

    Args:
        network: from ``(x, t, y, taps=, stop_at=)`` to an :class:`Output`, such as
            :class:`holdfast.diffusion.backbones.DiT`; a network without taps may take ``(x, t)`` only and return the
            prediction itself. Channels beyond those of ``x`` (a learned variance) are left to the network's users.
        path: the noising path.
        prediction: what the network predicts.

    Raises:
        ValueError: for an unknown kind of prediction.

    Examples:
        >>> from holdfast.diffusion.paths import LinearPath
        >>> class Shrink(nn.Module):
        ...     def forward(self, x, t, y=None, *, taps=(), stop_at=None):
        ...         return Output(0.5 * x, {})
        >>> model = Denoiser(Shrink(), LinearPath(), "data")
        >>> model.predict(torch.ones(2, 3), 0.5, target="noise")[0]
        tensor([1.5000, 1.5000, 1.5000])
    """

    def __init__(self, network: nn.Module, path: Path, prediction: Prediction = "velocity") -> None:
        super().__init__()
        if not isinstance(path, Path):
            raise TypeError(f"path must be a holdfast.diffusion.Path, got {type(path).__name__}")
        self.network, self.path = network, path
        self.prediction: Prediction = check_choice("prediction", prediction, PREDICTIONS)

    @property
    def null_class(self) -> int | None:
        """The label that stands for none, where the network was made to take it."""
        if getattr(self.network, "class_dropout", 0.0) > 0:
            return getattr(self.network, "null_class", None)
        return None

    def forward(
        self,
        x: Float[Tensor, "batch *shape"],
        t: float | Float[Tensor, " batch"] | Float[Tensor, "batch tokens"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
        groups: Int[Tensor, "batch tokens"] | None = None,
    ) -> Output:
        """Return the network's own prediction, and the outputs of the blocks in ``taps``.

        Times per token, and ``groups`` of tokens that do not see each other, are for networks that take them.
        """
        if not (isinstance(t, Tensor) and t.ndim == 2):
            t = as_times(t, x)
        options: dict[str, Any] = {} if groups is None else {"groups": groups}
        if taps:
            options["taps"] = taps
        if stop_at is not None:
            options["stop_at"] = stop_at
        out = self.network(x, t, **options) if y is None else self.network(x, t, y, **options)
        return out if isinstance(out, Output) else Output(out, {})

    def predict(
        self,
        x: Float[Tensor, "batch *shape"],
        t: float | Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        target: Prediction = "velocity",
    ) -> Float[Tensor, "batch *shape"]:
        """Return the prediction of ``target`` at ``(x, t)``."""
        t = as_times(t, x)
        return self.path.convert(self(x, t, y).like(x), x, t, self.prediction, target)

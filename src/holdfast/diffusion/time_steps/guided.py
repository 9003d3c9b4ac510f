"""A frozen denoiser steered by a code: any sampler can use it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import as_times
from holdfast.diffusion.paths import PREDICTIONS, Prediction
from holdfast.diffusion.time_steps.gate import TimeGate
from holdfast.diffusion.time_steps.shift_mlp import Shift

__all__ = ["GuidedDenoiser", "check_frozen", "noise_and_shift"]


def check_frozen(frozen: Any, gate: TimeGate) -> DDPMSchedule:
    """Return the schedule of a model that may be frozen under a gate, or raise and say what is wrong with it.

    Raises:
        TypeError: for a bare network, which does not say what it predicts, or a path without time steps.
        ValueError: for a model in training mode, or a gate of another number of steps.
    """
    if not isinstance(frozen, nn.Module) or not callable(getattr(frozen, "predict", None)):
        raise TypeError(
            f"the frozen model must declare its path and what it predicts, but {type(frozen).__name__} does not; "
            'wrap it: holdfast.diffusion.Denoiser(network, path, "noise"), or "data" or "velocity"'
        )
    path = getattr(frozen, "path", None)
    if not isinstance(path, DDPMSchedule):
        raise TypeError(
            f"the frozen model must live on a DDPMSchedule, whose steps the gate counts; got {type(path).__name__}"
        )
    if frozen.training:
        raise ValueError("the frozen model is in training mode (dropout and batch statistics are on); call .eval()")
    if path.steps != gate.steps:
        raise ValueError(f"the gate counts {gate.steps} steps, but the frozen model was trained on {path.steps}")
    return path


def noise_and_shift(
    frozen: Any, shift: Shift, x: Float[Tensor, "batch *shape"], t: Float[Tensor, " batch"], u: Tensor
) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, "batch *shape"]]:
    """Return the frozen model's noise, without gradient, and the shift; the frozen network runs once for both."""
    with torch.no_grad():
        taps: dict[int, Tensor] = {}
        if shift.taps:
            out = frozen(x, t, taps=shift.taps)
            eps, taps = frozen.path.convert(out.pred[:, : x.shape[1]], x, t, frozen.prediction, "noise"), out.taps
        else:
            eps = frozen.predict(x, t, target="noise")
    return eps, shift(x, t, u, taps)


class GuidedDenoiser(nn.Module):
    r"""A frozen denoiser guided towards the code ``z``, one per sample, as far as the gate is open.

    .. math:: \hat\epsilon = \epsilon_\theta(x_t, t) - \sqrt{1 - \bar\alpha_t}\; g(x_t, t, M_{i(t)} \odot z)

    It speaks the predictors' protocol: :func:`holdfast.diffusion.samplers.ddim_invert` finds the noise of an image
    under its code, :func:`holdfast.diffusion.samplers.ddim` decodes.

    Training corrects the noise by the factor :math:`s_t` instead of :math:`-\sqrt{1 - \bar\alpha_t}`. The two
    differ by :math:`\sqrt{\alpha_t}\,(1 - \bar\alpha_{t-1}) / (1 - \bar\alpha_t)`, which is 0 at time 0 and near 1 but
    for the first steps.

    Source: Zhang, Zhao and Lin, NeurIPS 2022, algorithm 3; Yue et al., ICLR 2024, appendix.
    """

    prediction: Prediction = "noise"

    def __init__(self, frozen: Any, shift: Shift, gate: TimeGate, z: Float[Tensor, "batch code"]) -> None:
        super().__init__()
        self.path = check_frozen(frozen, gate)
        self.frozen, self.shift, self.gate, self.z = frozen, shift, gate, z

    @torch.no_grad()
    def predict(
        self,
        x: Float[Tensor, "batch *shape"],
        t: float | Float[Tensor, " batch"],
        y: Tensor | None = None,
        *,
        target: Prediction = "velocity",
    ) -> Float[Tensor, "batch *shape"]:
        """Return the guided prediction; the codes take the place of labels."""
        check_choice("target", target, PREDICTIONS)
        if y is not None:
            raise ValueError("the model is guided by codes, so it takes no labels y")
        if len(x) != len(self.z):
            raise ValueError(f"there must be one code for each of the {len(x)} samples, got {len(self.z)}")
        t = as_times(t, x)
        eps, g = noise_and_shift(self.frozen, self.shift, x, t, self.gate(self.z, t))
        sigma = self.path.coefficients(t).sigma.to(x).view(-1, *[1] * (x.ndim - 1))
        return self.path.convert(eps - sigma * g, x, t, "noise", target)

"""The denoising loss per sample, with the noise of every draw used in both directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.diffusion.edm import VEPath
from holdfast.diffusion.paths import Path

__all__ = ["denoising_loss"]


def denoising_loss(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x0: Float[Tensor, "batch *shape"],
    t: Float[Tensor, " batch"],
    *,
    path: Path | None = None,
    weighting: Callable[[Tensor], Tensor] | None = None,
    antithetic: bool = True,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*copies batch"]:
    r"""Return the squared error of the denoised data, summed over the entries of every sample.

    .. math:: w(t)\,\tfrac12 \sum_{\pm} \lVert D(\alpha_t x_0 \pm \sigma_t \epsilon,\, t) - x_0 \rVert^2

    The antithetic pair removes the part that is linear in the noise, which has mean zero and is most of the variance
    of the gradient at low noise. :class:`holdfast.diffusion.DiffusionObjective` is the loss for networks.

    Args:
        denoise: from noised data and times to data, (batch, ...), or to (*copies, batch, ...) of several models.
        x0: clean data.
        t: a time per sample.
        path: the noising path, :class:`holdfast.diffusion.VEPath` by default.
        weighting: factor on the error at a time, ``None`` for 1.
        antithetic: use the noise with both signs; without, once.
        generator: of the noise.

    Raises:
        ValueError: for times of another length, or outside the path.

    Examples:
        >>> x0, t = torch.zeros(4, 3), torch.ones(4)
        >>> denoising_loss(lambda x, t: torch.zeros_like(x), x0, t)
        tensor([0., 0., 0., 0.])
    """
    if t.shape != x0.shape[:1]:
        raise ValueError(f"t must be one time per sample, shape ({len(x0)},), got {tuple(t.shape)}")
    path = VEPath() if path is None else path
    eps = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    axis = -x0.ndim
    if antithetic:
        x, times = torch.cat([path.noise(x0, eps, t), path.noise(x0, -eps, t)]), torch.cat([t, t])
        out = denoise(x, times)
        error = out.unflatten(axis, (2, len(x0))) - x0
    else:
        error = (denoise(path.noise(x0, eps, t), t) - x0).unsqueeze(axis - 1)
    loss = error.square().flatten(axis + 1).sum(-1) if x0.ndim > 1 else error.square()
    loss = loss.mean(-2)
    return loss if weighting is None else weighting(t) * loss

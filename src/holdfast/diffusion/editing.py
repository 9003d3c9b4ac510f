"""Edits of samples along the singular directions of a denoiser, without training."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.diffusion.denoiser import Predictor, as_times
from holdfast.diffusion.jacobian import Method, jacobian_svd
from holdfast.diffusion.samplers.karras import edm_heun
from holdfast.diffusion.samples import Samples

__all__ = ["apply_edit", "edit_direction"]


def edit_direction(
    model: Predictor,
    x_t: Float[Tensor, "batch *shape"],
    t: float,
    k: int = 1,
    *,
    mask: Tensor | None = None,
    nullspace: int = 0,
    method: Method = "full",
    iterations: int = 8,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch k *shape"]:
    r"""Return the k directions of the noised sample that change the denoised one most, unit vectors.

    They are the top right singular vectors of :math:`J = \partial D(x_t, t) / \partial x_t`. With a mask, they are
    those of the masked output; with ``nullspace=r`` the r top directions :math:`\bar V` of the rest of the output are
    then taken out, :math:`v \leftarrow (I - \bar V \bar V^\top) v`, so that the rest stays as it is to first order.

    Args:
        model: a denoiser, or an exact oracle.
        x_t: the noised samples.
        t: their time on the model's path.
        k: directions.
        mask: what is to change, of the shape of one sample (or of a batch), true or 1 inside.
        nullspace: directions of the rest to take out; needs a mask.
        method, iterations, generator: see :func:`holdfast.diffusion.jacobian_svd`.

    Raises:
        ValueError: for a mask that does not fit, has nothing inside or (with ``nullspace``) nothing outside, or a
            null space without a mask.

    Source: Wang et al., "Diffusion models learn low-dimensional distributions via subspace clustering", 2024; the
    local form by Chen et al., "Exploring low-dimensional subspaces in diffusion models for controllable image
    editing", NeurIPS 2024.

    Examples:
        >>> from holdfast.diffusion.edm import VEPath
        >>> from holdfast.diffusion.oracles.gaussian import GaussianOracle
        >>> model = GaussianOracle(torch.zeros(3), torch.tensor([0.1, 4.0, 1.0]), VEPath())
        >>> edit_direction(model, torch.zeros(1, 3), 1.0).abs().round(decimals=3)
        tensor([[[0., 1., 0.]]])
    """
    check_number("nullspace", nullspace, low=0, integer=True)
    options = {"method": method, "iterations": iterations, "generator": generator}

    def denoised(x: Tensor) -> Tensor:
        return model.predict(x, as_times(t, x), target="data")

    if mask is None:
        if nullspace:
            raise ValueError("nullspace needs a mask: the directions of what lies outside it are taken out")
        return jacobian_svd(denoised, x_t, k, **options).right
    inside = torch.as_tensor(mask, dtype=x_t.dtype, device=x_t.device)
    if tuple(inside.shape) != tuple(x_t.shape[1:]):
        raise ValueError(f"mask must have the shape of one sample, {tuple(x_t.shape[1:])}, got {tuple(inside.shape)}")
    if not bool(inside.any()):
        raise ValueError("mask must have something inside: it is false everywhere")
    v = jacobian_svd(lambda x: inside * denoised(x), x_t, k, **options).right
    if not nullspace:
        return v
    if bool(inside.all()):
        raise ValueError("nullspace needs something outside the mask: it is true everywhere")
    rest = jacobian_svd(lambda x: (1 - inside) * denoised(x), x_t, nullspace, **options).right.flatten(2)
    flat = v.flatten(2)
    flat = flat - (flat @ rest.mT) @ rest
    return torch.nn.functional.normalize(flat, dim=-1).reshape(v.shape)


@torch.no_grad()
def apply_edit(
    model: Predictor,
    x_t: Float[Tensor, "batch *shape"],
    t: float,
    direction: Float[Tensor, "batch *shape"],
    alpha: float | Float[Tensor, " batch"],
    *,
    steps: int = 18,
    keep_norm: bool = True,
) -> Samples:
    r"""Move noised samples along a direction and denoise them deterministically.

    .. math:: x_t \leftarrow x_t + \alpha v, \qquad x_t \leftarrow x_t\, \lVert x_t^{old} \rVert / \lVert x_t \rVert

    Args:
        model: a denoiser, or an exact oracle.
        x_t: the noised samples, for instance of :func:`holdfast.diffusion.ddim_invert`.
        t: their time.
        direction: one per sample, for instance one column of :func:`edit_direction`.
        alpha: how far; 0 gives the samples without an edit.
        steps: of :func:`holdfast.diffusion.edm_heun`.
        keep_norm: restore the norm, which the noise decides.

    Raises:
        ValueError: for directions of another shape.

    Source: Chen et al., NeurIPS 2024, algorithm 1.

    Examples:
        >>> from holdfast.diffusion.edm import VEPath
        >>> from holdfast.diffusion.oracles.gaussian import GaussianOracle
        >>> model = GaussianOracle(torch.zeros(2), torch.tensor([4.0, 0.01]), VEPath())
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> v = edit_direction(model, x, 2.0)[:, 0]
        >>> moved = apply_edit(model, x, 2.0, v, 1.0, keep_norm=False).x - apply_edit(model, x, 2.0, v, 0.0).x
        >>> bool(moved[0, 0].abs() > 0.5), bool(moved[0, 1].abs() < 0.01)
        (True, True)
    """
    if direction.shape != x_t.shape:
        raise ValueError(f"direction must have the shape of x_t, {tuple(x_t.shape)}, got {tuple(direction.shape)}")
    shape = (-1, *[1] * (x_t.ndim - 1))
    size = torch.as_tensor(alpha, dtype=x_t.dtype, device=x_t.device)
    moved = x_t + (size.view(shape) if size.ndim else size) * direction
    if keep_norm:
        old, new = (v.flatten(1).norm(dim=1).view(shape) for v in (x_t, moved))
        moved = moved * (old / new.clamp_min(torch.finfo(new.dtype).tiny))
    c = model.path.coefficients(torch.tensor([float(t)], dtype=torch.float64))
    level = float(c.sigma / c.alpha)
    # edm_heun starts from the path's scale at sigma_max, which is the level of x_t.
    return edm_heun(model, moved, steps=steps, sigma_max=level)

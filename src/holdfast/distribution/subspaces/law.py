"""The posterior of a mixture of low-rank Gaussians under noise: what the mixture and the denoiser share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Law", "Posterior", "energies", "posterior", "posterior_mean", "stack_frames"]


class Law(NamedTuple):
    """Frames (*copies, K, n, d), eigenvalues (K, d) and log-weights (K,); shorter frames are filled up with zeros."""

    frames: Float[Tensor, "*copies k n d"]
    eigenvalues: Float[Tensor, "k d"]
    log_weights: Float[Tensor, " k"]
    means: Float[Tensor, "k n"] | None = None


class Posterior(NamedTuple):
    """Coordinates in every frame, shrinkage of every coordinate, unnormalised log-probability of every component."""

    z: Float[Tensor, "*copies batch k d"]
    shrink: Float[Tensor, "*batch k d"]
    logits: Float[Tensor, "*copies batch k"]


def stack_frames(frames: list[Tensor]) -> Float[Tensor, "*copies k n d"]:
    """Stack frames (*copies, n, d_k) into one tensor, those of fewer columns filled up with zeros."""
    width = max(U.shape[-1] for U in frames)
    return torch.stack([torch.nn.functional.pad(U, (0, width - U.shape[-1])) for U in frames], -3)


def posterior(law: Law, x: Float[Tensor, "batch n"], s: float | Tensor, gamma: float | Tensor) -> Posterior:
    r"""Place noised samples :math:`x = s x_0 + \gamma\epsilon` in every component.

    .. math:: \log w_k = \log\pi_k - \frac{\lVert x - s\mu_k\rVert^2}{2\gamma^2}
        + \sum_j \frac{s^2\lambda_{kj} z_{kj}^2}{2\gamma^2 (s^2\lambda_{kj} + \gamma^2)}
        - \tfrac12 \sum_j \log\frac{s^2\lambda_{kj} + \gamma^2}{\gamma^2},
        \qquad z_k = U_k^\top (x - s\mu_k)

    without the second term, which is common, where there are no means.
    """
    s, g2 = _rows(s, x), _rows(gamma, x).square()
    width = law.frames.shape[-1]
    z = (x @ _flat(law.frames)).unflatten(-1, (-1, width))
    signal = s.square() * law.eigenvalues  # 0 in the columns that fill a frame up: no gain and no shrinkage there
    total = signal + g2
    if law.means is not None:
        z = z - s * torch.einsum("...knd,kn->...kd", law.frames, law.means).unsqueeze(-3)
    gain = signal / (g2 * total)
    logits = law.log_weights + 0.5 * ((gain * z.square()).sum(-1) - torch.log1p(signal / g2).sum(-1))
    if law.means is not None:
        away = x.unsqueeze(-2) - s * law.means
        logits = logits - 0.5 * away.square().sum(-1) / g2[..., 0]
    return Posterior(z, s * law.eigenvalues / total, logits)


def posterior_mean(law: Law, at: Posterior, weights: Float[Tensor, "*copies batch k"]) -> Tensor:
    r"""Return :math:`\sum_k w_k (\mu_k + U_k\, \mathrm{diag}(\text{shrink}_k)\, z_k)`."""
    out = (weights.unsqueeze(-1) * at.shrink * at.z).flatten(-2) @ _flat(law.frames).mT
    return out if law.means is None else out + weights @ law.means


def energies(law: Law, x: Float[Tensor, "batch n"]) -> Float[Tensor, "*copies batch k"]:
    r"""Return :math:`\lVert U_k^\top x \rVert^2`, how much of every sample lies in every subspace.

    With means it is minus the squared distance from :math:`\mu_k` + span; the largest is the nearest either way.
    """
    width = law.frames.shape[-1]
    z = (x @ _flat(law.frames)).unflatten(-1, (-1, width))
    if law.means is None:
        return z.square().sum(-1)
    z = z - torch.einsum("...knd,kn->...kd", law.frames, law.means).unsqueeze(-3)
    return z.square().sum(-1) - (x.unsqueeze(-2) - law.means).square().sum(-1)


def _flat(frames: Tensor) -> Float[Tensor, "*copies n kd"]:
    return frames.movedim(-3, -2).flatten(-2)


def _rows(value: float | Tensor, x: Tensor) -> Tensor:
    """One number, or one per sample, shaped to multiply (batch, K, d)."""
    t = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    if t.ndim > 1 or (t.ndim == 1 and len(t) not in (1, len(x))):
        raise ValueError(f"s and gamma must be one number or one per sample, got shape {tuple(t.shape)}")
    return t.reshape(-1, 1, 1)

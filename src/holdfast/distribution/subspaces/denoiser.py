"""A denoiser with the form of the exact one for data on a few subspaces; its weights are their bases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.grassmann import random_frame, retract
from holdfast.distribution.subspaces.law import Law, Posterior, energies, posterior, posterior_mean, stack_frames
from holdfast.distribution.subspaces.mixture import MixtureOfLowRankGaussians, check_dims

__all__ = ["LowRankMixtureDenoiser"]

_LEAST_SIGMA = 1e-8


class LowRankMixtureDenoiser(nn.Module):
    r"""The posterior mean of a :class:`MixtureOfLowRankGaussians` with learnable bases, at noise level sigma.

    .. math:: D(x, \sigma) = \sum_k w_k(x, \sigma)\, \frac{1}{1 + \sigma^2}\, U_k U_k^\top x, \qquad
              w = \mathrm{softmax}_k\Big(\log\pi_k + \frac{\lVert U_k^\top x \rVert^2}{2\sigma^2(1 + \sigma^2)}
              - \frac{d_k}{2}\log\frac{1 + \sigma^2}{\sigma^2}\Big)

    As the network of ``Denoiser(model, VEPath(), "data")`` it goes through every sampler. Its parameters are the bases
    alone; train them with :class:`holdfast.core.grassmann.GrassmannSGD`, or by :func:`fit_subspace_denoiser`.

    Args:
        n: dimension of the space.
        dims: dimension of every subspace.
        hard: weights 1 for the component that the sample lies closest to (by :math:`\lVert U_k^\top x_0\rVert` of the
            clean sample where :meth:`forward` gets it), else 0: the form of the theory, and the limit of low noise.
        copies: independent sets of bases, as many denoisers at once; outputs get a leading dimension.
        generator: of the first bases.

    Raises:
        ValueError: for dimensions outside 1..n - 1.

    Source: Wang et al., "Diffusion models learn low-dimensional distributions via subspace clustering", 2024,
    equations 8 and 14.

    Examples:
        >>> model = LowRankMixtureDenoiser(6, (2, 1), generator=torch.Generator().manual_seed(0))
        >>> model(torch.ones(3, 6), torch.tensor([0.1, 1.0, 10.0])).shape
        torch.Size([3, 6])
    """

    eigenvalues: Tensor
    log_weights: Tensor
    means: Tensor | None

    def __init__(
        self,
        n: int,
        dims: Sequence[int],
        hard: bool = False,
        *,
        copies: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.dims, self.hard = check_dims(dims, n), hard
        lead = () if copies is None else (copies,)
        self.frames = nn.ParameterList(random_frame(*lead, n, d, generator=generator) for d in self.dims)
        width = max(self.dims)
        self.register_buffer("eigenvalues", torch.stack([(torch.arange(width) < d).float() for d in self.dims]))
        self.register_buffer("log_weights", torch.zeros(len(self.dims)).log_softmax(0))
        self.register_buffer("means", None)

    @classmethod
    def from_mixture(cls, mixture: MixtureOfLowRankGaussians, hard: bool = False) -> Self:
        """Return the exact denoiser of a mixture."""
        self = cls(mixture.dim, mixture.dims, hard)
        self.frames = nn.ParameterList(nn.Parameter(U.clone()) for U in mixture.bases)
        law = mixture.law
        for name, value in (
            ("eigenvalues", law.eigenvalues), ("log_weights", law.log_weights), ("means", law.means)
        ):  # fmt: skip
            setattr(self, name, None if value is None else value.clone())
        return self

    @property
    def law(self) -> Law:
        """The mixture as tensors, in the graph of the bases."""
        return Law(stack_frames(list(self.frames)), self.eigenvalues, self.log_weights, self.means)

    def bases(self) -> list[Float[Tensor, "*copies n d"]]:
        """Return the orthonormal bases."""
        return [retract(U.detach()) for U in self.frames]

    def mixture(self) -> MixtureOfLowRankGaussians:
        """Return the law whose exact denoiser this is."""
        lambdas = [v[:d] for v, d in zip(self.eigenvalues, self.dims)]
        means = None if self.means is None else list(self.means)
        return MixtureOfLowRankGaussians(self.bases(), self.log_weights.exp(), lambdas, means)

    def weights(
        self,
        x: Float[Tensor, "batch n"],
        sigma: float | Float[Tensor, " batch"],
        x0: Float[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "*copies batch k"]:
        """Return the weight of every component; see :meth:`forward`."""
        return self._weights(self.law, self._place(x, sigma), x if x0 is None else x0)

    def forward(
        self,
        x: Float[Tensor, "batch n"],
        sigma: float | Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        x0: Float[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "*copies batch n"]:
        """Return the denoised samples.

        Args:
            x: noised samples, data plus sigma times standard normal noise.
            sigma: noise level, one number or one per sample.
            y: not taken: the model has no labels.
            x0: clean samples, which decide the weights where these are hard; without, the noised ones do.

        Raises:
            ValueError: for samples of another dimension, or labels.
        """
        if y is not None:
            raise ValueError("this model takes no labels: its components are learned")
        at, law = self._place(x, sigma), self.law
        return posterior_mean(law, at, self._weights(law, at, x if x0 is None else x0))

    def _place(self, x: Tensor, sigma: float | Tensor) -> Posterior:
        n = self.frames[0].shape[-2]
        if x.ndim != 2 or x.shape[1] != n:
            raise ValueError(f"x must have shape (batch, {n}), got {tuple(x.shape)}")
        return posterior(self.law, x, 1.0, torch.as_tensor(sigma).to(x).clamp_min(_LEAST_SIGMA))

    def _weights(self, law: Law, at: Posterior, x0: Tensor) -> Tensor:
        if not self.hard:
            return torch.softmax(at.logits, -1)
        near = energies(law, x0)
        return torch.nn.functional.one_hot(near.argmax(-1), near.shape[-1]).to(x0.dtype)

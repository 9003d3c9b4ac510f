"""Word embeddings made procedurally: two corpora of one language, factorised independently."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.random import generator, spawn_seed

__all__ = ["random_rotation", "word_spaces"]


def random_rotation(d: int, rng: torch.Generator) -> Float[Tensor, "d d"]:
    """Draw an orthogonal matrix uniformly (QR of a Gaussian matrix, signs fixed)."""
    q, r = torch.linalg.qr(torch.randn(d, d, generator=rng, dtype=torch.float64))
    return q * r.diagonal().sign()


def word_spaces(
    seed: int, n_words: int = 1000, tokens: float = 3e6, dims: tuple[int, ...] = (50, 64)
) -> list[dict[int, Float[Tensor, "words d"]]]:
    r"""Two embeddings of the same words for every width in ``dims``, each in axes of its own.

    Words have latent vectors :math:`u \sim N(0, 0.55^2 I_{16})` and log-normal frequencies; pairs occur with
    :math:`P_{ij} \propto p_i p_j e^{\langle u_i, u_j\rangle}`. Each space holds the coordinates :math:`U_d S_d`
    of the truncated SVD of the positive pointwise mutual information of its own Poisson counts, randomly rotated,
    since only factorisations by SVD have preferred axes.
    """
    rng = generator(spawn_seed(seed, "words"))
    u = 0.55 * torch.randn(n_words, 16, generator=rng, dtype=torch.float64)
    p = (0.5 * torch.randn(n_words, generator=rng, dtype=torch.float64)).exp()
    joint = p[:, None] * p[None, :] * (u @ u.mT).exp()
    rate = tokens * joint / joint.sum()
    spaces = []
    for _ in range(2):
        counts = torch.poisson(rate, generator=rng)
        expected = counts.sum(1, keepdim=True) * counts.sum(0, keepdim=True) / counts.sum()
        information = (counts / expected.clamp_min(1e-12)).log().clamp_min(0)
        left, values, _ = torch.linalg.svd(information)
        spaces.append(
            {d: left[:, :d] * values[:d] @ random_rotation(d, rng) for d in dims},
        )
    return spaces

"""An autoencoder of laws: from a set of samples to a code, and from the code to as many samples as wanted."""

from __future__ import annotations

import copy
from typing import Self

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.distribution.generators.protocol import ConditionalGenerator
from holdfast.nn.sets import PooledSetEncoder, encode_in_chunks

__all__ = ["GDE", "interpolate_codes"]


class GDE(nn.Module):
    r"""A set encoder E and a conditional generator G, trained together with the generator's own loss.

    .. math:: \min_{E, G} \sum_i \mathrm{loss}\bigl(S_i,\, G(E(S_i))\bigr)

    The encoder sees the empirical measure of the set alone, so :math:`E(S_m) \to \phi(P)` as the set grows, and sets
    of any size can be encoded after training.

    Args:
        encoder: see :mod:`holdfast.nn.sets`.
        generator: see :class:`holdfast.distribution.ConditionalGenerator`.
        split_loss: encode one half of the points and score the other; a wide code with a flexible generator can
            otherwise memorise the very set it is scored on.

    Source: Fishman et al., "Generative distribution embeddings: lifting autoencoders to the space of distributions
    for multiscale representation learning", NeurIPS 2025. The split of the points is not in the paper.

    Examples:
        >>> from holdfast.distribution.generators.ddpm import ConditionalDDPM
        >>> from holdfast.nn.sets import ResNetSetEncoder
        >>> model = GDE(ResNetSetEncoder(2, width=16, out_dim=4), ConditionalDDPM(2, 4, steps=10))
        >>> z = model.embed(torch.randn(3, 50, 2))
        >>> model.resample(z, 7, torch.Generator().manual_seed(0)).shape
        torch.Size([3, 7, 2])
    """

    def __init__(self, encoder: PooledSetEncoder, generator: ConditionalGenerator, *, split_loss: bool = False) -> None:
        super().__init__()
        code = getattr(generator, "code", encoder.out_dim)
        if code != encoder.out_dim:
            raise ValueError(f"the encoder gives codes of length {encoder.out_dim}, the generator takes {code}")
        self.encoder, self.generator, self.split_loss = encoder, generator, split_loss
        self.head: nn.Linear | None = None
        self.head_weight = 0.0

    def with_head(self, classes: int, weight: float = 1.0) -> Self:
        r"""Return a copy with a linear classifier of the code, for sets of which some are labelled.

        .. math:: \mathcal{L} = \mathcal{L}_{\mathrm{GDE}} + \gamma\, \mathrm{CE}(\mathrm{head}(z), \text{label})

        Args:
            classes: number of labels.
            weight: gamma.
        """
        check_number("classes", classes, low=2, integer=True)
        check_number("weight", weight, low=0)
        new = copy.deepcopy(self)
        new.head = nn.Linear(self.encoder.out_dim, classes)
        new.head_weight = float(weight)
        return new

    def loss(
        self,
        x: Shaped[Tensor, "batch points *shape"],
        labels: Int[Tensor, " batch"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the generator's loss on the encoded sets; sets of label -1 have none.

        Raises:
            ValueError: for sets of one point where these are to be split, or labels without a head.
        """
        seen = scored = x
        if self.split_loss:
            if x.shape[1] < 2:
                raise ValueError("split_loss needs sets of at least two points, got sets of one")
            half = x.shape[1] // 2
            order = torch.rand(x.shape[:2], generator=generator, device=x.device).argsort(1)
            x = x[torch.arange(len(x), device=x.device)[:, None], order]
            seen, scored = x[:, :half], x[:, half:]
        z = self.encoder(seen)
        loss = self.generator.loss(scored, z, generator)
        if labels is None:
            return loss
        if self.head is None:
            raise ValueError("labels need a head: make one with with_head(classes)")
        known = labels >= 0
        errors = nn.functional.cross_entropy(self.head(z), labels.clamp_min(0), reduction="none")
        return loss + self.head_weight * torch.where(known, errors, 0.0).sum() / known.sum().clamp_min(1)

    @torch.no_grad()
    def embed(
        self,
        x: Shaped[Tensor, "batch points *shape"],
        chunk: int | None = None,
        mask: Bool[Tensor, "batch points"] | None = None,
        weights: Float[Tensor, "batch points"] | None = None,
    ) -> Float[Tensor, "batch code"]:
        """Return the codes of sets of any size, ``chunk`` points at a time if given."""
        if chunk is None or x.shape[1] <= chunk:
            return self.encoder(x, mask, weights)
        return encode_in_chunks(self.encoder, x, chunk, mask, weights)

    @torch.no_grad()
    def resample(
        self, z: Float[Tensor, "batch code"], n: int, generator: torch.Generator | None = None
    ) -> Shaped[Tensor, "batch n *shape"]:
        """Draw ``n`` points from the law of every code."""
        return self.generator.sample(z, n, generator)

    def interpolate(
        self, z0: Float[Tensor, " code"], z1: Float[Tensor, " code"], steps: int
    ) -> Float[Tensor, "steps code"]:
        """Return codes on the line from ``z0`` to ``z1``, both included."""
        return interpolate_codes(z0, z1, steps)

    def distance(self, a: Float[Tensor, "n code"], b: Float[Tensor, "m code"]) -> Float[Tensor, "n m"]:
        """Return the Euclidean distance of every code in ``a`` to every code in ``b``."""
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def interpolate_codes(z0: Tensor, z1: Tensor, steps: int) -> Float[Tensor, "steps code"]:
    """Return ``steps`` codes on the line from ``z0`` to ``z1``, both included.

    Examples:
        >>> interpolate_codes(torch.zeros(1), torch.ones(1), 3)
        tensor([[0.0000],
                [0.5000],
                [1.0000]])
    """
    check_number("steps", steps, low=2, integer=True)
    if z0.shape != z1.shape or z0.ndim != 1:
        raise ValueError(f"both ends must be one code of one length, got {tuple(z0.shape)} and {tuple(z1.shape)}")
    t = torch.linspace(0, 1, steps, dtype=z0.dtype, device=z0.device)[:, None]
    return torch.lerp(z0, z1, t)

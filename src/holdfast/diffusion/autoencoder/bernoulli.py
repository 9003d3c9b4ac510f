"""A code of bits: each cell of the grid is a vector of Bernoulli draws, trained straight through."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.autoencoder.bottleneck import Bottleneck, Code
from holdfast.diffusion.draws import bernoulli

__all__ = ["BernoulliCode", "bit_entropy", "bits_to_tokens", "check_bits", "tokens_to_bits"]


def check_bits(name: str, z: Tensor) -> None:
    """Raise ``ValueError`` with the first wrong value unless every entry of ``z`` is 0 or 1.

    Examples:
        >>> check_bits("z0", torch.tensor([0.0, 0.5]))
        Traceback (most recent call last):
        ...
        ValueError: z0 must hold bits, 0 or 1, but holds 0.5
    """
    if z.dtype == torch.bool:
        return
    wrong = (z != 0) & (z != 1)
    if bool(wrong.any()):
        raise ValueError(f"{name} must hold bits, 0 or 1, but holds {z[wrong][0].item():g}")


def bits_to_tokens(bits: Shaped[Tensor, "batch c *grid"]) -> Int[Tensor, "batch *grid"]:
    r"""Read the bits of a cell as one whole number :math:`\sum_n 2^n z_n`, an index into :math:`2^c` implicit entries.

    Raises:
        ValueError: for entries other than 0 and 1, or more than 62 bits a cell.

    Examples:
        >>> bits_to_tokens(torch.tensor([[[1, 0], [1, 1]]]))
        tensor([[3, 2]])
    """
    check_bits("bits", bits)
    c = bits.shape[1]
    if c > 62:
        raise ValueError(f"a token holds at most 62 bits, got {c} channels")
    powers = 2 ** torch.arange(c, device=bits.device)
    return (bits.long() * powers.view(1, c, *[1] * (bits.ndim - 2))).sum(1)


def tokens_to_bits(tokens: Int[Tensor, "batch *grid"], channels: int) -> Float[Tensor, "batch c *grid"]:
    """Write whole numbers as bits, the inverse of :func:`bits_to_tokens`.

    Raises:
        ValueError: for a token outside [0, 2^channels).

    Examples:
        >>> tokens_to_bits(torch.tensor([[3, 2]]), 2)
        tensor([[[1., 0.],
                 [1., 1.]]])
    """
    check_number("channels", channels, low=1, high=62, integer=True)
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**channels:
        raise ValueError(f"tokens of {channels} bits lie in [0, {2**channels}), got {tokens.min()} to {tokens.max()}")
    shifts = torch.arange(channels, device=tokens.device).view(1, channels, *[1] * (tokens.ndim - 1))
    return ((tokens[:, None] >> shifts) & 1).float()


def bit_entropy(bits: Shaped[Tensor, "batch *code"]) -> Float[Tensor, "*code"]:
    r"""Entropy of every bit over the batch, in bits: :math:`-m \log_2 m - (1 - m) \log_2 (1 - m)`, m its mean.

    A bit with entropy near 0 is dead: it carries nothing, and makes a prior over codes look better than it is.

    Examples:
        >>> bit_entropy(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
        tensor([1., 0.])
    """
    m = bits.double().mean(0)
    return ((torch.special.entr(m) + torch.special.entr(1 - m)) / math.log(2)).float()


class BernoulliCode(Bottleneck):
    r"""Binary bottleneck: bits drawn from a sigmoid, embedded linearly, with a straight-through gradient.

    .. math:: y = \sigma(W h), \qquad z \sim \mathcal B(y), \qquad
              \tilde z = \mathrm{sg}(z) + y - \mathrm{sg}(y), \qquad e_{ij} = \sum_n \tilde z_{n,ij} E_n

    c bits a cell stand for :math:`2^c` codes at the price of c embeddings. The code is [B, c, h, w] with entries 0.0
    and 1.0. A stochastic code means that the decoder has learnt to read noise: train priors on fresh draws.

    Args:
        channels: bits per cell c.
        width: channels of the feature map and of the embedding.
        deterministic: threshold y at 1/2 instead of drawing, in training as well.
        straight_through: ``"st"``, or ``"none"``: no gradient reaches the encoder
            (for a decoder trained on a frozen one).
        normalize: group normalisation of the embedding before the decoder.
        code_weight: weight of :math:`\operatorname{mean} y (1 - y)`, which pushes probabilities to 0 and 1.

    Raises:
        ValueError: for no channels, a feature map of another width, or bits that are not bits.

    Source: Wang et al., "Binary Latent Diffusion", CVPR 2023, Section 3.1.

    Examples:
        >>> code = BernoulliCode(channels=4, width=16)(torch.zeros(2, 16, 3, 3), generator=torch.Generator())
        >>> code.code.shape, code.embedding.shape, code.code.unique().tolist()
        (torch.Size([2, 4, 3, 3]), torch.Size([2, 16, 3, 3]), [0.0, 1.0])
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        deterministic: bool = False,
        straight_through: Literal["st", "none"] = "st",
        normalize: bool = False,
        code_weight: float = 0.0,
    ) -> None:
        super().__init__(width)
        self.channels = int(check_number("channels", channels, low=1, integer=True))
        self.straight_through = check_choice("straight_through", straight_through, ("st", "none"))
        self.code_weight = check_number("code_weight", code_weight, low=0)
        self.deterministic = deterministic
        self.bits_per_cell = float(channels)
        self.to_logits = nn.Conv2d(width, channels, 1)
        self.embedding = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = nn.GroupNorm(_groups(width), width) if normalize else nn.Identity()

    def forward(self, h: Float[Tensor, "batch width h w"], *, generator: torch.Generator | None = None) -> Code:
        """Return bits, their embedding, and as ``stats`` the bits' entropy, dead share and mean confidence."""
        self.check_map(h)
        y = self.to_logits(h).sigmoid()
        z = (y > 0.5).to(y) if self.deterministic else bernoulli(y.detach(), generator=generator).to(y)
        passed = z + (y - y.detach()) if self.straight_through == "st" else z
        with torch.no_grad():
            entropy = bit_entropy(z)
            stats = {
                "bit_entropy": entropy.mean(),
                "dead_bits": (entropy < 0.1).float().mean(),
                "confidence": (2 * y - 1).abs().mean(),
            }
        return Code(self.norm(self.embedding(passed)), z, self.code_weight * (y * (1 - y)).mean(), stats)

    def probabilities(self, h: Float[Tensor, "batch width h w"]) -> Float[Tensor, "batch c h w"]:
        """Return y, the probability of every bit being 1."""
        self.check_map(h)
        return self.to_logits(h).sigmoid()

    def encode(
        self, h: Float[Tensor, "batch width h w"], *, generator: torch.Generator | None = None, sample: bool = True
    ) -> Float[Tensor, "batch c h w"]:
        """Return the bits of ``h``, drawn or, with ``sample=False``, thresholded at 1/2."""
        with torch.no_grad():
            y = self.probabilities(h)
            return (y > 0.5).to(y) if self.deterministic or not sample else bernoulli(y, generator=generator).to(y)

    def embed(self, code: Shaped[Tensor, "batch c h w"]) -> Float[Tensor, "batch width h w"]:
        """Return the embedding of bits of any dtype."""
        if code.ndim != 4 or code.shape[1] != self.channels:
            raise ValueError(f"bits must have shape (batch, {self.channels}, h, w), got {tuple(code.shape)}")
        check_bits("code", code)
        return self.norm(self.embedding(code.to(self.embedding.weight)))

    def bits_per_image(self, grid: tuple[int, int]) -> int:
        """Return the number of bits that an image of that grid is stored in."""
        return self.channels * grid[0] * grid[1]


def _groups(width: int) -> int:
    return max(g for g in (1, 2, 4, 8, 16, 32) if width % g == 0 and (g == 1 or width // g >= 4))

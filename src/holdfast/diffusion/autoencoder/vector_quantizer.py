"""A code of tokens: each cell of the grid is the index of the nearest entry of a learned codebook."""

from __future__ import annotations

import hashlib
import math

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.diffusion.autoencoder.bottleneck import Bottleneck, Code

__all__ = ["VectorQuantizer", "code_perplexity", "codebook_hash"]


def code_perplexity(ids: Int[Tensor, "*shape"], codes: int) -> Float[Tensor, ""]:
    r"""Effective number of codes in use, :math:`\exp(-\sum_k p_k \log p_k)` with the frequencies :math:`p` of ``ids``.

    It lies in [1, ``codes``]. Near 1 the codebook has collapsed: tokens are then easy to model and say little.

    Examples:
        >>> code_perplexity(torch.tensor([0, 0, 1, 1]), codes=8)
        tensor(2.)
    """
    p = torch.bincount(ids.flatten(), minlength=codes).double() / max(ids.numel(), 1)
    return torch.special.entr(p).sum().exp().float()


def codebook_hash(codebook: Float[Tensor, "codes dim"]) -> str:
    """Return the SHA-256 of a codebook's shape and 32-bit entries: two hashes agree where tokens mean the same.

    Examples:
        >>> codebook_hash(torch.zeros(4, 2)) == codebook_hash(torch.zeros(2, 4))
        False
    """
    entries = codebook.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(str(tuple(entries.shape)).encode() + entries.numpy().tobytes()).hexdigest()


class VectorQuantizer(Bottleneck):
    r"""Vector quantisation with a codebook that follows its members, commitment, and restarts of dead codes.

    .. math:: k_{ij} = \arg\min_k \lVert z_{ij} - e_k \rVert^2, \qquad
              \tilde z = z + \mathrm{sg}(e_k - z), \qquad
              \mathcal L = \beta\, \operatorname{mean} \lVert z - \mathrm{sg}(e_k) \rVert^2

    where z is a linear map of the feature map to ``dim`` channels, and a linear map of :math:`\tilde z` is what the
    decoder reads. The codebook is no parameter: with counts :math:`n_k` and sums :math:`s_k` of the vectors that chose
    entry k in a batch, :math:`N_k \leftarrow \gamma N_k + (1 - \gamma) n_k`, :math:`S_k \leftarrow \gamma S_k +
    (1 - \gamma) s_k` and :math:`e_k = S_k / N_k`, smoothed. An entry whose share falls below ``dead_below`` of an even
    share is moved onto a random vector of the batch. The first batch in training mode starts the codebook (k-means++).

    The code is [B, h, w] with indices in [0, ``codes``). Where processes share the work, counts and sums are added up.

    Args:
        codes: entries K.
        width: channels of the feature map and of the embedding.
        dim: channels D of an entry; ``width`` where omitted.
        ema: follow the members as above; otherwise the codebook is a parameter with the loss
            :math:`\operatorname{mean} \lVert \mathrm{sg}(z) - e_k \rVert^2`.
        commitment: :math:`\beta`.
        restart_dead: move entries that are not used.
        decay: :math:`\gamma`.
        dead_below: share of an even share :math:`1 / K` below which an entry is dead.

    Raises:
        ValueError: for no codes, a feature map of another width, indices outside [0, K), probabilities that do not
            sum to one, or numbers out of range.

    Source: van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning", NeurIPS 2017, equation 3
    and appendix A.1; restarts as in Dhariwal et al., "Jukebox", 2020, and low-dimensional entries as in Yu et al.,
    "Vector-quantized Image Modeling with Improved VQGAN", ICLR 2022.

    Examples:
        >>> quantizer = VectorQuantizer(codes=8, width=16, dim=4)
        >>> h = torch.randn(2, 16, 3, 3, generator=torch.Generator().manual_seed(0))
        >>> code = quantizer(h, generator=torch.Generator().manual_seed(0))
        >>> code.code.shape, code.embedding.shape
        (torch.Size([2, 3, 3]), torch.Size([2, 16, 3, 3]))
        >>> soft = F.one_hot(code.code, 8).float()
        >>> bool(torch.allclose(quantizer.embed(soft), quantizer.embed(code.code), atol=1e-6))
        True
    """

    codebook: Float[Tensor, "codes dim"]
    counts: Float[Tensor, " codes"]
    sums: Float[Tensor, "codes dim"]
    started: Tensor

    def __init__(
        self,
        codes: int,
        width: int,
        *,
        dim: int | None = None,
        ema: bool = True,
        commitment: float = 0.25,
        restart_dead: bool = True,
        decay: float = 0.99,
        dead_below: float = 0.05,
    ) -> None:
        super().__init__(width)
        self.codes = int(check_number("codes", codes, low=1, integer=True))
        self.dim = self.width if dim is None else int(check_number("dim", dim, low=1, integer=True))
        self.commitment = check_number("commitment", commitment, low=0)
        self.decay = check_number("decay", decay, low=0, high=1, open_high=True)
        self.dead_below = check_number("dead_below", dead_below, low=0, high=1)
        self.ema, self.restart_dead = ema, restart_dead
        self.bits_per_cell = math.log2(self.codes)
        self.enter = nn.Conv2d(width, self.dim, 1)
        self.leave = nn.Conv2d(self.dim, width, 1)
        entries = torch.randn(self.codes, self.dim) / math.sqrt(self.dim)
        if ema:
            self.register_buffer("codebook", entries)
            self.register_buffer("sums", entries.clone())
        else:
            self.codebook = nn.Parameter(entries)
        self.register_buffer("counts", torch.ones(self.codes))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, h: Float[Tensor, "batch width h w"], *, generator: torch.Generator | None = None) -> Code:
        """Return indices, their embedding, and as ``stats`` the perplexity, dead share and quantisation error.

        In training mode the codebook follows; draws are those of the entries' new places.
        """
        self.check_map(h)
        z = self.enter(h).movedim(1, -1)
        flat = z.detach().reshape(-1, self.dim).float()
        if self.training:
            self._start(flat, generator)
        ids = self._nearest(flat)
        if self.training:
            self._follow(flat, ids, generator)
        ids = ids.view(z.shape[:-1])
        chosen = F.embedding(ids, self.codebook).to(z.dtype)
        error = (z - chosen.detach()).square().mean()
        loss = self.commitment * error
        if not self.ema:
            loss = loss + (chosen - z.detach()).square().mean()
        passed = z + (chosen - z).detach()
        with torch.no_grad():
            share = self.counts / self.counts.sum()
            stats = {
                "code_perplexity": code_perplexity(ids, self.codes),
                "dead_codes": (share < self.dead_below / self.codes).float().mean(),
                "quantization_error": error.detach(),
            }
        return Code(self.leave(passed.movedim(-1, 1)), ids, loss, stats)

    def encode(
        self, h: Float[Tensor, "batch width h w"], *, generator: torch.Generator | None = None, sample: bool = True
    ) -> Int[Tensor, "batch h w"]:
        """Return the indices of ``h``; nothing is drawn and the codebook stays as it is."""
        self.check_map(h)
        with torch.no_grad():
            z = self.enter(h).movedim(1, -1)
            return self._nearest(z.reshape(-1, self.dim).float()).view(z.shape[:-1])

    def embed(self, code: Shaped[Tensor, "batch h w *codes"]) -> Float[Tensor, "batch width h w"]:
        r"""Return the embedding of indices [B, h, w], or of distributions over the codes [B, h, w, K].

        The embedding of a distribution is the expected one, :math:`\sum_k p_k e_k`.
        """
        if code.is_floating_point():
            if code.ndim != 4 or code.shape[-1] != self.codes:
                raise ValueError(f"probabilities must have shape (batch, h, w, {self.codes}), got {tuple(code.shape)}")
            if not bool((code.sum(-1) - 1).abs().max() < 1e-3):
                raise ValueError("probabilities over the codes must be finite and sum to 1 in every cell")
            v = code.to(self.codebook.dtype) @ self.codebook
        else:
            if code.ndim != 3:
                raise ValueError(f"indices must have shape (batch, h, w), got {tuple(code.shape)}")
            if code.numel() and not 0 <= int(code.min()) <= int(code.max()) < self.codes:
                raise ValueError(f"indices must lie in [0, {self.codes}), got {int(code.min())} to {int(code.max())}")
            v = F.embedding(code.long(), self.codebook)
        return self.leave(v.movedim(-1, 1))

    def _nearest(self, z: Float[Tensor, "n dim"]) -> Int[Tensor, " n"]:
        # The squared norm of z is the same for every entry.
        e = self.codebook.detach().float()
        return torch.addmm(e.square().sum(1), z, e.T, beta=1, alpha=-2).argmin(1)

    @torch.no_grad()
    def _start(self, z: Float[Tensor, "n dim"], generator: torch.Generator | None) -> None:
        if bool(self.started):
            return
        entries = _spread(z, self.codes, generator)
        self._place(torch.arange(self.codes, device=z.device), entries, len(z) / self.codes)
        self.started.fill_(True)

    @torch.no_grad()
    def _follow(self, z: Float[Tensor, "n dim"], ids: Int[Tensor, " n"], generator: torch.Generator | None) -> None:
        counts = torch.bincount(ids, minlength=self.codes).to(z.dtype)
        sums = z.new_zeros(self.codes, self.dim).index_add_(0, ids, z) if self.ema else None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for shared in (counts, sums):
                if shared is not None:
                    torch.distributed.all_reduce(shared)
        self.counts.lerp_(counts.to(self.counts), 1 - self.decay)
        if sums is not None:
            self.sums.lerp_(sums.to(self.sums), 1 - self.decay)
            total = self.counts.sum()
            smooth = (self.counts + 1e-5) / (total + self.codes * 1e-5) * total
            self.codebook.copy_(self.sums / smooth[:, None])
        if self.restart_dead:
            even = float(self.counts.sum()) / self.codes
            dead = (self.counts < self.dead_below * even).nonzero()[:, 0]
            if len(dead):
                self._place(dead, _rows(z, len(dead), generator), even)

    def _place(self, entries: Int[Tensor, " m"], z: Float[Tensor, "m dim"], count: float) -> None:
        """Put entries where ``z`` is, as though each had ``count`` members there."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(z, src=0)
        self.codebook.data[entries] = z.to(self.codebook.dtype)
        self.counts[entries] = count
        if self.ema:
            self.sums[entries] = count * z.to(self.sums)


def _spread(z: Float[Tensor, "n dim"], m: int, generator: torch.Generator | None) -> Float[Tensor, "m dim"]:
    """Choose m rows far apart, each with probability proportional to its squared distance to those before it.

    Source: Arthur and Vassilvitskii, "k-means++", SODA 2007.
    """
    z = _rows(z, min(len(z), 16 * m), generator)
    chosen = z[:1]
    gap = (z - chosen[0]).square().sum(1)
    for _ in range(1, m):
        total = gap.cumsum(0)
        u = torch.rand((), device=z.device, generator=generator) * total[-1]
        new = z[torch.searchsorted(total, u).clamp(max=len(z) - 1)]
        if bool(total[-1] == 0):  # fewer different rows than entries: they must not stay equal
            new = new + 0.01 * torch.randn(new.shape, device=z.device, generator=generator)
        chosen = torch.cat([chosen, new[None]])
        gap = torch.minimum(gap, (z - new).square().sum(1))
    return chosen


def _rows(z: Float[Tensor, "n dim"], m: int, generator: torch.Generator | None) -> Float[Tensor, "m dim"]:
    """Draw m rows, each as seldom as possible."""
    rounds = -(-m // len(z))
    order = [torch.randperm(len(z), device=z.device, generator=generator) for _ in range(rounds)]
    return z[torch.cat(order)[:m]].clone()

"""Alignment of hidden states on noisy input with the features that a frozen encoder has of the clean image."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.diffusion.frozen_encoder import (
    FrozenEncoder,
    RepresentationTarget,
    encode_all,
    refuse_zero_tokens,
    resample_tokens,
)
from holdfast.diffusion.objective import Term, TermContext
from holdfast.diffusion.schedules import Schedule
from holdfast.nn.contrastive import info_nce

__all__ = [
    "AlignmentLoss",
    "FrozenEncoder",
    "Projector",
    "RepresentationTarget",
    "cosine_alignment",
    "encode_all",
    "ntxent_alignment",
    "resample_tokens",
]


class Projector(nn.Module):
    """A perceptron on every token, with SiLU between its layers; used in training only.

    Args:
        width: of the hidden states.
        out: of the target representation.
        hidden: width of the layers between.
        layers: linear layers; 1 is a linear map.

    Raises:
        ValueError: for numbers below 1.

    Source: Yu et al., "Representation alignment for generation", ICLR 2025, appendix.

    Examples:
        >>> Projector(8, 5, hidden=16)(torch.zeros(2, 4, 8)).shape
        torch.Size([2, 4, 5])
    """

    def __init__(self, width: int, out: int, hidden: int = 2048, layers: int = 3) -> None:
        super().__init__()
        for name, value in (("width", width), ("out", out), ("hidden", hidden), ("layers", layers)):
            check_number(name, value, low=1, integer=True)
        self.width, self.out = width, out
        sizes = [width, *[hidden] * (layers - 1), out]
        parts: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(sizes)):
            parts += [nn.SiLU(), nn.Linear(a, b)] if i else [nn.Linear(a, b)]
        self.layers = nn.Sequential(*parts)

    def forward(self, h: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens out"]:
        """Return the projected tokens."""
        return self.layers(h)


def _check_tokens(student: Tensor, target: Tensor) -> None:
    if student.ndim != 3 or student.shape != target.shape:
        raise ValueError(
            "student and target must have one shape (batch, tokens, dim), "
            f"got {tuple(student.shape)} and {tuple(target.shape)}"
        )
    if target.device.type == "cpu":  # elsewhere this would wait for the device at every step
        refuse_zero_tokens(target)


def cosine_alignment(
    student: Float[Tensor, "batch tokens dim"], target: Float[Tensor, "batch tokens dim"]
) -> Float[Tensor, " batch"]:
    r"""Negative mean cosine over tokens: -1 where every token points the way its target does.

    .. math:: \ell = -\frac1T \sum_{n=1}^{T} \cos(y_n, h_n)

    The cosine is taken over channels, in float32.

    Raises:
        ValueError: for shapes that differ, or target tokens that are zero (with the share; checked on the CPU).

    Source: Yu et al., "Representation alignment for generation", ICLR 2025, equation 8.

    Examples:
        >>> h = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
        >>> cosine_alignment(h, 3 * h), cosine_alignment(h, -h)
        (tensor([-1.]), tensor([1.]))
    """
    _check_tokens(student, target)
    return -F.cosine_similarity(student.float(), target.float(), dim=-1).mean(dim=1)


def ntxent_alignment(
    student: Float[Tensor, "batch tokens dim"],
    target: Float[Tensor, "batch tokens dim"],
    temperature: float = 0.1,
) -> Float[Tensor, " batch"]:
    r"""Contrastive alignment: a token must tell its own target from those of every other patch in the batch.

    .. math:: \ell = \frac1T \sum_n -\log \frac{e^{\cos(h_n, y_n)/\tau}}{\sum_m e^{\cos(h_n, y_m)/\tau}}

    with :math:`m` over all patches of all images. The table of similarities has (batch x tokens) squared entries.

    Raises:
        ValueError: for shapes that differ, zero target tokens, or a temperature that is not positive.

    Source: Yu et al., "Representation alignment for generation", ICLR 2025, section 3 and appendix.

    Examples:
        >>> h = torch.eye(4).view(2, 2, 4)
        >>> bool((ntxent_alignment(h, h) < ntxent_alignment(h, h.flip(0))).all())
        True
    """
    _check_tokens(student, target)
    batch, tokens = student.shape[:2]
    return info_nce(student.flatten(0, 1), target.flatten(0, 1), temperature).view(batch, tokens).mean(dim=1)


def _sequence(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


class AlignmentLoss(Term):
    r"""Hidden states of a block, computed from the noisy input, are to predict an encoder's view of the clean image.

    .. math:: L = \frac1E \sum_{e=1}^{E} \ell\big(P_e(h(x_t)),\; y_e(x_0)\big)

    with one projector :math:`P_e` per encoder, and :math:`\ell` from :func:`cosine_alignment` or
    :func:`ntxent_alignment`. Projectors are trained along and belong to this term, not to the network: a saved or
    exported network has none. Encoders belong to nobody's parameters.

    A target with one token is aligned with the mean of the hidden states. Targets on another grid are interpolated
    to the network's, with a warning, or refused.

    Args:
        depth: block whose output is read, from 1; a third of the depth is a good start.
        target: an encoder, or the name of targets in the batch computed in advance (:func:`encode_all`, given to
            :func:`holdfast.diffusion.train_diffusion` as ``extra``); or a list of these.
        width: of the network's hidden states.
        dim: of the targets; a list for a list of targets.
        weight: factor, constant or a function of the step.
        kind: "cosine" or "ntxent".
        hidden, layers: of the projectors.
        temperature: for "ntxent".
        images: name of the clean images in the batch, where the network's own data are something else (latents).
        interpolate: whether targets on another grid are interpolated.
        name: of the loss in the training history.
        seed: of the projectors' weights.

    Raises:
        ValueError: for a block below 1, lists of different lengths, numbers out of range; in training, for targets
            that are missing, of another width, zero, or on another grid with ``interpolate=False``.

    Source: Yu et al., "Representation alignment for generation", ICLR 2025.

    Examples:
        >>> from holdfast.diffusion import Denoiser, DiT, LinearPath, train_diffusion
        >>> model = Denoiser(DiT(1, 8, patch=4, width=16, depth=2, heads=2), LinearPath())
        >>> images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        >>> encoder = FrozenEncoder(nn.Conv2d(1, 6, 4, stride=4))
        >>> term = AlignmentLoss(1, encoder, width=16, dim=6, hidden=32)
        >>> result = train_diffusion(model, images, terms=[term], steps=2, batch_size=16, device="cpu")
        >>> sorted(result.history[-1])
        ['alignment', 'denoising', 'epoch', 'loss', 'lr', 'step']
    """

    def __init__(
        self,
        depth: int,
        target: RepresentationTarget | str | Sequence[RepresentationTarget | str],
        *,
        width: int,
        dim: int | Sequence[int],
        weight: Schedule = 0.5,
        kind: Literal["cosine", "ntxent"] = "cosine",
        hidden: int = 2048,
        layers: int = 3,
        temperature: float = 0.1,
        images: str | None = None,
        interpolate: bool = True,
        name: str = "alignment",
        seed: int = 0,
    ) -> None:
        check_number("depth", depth, low=1, integer=True)
        super().__init__(name, weight, taps=(depth,))
        self.depth, self.images, self.interpolate = depth, images, interpolate
        self.kind = check_choice("kind", kind, ("cosine", "ntxent"))
        self.temperature = check_number("temperature", temperature, low=0, open_low=True)
        # In a plain list, an encoder that is a module stays out of parameters, state dicts and averages.
        self.targets: list[RepresentationTarget | str] = _sequence(target)
        dims = _sequence(dim)
        if not self.targets or len(self.targets) != len(dims):
            raise ValueError(
                f"there must be one dim per target, and a target; got {len(self.targets)} targets, {len(dims)} dims"
            )
        for t in self.targets:
            if not isinstance(t, str) and not callable(getattr(t, "encode", None)):
                raise TypeError(f"a target must have encode(images), or be a name in the batch; got {type(t).__name__}")
        with isolated_rng(spawn_seed(seed, "projectors")):
            self.projectors = nn.ModuleList(Projector(width, d, hidden, layers) for d in dims)
        self._warned = False

    @classmethod
    def for_network(
        cls,
        network: nn.Module,
        target: RepresentationTarget | Sequence[RepresentationTarget],
        images: Float[Tensor, "n *shape"],
        *,
        depth: int | None = None,
        **options: Any,
    ) -> Self:
        """Return a term whose widths are read off: the network's, and the targets' of a few ``images``.

        Args:
            network: with ``width`` and ``depth``, such as :class:`holdfast.diffusion.backbones.dit.DiT`.
            target: an encoder or several.
            images: clean images; the first two are encoded.
            depth: block to align; default a third of the network's depth, rounded.
            options: see :class:`AlignmentLoss`.

        Examples:
            >>> from holdfast.diffusion import DiT
            >>> net = DiT(1, 8, patch=4, width=16, depth=6, heads=2)
            >>> term = AlignmentLoss.for_network(net, FrozenEncoder(nn.Conv2d(1, 6, 4, 4)), torch.randn(2, 1, 8, 8))
            >>> term.depth, term.projectors[0].out
            (2, 6)
        """
        targets = _sequence(target)
        dims = [t.encode(images[:2]).shape[-1] for t in targets]
        blocks, width = cast("int", network.depth), cast("int", network.width)
        return cls(max(1, round(blocks / 3)) if depth is None else depth, targets, width=width, dim=dims, **options)

    def at(self, depth: int, *, weight: Schedule | None = None) -> Self:
        """Return the same term, with the same projectors, at another block and with another weight."""
        check_number("depth", depth, low=1, integer=True)
        other = copy.copy(self)
        other.depth, other.taps = depth, (depth,)
        if weight is not None:
            other.weight = weight
        return other

    def forward(self, ctx: TermContext) -> Float[Tensor, ""]:
        """Return the loss of a batch, averaged over encoders."""
        h = ctx.output.taps[self.depth]
        grid = getattr(getattr(ctx.denoiser, "network", None), "grid", None)
        if h.ndim == 4:  # a U-Net's map
            grid = (h.shape[2], h.shape[3])
            h = h.flatten(2).transpose(1, 2)
        losses = []
        for target, projector in zip(self.targets, self.projectors):
            y = self._on_grid(self._target(target, ctx), h.shape[1], grid, target)
            states = h.mean(dim=1, keepdim=True) if y.shape[1] == 1 < h.shape[1] else h
            if y.shape[-1] != projector.out:
                raise ValueError(f"targets have {y.shape[-1]} channels, the term was made with dim={projector.out}")
            if y.device.type != "cpu" and ctx.info.step == 0:
                refuse_zero_tokens(y)
            losses.append(self.distance(projector(states), y).mean())
        return torch.stack(losses).mean()

    def distance(self, student: Tensor, target: Tensor) -> Float[Tensor, " batch"]:
        """Return the loss of each sample, from projected hidden states and targets."""
        if self.kind == "cosine":
            return cosine_alignment(student, target)
        return ntxent_alignment(student, target, self.temperature)

    def _target(self, target: RepresentationTarget | str, ctx: TermContext) -> Tensor:
        if isinstance(target, str):
            if target not in ctx.extra:
                held = ", ".join(map(repr, ctx.extra)) or "nothing"
                raise ValueError(
                    f"the batch has no targets named {target!r}, it holds {held} beside the data; "
                    "give them to training as extra={name: encode_all(encoder, images)}"
                )
            return ctx.extra[target].to(ctx.x0.device)
        if self.images is None:
            images = ctx.x0
        elif self.images in ctx.extra:
            images = ctx.extra[self.images]
        else:
            raise ValueError(f"the batch has no images named {self.images!r} for the encoder; give them as extra")
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return target.encode(images)

    def _on_grid(self, y: Tensor, tokens: int, grid: tuple[int, int] | None, target: Any) -> Tensor:
        if y.ndim != 3:
            raise ValueError(f"targets must have shape (batch, tokens, dim), got {tuple(y.shape)}")
        if y.shape[1] in (1, tokens):
            return y
        if not self.interpolate:
            raise ValueError(
                f"the target has {y.shape[1]} tokens and the network {tokens}: resize the images so that the "
                "encoder's grid is the network's, or allow interpolate=True"
            )
        if grid is None or grid[0] * grid[1] != tokens:
            raise ValueError(f"the network's {tokens} tokens have no known grid to interpolate targets to")
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"targets with {y.shape[1]} tokens are interpolated to the network's {grid[0]} x {grid[1]} grid",
                stacklevel=2,
            )
        return resample_tokens(y, grid, source=getattr(target, "grid", None))

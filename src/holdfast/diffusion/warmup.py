"""Warm-up of a transformer's first blocks on an encoder's features, and their place in the full network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.alignment import AlignmentLoss
from holdfast.diffusion.backbones.dit import DiT
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.objective import DiffusionObjective
from holdfast.diffusion.phases import Phase, PhasesResult, fit_phases

__all__ = ["Place", "TransferReport", "WarmupConfig", "embed_weights", "embedded_warmup", "truncate"]

Place = Literal["start", "middle", "end"] | int | Sequence[int]
"""Where warmed blocks go: by name, by the number of the first (from 1), or by all their numbers."""

Part = Literal["patch", "position", "time", "label"]
PARTS: tuple[Part, ...] = ("patch", "position", "time", "label")
_PREFIXES = {"patch": "embed.", "position": "positions", "time": "time.", "label": "label."}


def _places(place: Place, blocks: int, depth: int) -> tuple[int, ...]:
    if isinstance(place, str):
        check_choice("place", place, ("start", "middle", "end"))
        first = {"start": 1, "middle": (depth - blocks) // 2 + 1, "end": depth - blocks + 1}[place]
        numbers = tuple(range(first, first + blocks))
    elif isinstance(place, int):
        numbers = tuple(range(place, place + blocks))
    else:
        numbers = tuple(place)
    if len(numbers) != blocks:
        raise ValueError(f"{blocks} blocks need {blocks} places, got {numbers}")
    if len(set(numbers)) < blocks:
        raise ValueError(f"places overlap: {numbers}")
    if min(numbers) < 1 or max(numbers) > depth:
        raise ValueError(f"places must lie among blocks 1 to {depth}, got {numbers}")
    return numbers


@dataclass(frozen=True)
class WarmupConfig:
    """A first phase in which only some blocks are trained, to reproduce an encoder's features of clean images.

    Args:
        region: how many blocks R are warmed up; or their range, ``range(1, R + 1)``, whose start is then the place.
        steps: optimizer steps; 0 for no warm-up.
        weight: of the alignment loss, which is the only loss.
        time: of the input: 0 is clean.
        place: where the warmed blocks are put, see :data:`Place`. Anywhere but at the start is for comparison.

    Raises:
        ValueError: for no blocks, a negative number of steps, weight or time.

    Source: Liu et al., "Efficient generative model training via embedded representation warmup", 2025.

    Examples:
        >>> WarmupConfig(3, steps=100).places(depth=6), WarmupConfig(3, steps=100, place="end").places(depth=6)
        ((1, 2, 3), (4, 5, 6))
    """

    region: int | range
    steps: int
    weight: float = 0.5
    time: float = 0.0
    place: Place = "start"

    def __post_init__(self) -> None:
        if isinstance(self.region, range):
            if self.region.step != 1 or self.region.start < 1 or not len(self.region):
                raise ValueError(f"region must be a range of blocks such as range(1, 5), got {self.region}")
            if self.region.start != 1 and self.place != "start":
                raise ValueError(f"region {self.region} says where the blocks go; leave out place={self.place!r}")
        else:
            check_number("region", self.region, low=1, integer=True)
        check_number("steps", self.steps, low=0, integer=True)
        check_number("weight", self.weight, low=0, open_low=True)
        check_number("time", self.time, low=0)

    @property
    def blocks(self) -> int:
        """R, the number of blocks that are warmed up."""
        return len(self.region) if isinstance(self.region, range) else self.region

    def places(self, depth: int) -> tuple[int, ...]:
        """Return the blocks of a network of ``depth`` that take the warmed weights.

        Raises:
            ValueError: unless there are fewer blocks to warm up than the network has, or for a place outside it.
        """
        check_number("region", self.blocks, low=1, high=depth - 1, integer=True)
        place = self.region.start if isinstance(self.region, range) else self.place
        return _places(place, self.blocks, depth)


def truncate(model: DiT, blocks: int) -> DiT:
    """Return a copy of ``model`` that ends after its first ``blocks`` blocks and has no head: it gives taps only.

    Raises:
        ValueError: unless ``1 <= blocks < model.depth``.

    Examples:
        >>> net = DiT(1, 8, patch=4, width=16, depth=4, heads=2)
        >>> short, x, t = truncate(net, 2), torch.randn(3, 1, 8, 8), torch.rand(3)
        >>> out = short(x, t, taps=(2,))
        >>> out.pred, torch.equal(out.taps[2], net(x, t, taps=(2,)).taps[2])
        (None, True)
    """
    check_number("blocks", blocks, low=1, high=model.depth - 1, integer=True)
    short = copy.deepcopy(model)
    short.blocks.blocks = short.blocks.blocks[:blocks]
    short.blocks.depth = short.depth = blocks
    short.modulation, short.head = nn.Sequential(), None
    return short


@dataclass(frozen=True)
class TransferReport:
    """What became of every tensor when weights were embedded; no tensor is left out.

    Attributes:
        copied: names in the target whose values now are the source's.
        skipped: names in the source that went nowhere.
        fresh: names in the target that kept their own values.
    """

    copied: tuple[str, ...]
    skipped: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.copied)} tensors copied, {len(self.skipped)} skipped, {len(self.fresh)} kept fresh"


def _same_scheme(source: DiT, target: DiT) -> None:
    for name, what in (
        ("width", "width"),
        ("heads", "number of heads"),
        ("grid", "grid of patches"),
        ("patch", "patch"),
        ("rope", "positional scheme (rope)"),
        ("qk_norm", "normalisation of queries and keys"),
        ("num_classes", "number of classes"),
    ):
        a, b = getattr(source, name), getattr(target, name)
        if a != b:
            raise ValueError(f"the networks differ in their {what}: {a} in the source, {b} in the target")
    a, b = source.time.time_scale, target.time.time_scale
    if a != b:
        raise ValueError(f"the networks differ in their time scale: {a:g} in the source, {b:g} in the target")


@torch.no_grad()
def embed_weights(
    source: DiT,
    target: DiT,
    place: Place = "start",
    include: Sequence[Part] = PARTS,
    *,
    projectors: tuple[nn.Module, nn.Module] | None = None,
) -> TransferReport:
    """Copy all blocks of a short network, and its embedders, into a deeper one.

    Args:
        source: the short network, such as :func:`truncate` gives.
        target: the deeper one; its other blocks and its head are left as they are.
        place: which blocks of the target take the source's, in order.
        include: embedders to copy: "patch", "position", "time", "label".
        projectors: of source and target, copied too.

    Raises:
        ValueError: for networks that differ in anything that gives the weights another meaning (width, heads, grid,
            positional scheme, ...), places that overlap or lie outside, or tensors of different shapes.

    Source: Liu et al., "Efficient generative model training via embedded representation warmup", 2025, section 3.

    Examples:
        >>> net = DiT(1, 8, patch=4, width=16, depth=4, heads=2)
        >>> report = embed_weights(truncate(net, 2), net, place="end")
        >>> print(report)
        31 tensors copied, 0 skipped, 28 kept fresh
    """
    for part in include:
        check_choice("include", part, PARTS)
    _same_scheme(source, target)
    if source.depth >= target.depth:
        raise ValueError(f"the source must have fewer blocks than the target, got {source.depth} and {target.depth}")
    numbers = _places(place, source.depth, target.depth)
    theirs, ours = _tensors(source), _tensors(target)
    pairs: dict[str, str] = {}
    for name in theirs:
        if name.startswith("blocks.blocks."):
            number, rest = name.removeprefix("blocks.blocks.").split(".", 1)
            pairs[name] = f"blocks.blocks.{numbers[int(number)] - 1}.{rest}"
        elif any(name.startswith(_PREFIXES[part]) for part in include):
            pairs[name] = name
    _copy(theirs, ours, pairs)
    copied = list(pairs.values())
    if projectors is not None:
        a, b = (_tensors(p) for p in projectors)
        _copy(a, b, {name: name for name in a})
        copied += [f"projector.{name}" for name in a]
    return TransferReport(
        copied=tuple(copied),
        skipped=tuple(name for name in theirs if name not in pairs),
        fresh=tuple(name for name in ours if name not in pairs.values()),
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    # Rotary angles follow from the grid, and the grids are the same.
    return {n: t for n, t in (*module.named_parameters(), *module.named_buffers()) if not n.endswith("rotation")}


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor], pairs: Mapping[str, str]) -> None:
    bad = [
        f"{a} {tuple(source[a].shape)} to {b} {tuple(target[b].shape) if b in target else '(missing)'}"
        for a, b in pairs.items()
        if b not in target or source[a].shape != target[b].shape
    ]
    if bad:
        raise ValueError(f"tensors do not fit: {'; '.join(bad)}")
    for a, b in pairs.items():
        target[b].copy_(source[a])


def embedded_warmup(
    denoiser: Denoiser,
    x: Float[Tensor, "n *shape"],
    y: Int[Tensor, " n"] | None = None,
    *,
    warmup: WarmupConfig,
    term: AlignmentLoss,
    steps: int,
    ema: float | None = 0.9999,
    extra: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    **options: Any,
) -> PhasesResult:
    r"""Warm up the first blocks on an encoder's features, embed them, then train everything with a fading alignment.

    .. math:: L_1 = w\,\ell\big(P(h_R(x_0, t{=}0)),\, y\big), \qquad L_2 = L_v + c(k)\,\ell\big(P(h_d(x_t, t)),\, y\big)

    The first phase trains a copy that ends after block R; its last weights (not an average) and the projectors of
    ``term`` are carried over, the optimizer and the average of the weights start anew. Steps :math:`k` of the
    second phase count from its beginning. Without warm-up steps this is plain training with ``term``, bit for bit.

    Args:
        denoiser: a :class:`DiT` with its path; trained in place.
        x, y, extra, seed, ema, options: see :func:`holdfast.diffusion.train_diffusion`.
        warmup: the first phase.
        term: alignment of the second phase; give it ``weight=ExponentialDecay(c0, half_life, until=steps)``.
        steps: of the second phase.

    Raises:
        ValueError: as the parts do; TypeError for a network that is no DiT.

    Source: Liu et al., "Efficient generative model training via embedded representation warmup", 2025.

    Examples:
        >>> from holdfast.diffusion import ExponentialDecay, FrozenEncoder, LinearPath
        >>> net = DiT(1, 8, patch=4, width=16, depth=3, heads=2)
        >>> images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        >>> term = AlignmentLoss.for_network(
        ...     net, FrozenEncoder(nn.Conv2d(1, 6, 4, stride=4)), images, weight=ExponentialDecay(0.5, 2), hidden=16)
        >>> result = embedded_warmup(
        ...     Denoiser(net, LinearPath()), images, warmup=WarmupConfig(1, steps=3), term=term, steps=2,
        ...     batch_size=16, device="cpu")
        >>> [(r.name, r.steps, r.blocks) for r in result.records], result.cost
        ([('warm-up', 3, 1), ('training', 2, 3)], 9)
    """
    network = denoiser.network
    if not isinstance(network, DiT):
        raise TypeError(f"warm-up embeds blocks of a DiT, got {type(network).__name__}")
    places = warmup.places(network.depth)
    phases: list[Phase] = []
    transfer: Callable[[], TransferReport] | None = None
    if warmup.steps:
        short = Denoiser(truncate(network, warmup.blocks), denoiser.path, denoiser.prediction)
        first = term.at(warmup.blocks, weight=warmup.weight)
        objective = DiffusionObjective(
            short, [first], denoise=False, time=denoiser.path.t_min + warmup.time, stop_at=warmup.blocks
        )
        phases.append(Phase("warm-up", short, warmup.steps, objective=objective, ema=None))
        transfer = partial(embed_weights, short.network, network, places)  # pyright: ignore[reportArgumentType]

    phases.append(Phase("training", denoiser, steps, terms=[term], ema=ema, before=transfer))
    return fit_phases(phases, x, y, extra=extra, seed=seed, **options)

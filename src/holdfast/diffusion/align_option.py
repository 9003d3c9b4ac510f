"""The one argument of alignment: from what people pass to a term of the training objective."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.core.estimator import Estimator
from holdfast.diffusion.alignment import AlignmentLoss, FrozenEncoder, encode_all
from holdfast.diffusion.backbones.unet import BlockInfo
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.objective import Term
from holdfast.diffusion.schedules import Schedule
from holdfast.diffusion.self_alignment import SelfAlignmentLoss

__all__ = ["aligned_block", "alignment_term", "as_encoder", "block_width"]

_TARGETS = "targets"
_KEPT = 2**29  # bytes of targets computed in advance


def aligned_block(network: nn.Module) -> int:
    """Return the block that is aligned by default: the middle of a U-Net, a third of the way through a transformer.

    Examples:
        >>> from holdfast.diffusion import DiT
        >>> aligned_block(DiT(1, 8, patch=4, width=16, depth=6, heads=2))
        2
    """
    depth: int = network.depth  # pyright: ignore[reportAssignmentType]
    middle = [b.index for b in _table(network) if b.stage == "middle"]
    return middle[0] if middle else max(1, round(depth / 3))


def block_width(network: nn.Module, block: int) -> int:
    """Return the channels of a block's output."""
    if table := _table(network):
        return table[block - 1].channels
    return int(network.width)  # pyright: ignore[reportArgumentType]


def _table(network: nn.Module) -> list[BlockInfo]:
    """The block table of a U-Net; other networks have none."""
    table = getattr(network, "blocks", None)
    return table if isinstance(table, list) else []


def as_encoder(align: Any, images: Float[Tensor, "n channels height width"]) -> FrozenEncoder:
    """Return the frozen encoder that ``align`` stands for, with one token per patch where it has patches.

    Args:
        align: a module, a fitted estimator, the path of a holdfast model, or the name or folder of a Hugging Face
            model. It is copied, and so left as it is.
        images: some, on the scale of the network.

    Raises:
        ValueError, TypeError: for anything else, or an encoder that cannot read these images.
    """
    if isinstance(align, (str, Path)):
        align = _from_path(str(align))
    if isinstance(align, (nn.Module, Estimator)):
        align = copy.deepcopy(align)
    elif not isinstance(align, str):
        raise TypeError(
            f"align must be None, 'self', a module, a fitted estimator or a path, got {type(align).__name__}"
        )
    encoder = FrozenEncoder(align)
    try:
        encoder.encode(images[:2])
    except ValueError:  # one vector per image
        encoder = FrozenEncoder(align, tokens="image")
        encoder.encode(images[:2])
    except RuntimeError as error:
        shape = tuple(images.shape[1:])
        raise ValueError(f"the encoder given as align cannot read images of shape {shape}: {error}") from error
    return encoder


def _from_path(path: str) -> Estimator | str:
    from holdfast.core.saving import load

    if Path(path).exists():
        hugging_face = Path(path).is_dir() and (Path(path) / "config.json").is_file()
        return path if hugging_face else load(path)
    if "/" not in path or path.startswith((".", "/", "~")):
        raise ValueError(
            f"align must be 'self', an encoder, the path of a model or the name of a Hugging Face model; there is "
            f"nothing at {path!r}"
        )
    return path


def alignment_term(
    align: Any,
    denoiser: Denoiser,
    images: Float[Tensor, "n channels height width"],
    *,
    block: int | None = None,
    weight: Schedule = 0.5,
    uses: int = 0,
    seed: int = 0,
) -> tuple[Term, dict[str, Tensor]]:
    """Return the term, and what the batches must carry for it.

    Targets of an encoder are computed once, in advance, if they fit into memory and will be used more than once.

    Args:
        align: "self", or an encoder, see :func:`as_encoder`.
        denoiser: the model to be trained, with numbered blocks.
        images: all of training, on the scale of the network.
        block: that is aligned; by default :func:`aligned_block`.
        weight: of the term.
        uses: samples that training will draw in all, with repetitions.
        seed: of the projector.

    Raises:
        ValueError, TypeError: for a network without blocks, a block out of range, or what :func:`as_encoder` refuses.
    """
    network = denoiser.network
    depth = getattr(network, "depth", None)
    if not isinstance(depth, int):
        raise ValueError("alignment reads a numbered block, and this network has none (no depth)")
    if images.ndim != 4:
        raise ValueError("alignment is for images; fit vectors with align=None")
    if align == "self":
        block = max(1, round(0.3 * depth)) if block is None else block
        last = max(block + 1, round(0.65 * depth))
        check_number("align_block", block, low=1, high=depth - 1, integer=True)
        width, teacher_width = block_width(network, block), block_width(network, last)
        return SelfAlignmentLoss(block, last, width=width, teacher_width=teacher_width, weight=weight), {}
    block = aligned_block(network) if block is None else block
    check_number("align_block", block, low=1, high=depth, integer=True)
    encoder = as_encoder(align, images)
    y = encoder.encode(images[:2])
    tokens, dim = int(y.shape[1]), int(y.shape[2])
    width = block_width(network, block)
    options: dict[str, Any] = {
        "width": width, "dim": dim, "weight": weight, "hidden": min(2048, max(128, 2 * width)), "seed": seed
    }  # fmt: skip
    if uses <= len(images) or 4 * len(images) * tokens * dim > _KEPT:
        return AlignmentLoss(block, encoder, **options), {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    targets = encode_all(encoder, images, grid=_grid(network, block), device=device)
    return AlignmentLoss(block, _TARGETS, **options), {_TARGETS: targets}


def _grid(network: nn.Module, block: int) -> tuple[int, int] | None:
    if table := _table(network):
        return table[block - 1].resolution, table[block - 1].resolution
    grid = getattr(network, "grid", None)
    return None if grid is None else tuple(grid)

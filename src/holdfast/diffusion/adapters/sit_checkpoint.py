"""Checkpoints in the layout of DiT and SiT, read into this package's diffusion transformer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from holdfast.diffusion.backbones.dit import DIT_SIZES, DiT

__all__ = ["CheckpointReport", "dit_from_checkpoint", "load_dit_checkpoint"]


class CheckpointReport(NamedTuple):
    """What was read: our weights that were filled, those that were not, and the checkpoint's that were of no use."""

    copied: list[str]
    missing: list[str]
    unused: list[str]

    def __str__(self) -> str:
        lines = [f"{len(self.copied)} weights copied"]
        lines += [f"not in the checkpoint: {name}" for name in self.missing]
        lines += [f"not used: {name}" for name in self.unused]
        return "\n".join(lines)


_TOP = {
    "x_embedder.proj": "embed",
    "t_embedder.mlp.0": "time.mlp.0",
    "t_embedder.mlp.2": "time.mlp.2",
    "final_layer.adaLN_modulation.1": "modulation.1",
    "final_layer.linear": "head",
}
_BLOCK = {
    "attn.proj": "attention.out",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "adaLN_modulation.1": "modulation.1",
}


def _translate(state: Mapping[str, Tensor], depth: int) -> Iterator[tuple[str, str, Tensor]]:
    """Yield (their name, our name, value) for every weight whose name is known."""
    for key, value in state.items():
        stem, _, kind = key.rpartition(".")
        if stem in _TOP:
            yield key, f"{_TOP[stem]}.{kind}", value
        elif key == "y_embedder.embedding_table.weight":
            yield key, "label.table.weight", value
        elif stem.startswith("blocks."):
            _, number, part = stem.split(".", 2)
            block = f"blocks.blocks.{number}."
            if int(number) >= depth:
                continue
            if part in _BLOCK:
                yield key, f"{block}{_BLOCK[part]}.{kind}", value
            elif part == "attn.qkv":  # one matrix for queries, keys and values, in that order
                third = len(value) // 3
                yield key, f"{block}attention.query.{kind}", value[:third]
                yield key, f"{block}attention.key_value.{kind}", value[third:]


def load_dit_checkpoint(
    model: DiT, source: str | PathLike[str] | Mapping[str, Any], *, prefer_average: bool = True
) -> CheckpointReport:
    """Fill a diffusion transformer from a checkpoint with the names of the published DiT and SiT.

    Weights beside those of the transformer (the projectors of alignment) are left out and reported. Nothing is
    written unless all that is found fits.

    Args:
        model: what is filled, in place.
        source: a state dict, or a file: ``.safetensors``, or of ``torch.save``, with the weights at the top or under
            "ema", "model" or "state_dict".
        prefer_average: of "ema" and "model", take the average.

    Raises:
        ValueError: for weights of another shape, other positions, normalised queries and keys of another kind than
            ours, or a checkpoint with no known weight.

    Source: names as in Peebles and Xie, "Scalable diffusion models with transformers", ICCV 2023, and Ma et al.,
    "SiT", ECCV 2024 (official implementations).

    Examples:
        >>> model = DiT(1, 4, patch=2, width=8, depth=1, heads=2)
        >>> state = {"x_embedder.proj.bias": torch.ones(8), "projectors.0.bias": torch.ones(3)}
        >>> report = load_dit_checkpoint(model, state)
        >>> report.copied, report.unused, model.embed.bias[0].item()
        (['embed.bias'], ['projectors.0.bias'], 1.0)
    """
    state = _read(source, prefer_average)
    ours = model.state_dict()
    if normed := [k for k in state if k.endswith(("attn.q_norm.weight", "attn.k_norm.weight"))]:
        raise ValueError(f"the checkpoint normalises queries and keys by layer norms, which ours has not: {normed[0]}")
    if "pos_embed" in state:
        theirs = state["pos_embed"].reshape(-1, state["pos_embed"].shape[-1])
        if theirs.shape != model.positions.shape:
            raise ValueError(
                f"pos_embed has shape {tuple(theirs.shape)}, the model's positions {tuple(model.positions.shape)}: "
                "another image size, patch or width"
            )
        if not torch.allclose(theirs.to(model.positions), model.positions, atol=1e-3):
            raise ValueError("the checkpoint's positions are other ones than the fixed sines and cosines of the model")
    found: dict[str, Tensor] = {}
    used = {"pos_embed"} & set(state)
    for theirs, name, value in _translate(state, model.depth):
        if name not in ours:
            continue
        if value.shape != ours[name].shape:
            raise ValueError(
                f"{theirs} has shape {tuple(state[theirs].shape)}, which gives {tuple(value.shape)} for {name}, "
                f"but the model has {tuple(ours[name].shape)}"
            )
        found[name] = value
        used.add(theirs)
    if not found:
        raise ValueError(f"no weight of the checkpoint has a known name; its first are {list(state)[:3]}")
    model.load_state_dict(found, strict=False)
    return CheckpointReport(sorted(found), sorted(set(ours) - set(found)), sorted(set(state) - used))


def dit_from_checkpoint(
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    heads: int | None = None,
    class_dropout: float = 0.1,
    time_scale: float = 1.0,
    in_channels: int | None = None,
    prefer_average: bool = True,
) -> tuple[DiT, CheckpointReport]:
    """Make the diffusion transformer that a DiT or SiT checkpoint is of, and fill it.

    Args:
        source, prefer_average: see :func:`load_dit_checkpoint`.
        heads: of attention; needed where the width is not one of a published size.
        class_dropout: share of labels that was dropped in training; it needs a label more than there are classes.
        time_scale: 1 for SiT, which feeds times in [0, 1] as they are, and for DiT, whose times are steps.
        in_channels: of the images; read from the checkpoint by default.

    Raises:
        ValueError: for a checkpoint without patches, positions or blocks, or of unknown heads.

    Examples:
        >>> model, report = dit_from_checkpoint("SiT-XL-2-256.pt")  # doctest: +SKIP
        >>> model.depth, len(report.missing)  # doctest: +SKIP
        (28, 0)
    """
    state = _read(source, prefer_average)
    needed = ("x_embedder.proj.weight", "pos_embed", "final_layer.linear.weight")
    if absent := [k for k in needed if k not in state]:
        raise ValueError(f"the checkpoint is no DiT or SiT: it has no {', '.join(absent)}")
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    depth = 1 + max((int(k.split(".")[1]) for k in state if k.startswith("blocks.")), default=-1)
    if heads is None:
        known = {size: h for size, _, h in DIT_SIZES.values()}
        if width not in known:
            raise ValueError(f"the checkpoint's width of {width} is that of no published size: give heads")
        heads = known[width]
    tokens = state["pos_embed"].shape[-2]
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f"the checkpoint has {tokens} tokens, which is no square")
    hidden = state.get("blocks.0.mlp.fc1.weight")
    labels = state.get("y_embedder.embedding_table.weight")
    classes = 0 if labels is None else len(labels) - 1
    model = DiT(
        channels if in_channels is None else in_channels,
        side * patch,
        patch,
        width,
        depth,
        heads,
        mlp_ratio=4.0 if hidden is None else len(hidden) / width,
        num_classes=classes,
        class_dropout=class_dropout,
        time_scale=time_scale,
        learn_sigma=len(state["final_layer.linear.weight"]) == 2 * channels * patch * patch,
    )
    return model, load_dit_checkpoint(model, state)


def _read(source: str | PathLike[str] | Mapping[str, Any], prefer_average: bool) -> dict[str, Tensor]:
    content: Mapping[str, Any] = source if isinstance(source, Mapping) else _read_file(Path(source))
    for name in ("ema", "model", "state_dict") if prefer_average else ("model", "state_dict", "ema"):
        if isinstance(content.get(name), Mapping):
            content = content[name]
            break
    state = {k.removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise ValueError(f"the checkpoint holds no tensors, its keys are {list(content)[:5]}")
    return state


def _read_file(file: Path) -> Mapping[str, Any]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    # Published training checkpoints carry their command line along.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(file, map_location="cpu", weights_only=True)

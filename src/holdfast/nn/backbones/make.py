"""Pick a backbone by the kind of the input, by name and by size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from holdfast.core.checks import check_choice
from holdfast.core.signature import InputSignature
from holdfast.nn.backbones.convnet import ConvNet
from holdfast.nn.backbones.gnn import GraphNet
from holdfast.nn.backbones.mlp import MLP, FlatInput, Identity, TableInput
from holdfast.nn.backbones.resnet import ResNet
from holdfast.nn.backbones.sets import DeepSets, SetAttention
from holdfast.nn.backbones.text import HashedText, TransformerText
from holdfast.nn.backbones.vit import ViT

__all__ = ["AUTO", "BACKBONES", "SIZES", "BackboneEntry", "list_backbones", "make_backbone"]

SIZES = ("tiny", "small", "base", "large")

AUTO: Mapping[str, str] = {
    "vector": "mlp",
    "table": "mlp",
    "image": "convnet",
    "text": "embedding_bag",
    "tokens": "transformer",
    "sets": "deepsets",
    "graphs": "gin",
}
"""The backbone that ``name="auto"`` takes for every kind of input."""


@dataclass(frozen=True)
class BackboneEntry:
    """One row of the table of backbones: what it takes, how it is built, and its four sizes."""

    kinds: tuple[str, ...]
    build: Callable[..., nn.Module]
    sizes: Mapping[str, Mapping[str, Any]]


def _front(s: InputSignature) -> FlatInput | TableInput:
    if s.kind == "table":
        return TableInput(s.n_numeric, s.cardinalities, s.mean, s.std, s.median, s.missing)
    return FlatInput(s.shape, s.mean, s.std)


def _of_shape(cls: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda s, **size: cls(s.shape, mean=s.mean, std=s.std, **size)


def _of_features(cls: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda s, **size: cls(s.shape[0], mean=s.mean, std=s.std, **size)


def _sizes(**by_argument: tuple[Any, Any, Any, Any]) -> dict[str, dict[str, Any]]:
    return {size: {k: v[i] for k, v in by_argument.items()} for i, size in enumerate(SIZES)}


_GRAPH = _sizes(width=(32, 64, 128, 256), depth=(2, 3, 4, 5))

BACKBONES: Mapping[str, BackboneEntry] = {
    "mlp": BackboneEntry(
        ("vector", "table", "image"),
        lambda s, **size: MLP(_front(s), **size),
        _sizes(width=(32, 128, 512, 1024), depth=(1, 2, 3, 4)),
    ),
    "identity": BackboneEntry(
        ("vector", "table", "image"), lambda s: Identity(_front(s)), {size: {} for size in SIZES}
    ),
    "convnet": BackboneEntry(
        ("image",),
        _of_shape(ConvNet),
        _sizes(
            widths=((8, 16, 32), (16, 32, 64), (32, 64, 128, 256), (64, 128, 256, 512)),
            depth=(1, 1, 1, 2),
            resolution=(8, 8, 16, 32),
        ),
    ),
    "resnet": BackboneEntry(
        ("image",),
        _of_shape(ResNet),
        _sizes(
            widths=((8, 16, 32), (16, 32, 64), (64, 128, 256, 512), (64, 128, 256, 512)),
            blocks=((1, 1, 1), (1, 1, 1), (2, 2, 2, 2), (3, 4, 6, 3)),
            resolution=(8, 8, 32, 56),
        ),
    ),
    "vit": BackboneEntry(
        ("image",),
        _of_shape(ViT),
        _sizes(width=(32, 64, 192, 384), depth=(2, 3, 8, 12), heads=(2, 4, 6, 6), grid=(4, 7, 14, 14)),
    ),
    "embedding_bag": BackboneEntry(
        ("text",),
        lambda s, **size: HashedText(s.shape[0], **size),
        _sizes(width=(16, 32, 64, 128), hidden=(32, 64, 256, 512), depth=(1, 1, 1, 2)),
    ),
    "transformer": BackboneEntry(("tokens",), lambda s: TransformerText(s.model), {size: {} for size in SIZES}),
    "deepsets": BackboneEntry(("sets",), _of_features(DeepSets), _sizes(width=(32, 128, 256, 512), depth=(1, 2, 3, 4))),
    "set_attention": BackboneEntry(
        ("sets",),
        _of_features(SetAttention),
        _sizes(width=(32, 64, 192, 384), depth=(1, 2, 4, 8), heads=(2, 4, 6, 6)),
    ),
    "gin": BackboneEntry(("graphs",), lambda s, **size: _of_features(GraphNet)(s, convolution="gin", **size), _GRAPH),
    "gcn": BackboneEntry(("graphs",), lambda s, **size: _of_features(GraphNet)(s, convolution="gcn", **size), _GRAPH),
}
"""Every backbone by name. ``identity`` and ``transformer`` have one size: the input's, and the named model's."""


def list_backbones(kind: str) -> list[str]:
    """Return the names of the backbones that take inputs of ``kind``.

    Examples:
        >>> list_backbones("sets")
        ['deepsets', 'set_attention']
    """
    check_choice("kind", kind, list(AUTO))
    return [name for name, entry in BACKBONES.items() if kind in entry.kinds]


def make_backbone(signature: InputSignature, size: str = "small", name: str = "auto") -> nn.Module:
    """Return a freshly initialised backbone for inputs of ``signature``.

    It takes the model input that :class:`~holdfast.core.signature.InputSignature` documents, in raw values, and
    returns (B, ``out_dim``). Weights are drawn from torch's global generator; put the call inside
    :func:`~holdfast.core.random.isolated_rng` to fix them.

    Args:
        signature: kind, shape and statistics of the input.
        size: ``"tiny"``, ``"small"``, ``"base"`` or ``"large"``; the numbers are in ``BACKBONES``.
        name: a key of ``BACKBONES``, or ``"auto"`` for the usual one of the kind (``AUTO``).

    Raises:
        ValueError: for an unknown size or name, or a backbone that does not take this kind of input.

    Examples:
        >>> from holdfast.core.signature import InputSignature
        >>> make_backbone(InputSignature("image", (1, 28, 28)), size="tiny").out_dim
        32
        >>> make_backbone(InputSignature("vector", (4,)), name="vit")
        Traceback (most recent call last):
        ...
        ValueError: backbone 'vit' takes image, not vector; for vector: auto, mlp, identity
    """
    check_choice("size", size, SIZES)
    fits = list_backbones(signature.kind)
    choice = AUTO[signature.kind] if name == "auto" else name
    if choice not in fits:
        listed = ", ".join(["auto", *fits])
        if choice not in BACKBONES:
            raise ValueError(f"unknown backbone {name!r}; for {signature.kind}: {listed}")
        takes = ", ".join(BACKBONES[choice].kinds)
        raise ValueError(f"backbone {name!r} takes {takes}, not {signature.kind}; for {signature.kind}: {listed}")
    entry = BACKBONES[choice]
    return entry.build(signature, **entry.sizes[size])

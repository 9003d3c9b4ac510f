"""Joining the encoder of one model to the head of another, without training."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from holdfast.nn.network import Network
from holdfast.representation.relative_encoder import RelativeEncoder

__all__ = ["stitch"]


class _Stitched(nn.Module):
    """Similarities of one model under the normalisation of another."""

    def __init__(self, relative: RelativeEncoder, normalize: nn.Module) -> None:
        super().__init__()
        self.source = relative
        self.normalize = normalize
        self.out_dim = relative.out_dim

    def forward(self, x: Any) -> Float[Tensor, "batch k"]:
        return self.normalize(self.source.relative(x))


def _relative_part(name: str, model: nn.Module) -> RelativeEncoder:
    part = model if isinstance(model, RelativeEncoder) else getattr(model, "encoder", None)
    if isinstance(part, _Stitched):
        part = part.source
    if not isinstance(part, RelativeEncoder):
        raise TypeError(f"{name} must be a RelativeEncoder or a network on top of one, got {type(model).__name__}")
    return part


def stitch(encoder: RelativeEncoder | Network, head: Network) -> Network:
    r"""Feed the relative representation of one model to the head of another.

    .. math:: \hat y = h_j\bigl(\mathrm{norm}_j(r^{(i)}_x)\bigr)

    Both models must have been trained with the same anchors in the same order (or with parallel anchors, see
    :meth:`AnchorSet.parallel`). Parameters are shared with the two models, nothing is copied.

    Args:
        encoder: model i, a :class:`RelativeEncoder` or a network whose encoder is one.
        head: model j, a network whose encoder is a :class:`RelativeEncoder`; its normalisation and head are used.

    Raises:
        TypeError: when a model has no relative encoder.
        ValueError: when the number of anchors or their hashes differ; both are named.

    Source: Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023,
    Section 4.3.

    Examples:
        >>> import torch
        >>> anchors = torch.randn(5, 3)
        >>> a, b = (Network(RelativeEncoder(nn.Linear(3, d), anchors), nn.Linear(5, 2)) for d in (4, 7))
        >>> stitch(a, b)(torch.randn(6, 3)).shape
        torch.Size([6, 2])
    """
    source, target = _relative_part("encoder", encoder), _relative_part("head", head)
    source.contract.check(target.contract, names=("encoder's anchors", "head's anchors"))
    return Network(_Stitched(source, target.normalize), head.head)

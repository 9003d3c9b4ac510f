"""How well vectors of one embedding space can be used in another: as they are, relative to anchors, or rotated."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes
from torch import Tensor
from torch.nn import functional as F

from holdfast.core.checks import check_finite, check_matrix, check_number, check_same_length
from holdfast.metrics.similarity import cross_space_mrr, mean_cosine, topk_jaccard
from holdfast.representation.anchors import AnchorMethod, AnchorSet
from holdfast.representation.relative import Similarity, relative_projection

__all__ = ["compare_spaces", "rotate_onto"]


def rotate_onto(
    source: Float[Tensor, "n d1"], target_anchors: Float[Tensor, "k d2"], source_anchors: Float[Tensor, "k d1"]
) -> Float[Tensor, "n d"]:
    r"""Map a space onto another by the orthogonal matrix that fits paired anchors best.

    .. math:: z \mapsto z\,\arg\min_{Q^\top Q = I} \lVert A_{source}\, Q - A_{target} \rVert_F

    on unit vectors. The narrower space is padded by zeros.

    Raises:
        ValueError: unless the anchors pair one to one.

    Examples:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> bool(torch.allclose(rotate_onto(z, z.flip(1), z), F.normalize(z.flip(1), dim=1), atol=1e-6))
        True
    """
    if len(target_anchors) != len(source_anchors):
        raise ValueError(f"parallel anchors must pair one to one, got {len(source_anchors)} and {len(target_anchors)}")
    width = max(source.shape[1], target_anchors.shape[1])
    z, a, b = (F.pad(F.normalize(t, dim=1), (0, width - t.shape[1])) for t in (source, source_anchors, target_anchors))
    q, _ = orthogonal_procrustes(a.double().cpu().numpy(), b.double().cpu().numpy())
    return z @ torch.as_tensor(q).to(z)


def compare_spaces(
    z1: Float[Tensor, "n d1"],
    z2: Float[Tensor, "n d2"],
    *,
    n_anchors: int,
    k: int = 5,
    similarity: Similarity = "cosine",
    center: bool = False,
    method: AnchorMethod = "uniform",
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Retrieve items of one space by their vectors of the other, in four ways.

    Rows: ``"absolute"``, the vectors as they are (only for spaces of one width); ``"relative"``, similarities to
    common anchors; ``"procrustes"``, space 1 rotated onto space 2 by the same anchors, an upper reference that uses
    the target space; ``"permuted"``, relative with the anchors of one side in another order, which must be chance.
    Columns: mean reciprocal rank ``mrr``, top-k ``jaccard`` overlap, mean ``cosine`` of an item's two vectors.

    Args:
        z1, z2: the same items in the same order.
        n_anchors: anchors drawn from the items.
        k: neighbours of the overlap.
        similarity, center: see :func:`relative_projection`.
        method: see :meth:`AnchorSet.sample` (``"fps"`` and ``"kmeans"`` look at space 1).
        seed: of the anchors.

    Raises:
        ValueError: for different numbers of items, too many anchors, or values that are not finite.

    Source: Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023,
    Section 4.1.

    Examples:
        >>> z = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        >>> compare_spaces(z, z.flip(1), n_anchors=20)["relative"]["mrr"]
        1.0
    """
    for name, z in (("z1", z1), ("z2", z2)):
        check_matrix(name, z)
        check_finite(name, z)
    n = check_same_length(z1=z1, z2=z2)
    check_number("k", k, low=1, high=n, integer=True)
    generator = torch.Generator().manual_seed(seed)
    anchors = AnchorSet.sample(z1 if method in ("fps", "kmeans") else n, n_anchors, method, generator=generator).indices
    permuted = anchors[torch.randperm(n_anchors, generator=generator)]

    def relative(z: Tensor, rows: Tensor) -> Tensor:
        return relative_projection(z, z[rows], similarity, center=center)

    r1 = relative(z1, anchors)
    pairs: dict[str, tuple[Any, Any]] = {} if z1.shape[1] != z2.shape[1] else {"absolute": (z1, z2)}
    width = max(z1.shape[1], z2.shape[1])
    pairs |= {
        "relative": (r1, relative(z2, anchors)),
        "procrustes": (rotate_onto(z1, z2[anchors], z1[anchors]), F.pad(z2, (0, width - z2.shape[1]))),
        "permuted": (r1, relative(z2, permuted)),
    }
    return {
        name: {"mrr": cross_space_mrr(*pair), "jaccard": topk_jaccard(*pair, k), "cosine": mean_cosine(*pair)}
        for name, pair in pairs.items()
    }

"""Whether a new model may query a gallery that an old model embedded: the matrix of all pairs, and the definition."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_finite, check_matrix, check_same_length
from holdfast.nn.contract import EmbeddingContract

__all__ = ["CompatibilityMatrix", "DefinitionCheck", "check_definition", "template_accuracy"]

Score = Callable[[Tensor, Tensor, Tensor, Tensor], float]
"""From queries (n, d), gallery (m, d), query labels (n,) and gallery labels (m,) to a score, higher is better."""


def template_accuracy(
    queries: Float[Tensor, "n d"],
    gallery: Float[Tensor, "m d"],
    query_labels: Int[Tensor, " n"],
    gallery_labels: Int[Tensor, " m"],
) -> float:
    """Share of queries whose nearest class template has their label, by cosine.

    The template of a class is the mean of its unit gallery features.

    Raises:
        ValueError: for different widths or lengths, a query class that the gallery lacks, or a gallery class that
            no query has.

    Source: retrieval protocol of Biondi et al., CVPR 2024 (1:N search with one mean template per class).

    Examples:
        >>> eye, y = torch.eye(2), torch.tensor([0, 1])
        >>> template_accuracy(eye, 5 * eye, y, y)
        1.0
    """
    check_matrix("queries", queries)
    check_matrix("gallery", gallery, columns=queries.shape[1])
    check_same_length(queries=queries, query_labels=query_labels)
    check_same_length(gallery=gallery, gallery_labels=gallery_labels)
    classes, codes = torch.unique(gallery_labels, return_inverse=True)
    query_classes = torch.unique(query_labels)
    missing = query_classes[~torch.isin(query_classes, classes)]
    if len(missing):
        raise ValueError(f"class {missing[0].item()} of the queries has no sample in the gallery")
    unasked = classes[~torch.isin(classes, query_classes)]
    if len(unasked):
        raise ValueError(f"class {unasked[0].item()} of the gallery is missing from the queries")
    templates = torch.zeros(len(classes), gallery.shape[1], dtype=gallery.dtype, device=gallery.device)
    templates.index_add_(0, codes, F.normalize(gallery, dim=1))
    nearest = (F.normalize(queries, dim=1) @ F.normalize(templates, dim=1).mT).argmax(1)
    return float((classes[nearest] == query_labels).float().mean())


class CompatibilityMatrix:
    r"""Retrieval scores ``C[i, j]`` of queries by model i on a gallery by model j, for i >= j (lower triangle).

    .. math:: AC = \frac{2}{T(T-1)} \sum_{i>j} \mathbb 1[C_{ij} > C_{jj}], \qquad
              AA = \frac{2}{T(T+1)} \sum_{i \ge j} C_{ij}

    AC is the share of updates after which the old gallery serves better than it did with its own model; equality
    does not count. AA is the mean score over a service's life without ever re-embedding the gallery.

    Args:
        values: (T, T) scores; entries above the diagonal are ignored and may be NaN.

    Raises:
        ValueError: for a matrix that is not square, or whose lower triangle is not finite or is empty while the
            upper one is filled (then it is transposed).

    Source: Biondi, Pernici, Bruni, Mugnai, Del Bimbo, "CL2R: Compatible Lifelong Learning Representations",
    ACM TOMM 2023; Biondi et al., CVPR 2024, Section 5.

    Examples:
        >>> c = CompatibilityMatrix([[0.5, float("nan")], [0.6, 0.7]])
        >>> c.ac(), round(c.aa(), 4)
        (1.0, 0.6)
    """

    def __init__(self, values: Any) -> None:
        c = np.array(values, dtype=np.float64)
        if c.ndim != 2 or c.shape[0] != c.shape[1] or c.shape[0] == 0:
            raise ValueError(f"a compatibility matrix must be square, got shape {c.shape}")
        lower, upper = np.tril_indices(len(c), -1), np.triu_indices(len(c), 1)
        empty = np.isnan(c[lower]) | (c[lower] == 0)
        if len(c) > 1 and empty.all() and (np.nan_to_num(c[upper]) != 0).all():
            raise ValueError(
                "only the upper triangle is filled; rows must be the querying model and columns the gallery's, "
                "so that C[i, j] with i > j is a new model on an old gallery (transpose it)"
            )
        check_finite("the lower triangle", c[np.tril_indices(len(c))])
        c[upper] = np.nan
        self.values: np.ndarray = c

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"CompatibilityMatrix(T={len(self)}, AA={self.aa():.4f})"

    @classmethod
    def from_embeddings(
        cls,
        queries: Sequence[Tensor],
        gallery: Sequence[Tensor],
        query_labels: Int[Tensor, " n"],
        gallery_labels: Int[Tensor, " m"],
        *,
        score: Score = template_accuracy,
        contracts: Sequence[EmbeddingContract] | None = None,
    ) -> CompatibilityMatrix:
        """Score every pair of models from their embeddings of the same queries and gallery.

        Args:
            queries: T tensors (n, d), one per model in order of time.
            gallery: T tensors (m, d).
            contracts: what fixes each model's coordinates; where given, all have to agree.

        Raises:
            ValueError: when the numbers of models or the widths differ, contracts disagree, or the score refuses.
        """
        if len(queries) != len(gallery) or len(queries) == 0:
            raise ValueError(
                f"queries and gallery must come from the same models, got {len(queries)} and {len(gallery)}"
            )
        if contracts is not None:
            for t, contract in enumerate(contracts):
                contracts[0].check(contract, names=("model 0", f"model {t}"))
        widths = [q.shape[1] for q in queries] + [g.shape[1] for g in gallery]
        if len(set(widths)) > 1:
            at = next(t for t, w in enumerate(widths) if w != widths[0]) % len(queries)
            raise ValueError(
                f"models to be compared must share the feature space, but model 0 has {widths[0]} dimensions "
                f"and model {at} has {queries[at].shape[1]} (queries) and {gallery[at].shape[1]} (gallery)"
            )
        c = np.full((len(queries), len(queries)), np.nan)
        for i, q in enumerate(queries):
            for j, g in enumerate(gallery[: i + 1]):
                c[i, j] = score(q, g, query_labels, gallery_labels)
        return cls(c)

    @classmethod
    @torch.inference_mode()
    def from_models(
        cls,
        models: Sequence[nn.Module],
        queries: Any,
        gallery: Any,
        query_labels: Int[Tensor, " n"],
        gallery_labels: Int[Tensor, " m"],
        *,
        score: Score = template_accuracy,
    ) -> CompatibilityMatrix:
        """Embed queries and gallery by every model (its ``features``, else its output) and score every pair.

        Models whose head states a contract are compared only if the contracts agree.
        """
        embed = [getattr(m, "features", m) for m in models]
        stated = [getattr(getattr(m, "head", None), "contract", None) for m in models]
        contracts = [c for c in stated if c is not None]
        return cls.from_embeddings(
            [f(queries) for f in embed],
            [f(gallery) for f in embed],
            query_labels,
            gallery_labels,
            score=score,
            contracts=contracts if len(contracts) == len(models) else None,
        )

    def ac(self) -> float:
        """Average compatibility: share of pairs i > j with ``C[i, j] > C[j, j]``; 1 (with a warning) for one model."""
        if len(self) == 1:
            warnings.warn("average compatibility of a single model is 1 by definition", stacklevel=2)
            return 1.0
        rows, columns = np.tril_indices(len(self), -1)
        return float((self.values[rows, columns] > self.values[columns, columns]).mean())

    def aa(self) -> float:
        """Average accuracy: mean of the lower triangle, diagonal included."""
        return float(self.values[np.tril_indices(len(self))].mean())

    def aa_per_step(self) -> Float[np.ndarray, " T"]:
        """AA after each update: of the first 1, 2, ..., T models."""
        counts = np.arange(1, len(self) + 1)
        return np.nansum(self.values, axis=1).cumsum() / (counts * (counts + 1) / 2)

    def cross_test(self) -> float:
        """Mean of the entries below the diagonal: new models on old galleries.

        Raises:
            ValueError: for a single model.
        """
        if len(self) == 1:
            raise ValueError("a single model has no cross-test")
        return float(self.values[np.tril_indices(len(self), -1)].mean())


@dataclass(frozen=True)
class DefinitionCheck:
    """How far a pair of models meets the two inequalities of the definition of compatibility.

    (a) ``d(new_i, old_j) <= d(old_i, old_j)`` for equal labels, (b) ``>=`` for different labels; d = 1 - cosine.

    Attributes:
        same_fraction, other_fraction: share of query-gallery pairs for which (a) and (b) hold.
        same_new, same_old: mean distance of same-class pairs, new-old and old-old.
        other_new, other_old: the same for pairs of different classes.
        same_by_class: share of classes for which (a) holds for the mean distances.
        other_by_class: share of ordered pairs of classes for which (b) holds for the mean distances.
    """

    same_fraction: float
    other_fraction: float
    same_new: float
    same_old: float
    other_new: float
    other_old: float
    same_by_class: float
    other_by_class: float

    @property
    def holds_in_expectation(self) -> bool:
        """Whether both inequalities hold for the mean distances."""
        return self.same_new <= self.same_old and self.other_new >= self.other_old


def check_definition(
    f_new_q: Float[Tensor, "n d"],
    f_old_q: Float[Tensor, "n d"],
    f_old_g: Float[Tensor, "m d"],
    y_q: Int[Tensor, " n"],
    y_g: Int[Tensor, " m"],
) -> DefinitionCheck:
    """Measure the definition of compatibility on queries (by both models) and a gallery (by the old model).

    Queries and gallery should be different samples: the old model is at distance 0 from itself.

    Raises:
        ValueError: for different widths or lengths, a zero feature, or fewer than two classes in common.

    Source: Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020, eq. 2 and 3; Biondi et
    al., CVPR 2024, Definition 1.

    Examples:
        >>> f, y = torch.eye(2), torch.tensor([0, 1])
        >>> check_definition(f, f, f, y, y).holds_in_expectation
        True
    """
    for name, f in (("f_new_q", f_new_q), ("f_old_q", f_old_q), ("f_old_g", f_old_g)):
        check_matrix(name, f, columns=f_old_g.shape[-1])
        check_finite(name, f)
        if bool((f.norm(dim=1) == 0).any()):
            raise ValueError(f"{name} holds a feature that is all zero, so its cosine is undefined")
    check_same_length(f_new_q=f_new_q, f_old_q=f_old_q, y_q=y_q)
    check_same_length(f_old_g=f_old_g, y_g=y_g)
    g = F.normalize(f_old_g.double(), dim=1)
    d_new = 1 - F.normalize(f_new_q.double(), dim=1) @ g.mT
    d_old = 1 - F.normalize(f_old_q.double(), dim=1) @ g.mT
    same = y_q[:, None] == y_g[None, :]
    if not bool(same.any()) or bool(same.all()):
        raise ValueError("queries and gallery need pairs of equal and pairs of different labels")
    classes, codes = torch.unique(torch.cat([y_q, y_g]), return_inverse=True)
    q_one, g_one = F.one_hot(codes, len(classes)).double().split([len(y_q), len(y_g)])
    counts = q_one.sum(0)[:, None] * g_one.sum(0)[None, :]
    new_by, old_by = (q_one.mT @ d @ g_one / counts.clamp_min(1) for d in (d_new, d_old))
    diagonal = torch.eye(len(classes), dtype=torch.bool, device=same.device)
    tolerance = 1e-12  # equal models must count as compatible whatever the order of summation
    a_by = (new_by <= old_by + tolerance)[diagonal & (counts > 0)]
    b_by = (new_by >= old_by - tolerance)[~diagonal & (counts > 0)]
    return DefinitionCheck(
        same_fraction=float((d_new <= d_old + tolerance)[same].double().mean()),
        other_fraction=float((d_new >= d_old - tolerance)[~same].double().mean()),
        same_new=float(d_new[same].mean()),
        same_old=float(d_old[same].mean()),
        other_new=float(d_new[~same].mean()),
        other_old=float(d_old[~same].mean()),
        same_by_class=float(a_by.double().mean()),
        other_by_class=float(b_by.double().mean()),
    )

"""Anchor samples: which they are, how they are chosen, and how two models know that they share them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_finite, check_matrix, check_number
from holdfast.nn.contract import EmbeddingContract, tensor_digest

__all__ = ["AnchorMethod", "AnchorSet"]

AnchorMethod = Literal["uniform", "stratified", "fps", "kmeans", "first"]
_METHODS = ("uniform", "stratified", "fps", "kmeans", "first")


@dataclass(frozen=True, eq=False)
class AnchorSet:
    """An ordered list of anchor samples.

    The list is the contract between models: two relative representations can be exchanged only when their
    anchors are the same items in the same order. Items are compared by a hash of the model inputs where these
    are known, else of the indices.

    Attributes:
        indices: rows of the data set that are anchors, in order.
        inputs: the anchors as model input, where known.
        paired_with: digest of the parallel anchor list in another domain whose items these are (see
            :meth:`parallel`); empty for a list of its own.

    Raises:
        ValueError: for no anchors, negative indices, or a different number of inputs.

    Source: Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023.

    Examples:
        >>> anchors = AnchorSet.sample(100, 4, generator=torch.Generator().manual_seed(0))
        >>> len(anchors), anchors.contract == AnchorSet(anchors.indices).contract
        (4, True)
    """

    indices: Int[Tensor, " k"]
    inputs: Tensor | None = None
    paired_with: str = field(default="")

    def __post_init__(self) -> None:
        indices = torch.as_tensor(self.indices, dtype=torch.int64)
        object.__setattr__(self, "indices", indices)
        if indices.ndim != 1 or len(indices) == 0:
            raise ValueError(f"anchor indices must be a non-empty list, got one of shape {tuple(indices.shape)}")
        if int(indices.min()) < 0:
            raise ValueError(f"anchor indices must not be negative, got {int(indices.min())}")
        repeated = len(indices) - len(torch.unique(indices))
        if repeated:
            warnings.warn(f"{repeated} of {len(indices)} anchor indices are duplicates", stacklevel=3)
        if self.inputs is not None and len(self.inputs) != len(indices):
            raise ValueError(f"there are {len(indices)} anchor indices, but {len(self.inputs)} inputs")

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def sample(
        cls,
        n_or_embeddings: int | Float[Tensor, "n d"],
        k: int,
        method: AnchorMethod = "uniform",
        *,
        labels: Tensor | None = None,
        n_clusters: int = 42,
        generator: torch.Generator | None = None,
    ) -> AnchorSet:
        """Choose ``k`` of n samples as anchors.

        Args:
            n_or_embeddings: number of samples, or their embeddings (needed by ``"fps"`` and ``"kmeans"``).
            method: ``"uniform"`` without replacement; ``"stratified"``, equally many of every class;
                ``"fps"``, farthest point sampling from a random start; ``"kmeans"``, one sample per cluster in
                rotation, nearest to its centre first; ``"first"``, the first k rows (for data in order of frequency).
            n_clusters: clusters of ``"kmeans"``, at most k.

        Raises:
            ValueError: when k exceeds n, ``"stratified"`` finds k not divisible by the number of classes or a class
                with too few samples, or the method lacks the embeddings or labels that it needs.

        Examples:
            >>> z = torch.tensor([[0.0], [0.1], [5.0], [9.0]])
            >>> sorted(AnchorSet.sample(z, 2, "fps", generator=torch.Generator().manual_seed(0)).indices.tolist())
            [0, 3]
        """
        check_choice("method", method, _METHODS)
        check_number("k", k, low=1, integer=True)
        if isinstance(n_or_embeddings, Tensor):
            check_matrix("embeddings", n_or_embeddings)
            check_finite("embeddings", n_or_embeddings)
            n = len(n_or_embeddings)
        else:
            n = int(check_number("n", n_or_embeddings, low=1, integer=True))
        if k > n:
            raise ValueError(f"k={k} anchors cannot be drawn from {n} samples")
        if method == "first":
            return cls(torch.arange(k))
        if method == "uniform":
            return cls(torch.randperm(n, generator=generator)[:k])
        if method == "stratified":
            return cls(_stratified(n, k, labels, generator))
        if not isinstance(n_or_embeddings, Tensor):
            raise ValueError(f"method {method!r} needs the embeddings (n, d), got only their number {n}")
        if method == "fps":
            return cls(_farthest_points(n_or_embeddings, k, generator))
        return cls(_cluster_rotation(n_or_embeddings, k, min(n_clusters, k), generator))

    def of(self, x: Tensor) -> AnchorSet:
        """The same anchors with their inputs taken from the data set ``x``.

        Raises:
            ValueError: when an anchor index lies beyond the data set.
        """
        if int(self.indices.max()) >= len(x):
            raise ValueError(f"anchor index {int(self.indices.max())} lies beyond the {len(x)} samples")
        return AnchorSet(self.indices, x[self.indices.to(x.device)], self.paired_with)

    def parallel(self, indices: Tensor, inputs: Tensor | None = None) -> AnchorSet:
        """Anchors of another domain that are, one by one, the same items as these (a translation, a caption…).

        Both lists get the same contract, so an encoder of one domain may feed a head of the other.

        Raises:
            ValueError: when the lists differ in length.
        """
        if len(indices) != len(self):
            raise ValueError(f"parallel anchors must pair one to one, got {len(self)} and {len(indices)}")
        return AnchorSet(indices, inputs, self.contract.digest)

    @property
    def contract(self) -> EmbeddingContract:
        """What another model must share: the number of anchors and the hash of what they are."""
        content = self.indices if self.inputs is None else self.inputs
        return EmbeddingContract("relative", len(self), self.paired_with or tensor_digest(content))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary: indices and digests, without the inputs."""
        content = self.indices if self.inputs is None else self.inputs
        return {
            "indices": self.indices.tolist(),
            "digest": tensor_digest(content),
            "contract": self.contract.digest,
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any], inputs: Tensor | None = None) -> AnchorSet:
        """Rebuild from :meth:`to_dict`; the contract is kept also without the inputs.

        Raises:
            ValueError: when ``inputs`` are given and are not those that the dictionary was made from.
        """
        if inputs is not None:
            stored = EmbeddingContract("relative", len(d["indices"]), d["digest"])
            given = EmbeddingContract("relative", len(inputs), tensor_digest(inputs))
            stored.check(given, names=("stored anchors", "given inputs"))
        return cls(torch.tensor(d["indices"]), inputs, d["contract"])


def _stratified(n: int, k: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
    if labels is None or len(labels) != n:
        got = "none" if labels is None else str(len(labels))
        raise ValueError(f"stratified anchors need one label for each of the {n} samples, got {got}")
    classes, codes, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    each, rest = divmod(k, len(classes))
    if rest or each == 0:
        raise ValueError(
            f"stratified anchors need k to be a positive multiple of the {len(classes)} classes, got k={k}"
        )
    if int(counts.min()) < each:
        small = classes[counts.argmin()].item()
        raise ValueError(f"{each} anchors per class wanted, but class {small} has only {int(counts.min())}")
    shuffled = torch.randperm(n, generator=generator)
    by_class = shuffled[torch.argsort(codes[shuffled], stable=True)]
    starts = counts.cumsum(0) - counts
    # Classes in rotation, so that every prefix is as balanced as it can be.
    return by_class[(starts[None, :] + torch.arange(each)[:, None]).flatten()]


def _farthest_points(z: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    chosen = torch.empty(k, dtype=torch.int64)
    chosen[0] = torch.randint(len(z), (), generator=generator)
    nearest = torch.full((len(z),), torch.inf, dtype=z.dtype, device=z.device)
    for i in range(1, k):
        nearest = torch.minimum(nearest, (z - z[chosen[i - 1]]).norm(dim=1))
        nearest[chosen[i - 1]] = -1.0  # keeps duplicates of a chosen point eligible, the point itself not
        chosen[i] = nearest.argmax()
    return chosen


def _cluster_rotation(z: Tensor, k: int, n_clusters: int, generator: torch.Generator | None) -> Tensor:
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    fit = KMeans(n_clusters, random_state=seed).fit(z.detach().cpu().double().numpy())
    cluster = torch.as_tensor(fit.labels_, dtype=torch.int64)
    centre = torch.as_tensor(fit.cluster_centers_)[cluster]
    distance = (z.detach().cpu().double() - centre).norm(dim=1)
    order = torch.argsort(distance)
    order = order[torch.argsort(cluster[order], stable=True)]
    counts = torch.bincount(cluster, minlength=n_clusters)
    place = torch.arange(len(z)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    # Round 0 takes the innermost sample of every cluster, round 1 the next one, and so on.
    return order[torch.argsort(place, stable=True)][:k]

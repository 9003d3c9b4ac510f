"""A classifier whose features stay where they are when it is updated."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.core.inputs import Encoded
from holdfast.core.training import StepInfo
from holdfast.nn import Batch, FitContext, NeuralClassifier, learner
from holdfast.nn.contract import EmbeddingContract
from holdfast.nn.network import Network
from holdfast.nn.simplex import FixedSimplexClassifier
from holdfast.representation.compatibility import HOCLoss

__all__ = ["StationaryClassifier"]


class _Projected(nn.Module):
    """An encoder followed by the bias-free map into the space of the table."""

    def __init__(self, encoder: nn.Module, width: int, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = nn.Linear(width, dim, bias=False)
        self.out_dim = dim

    def forward(self, x: Any) -> Float[Tensor, "batch dim"]:
        return self.projection(self.encoder(x))


class _TableHead(nn.Module):
    """The fixed table, read at the rows of a model's own classes."""

    slots: Tensor

    def __init__(self, n_preallocated: int, slots: Int[Tensor, " classes"]) -> None:
        super().__init__()
        self.table = FixedSimplexClassifier(n_preallocated - 1, n_preallocated, project=False)
        self.register_buffer("slots", slots)

    @property
    def contract(self) -> EmbeddingContract:
        return self.table.contract

    def forward(self, f: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        return self.table(f)[:, self.slots]


class _StationaryObjective(nn.Module):
    """Cross-entropy over the whole table, plus higher-order compatibility to features of an earlier model."""

    f_old: Tensor | None

    def __init__(self, weight: float, mu: float, f_old: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.hoc = HOCLoss(mu, no_negatives="skip")
        self.register_buffer("f_old", f_old, persistent=False)

    def forward(self, network: Any, batch: Batch, info: StepInfo) -> Tensor | dict[str, Tensor]:
        f = network.features(batch.x)
        ce = F.cross_entropy(network.head.table(f), network.head.slots[batch.y])
        if self.f_old is None:
            return ce
        hoc = self.hoc(f, self.f_old[batch.index], batch.y)
        return {"loss": self.weight * ce + (1 - self.weight) * hoc, "ce": ce, "hoc": hoc}


@learner
class StationaryClassifier(NeuralClassifier):
    r"""A network trained against a frozen classifier, so that features of old and new versions stay comparable.

    Class prototypes are vertices of a regular simplex, the same for every model with the same ``n_preallocated``.
    With a ``reference`` (an earlier version), known classes keep their prototypes, new classes take free ones, the
    weights start from the reference, and the loss is

    .. math:: L = \lambda\, \mathrm{CE}(W \phi_{new}(x), y) + (1 - \lambda)\, L_{HOC}(\phi_{new}(x), \phi_{old}(x), y)

    so that a gallery embedded by the reference can be searched with the new model. ``transform`` returns the
    pre-logit features, K - 1 of them.

    Source: Biondi, Pernici, Ricci, Del Bimbo, "Stationary Representations: Optimally Approximating
    Compatibility and Implications for Improved Model Replacements", CVPR 2024.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
        >>> y = np.where(x[:, 0] > 0, "cat", "dog")
        >>> options = {"n_preallocated": 8, "epochs": 2, "size": "tiny", "random_state": 0}
        >>> old = StationaryClassifier(**options).fit(x, y)
        >>> new = StationaryClassifier(reference=old, **options).fit(x, np.where(x[:, 1] > 1, "fox", y))
        >>> new.transform(x).shape, dict(zip(new.classes_.tolist(), new.slots_.tolist()))
        ((60, 7), {'cat': 0, 'dog': 1, 'fox': 2})
    """

    n_preallocated: int = 128
    """K: upper bound on the classes of all versions."""
    reference: Any = None
    """Earlier version to stay compatible with: a fitted classifier of this kind, or the path where one is saved."""
    compatibility: float = 0.1
    """:math:`\\lambda`, the weight of the cross-entropy when there is a reference."""
    mu: float = 10.0
    """Inverse temperature of the compatibility loss."""
    fine_tune: bool = True
    """Start from the reference's weights; otherwise (another backbone) from new ones."""

    def fit(self, X: Any, y: Any, *, environment: Any = None) -> Self:
        """Fit on samples ``X``, targets ``y``; see :meth:`NeuralEstimator.fit`.

        Raises:
            ValueError: for more classes than ``n_preallocated``, a reference with another table, or one whose
                weights do not fit (``fine_tune=False`` starts from new ones).
            TypeError: for a reference of another kind.
        """
        check_number("n_preallocated", self.n_preallocated, low=2, integer=True)
        check_number("compatibility", self.compatibility, low=0, high=1)
        self._old = self._load_reference()
        self._f_old = None if self._old is None else torch.from_numpy(self._old.transform(X))
        try:
            return super().fit(X, y, environment=environment)
        finally:
            del self._old, self._f_old

    def _load_reference(self) -> StationaryClassifier | None:
        reference = self.reference
        if reference is None:
            return None
        if isinstance(reference, (str, PathLike)):
            reference = StationaryClassifier.load(Path(reference))
        if not isinstance(reference, StationaryClassifier):
            raise TypeError(
                f"reference must be a fitted StationaryClassifier or the path of one, got {type(reference).__name__}"
            )
        check_is_fitted(reference, "network_")
        own = FixedSimplexClassifier(self.n_preallocated - 1, self.n_preallocated, project=False).contract
        own.check(reference.contract_, names=("new model's table", "reference's table"))
        return reference

    def _prepare(self, encoded: Encoded, targets: Tensor, groups: Tensor, context: FitContext, seed: int) -> None:
        known = {} if self._old is None else dict(self._old.known_classes_)
        for c in self.classes_.tolist():
            known.setdefault(c, len(known))
        if len(known) > self.n_preallocated:
            raise ValueError(
                f"n_preallocated must be at least the number of classes of all versions: "
                f"there are {len(known)}, the table has {self.n_preallocated} rows"
            )
        self.known_classes_: dict[Any, int] = known
        self.slots_ = np.array([known[c] for c in self.classes_.tolist()])

    def _make_network(self, encoder: nn.Module, context: FitContext) -> Network:
        head = _TableHead(self.n_preallocated, torch.from_numpy(self.slots_))
        network = Network(_Projected(encoder, context.width, self.n_preallocated - 1), head)
        old = getattr(self, "_old", None)
        if old is not None and self.fine_tune:
            try:
                network.encoder.load_state_dict(old.network_.encoder.state_dict())
            except RuntimeError as error:
                raise ValueError(
                    "the reference's weights do not fit this model's backbone; "
                    "use the same backbone and size, or fine_tune=False"
                ) from error
        return network

    def _make_objective(self, context: FitContext) -> nn.Module:
        return _StationaryObjective(self.compatibility, self.mu, self._f_old)

    @property
    def contract_(self) -> EmbeddingContract:
        """Size and hash of the table, which two models must share for their features to be comparable."""
        check_is_fitted(self, "network_")
        return cast("_TableHead", self.network_.head).contract

    def _extra_state(self) -> dict[str, Any]:
        return {"known_classes": [[c, slot] for c, slot in self.known_classes_.items()], "slots": self.slots_.tolist()}

    def _set_extra_state(self, extra: dict[str, Any]) -> None:
        self.known_classes_ = dict(extra["known_classes"])
        self.slots_ = np.array(extra["slots"], dtype=np.int64)

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        state, tensors = super()._get_state()
        path = self.reference if isinstance(self.reference, (str, PathLike)) else None
        state["params"]["reference"] = None if path is None else str(path)
        return state, tensors

"""From examples of a ground set and its best subset to subsets of new ground sets."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_choice, check_finite, check_number, check_same_length
from holdfast.core.engine import pick_device
from holdfast.core.estimator import Estimator, own_module
from holdfast.core.random import generator, isolated_rng, seed_from, spawn_seed
from holdfast.distribution.subsets.dataset import SubsetDataset
from holdfast.distribution.subsets.jaccard import jaccard
from holdfast.distribution.subsets.mean_field import MeanFieldSubsetModel
from holdfast.distribution.subsets.recognition import RecognitionNetwork
from holdfast.distribution.subsets.size_rules import SizeRule, choose_subset
from holdfast.distribution.subsets.training import train_subsets
from holdfast.distribution.subsets.utility import Background, make_subset_utility
from holdfast.nn.feed_forward import feed_forward
from holdfast.nn.sets import pad_sets
from holdfast.nn.standardize import Standardize

__all__ = ["SubsetSelector"]

_RATIO = 5


class SubsetSelector(Estimator):
    r"""Pick the subset of a set that examples of best subsets would pick; no values of subsets are needed.

    A set energy :math:`F(S, V)` that sees the ground set (INSET) is learned through its mean-field marginals; see
    :class:`MeanFieldSubsetModel`. ``background="none"`` scores a subset by its own elements (EquiVSet).

    ``X`` is a list of ground sets: arrays (n_i, d) of vectors, or arrays (n_i,) of integers, which are items of a
    catalogue with one learned vector each. ``y`` is a list of boolean masks. With ``backbone`` elements may have any
    shape.

    Args:
        background, pool: see :class:`SubsetUtility` and :class:`holdfast.nn.PooledSetCode`.
        mode: where the fixed point starts: 1/2 (``"diffmf"``), or a recognition network (``"ind"``, ``"copula"``).
        backbone: a module from elements (batch, elements, ...) to ``width`` features; ``None`` makes a perceptron, or
            a table for items.
        width, head_width, head_layers: features of an element, and the perceptron behind the pool.
        mc, fixed_point_steps: draws and steps of the fixed point.
        rank, temperature: of the copula.
        negatives: elements outside the best subset that count at a step, per element of it; ``None`` counts all.
        epochs, batch_size, lr, weight_decay, clip_norm: of training.
        validation_fraction: sets held back; the weights with the best Jaccard index on them are kept.
        patience: validations (one an epoch) without a better one before training stops.
        n_eval: draws of the marginals that a prediction averages.
        allow_trivial: accept best subsets that are empty or everything.
        device, verbose, random_state: as everywhere.

    Source: Xie et al., "Enhancing neural subset selection", ICLR 2024.

    Examples:
        >>> from holdfast.distribution.subsets import make_relative_utility_sets
        >>> data = make_relative_utility_sets(300, seed=0)
        >>> model = SubsetSelector(width=32, head_width=32, epochs=15, lr=5e-3, batch_size=32, random_state=0)
        >>> model = model.fit(data.V.numpy(), data.S.numpy())
        >>> [int(mask.sum()) for mask in model.predict([data.V[0].numpy(), data.V[1, :5].numpy()], size=2)]
        [2, 2]
    """

    def __init__(
        self,
        background: Background = "linear",
        pool: Literal["sum", "mean", "attention"] = "sum",
        mode: Literal["diffmf", "ind", "copula"] = "diffmf",
        backbone: nn.Module | None = None,
        width: int = 256,
        head_width: int = 500,
        head_layers: int = 2,
        mc: int = 5,
        fixed_point_steps: int = 1,
        rank: int = 5,
        temperature: float = 0.1,
        negatives: int | None = 1,
        epochs: int = 100,
        batch_size: int = 128,
        lr: float = 1e-3,
        weight_decay: float = 1e-5,
        clip_norm: float = 10.0,
        validation_fraction: float = 0.1,
        patience: int = 6,
        n_eval: int = 10,
        allow_trivial: bool = False,
        device: str = "auto",
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.background: Background = background
        self.pool: Literal["sum", "mean", "attention"] = pool
        self.mode: Literal["diffmf", "ind", "copula"] = mode
        self.backbone = backbone
        self.width = width
        self.head_width = head_width
        self.head_layers = head_layers
        self.mc = mc
        self.fixed_point_steps = fixed_point_steps
        self.rank = rank
        self.temperature = temperature
        self.negatives = negatives
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.n_eval = n_eval
        self.allow_trivial = allow_trivial
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # X is a list of sets
        tags.target_tags.required = True
        return tags

    def fit(self, X: Sequence[Any], y: Sequence[Any]) -> Self:
        """Learn from ground sets and the masks of their best subsets.

        Raises:
            ValueError: see :class:`SubsetDataset`.
        """
        check_number("epochs", self.epochs, low=1, integer=True)
        check_number("validation_fraction", self.validation_fraction, low=0, high=1, open_high=True)
        check_number("n_eval", self.n_eval, low=1, integer=True)
        check_same_length(X=X, y=y)
        arrays = [_single(as_tensor(x)) for x in X]
        data = SubsetDataset(
            arrays, [as_tensor(s) for s in y], negatives=self.negatives, allow_trivial=self.allow_trivial
        )
        self.seed_ = seed_from(self.random_state)
        self.element_shape_ = tuple(arrays[0].shape[1:])
        self.items_, mean, std = 0, (), ()
        if self.backbone is None and not data.V.is_floating_point():
            self.items_ = int(data.V.max()) + 1
            if data.V.ndim != 2 or int(data.V.min()) < 0:
                raise ValueError(
                    "integers stand for items of a catalogue, which must be non-negative and one for each element; "
                    "give vectors as real numbers"
                )
        elif self.backbone is None:
            if data.V.ndim != 3:
                raise ValueError(
                    f"elements must be vectors or items, got shape {self.element_shape_}; give a backbone for others"
                )
            elements = data.V[data.valid].double()
            mean, std = elements.mean(0).tolist(), elements.std(0, correction=0).tolist()
        sizes = data.valid.sum(1)
        self.smallest_, self.largest_ = int(sizes.min()), int(sizes.max())
        with isolated_rng(spawn_seed(self.seed_, "weights")):
            self.model_ = self._make_model(mean, std)
        held = int(self.validation_fraction * len(data))
        order = torch.randperm(len(data), generator=generator(spawn_seed(self.seed_, "validation")))
        learn = data.only(order[held:])
        epoch = math.ceil(len(learn) / min(self.batch_size, len(learn)))
        result = train_subsets(
            self.model_,
            learn,
            steps=self.epochs * epoch,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            validation=data.only(order[:held]) if held else None,
            n_eval=self.n_eval,
            seed=self.seed_,
            device=self.device,
            progress="subsets" if self.verbose else False,
            **({"validate_every": epoch, "patience": self.patience} if held else {}),
        )
        self.history_, self.best_score_ = result.history, result.best_score
        return self

    def _make_model(self, mean: Sequence[float] = (), std: Sequence[float] = ()) -> MeanFieldSubsetModel:
        check_choice("mode", self.mode, ["diffmf", "ind", "copula"])
        utility = make_subset_utility(
            self._make_phi(mean, std),
            self.width,
            background=self.background,
            pool=self.pool,
            head_width=self.head_width,
            head_layers=self.head_layers,
        )
        recogniser = None
        if self.mode != "diffmf":
            recogniser = RecognitionNetwork(
                self._make_phi(mean, std),
                self.width,
                hidden=self.head_width,
                law="copula" if self.mode == "copula" else "independent",
                rank=self.rank,
                tau=self.temperature,
            )
        return MeanFieldSubsetModel(utility, recogniser, mode=self.mode, mc=self.mc, steps=self.fixed_point_steps)

    def _make_phi(self, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
        if self.backbone is not None:
            return copy.deepcopy(self.backbone)
        if self.items_:
            return nn.Embedding(self.items_, self.width)
        (features,) = self.element_shape_
        return nn.Sequential(
            Standardize(features, mean, std),
            feed_forward(features, self.width, self.width, layers=1, activation=nn.ReLU),
        )

    def predict(self, X: Sequence[Any], size: Any = None, rule: SizeRule | None = None) -> list[np.ndarray]:
        """Return the mask of the subset of every ground set.

        Args:
            X: ground sets.
            size: of the subset, one number or one per set; where none is given, the size is chosen by ``rule``.
            rule: ``"expected_jaccard"`` (where there is no size) or ``"threshold"``.

        Raises:
            ValueError: for elements of another shape than those of training, NaN, unknown items, or too large a size.
        """
        valid, q = self._marginals(X)
        given = size if size is None or isinstance(size, int) else as_tensor(np.asarray(size))
        chosen = choose_subset(q, valid, given, rule)
        return [mask[keep].numpy() for mask, keep in zip(chosen, valid)]

    def predict_proba(self, X: Sequence[Any]) -> list[np.ndarray]:
        """Return the probability of every element of every ground set to be in the best subset."""
        valid, q = self._marginals(X)
        return [row[keep].numpy() for row, keep in zip(q, valid)]

    def score(self, X: Sequence[Any], y: Sequence[Any]) -> float:
        """Return the mean Jaccard index of the predicted subsets, their size not given."""
        pairs = zip(self.predict(X), y)
        return float(np.mean([float(jaccard(as_tensor(p), as_tensor(np.asarray(t, dtype=bool)))) for p, t in pairs]))

    @torch.no_grad()
    def _marginals(self, X: Sequence[Any]) -> tuple[Tensor, Tensor]:
        check_is_fitted(self, "model_")
        arrays = [_single(as_tensor(x)) for x in X]
        for i, x in enumerate(arrays):
            if tuple(x.shape[1:]) != self.element_shape_ or x.ndim < 1:
                raise ValueError(
                    f"elements of ground set {i} must have shape {self.element_shape_}, got {tuple(x.shape[1:])}"
                )
            if self.items_ and (x.is_floating_point() or bool(((x < 0) | (x >= self.items_)).any())):
                raise ValueError(f"ground set {i} holds an item that is not among 0..{self.items_ - 1}")
            check_finite(f"ground set {i}", x)
        V, valid = pad_sets(arrays)
        if self.pool == "sum":
            sizes = valid.sum(1)
            if int(sizes.max()) > _RATIO * self.largest_ or _RATIO * int(sizes.min()) < self.smallest_:
                warnings.warn(
                    f"ground sets of {int(sizes.min())} to {int(sizes.max())} elements are far from those of training "
                    f"({self.smallest_} to {self.largest_}), where sums do not carry over: use pool='mean'",
                    stacklevel=3,
                )
        device = pick_device(self.device)
        model, rng = self.model_.to(device).eval(), generator(spawn_seed(self.seed_, "predict"), device)
        rows = []
        for v, m in zip(V.split(256), valid.split(256)):
            rows.append(model.mean_marginals(v.to(device), m.to(device), n_eval=self.n_eval, generator=rng).cpu())
        return valid, torch.cat(rows)

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "model_")
        params: dict[str, Any] = self.get_params(deep=False)
        if self.backbone is not None:
            params["backbone"] = {"module": type(self.backbone).__qualname__}
        params["random_state"] = self.seed_
        fitted = {k: getattr(self, k) for k in ("seed_", "items_", "smallest_", "largest_", "history_", "best_score_")}
        state = {"params": params, "fitted": fitted, "element_shape": list(self.element_shape_)}
        return state, dict(self.model_.state_dict())

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        params = dict(state["params"])
        if isinstance(params["backbone"], dict):
            params["backbone"] = own_module("backbone", params["backbone"], objects.get("backbone"))
        self.set_params(**params)
        for k, value in state["fitted"].items():
            setattr(self, k, value)
        self.element_shape_ = tuple(state["element_shape"])
        with isolated_rng(self.seed_):
            self.model_ = self._make_model().eval()
        self.model_.load_state_dict(tensors)


def _single(x: Tensor) -> Tensor:
    """Real numbers in single precision, whatever they came in."""
    return x.float() if x.is_floating_point() else x

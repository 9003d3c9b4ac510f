"""Linear probe: what a linear layer can read from a frozen representation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.core.estimator import Classifier, decode_array, encode_array
from holdfast.core.random import seed_from
from holdfast.representation.probe_head import ProbeHead, standardisation

__all__ = ["LinearProbe"]


class LinearProbe(Classifier):
    r"""Logistic regression on precomputed features, with the weight decay tuned on a held-out part.

    .. math:: \min_{W, b}\; \frac1n \sum_i -\log \mathrm{softmax}(W z_i + b)_{y_i}
              + \frac{\lambda}{2} \lVert W \rVert_F^2

    on standardised features :math:`z`. Each :math:`\lambda` of the grid is fitted to the rest of the data, from strong
    to weak and each from the one before; the best on the held-out part is then fitted to all the data. The problem is
    convex and solved by L-BFGS on the full batch, so there is no learning rate, no schedule and no noise.

    Args:
        backend: ``"torch"`` (any device) or ``"sklearn"`` (``LogisticRegression``); both solve the same problem.
        standardize: ``"batchnorm"``: what a batch-norm layer without affine does on the full batch,
            :math:`(x - \mu) / \sqrt{\sigma^2 + 10^{-5}}`, so that nearly constant features stay small;
            ``"zscore"``: :math:`(x - \mu) / \sigma`, constant features stay zero; ``"none"``.
        cosine: classify by scaled cosine instead, as is usual with few shots (torch only); the penalty then
            bounds the scale.
        weight_decay_grid: candidate :math:`\lambda`; with a single one nothing is held out.
        val_fraction: share held out for tuning, stratified by class.
        selection: ``"accuracy"`` (ties: the lower loss) or ``"nll"`` on the held-out part.
        class_weight: ``"balanced"`` weighs samples inversely to the size of their class; or a weight for each label
            (1 for labels left out).
        max_iter: L-BFGS iterations for each weight decay.
        device: where ``"torch"`` computes.
        random_state: of the held-out split, the only random thing.

    Attributes:
        classes_: labels in the order of the columns of ``predict_proba``.
        weight_decay_: the chosen :math:`\lambda`.
        validation_: for each :math:`\lambda`, its held-out ``{"accuracy": ..., "nll": ...}``, weighted by class
            as ``class_weight`` says.
        head_: the fitted :class:`ProbeHead`.
        n_iter_: iterations of the last fit.

    Source: Kornblith, Shlens and Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019, appendix A (logistic
    regression by L-BFGS with the penalty chosen on a validation part); batch norm before the linear layer: He et al.,
    "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, appendix A.1.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> probe = LinearProbe(random_state=0).fit(x, y)
        >>> probe.score(x, y) > 0.95
        True
    """

    def __init__(
        self,
        *,
        backend: Literal["torch", "sklearn"] = "torch",
        standardize: Literal["batchnorm", "zscore", "none"] = "batchnorm",
        cosine: bool = False,
        weight_decay_grid: Sequence[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        val_fraction: float = 0.2,
        selection: Literal["accuracy", "nll"] = "accuracy",
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        max_iter: int = 300,
        device: str = "cpu",
        random_state: Any = 0,
    ) -> None:
        self.backend = backend
        self.standardize = standardize
        self.cosine = cosine
        self.weight_decay_grid = weight_decay_grid
        self.val_fraction = val_fraction
        self.selection = selection
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> LinearProbe:
        """Tune the weight decay and fit the head.

        Raises:
            ValueError: for features that are not finite, fewer than two classes, a class too small to be in both
                parts of the split, an option out of range, or a zero row with ``cosine``.
        """
        grid = self._check_options()
        x, labels = validate_data(self, _numpy(X), _numpy(y), dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least two classes, but y holds one class: {self.classes_[0]!r}")
        device = torch.device(self.device)
        features, target = _tensor(x).to(device), torch.from_numpy(codes.astype(np.int64)).to(device)
        self.validation_: dict[float, dict[str, float]] = {}
        self.weight_decay_ = grid[0]
        start = None
        if len(grid) > 1:
            self.weight_decay_, start = self._tune(features, target, grid)
        self.head_ = self._fit_head(features, target, self.weight_decay_, start)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities, ``(n, C)``, columns in the order of ``classes_``."""
        return self._apply(X, lambda head, x: head(x).softmax(1))

    def transform(self, X: Any) -> np.ndarray:
        """Return the standardised features that the linear layer reads, ``(n, d)``."""
        return self._apply(X, lambda head, x: head.standardize(x))

    def export(self, path: str | Path, format: Literal["torch_export", "onnx"] = "torch_export") -> Path:
        """Write the head (raw features to logits) for serving."""
        from holdfast.core.export import export

        check_is_fitted(self)
        example = torch.zeros(2, self.n_features_in_, dtype=torch.float64)
        return export(self.head_, (example,), path, format=format)

    def _check_options(self) -> list[float]:
        check_choice("backend", self.backend, ["torch", "sklearn"])
        check_choice("standardize", self.standardize, ["batchnorm", "zscore", "none"])
        check_choice("selection", self.selection, ["accuracy", "nll"])
        if not isinstance(self.class_weight, Mapping):
            check_choice("class_weight", self.class_weight, [None, "balanced"])
        check_number("val_fraction", self.val_fraction, low=0, high=1, open_low=True, open_high=True)
        check_number("max_iter", self.max_iter, low=1, integer=True)
        if self.cosine and self.backend == "sklearn":
            raise ValueError("cosine=True needs backend='torch': scikit-learn has no cosine classifier")
        grid = list(self.weight_decay_grid)
        if not grid:
            raise ValueError("weight_decay_grid must hold at least one value, got none")
        for value in grid:
            check_number("weight_decay_grid", value, low=0, open_low=self.backend == "sklearn")
        return sorted({float(v) for v in grid}, reverse=True)

    def _tune(self, x: Tensor, y: Tensor, grid: list[float]) -> tuple[float, Tensor | None]:
        count = torch.bincount(y)
        n_val = int(np.ceil(self.val_fraction * len(y)))
        if int(count.min()) < 2 or min(n_val, len(y) - n_val) < len(count):
            small = int(count.argmin())
            raise ValueError(
                f"holding out {self.val_fraction:g} of {len(y)} samples leaves a part without some class "
                f"(class {self.classes_[small]!r} has {int(count[small])}, {len(count)} classes); give more samples, "
                "another val_fraction, or a single weight decay"
            )
        splitter = StratifiedShuffleSplit(1, test_size=self.val_fraction, random_state=seed_from(self.random_state))
        rest, held = next(splitter.split(np.zeros(len(y)), y.cpu().numpy()))
        rest, held = torch.from_numpy(rest).to(x.device), torch.from_numpy(held).to(x.device)
        weights = self._class_weights(y[held], len(count))
        heads, start = {}, None
        for decay in grid:
            heads[decay] = self._fit_head(x[rest], y[rest], decay, start, tolerance=1e-5)  # enough to rank
            start = heads[decay].weight
            logits = heads[decay](x[held])
            hit = (logits.argmax(1) == y[held]).double()
            self.validation_[decay] = {
                "accuracy": float(hit.mean() if weights is None else hit @ weights[y[held]] / weights[y[held]].sum()),
                "nll": float(F.cross_entropy(logits, y[held], weight=weights)),
            }

        def quality(decay: float) -> tuple[float, float]:
            v = self.validation_[decay]
            return (v["accuracy"], -v["nll"]) if self.selection == "accuracy" else (-v["nll"], decay)

        best = max(grid, key=quality)
        return best, heads[best].weight

    def _class_weights(self, y: Tensor, n_classes: int) -> Tensor | None:
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, Mapping):
            weights = [float(self.class_weight.get(label, 1.0)) for label in self.classes_.tolist()]
            return torch.tensor(weights, dtype=torch.float64, device=y.device)
        return len(y) / (n_classes * torch.bincount(y, minlength=n_classes).clamp_min(1).double())

    def _fit_head(self, x: Tensor, y: Tensor, decay: float, start: Tensor | None, tolerance: float = 1e-7) -> ProbeHead:
        mean, scale = standardisation(x, self.standardize)
        n_classes = len(self.classes_)
        weight = torch.zeros(n_classes, x.shape[1], dtype=x.dtype, device=x.device)
        head = ProbeHead(mean, scale, weight, weight.new_zeros(n_classes), self.cosine)
        z = (x - mean) / scale
        if self.cosine and bool((z == 0).all(1).any()):
            row = int((z == 0).all(1).nonzero()[0])
            raise ValueError(f"row {row} is zero after standardisation: its cosine with the class weights is undefined")
        z = head.standardize(x)
        if self.backend == "sklearn":
            head.weight, head.bias = self._solve_sklearn(z, y, decay, tolerance)
        else:
            head.weight, head.bias = self._solve_torch(z, y, decay, start, tolerance)
        return head

    def _solve_torch(
        self, z: Tensor, y: Tensor, decay: float, start: Tensor | None, tolerance: float
    ) -> tuple[Tensor, Tensor]:
        n_classes = len(self.classes_)
        class_weights = self._class_weights(y, n_classes)
        bias = z.new_zeros(n_classes, requires_grad=True)
        if self.cosine:
            means = torch.stack([z[y == c].mean(0) for c in range(n_classes)])
            direction = (means if start is None else start).detach().clone().requires_grad_()
            log_scale = z.new_tensor(10.0 if start is None else float(start.norm(dim=1).mean())).log().requires_grad_()
            free = [direction, log_scale]

            def parameters() -> tuple[Tensor, Tensor]:
                return log_scale.exp() * F.normalize(direction, dim=1), torch.zeros_like(bias)
        else:
            weight = (z.new_zeros(n_classes, z.shape[1]) if start is None else start.detach().clone()).requires_grad_()
            free = [weight, bias]

            def parameters() -> tuple[Tensor, Tensor]:
                return weight, bias

        optimizer = torch.optim.LBFGS(
            free,
            max_iter=self.max_iter,
            history_size=20,
            tolerance_grad=tolerance,
            tolerance_change=1e-4 * tolerance,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            w, b = parameters()
            fit = F.cross_entropy(F.linear(z, w, b), y, weight=class_weights)
            loss = fit + 0.5 * decay * w.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        self.n_iter_ = int(optimizer.state[free[0]]["n_iter"])
        w, b = parameters()
        return w.detach(), b.detach()

    def _solve_sklearn(self, z: Tensor, y: Tensor, decay: float, tolerance: float) -> tuple[Tensor, Tensor]:
        # One weight vector stands for the difference of two classes and has twice their joint squared norm.
        binary = len(self.classes_) == 2
        class_weights = self._class_weights(y, len(self.classes_))
        weight = torch.ones_like(z[:, 0]) if class_weights is None else class_weights[y]
        c = (2.0 if binary else 1.0) / (float(weight.sum()) * decay)
        model = LogisticRegression(C=c, tol=tolerance, max_iter=self.max_iter * 10)
        model.fit(z.cpu().numpy(), y.cpu().numpy(), sample_weight=weight.cpu().numpy())
        self.n_iter_ = int(model.n_iter_.max())
        w, b = (torch.tensor(np.ascontiguousarray(v)).to(z) for v in (model.coef_, model.intercept_))
        return (torch.cat([-w, w]) / 2, torch.cat([-b, b]) / 2) if binary else (w, b)

    def _apply(self, X: Any, function: Any) -> np.ndarray:
        check_is_fitted(self)
        x = validate_data(self, _numpy(X), dtype=np.float64, reset=False)
        with torch.no_grad():
            return function(self.head_, _tensor(x).to(self.head_.mean.device)).cpu().numpy()

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self)
        params = self.get_params(deep=False)
        if isinstance(self.class_weight, Mapping):  # JSON would turn the labels into strings
            params["class_weight"] = [[k, float(v)] for k, v in self.class_weight.items()]
        if not isinstance(self.random_state, int):  # what drew the split is not needed again
            params["random_state"] = None
        state = {
            "params": {**params, "weight_decay_grid": [float(v) for v in self.weight_decay_grid]},
            "classes": encode_array(self.classes_),
            "n_features_in": self.n_features_in_,
            "weight_decay": self.weight_decay_,
            "n_iter": self.n_iter_,
            "validation": [[decay, scores] for decay, scores in self.validation_.items()],
            "cosine": self.head_.cosine,
        }
        return state, {name: value.cpu() for name, value in self.head_.state_dict().items()}

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        params = dict(state["params"])
        if isinstance(params["class_weight"], list):
            params["class_weight"] = dict(map(tuple, params["class_weight"]))
        if params["device"].startswith("cuda") and not torch.cuda.is_available():
            params["device"] = "cpu"
        self.set_params(**{**params, "weight_decay_grid": tuple(params["weight_decay_grid"])})
        self.classes_ = decode_array(state["classes"])
        self.n_features_in_ = state["n_features_in"]
        self.weight_decay_ = state["weight_decay"]
        self.n_iter_ = state["n_iter"]
        self.validation_ = dict(state["validation"])
        names = ("mean", "scale", "weight", "bias")
        self.head_ = ProbeHead(*(tensors[name].to(self.device) for name in names), cosine=state["cosine"])


def _tensor(x: Any) -> Tensor:
    return torch.from_numpy(x if x.flags.writeable else x.copy())


def _numpy(v: Any) -> Any:
    return v.detach().cpu().numpy() if isinstance(v, Tensor) else v

"""Neural estimators: everything a method shares with the others, so that a method is only its objective.

A method is a subclass that adds hyper-parameters as dataclass fields and overrides one or two hooks::

    @learner
    class MyMethod(NeuralClassifier):
        penalty: float = 1.0

        def _make_objective(self, context):
            return MyLoss(self.penalty)          # nn.Module: (network, batch, info) -> loss

Hooks, in the order in which ``fit`` calls them: ``_prepare`` (look at the encoded training data),
``_make_network`` (encoder and context to network), ``_make_objective``, then, after training, ``_after_fit``.
"""

from __future__ import annotations

import copy
import math
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast, dataclass_transform

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from holdfast.core.batching import BatchPlan
from holdfast.core.checks import check_number
from holdfast.core.estimator import Estimator, decode_array, encode_array, own_module
from holdfast.core.inputs import Encoded, InputEncoder, input_kind
from holdfast.core.random import isolated_rng, seed_from, spawn_seed
from holdfast.core.training import TrainResult, train
from holdfast.nn.backbones import make_backbone
from holdfast.nn.network import Network
from holdfast.nn.objective import EmpiricalRisk, EncodedBatches, FitContext, Trained, apply_objective

__all__ = ["NeuralEstimator", "learner"]

_PREDICT_ROWS = 1024
_TRANSFORMERS = "transformers:"


@dataclass_transform(kw_only_default=True)
def learner(cls: type) -> type:
    """Make a learner's annotated attributes its keyword-only hyper-parameters.

    The constructor then lists the inherited hyper-parameters and the new ones, stores them and does nothing else,
    which is what scikit-learn's ``get_params`` and ``clone`` need.
    """
    return dataclass(kw_only=True, eq=False, repr=False)(cls)


@learner
class NeuralEstimator(Estimator):
    """Base of the neural learners: network, training options, prediction in batches, saving."""

    balances_environments: ClassVar[bool] = False
    """Whether every batch holds as many samples of each environment."""

    backbone: str | nn.Module = "auto"
    """``"auto"``, a backbone's name, ``"transformers:NAME_OR_PATH"`` for texts, or a module of your own."""
    size: str = "small"
    epochs: int = 30
    steps: int | None = None
    """Optimiser steps; overrides ``epochs``."""
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup: float = 0.0
    clip_norm: float | None = None
    ema: float | None = None
    validation_fraction: float = 0.0
    """Part of the training rows held out for early stopping; 0 trains on all of them."""
    patience: int | None = None
    """Epochs without a better validation score before training stops."""
    device: str = "auto"
    precision: str = "32-true"
    checkpoint: str | None = None
    """Folder that keeps the training state; a fit that was stopped goes on from it."""
    progress: bool = False
    random_state: int | None = None

    # -- hooks -----------------------------------------------------------------------------------------------------

    def _prepare(self, encoded: Encoded, targets: Tensor, groups: Tensor, context: FitContext, seed: int) -> None:
        """Look at the encoded training data before the network is made."""

    def _make_network(self, encoder: nn.Module, context: FitContext) -> Network:
        """Put a head on the encoder."""
        return Network(encoder, nn.Linear(context.width, context.n_outputs))

    def _make_objective(self, context: FitContext) -> nn.Module:
        """Return the module ``(network, batch, info) -> loss`` (or a mapping with ``"loss"``) that is minimised."""
        return EmpiricalRisk(self._sample_loss)

    def _after_fit(self, encoded: Encoded, targets: Tensor, groups: Tensor, seed: int) -> None:
        """Estimate what is estimated on the trained network, such as densities or thresholds."""

    @staticmethod
    def _sample_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        """Return one loss per sample."""
        raise NotImplementedError

    def _score(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the validation score, higher is better."""
        return -float(self._sample_loss(outputs, targets).mean())

    # -- input -----------------------------------------------------------------------------------------------------

    def _check_input(self, X: Any, *, reset: bool) -> Any:
        if isinstance(X, Tensor):
            X = X.detach().cpu().numpy()
        if isinstance(X, (pd.DataFrame, pd.Series)):
            if isinstance(X, pd.DataFrame):
                if reset and len(X) == 0:
                    raise ValueError("X holds no samples")
                validate_data(self, cast("Any", X), reset=reset, skip_check_array=True)
            return X
        try:
            kind = input_kind(X)
        except (TypeError, ValueError):
            kind = "vector"
        if kind == "vector":
            return self._check_rows(X, reset=reset)
        if not reset and self.input_.signature.kind in ("vector", "table"):
            return self._check_rows(X, reset=False)
        return X

    def _check_rows(self, X: Any, *, reset: bool) -> Float[np.ndarray, "n d"]:
        X = validate_data(self, X, reset=reset, dtype=np.float32, ensure_all_finite=False)
        if not np.isfinite(X).all():
            row, column = np.argwhere(~np.isfinite(X))[0]
            what = "NaN" if np.isnan(X[row, column]) else "infinity"
            raise ValueError(
                f"X must be finite, but row {row}, column {column} holds {what}; give a pandas table where values are "
                "missing (NaN), and no infinity or number too large for 32 bits"
            )
        return X

    def _make_encoder(self) -> nn.Module:
        if isinstance(self.backbone, nn.Module):
            return copy.deepcopy(self.backbone)
        name = "auto" if self.backbone.startswith(_TRANSFORMERS) else self.backbone
        return make_backbone(self.input_.signature, size=self.size, name=name)

    def _width(self, encoder: nn.Module, encoded: Encoded) -> int:
        if isinstance(width := getattr(encoder, "out_dim", None), int):
            return width
        with torch.inference_mode():
            out = copy.deepcopy(encoder).eval()(encoded[torch.arange(min(2, len(encoded)))])
        if not isinstance(out, Tensor) or out.ndim != 2:
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"backbone must return a (batch, dim) tensor, got {shape}")
        return int(out.shape[1])

    # -- fitting ---------------------------------------------------------------------------------------------------

    def _encode_targets(self, y: Any) -> tuple[Tensor, int, tuple[int, ...]]:
        """Return targets (n,), the number of network outputs, and the class counts."""
        raise NotImplementedError

    def fit(self, X: Any, y: Any, *, environment: Any = None) -> Self:
        """Fit on samples ``X``, targets ``y`` and, where the method uses them, environments.

        Args:
            X: array (n, d), images (n, H, W[, C]), pandas table, texts, sets or graphs.
            y: targets (n,).
            environment: where every sample comes from (n,), any labels; ``None`` means one environment.

        Raises:
            ValueError: for lengths that differ, values that are not finite, a single class, or wrong options.
        """
        X = self._check_input(X, reset=True)
        if y is None:
            raise ValueError(f"requires y to be passed, but the target y is None ({type(self).__name__})")
        model = self.backbone if isinstance(self.backbone, str) else ""
        text_model = model.removeprefix(_TRANSFORMERS) if model.startswith(_TRANSFORMERS) else ""
        self.input_ = InputEncoder.fit(X, text_model=text_model)
        encoded = self.input_.encode(X)
        targets, n_outputs, class_counts = self._encode_targets(y)
        if len(targets) != len(encoded):
            raise ValueError(f"lengths differ: X has {len(encoded)}, y has {len(targets)}")
        groups = self._encode_environments(environment, len(encoded))
        self.seed_ = seed_from(self.random_state)
        check_number("batch_size", self.batch_size, low=1, integer=True)
        check_number("validation_fraction", self.validation_fraction, low=0, high=1, open_high=True)

        with isolated_rng(spawn_seed(self.seed_, "weights")):
            width = self._width(self._make_encoder(), encoded)
        n_train = len(encoded) - len(self._validation_rows(len(encoded)))
        steps = self.steps if self.steps is not None else self.epochs * math.ceil(n_train / self.batch_size)
        counts = tuple(torch.bincount(groups, minlength=len(self.environments_)).tolist())
        self.context_ = FitContext(
            len(encoded), n_outputs, len(self.environments_), width, class_counts, counts, int(steps)
        )
        self._prepare(encoded, targets, groups, self.context_, self.seed_)
        self.network_ = self._fit_network(encoded, targets, groups, self.context_, self.seed_).eval()
        self._after_fit(encoded, targets, groups, self.seed_)
        return self

    def _encode_environments(self, environment: Any, n: int) -> Tensor:
        if environment is None:
            self.environments_ = np.array(["0"])
            return torch.zeros(n, dtype=torch.long)
        environment = np.asarray(environment)
        if environment.shape != (n,):
            raise ValueError(f"environment must have shape ({n},), got {environment.shape}")
        if pd.isna(environment).any():
            raise ValueError(f"environment must not be missing, but row {int(pd.isna(environment).argmax())} is")
        self.environments_, codes = np.unique(environment, return_inverse=True)
        return torch.from_numpy(codes.astype(np.int64))

    def _validation_rows(self, n: int) -> Tensor:
        n_held = min(n - 1, math.ceil(self.validation_fraction * n)) if self.validation_fraction else 0
        generator = torch.Generator().manual_seed(spawn_seed(self.seed_, "validation"))
        return torch.randperm(n, generator=generator)[:n_held].sort().values

    def _fit_network(
        self, encoded: Encoded, targets: Tensor, groups: Tensor, context: FitContext, seed: int
    ) -> Network:
        """Make the network and train it from ``seed``."""
        with isolated_rng(spawn_seed(seed, "weights")):
            network = self._make_network(self._make_encoder(), context)
            objective = self._make_objective(context)
        result = self._train(network, objective, encoded, targets, groups, context.steps, seed)
        self.history_, self.n_steps_, self.fit_seconds_ = result.history, result.steps, result.seconds
        return network

    def _train(
        self,
        network: Network,
        objective: nn.Module,
        encoded: Encoded,
        targets: Tensor,
        groups: Tensor,
        steps: int,
        seed: int,
    ) -> TrainResult:
        """Minimise ``objective`` over ``network`` on the training rows."""
        held = self._validation_rows(len(encoded))
        rows = None
        if len(held):
            keep = torch.ones(len(encoded), dtype=torch.bool)
            keep[held] = False
            rows = keep.nonzero()[:, 0]
        train_groups = groups if rows is None else groups[rows]
        balanced = self.balances_environments and len(self.environments_) > 1
        plan = BatchPlan(
            len(train_groups),
            min(self.batch_size, len(train_groups)),
            seed=spawn_seed(seed, "batches"),
            groups=train_groups.numpy() if balanced else None,
            balanced=balanced,
        )

        def validate(pair: nn.Module) -> float:
            outputs = self._outputs(cast("Trained", pair).network, encoded, held)
            return self._score(outputs, targets[held])

        return train(
            Trained(network, objective),
            apply_objective,
            EncodedBatches(plan, encoded, targets, groups, rows),
            steps=steps,
            optimizer=self.optimizer,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            clip_norm=self.clip_norm,
            ema=self.ema,
            precision=self.precision,
            device=self.device,
            validate=validate if len(held) else None,
            validate_every=len(plan),
            patience=self.patience,
            checkpoint=self._checkpoint_folder(encoded, targets, seed),
            resume=self.checkpoint is not None,
            progress=type(self).__name__ if self.progress else False,
            seed=spawn_seed(seed, "steps"),
        )

    def _checkpoint_folder(self, encoded: Encoded, targets: Tensor, seed: int) -> Path | None:
        """Name the folder by what is trained, so that other data or settings never resume this run."""
        if self.checkpoint is None:
            return None
        params = {k: v for k, v in self.get_params(deep=False).items() if k not in ("progress", "device", "checkpoint")}
        digest = zlib.crc32(repr(sorted(params.items())).encode())
        sample = encoded if isinstance(encoded, Tensor) else encoded[torch.arange(min(64, len(encoded)))]
        for part in (targets, *(sample if isinstance(sample, tuple) else (sample,))):
            if isinstance(part, Tensor):
                digest = zlib.crc32(part.contiguous().numpy().tobytes(), digest)
        return Path(self.checkpoint) / f"{digest:08x}-{seed}"

    def _warn_single_environment(self, context: FitContext) -> None:
        if context.n_environments < 2:
            warnings.warn(
                f"{type(self).__name__} compares environments, but only one was given: it reduces to plain training. "
                "Pass environment= to fit.",
                UserWarning,
                stacklevel=5,
            )

    # -- prediction ------------------------------------------------------------------------------------------------

    @staticmethod
    def _outputs(
        network: nn.Module,
        encoded: Encoded,
        rows: Tensor | None = None,
        function: Callable[[Any], Tensor] | None = None,
    ) -> Tensor:
        """Apply ``function`` (default: the network) to the rows in evaluation mode, batch by batch, on the CPU."""
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        rows = torch.arange(len(encoded)) if rows is None else rows
        was_training = network.training
        network.eval()
        apply = network if function is None else function
        with torch.inference_mode():
            parts = [apply(_to(encoded[chunk], device)).float().cpu() for chunk in rows.split(_PREDICT_ROWS)]
        network.train(was_training)
        return torch.cat(parts).clone()

    def _encode_input(self, X: Any) -> Encoded:
        check_is_fitted(self, "network_")
        return self.input_.encode(self._check_input(X, reset=False))

    def transform(self, X: Any) -> np.ndarray:
        """Return the representation of every sample, shape (n, d)."""
        encoded = self._encode_input(X)
        return self._outputs(self.network_, encoded, function=self.network_.features).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def export(self, path: str | Path, format: Literal["torch_export", "onnx"] = "torch_export") -> Path:
        """Write the model for serving, without Python code of this library.

        The exported program maps a batch of encoded rows to predictions: class probabilities, or values.

        Raises:
            ValueError: for inputs that are not one tensor (texts, sets, graphs).
        """
        from holdfast.core.export import export

        check_is_fitted(self, "network_")
        signature = self.input_.signature
        if signature.kind not in ("vector", "image", "table"):
            raise ValueError(f"only vector, image and table models can be exported, this one reads {signature.kind}")
        example = torch.zeros(2, *signature.shape)
        return export(self._serving_module().cpu().eval(), (example,), path, format=format)

    def _serving_module(self) -> nn.Module:
        raise NotImplementedError

    # -- saving ----------------------------------------------------------------------------------------------------

    def _extra_state(self) -> dict[str, Any]:
        """Return further fitted values that are JSON-ready."""
        return {}

    def _set_extra_state(self, extra: dict[str, Any]) -> None:
        """Restore :meth:`_extra_state`; called before the network is rebuilt."""

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "network_")
        params: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        if isinstance(self.backbone, nn.Module):
            params["backbone"] = {"module": type(self.backbone).__qualname__}
        params["random_state"] = self.seed_
        state = {
            "params": params,
            "seed": self.seed_,
            "input": self.input_.to_dict(),
            "context": asdict(self.context_),
            "environments": encode_array(self.environments_),
            "n_features_in": getattr(self, "n_features_in_", None),
            "feature_names_in": list(getattr(self, "feature_names_in_", [])) or None,
            "extra": self._extra_state(),
        }
        return state, dict(self.network_.state_dict())

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        params = {k: tuple(v) if isinstance(v, list) else v for k, v in state["params"].items()}
        if isinstance(params["backbone"], dict):
            params["backbone"] = own_module("backbone", params["backbone"], objects.get("backbone"))
        self.set_params(**params)
        self.seed_ = state["seed"]
        self.input_ = InputEncoder.from_dict(state["input"])
        context: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in state["context"].items()}
        self.context_ = FitContext(**context)
        self.environments_ = decode_array(state["environments"])
        if state["n_features_in"] is not None:
            self.n_features_in_ = state["n_features_in"]
        if state["feature_names_in"] is not None:
            self.feature_names_in_ = np.array(state["feature_names_in"], dtype=object)
        self._set_extra_state(state["extra"])
        with isolated_rng(self.seed_):
            self.network_ = self._make_network(self._make_encoder(), self.context_).eval()
        self.network_.load_state_dict(tensors)


def _to(x: Any, device: torch.device) -> Any:
    if isinstance(x, tuple):
        return tuple(_to(part, device) for part in x)
    return x.to(device)

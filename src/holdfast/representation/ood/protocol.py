"""What every out-of-distribution detector does: fit on features, score features, go to one file and back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from holdfast.core.checks import check_finite, check_labels, check_number

__all__ = ["OODDetector"]

_FORMAT = "1"


@dataclass(kw_only=True)
class OODDetector(ABC):
    """Detector on precomputed features: ``fit(features, labels, logits)``, ``score(features, logits)``.

    Higher scores mean further from the training distribution. Arrays and tensors are accepted, scores are float64
    arrays. A detector needs only what it uses: ``needs_features``, ``needs_labels`` and ``needs_logits`` say which.
    Settings are the dataclass fields; fitted tensors are kept in ``state_`` and saved with :meth:`save`.
    """

    needs_features: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._check_settings()

    def _check_settings(self) -> None:  # noqa: B027
        """Refuse wrong settings."""

    @abstractmethod
    def _fit(self, features: Tensor | None, labels: Tensor | None, logits: Tensor | None) -> dict[str, Tensor]:
        """Return the fitted tensors."""

    @abstractmethod
    def _score(self, features: Tensor | None, logits: Tensor | None) -> Tensor:
        """Return one score per row."""

    def fit(self, features: Any = None, labels: Any = None, logits: Any = None) -> Self:
        """Fit on in-distribution training rows.

        Args:
            features: (n, d), or (n, K, d) where a detector models groups.
            labels: (n,) class indices.
            logits: (n, C).

        Raises:
            ValueError: for something missing that the detector needs, lengths that differ, values not finite.
        """
        f, z = self._inputs(features, logits)
        y = None
        if self.needs_labels:
            if labels is None:
                raise ValueError(f"{type(self).__name__} needs labels to fit")
            y = torch.as_tensor(np.asarray(labels))
            check_labels("labels", y, int(y.max()) + 1 if y.numel() and not y.is_floating_point() else 1)
            if f is not None and len(y) != len(f):
                raise ValueError(f"features and labels differ in length: {len(f)} and {len(y)}")
            y = y.long()
        self._shape: tuple[int, ...] | None = None if f is None else tuple(f.shape[1:])
        self.state_: dict[str, Tensor] = {k: v.contiguous() for k, v in self._fit(f, y, z).items()}
        return self

    def score(self, features: Any = None, logits: Any = None) -> np.ndarray:
        """Return one score per row, higher meaning more out-of-distribution.

        Raises:
            RuntimeError: before :meth:`fit`.
            ValueError: for something missing, another width than fitted, an empty set or values not finite.
        """
        if not hasattr(self, "state_"):
            raise RuntimeError(f"this {type(self).__name__} is not fitted yet; call fit first")
        f, z = self._inputs(features, logits)
        if f is not None and tuple(f.shape[1:]) != self._shape:
            raise ValueError(f"features must have shape (n, *{self._shape}) as fitted, got {tuple(f.shape)}")
        return self._score(f, z).double().numpy()

    def calibrate(self, features: Any = None, logits: Any = None, *, coverage: float = 0.95) -> Self:
        """Set ``threshold`` so that the share ``coverage`` of these in-distribution rows lies at or below it.

        Rows that training has seen lie closer than new ones, so give held-out rows.

        Raises:
            ValueError: for a coverage outside (0, 1), and as :meth:`score`.
        """
        check_number("coverage", coverage, low=0, high=1, open_low=True, open_high=True)
        scores = self.score(features, logits)
        self.state_["threshold"] = torch.tensor([float(np.quantile(scores, coverage, method="higher"))]).double()
        return self

    @property
    def threshold(self) -> float | None:
        """Score above which a row counts as an outlier; ``None`` before :meth:`calibrate`."""
        state = getattr(self, "state_", {})
        return float(state["threshold"]) if "threshold" in state else None

    def _inputs(self, features: Any, logits: Any) -> tuple[Tensor | None, Tensor | None]:
        out: list[Tensor | None] = []
        for name, x, needed in (("features", features, self.needs_features), ("logits", logits, self.needs_logits)):
            if not needed:
                out.append(None)
                continue
            if x is None:
                raise ValueError(f"{type(self).__name__} needs {name}")
            t = (x.detach().cpu() if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))).double()
            if t.ndim < 2 or len(t) == 0:
                raise ValueError(f"{name} must have shape (n, d) with at least one row, got {tuple(t.shape)}")
            check_finite(name, t)
            out.append(t)
        f, z = out
        if f is not None and z is not None and len(f) != len(z):
            raise ValueError(f"features and logits differ in length: {len(f)} and {len(z)}")
        return f, z

    def save(self, path: str | Path) -> Path:
        """Write the fitted detector to one safetensors file; reading it runs no code."""
        if not hasattr(self, "state_"):
            raise RuntimeError(f"this {type(self).__name__} is not fitted yet; call fit first")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"detector": type(self).__name__, "settings": asdict(self), "shape": self._shape}
        # safetensors writes no file without a tensor, and some detectors learn nothing.
        tensors = self.state_ | {"fitted": torch.ones(1)}
        save_file(tensors, path, metadata={"holdfast.ood": _FORMAT, "about": json.dumps(about)})
        return path

    @staticmethod
    def load(path: str | Path) -> OODDetector:
        """Read a detector that :meth:`save` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: for a damaged file, another kind of file, a newer format or an unknown detector.
        """
        from holdfast.representation.ood import DETECTORS

        if not Path(path).is_file():
            raise FileNotFoundError(f"no detector file at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable detector file: {error}") from error
        if "holdfast.ood" not in metadata:
            raise ValueError(f"{path} is a safetensors file, but not of a detector")
        if metadata["holdfast.ood"] != _FORMAT:
            raise ValueError(f"{path} has format {metadata['holdfast.ood']}, this version reads {_FORMAT}")
        about = json.loads(metadata["about"])
        kinds = {kind.__name__: kind for kind in DETECTORS.values()}
        if about["detector"] not in kinds:
            raise ValueError(f"{path} holds a {about['detector']}, which is none of {', '.join(sorted(kinds))}")
        kind = kinds[about["detector"]]
        known = {f.name for f in fields(kind)}
        detector = kind(**{k: v for k, v in about["settings"].items() if k in known})
        tensors.pop("fitted")
        return detector.restore(tensors, None if about["shape"] is None else tuple(about["shape"]))

    def restore(self, state: dict[str, Tensor], shape: tuple[int, ...] | None) -> Self:
        """Take over the fitted tensors of an equal detector, and the shape of a row of its features."""
        self.state_, self._shape = state, shape
        return self

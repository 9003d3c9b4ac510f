"""When to distrust a prediction: how unlike the training data its representation is, calibrated on held-out data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from holdfast.core.checks import check_number, check_same_length
from holdfast.core.estimator import Estimator, decode_array, encode_array
from holdfast.core.random import seed_from
from holdfast.metrics import ClassGroupGaussians

__all__ = ["DistrustScore", "Trust"]

_BLOCK = 2**20  # float64 entries at once
_COMPONENTS = 4096  # with more pairs than this, environments are modelled without their classes


class Trust(NamedTuple):
    """What :meth:`DistrustScore.score` says of every sample."""

    distrust: Float[np.ndarray, " n"]
    """``1 - p_value``, in [0, 1]: 0.95 means that 5% of ordinary samples look at least this odd."""
    p_value: Float[np.ndarray, " n"]
    """Conformal p-value of *this is a sample of one of the training environments*."""
    p_value_new: Float[np.ndarray, " n"]
    """The same for *this is a sample of a new environment, as unlike the training ones as they are to each other*."""
    nearest_environment: Shaped[np.ndarray, " n"]
    """The training environment under whose density the sample is most likely."""
    distance: Float[np.ndarray, " n"]
    """The score behind the p-values: half the squared Mahalanobis distance to the nearest mean."""


@dataclass(kw_only=True, eq=False, repr=False)
class DistrustScore(Estimator):
    r"""Gaussian density of a representation by class and environment, turned into conformal p-values.

    With the mean :math:`m_{ec}` of every environment and class, and the shrunk covariance :math:`S` that all of them
    share, on standardised features :math:`z`,

    .. math::
        s(z) = \min_{e, c} \tfrac12 (z - m_{ec})^\top S^{-1} (z - m_{ec}),\qquad
        p(z) = \frac{1 + \#\{i \in \text{calibration}: s_i \ge s(z)\}}{1 + n_{\text{calibration}}}

    For samples exchangeable with the calibration samples :math:`P(p \le \alpha) \le \alpha` for every
    :math:`\alpha`, whatever the density of the features. For :math:`p_{\text{new}}` the calibration samples are scored
    by the means of the *other* environments, as a sample of a new environment is. The nearest environment has the
    largest :math:`\log\sum_c \pi_{c|e}\, \mathcal N(z; m_{ec}, S)`.

    Works on features of any origin. Features of samples on which the representation was trained are more regular than
    those of new samples, so give ``calibration_*`` samples that training has not seen; without them a random part of
    the given samples is used.

    Args:
        calibration: part of the samples used to calibrate when none are given.
        random_state: draws that part.

    Raises:
        ValueError: for lengths that differ, features that are not finite or all constant, or too few samples.

    Source: density: Lee, Lee, Lee and Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks", NeurIPS 2018, eq. 2; shrinkage: Ledoit and Wolf, "A Well-Conditioned Estimator for
    Large-Dimensional Covariance Matrices", J. Multivariate Analysis 2004; p-values: Vovk, Gammerman and Shafer,
    "Algorithmic Learning in a Random World", 2005, and Bates, Candès, Lei, Romano and Sesia, "Testing for Outliers
    with Conformal p-Values", Annals of Statistics 2023, eq. 2.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> z, y, e = rng.normal(size=(300, 4)), np.arange(300) % 2, np.arange(300) // 150
        >>> z[:, 0] += 4 * e
        >>> trust = DistrustScore(random_state=0).fit(z, y, environment=e).score([[4.0, 0, 0, 0], [0, 30, 0, 0]])
        >>> int(trust.nearest_environment[0]), bool(trust.distrust[0] < 0.9), bool(trust.distrust[1] > 0.98)
        (1, True, True)
    """

    calibration: float = 0.3
    random_state: int | None = None

    def fit(
        self,
        features: Any,
        y: Any,
        environment: Any = None,
        *,
        calibration_features: Any = None,
        calibration_environment: Any = None,
    ) -> Self:
        """Estimate densities and calibrate them.

        Args:
            features: (n, d).
            y: (n,) labels.
            environment: (n,) environments; ``None`` means one.
            calibration_features: (m, d) features of samples that training has not seen.
            calibration_environment: (m,) their environments; one not in ``environment`` is allowed.
        """
        z = _matrix("features", features)
        y = np.asarray(y)
        environment = np.zeros(len(z), np.int64) if environment is None else np.asarray(environment)
        check_same_length(features=z, y=y, environment=environment)
        if calibration_features is None:
            check_number("calibration", self.calibration, low=0, high=1, open_low=True, open_high=True)
            held = np.zeros(len(z), bool)
            rng = np.random.default_rng(seed_from(self.random_state))
            held[rng.permutation(len(z))[: max(1, round(self.calibration * len(z)))]] = True
            c, c_environment = z[held], environment[held]
            z, y, environment = z[~held], y[~held], environment[~held]
        else:
            c = _matrix("calibration_features", calibration_features, width=z.shape[1])
            if calibration_environment is None:
                calibration_environment = np.full(len(c), environment[0]) if len(environment) else environment
            c_environment = np.asarray(calibration_environment)
            check_same_length(calibration_features=c, calibration_environment=c_environment)
        if len(z) < 3 or len(c) < 1:
            raise ValueError(f"too few samples: {len(z)} to fit on (3 are needed) and {len(c)} to calibrate (1 is)")
        self.n_features_in_ = z.shape[1]
        self.mean_, spread = z.mean(0), z.std(0)
        # A feature that never varies says nothing; one that varies by rounding alone would say too much.
        self.kept_ = spread > 1e-7 * max(float(spread.max()), 1e-30)
        if float(spread.max()) == 0:
            raise ValueError(f"features are constant over all {len(z)} samples: there is no density to estimate")
        self.scale_ = np.where(self.kept_, spread, 1.0)
        z, c = self._standardise(z), self._standardise(c)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.environments_, sites = np.unique(environment, return_inverse=True)
        self._fit_density(z, labels, sites)
        self.calibration_ = np.sort(self._distance(c))
        self.calibration_new_ = np.sort(self._distance(c, unlike=c_environment))
        return self

    def score(self, features: Any) -> Trust:
        """Return distrust, p-values and the nearest environment of every sample.

        Raises:
            ValueError: for features of another width than those fitted.
        """
        check_is_fitted(self, "density_")
        z = self._standardise(_matrix("features", features, width=self.n_features_in_))
        squared = self._squared(z)
        distance = 0.5 * squared.amin(1).numpy()
        weighted = torch.from_numpy(self.component_log_weight_) - 0.5 * squared
        owner = torch.from_numpy(self.component_environment_)
        likelihood = [torch.logsumexp(weighted[:, owner == e], 1) for e in range(len(self.environments_))]
        nearest = self.environments_[torch.stack(likelihood, 1).argmax(1).numpy()]
        p = _p_value(self.calibration_, distance)
        return Trust(1.0 - p, p, _p_value(self.calibration_new_, distance), nearest, distance)

    def _standardise(self, z: np.ndarray) -> Tensor:
        return torch.from_numpy(((z - self.mean_) / self.scale_)[:, self.kept_])

    def _fit_density(self, z: Tensor, labels: np.ndarray, sites: np.ndarray) -> None:
        n_classes = len(self.classes_)
        cell, per_site = sites * n_classes + labels, n_classes
        if len(np.unique(cell)) > min(_COMPONENTS, len(z) // 2):
            cell, per_site = sites, 1
        present, component, count = np.unique(cell, return_inverse=True, return_counts=True)
        if len(z) <= len(present):
            raise ValueError(f"{len(z)} samples are too few for {len(present)} environments")
        self.component_environment_ = present // per_site
        total = np.bincount(sites, minlength=len(self.environments_))
        self.component_log_weight_ = np.log(count / total[self.component_environment_])
        codes = torch.from_numpy(component)
        self.density_ = ClassGroupGaussians().fit(z, codes, shrinkage="ledoit_wolf", tied=True)

    def _squared(self, z: Tensor) -> Tensor:
        """Squared distances to every mean, in blocks small enough that a stream of chunks stays small."""
        rows = max(1, _BLOCK // (len(self.component_environment_) * z.shape[1]))
        return torch.cat([self.density_.mahalanobis(part)[:, :, 0] for part in z.split(rows)])

    def _distance(self, z: Tensor, unlike: np.ndarray | None = None) -> np.ndarray:
        """Half the squared distance to the nearest mean, of another environment than ``unlike`` where given."""
        squared = self._squared(z)
        if unlike is not None and len(self.environments_) > 1:
            own = unlike[:, None] == self.environments_[self.component_environment_][None]
            squared = squared.masked_fill(torch.from_numpy(own), torch.inf)
        return 0.5 * squared.amin(1).numpy()

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "density_")
        state = {
            "classes": encode_array(self.classes_),
            "environments": encode_array(self.environments_),
            "n_features": self.n_features_in_,
        }
        arrays = {k: torch.from_numpy(np.ascontiguousarray(getattr(self, f"{k}_"))) for k in _ARRAYS}
        return state, arrays | {f"density.{k}": v.contiguous() for k, v in self.density_.to_tensors().items()}

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        self.classes_, self.environments_ = decode_array(state["classes"]), decode_array(state["environments"])
        self.n_features_in_ = int(state["n_features"])
        for name in _ARRAYS:
            setattr(self, f"{name}_", tensors[name].numpy())
        density = {k.removeprefix("density."): v for k, v in tensors.items() if k.startswith("density.")}
        self.density_ = ClassGroupGaussians.from_tensors(density)


_ARRAYS = (
    "mean",
    "scale",
    "kept",
    "calibration",
    "calibration_new",
    "component_environment",
    "component_log_weight",
)


def _matrix(name: str, features: Any, *, width: int | None = None) -> np.ndarray:
    z = features.detach().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
    if z.ndim != 2 or z.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers of shape (n, d), got shape {z.shape} of {z.dtype}")
    if width is not None and z.shape[1] != width:
        raise ValueError(f"{name} must have {width} columns, as those that were fitted, got {z.shape[1]}")
    z = z.astype(np.float64)
    bad = ~np.isfinite(z).all(1)
    if bad.any():
        raise ValueError(f"{name} must be finite, but row {int(np.flatnonzero(bad)[0])} is not")
    return z


def _p_value(calibration: np.ndarray, distance: np.ndarray) -> np.ndarray:
    at_least = len(calibration) - np.searchsorted(calibration, distance, side="left")
    return (1.0 + at_least) / (1.0 + len(calibration))

"""A classifier whose classes are products of Gaussian groups, and which knows how far a sample is from all of them."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.inputs import Encoded
from holdfast.core.training import StepInfo
from holdfast.metrics.calibration import fit_temperature
from holdfast.metrics.training_temperature import training_temperature
from holdfast.nn import Batch, FitContext, NeuralClassifier, learner
from holdfast.nn.network import Network
from holdfast.representation.category_modeling import GroupedCenterHead, HVCMLoss
from holdfast.representation.ood.grouped import GroupedGaussian

__all__ = ["CategoryModel"]

_DENSITY = "density."
_COLLAPSED = 0.9


class _Cosines(nn.Module):
    """Cosines with the class centres, over a temperature that makes their softmax a probability."""

    temperature: Tensor

    def __init__(self, loss: HVCMLoss) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("temperature", torch.tensor(1.0))

    def forward(self, q: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        centers = nn.functional.normalize(self.loss.centers.flatten(1), dim=1)
        return nn.functional.normalize(q, dim=1) @ centers.T / self.temperature


class _CategoryNetwork(Network):
    """The representation is the flat vector of all groups."""

    def __init__(self, encoder: nn.Module, project: GroupedCenterHead, loss: HVCMLoss) -> None:
        super().__init__(encoder, _Cosines(loss))
        self.project = project

    def features(self, x: Any) -> Float[Tensor, "batch dim"]:
        """Return the cosines of all groups, one after the other."""
        return self.project(self.encoder(x))[0].flatten(1)


class _CategoryRisk(nn.Module):
    def forward(self, network: Any, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        q, w = network.project(network.encoder(batch.x))
        return network.head.loss(q, w, batch.y)


@learner
class CategoryModel(NeuralClassifier):
    r"""Hierarchical category modelling: learned class centres in K groups of features, then Gaussians around them.

    Training pulls every group of a sample's representation to its class's centre (:class:`HVCMLoss`). Afterwards means
    and covariances of every class and group are estimated in evaluation mode, and

    .. math:: s(x) = \min_c \sum_k \pi_{ck}\,\tfrac12 (x_k - m_{ck})^\top S_{ck}^{-1} (x_k - m_{ck})

    says how far a sample is from every class. The prediction is the most similar centre; ``predict_proba`` is the
    softmax of the cosines over a temperature fitted to the likelihood of the held-out rows (``validation_fraction``),
    or else of the training rows (:func:`holdfast.metrics.training_temperature.training_temperature`).

    Args (beside those of every neural learner):
        n_groups: K; more help up to a point.
        group_dim: d, features of a group.
        bottleneck: width of the layer before the groups.
        mlp_layers: 1, or 3 for a deeper head.
        alpha, beta: pull of samples to centres and of centres to samples; ``beta`` well below ``alpha``.
        gamma: step of the mixture weights' moving average; ``None`` is 10 / steps, at most 1.
        train_centers: ``False`` keeps the centres at their random start.
        shrinkage: of the covariances, see :class:`GroupedGaussian`.
        aggregate: ``"weighted"`` (the source's score), ``"mixture"`` or ``"product"``.

    Attributes:
        density_: the fitted :class:`GroupedGaussian`, or ``None`` when a class had a single sample.

    Source: Li, Zhou et al., "Hierarchical Visual Categories Modeling: A Joint Representation Learning and Density
    Estimation Framework for Out-of-Distribution Detection", ICCV 2023.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> model = CategoryModel(epochs=30, size="tiny", random_state=0).fit(x, y)
        >>> bool(model.score_ood(x + 100).min() > model.score_ood(x).mean())
        True
    """

    n_groups: int = 8
    group_dim: int = 8
    bottleneck: int = 64
    mlp_layers: Literal[1, 3] = 1
    alpha: float = 1.0
    beta: float = 0.1
    gamma: float | None = None
    train_centers: bool = True
    shrinkage: Literal["none", "ledoit_wolf"] | float = "ledoit_wolf"
    aggregate: str = "weighted"

    def _make_network(self, encoder: nn.Module, context: FitContext) -> Network:
        head = GroupedCenterHead(context.width, self.n_groups, self.group_dim, self.bottleneck, self.mlp_layers)
        gamma = min(1.0, 10 / context.steps) if self.gamma is None else self.gamma
        loss = HVCMLoss(
            context.n_outputs, self.n_groups, self.group_dim, self.alpha, self.beta, gamma, self.train_centers
        )
        return _CategoryNetwork(encoder, head, loss)

    def _make_objective(self, context: FitContext) -> nn.Module:
        return _CategoryRisk()

    def _after_fit(self, encoded: Encoded, targets: Tensor, groups: Tensor, seed: int) -> None:
        network: Any = self.network_
        if (cosine := float(network.head.loss.center_cosine())) > _COLLAPSED:
            warnings.warn(
                f"the class centres have collapsed onto one (mean cosine {cosine:.2f}): lower beta or lr",
                UserWarning,
                stacklevel=3,
            )
        held = self._validation_rows(len(encoded))
        fitted = torch.ones(len(encoded), dtype=torch.bool)
        fitted[held] = False
        rows = fitted.nonzero()[:, 0]
        calibration = held if len(held) else rows
        fit = fit_temperature if len(held) else training_temperature
        network.head.temperature.fill_(fit(self._outputs(network, encoded, calibration), targets[calibration]))
        q, y = self._outputs(network, encoded, rows, network.features), targets[rows]
        self.density_: GroupedGaussian | None = None
        if int(torch.bincount(y, minlength=len(self.classes_)).min()) < 2:
            warnings.warn("a class has fewer than 2 samples: no densities, so no distrust", UserWarning, stacklevel=3)
            return
        density = GroupedGaussian(n_groups=self.n_groups, aggregate=self.aggregate, shrinkage=self.shrinkage)
        self.density_ = density.fit(q, y, weights=network.head.loss.pi)
        known = self._outputs(network, encoded, calibration, network.features)
        self.known_scores_ = np.sort(self.density_.score(known))

    def score_ood(self, X: Any) -> Float[np.ndarray, " n"]:
        """Return the distance to the nearest class under the densities; higher is more out-of-distribution.

        Raises:
            ValueError: when the model was fitted without densities.
        """
        encoded = self._encode_input(X)
        if self.density_ is None:
            raise ValueError("this model has no densities: a class had fewer than 2 training samples")
        network: Any = self.network_
        return self.density_.score(self._outputs(network, encoded, function=network.features))

    def distrust(self, X: Any) -> Float[np.ndarray, " n"]:
        """Return the share of known samples that lie nearer than each sample, in [0, 1].

        A sample above 0.95 is further away than 95% of the held-out rows (``validation_fraction``); without held-out
        rows the comparison is with training rows, which lie nearer than new ones.
        """
        return np.searchsorted(self.known_scores_, self.score_ood(X), side="left") / len(self.known_scores_)

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        state, tensors = super()._get_state()
        if self.density_ is not None:
            tensors |= {_DENSITY + name: value for name, value in self.density_.state_.items()}
            tensors[_DENSITY + "known_scores"] = torch.from_numpy(self.known_scores_)
        return state, tensors

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        density = {k.removeprefix(_DENSITY): v for k, v in tensors.items() if k.startswith(_DENSITY)}
        super()._set_state(state, {k: v for k, v in tensors.items() if not k.startswith(_DENSITY)}, **objects)
        self.density_ = None
        if density:
            self.known_scores_ = density.pop("known_scores").numpy()
            detector = GroupedGaussian(n_groups=self.n_groups, aggregate=self.aggregate, shrinkage=self.shrinkage)
            self.density_ = detector.restore(density, (self.n_groups * self.group_dim,))

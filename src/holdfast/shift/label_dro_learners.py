"""Learners that doubt their labels: the label-distributionally robust losses at one temperature, or at one each."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.core.inputs import Encoded
from holdfast.core.training import StepInfo
from holdfast.metrics.calibration import fit_temperature
from holdfast.metrics.training_temperature import training_temperature
from holdfast.nn import Batch, FitContext, NeuralClassifier, learner
from holdfast.nn.network import Network
from holdfast.shift.adaptive_label_robust import AdaptiveLDR, Solver
from holdfast.shift.label_robust import Normalization, check_margin, check_temperature, ldr_kl, rescale

__all__ = ["AdaptiveLabelDRO", "LabelDRO"]


class _RobustHead(nn.Module):
    """Scores that the loss sees, and the log-posteriors that the scores stand for."""

    scale: Tensor
    calibration: Tensor

    def __init__(self, width: int, n_classes: int, normalize: Normalization, temperature: float) -> None:
        super().__init__()
        check_choice("normalize", normalize, ["none", "l1", "softplus_mean"])
        self.linear = nn.Linear(width, n_classes)
        self.normalize: Normalization = normalize
        known = temperature if 0 < temperature < math.inf else 1.0
        self.register_buffer("scale", torch.tensor(float(known)))
        self.register_buffer("calibration", torch.tensor(1.0))

    def scores(self, h: Float[Tensor, "batch width"]) -> Float[Tensor, "batch classes"]:
        """Return the scores in the normalisation of the loss."""
        return rescale(self.linear(h), self.normalize)

    def forward(self, h: Float[Tensor, "batch width"]) -> Float[Tensor, "batch classes"]:
        """Return scores over the temperature: their softmax is the posterior at the minimum of the risk."""
        return self._rescale(self.scores(h)) / self.calibration

    def _rescale(self, f: Tensor) -> Tensor:
        return f / self.scale


class _AdaptiveHead(_RobustHead):
    """Every row over its own stationary temperature, reached by a fixed number of iterations so that it exports."""

    def __init__(self, width: int, n_classes: int, normalize: Normalization, temperature: float, alpha: float) -> None:
        super().__init__(width, n_classes, normalize, temperature)
        self.alpha, self.log_k = alpha, math.log(n_classes)

    def _rescale(self, f: Tensor) -> Tensor:
        lam = self.scale
        for _ in range(16):
            log_p = (f / lam).log_softmax(1)
            kl = (log_p.exp() * log_p).sum(1, keepdim=True) + self.log_k
            lam = self.scale * (1 - kl / (self.alpha * self.log_k))
        return f / lam


class _RobustRisk(nn.Module):
    def __init__(self, temperature: float, margin: float) -> None:
        super().__init__()
        self.temperature, self.margin = temperature, margin

    def forward(self, network: Any, batch: Batch, info: StepInfo) -> Tensor:
        scores = network.head.scores(network.features(batch.x))
        return ldr_kl(scores, batch.y, self.temperature, self.margin)


class _AdaptiveRisk(nn.Module):
    def __init__(self, loss: AdaptiveLDR) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, network: Any, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        scores = network.head.scores(network.features(batch.x))
        loss = self.loss(scores, batch.y, batch.index)
        return {"loss": loss, "temperature": self.loss.temperatures[batch.index].mean()}


def _calibrate(model: NeuralClassifier, encoded: Encoded, targets: Tensor) -> None:
    """Fit the scale of the log-posteriors to the held-out rows, or else to the training rows."""
    held = model._validation_rows(len(encoded))
    rows = held if len(held) else torch.arange(len(encoded))
    fit = fit_temperature if len(held) else training_temperature
    network: Any = model.network_
    network.head.calibration.fill_(fit(model._outputs(network, encoded, rows), targets[rows]))


@learner
class LabelDRO(NeuralClassifier):
    r"""Risk under the label-distributionally robust loss: an adversary re-weights the classes of every sample.

    .. math:: \min_\theta \frac1n \sum_i \lambda \Bigl[\log \sum_k e^{\delta_{ik} / \lambda} - \log K\Bigr],
        \qquad \delta_{ik} = f_k(x_i) - f_{y_i}(x_i) + c\,\mathbb 1[k \ne y_i]

    Hot temperatures tolerate wrong labels, cold ones fit hard. At the minimum of the risk without margin
    :math:`f = \lambda \log q` up to a constant, so ``predict_proba`` is :math:`\mathrm{softmax}(f / \lambda)`. At
    temperature 0 and infinity, and for normalised scores, the scale of the scores says nothing; there it is fitted to
    the likelihood of the held-out rows (``validation_fraction``), or else of the training rows.

    Args (beside those of every neural learner):
        temperature: :math:`\lambda \in [0, \infty]`.
        margin: c >= 0.
        normalize: ``"none"``, ``"l1"`` or ``"softplus_mean"``, see :func:`holdfast.shift.normalize_scores`.

    Source: Zhu, Ying and Yang, "Label Distributionally Robust Losses for Multi-class Classification: Consistency,
    Robustness and Adaptivity", ICML 2023.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> LabelDRO(temperature=2.0, epochs=40, lr=1e-2, random_state=0).fit(x, y).score(x, y) > 0.9
        True
    """

    temperature: float = 1.0
    margin: float = 0.1
    normalize: Normalization = "none"

    def _make_network(self, encoder: nn.Module, context: FitContext) -> Network:
        check_temperature(self.temperature, context.n_samples)
        return Network(encoder, _RobustHead(context.width, context.n_outputs, self.normalize, self.temperature))

    def _make_objective(self, context: FitContext) -> nn.Module:
        check_margin(self.margin)
        return _RobustRisk(self.temperature, self.margin)

    def _after_fit(self, encoded: Encoded, targets: Tensor, groups: Tensor, seed: int) -> None:
        if self.normalize != "none" or not 0 < self.temperature < math.inf:
            _calibrate(self, encoded, targets)


@learner
class AdaptiveLabelDRO(NeuralClassifier):
    r"""Risk under the adaptive label-robust loss: every training sample's temperature finds itself.

    A doubtful label keeps the hot temperature :math:`\lambda_0`, a confident one moves down to
    :math:`\lambda_0 (1 - 1/\alpha)`; see :class:`holdfast.shift.AdaptiveLDR`. ``predict_proba`` is the softmax of the
    scores over the temperature that the same rule gives a new sample, which is the posterior at the minimum of the
    risk without margin; normalised scores are bounded, so their scale is then fitted as in :class:`LabelDRO`.

    Args (beside those of every neural learner):
        temperature: :math:`\lambda_0 > 0`.
        alpha: :math:`\alpha > 1`.
        margin: c >= 0.
        solver: ``"fixed_point"`` (exact) or ``"one_step"`` (the authors' released rule).
        normalize: ``"none"``, ``"l1"`` (the source's choice) or ``"softplus_mean"``.

    Source: Zhu, Ying and Yang, "Label Distributionally Robust Losses for Multi-class Classification: Consistency,
    Robustness and Adaptivity", ICML 2023, the ALDR-KL loss.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> AdaptiveLabelDRO(temperature=2.0, epochs=40, lr=1e-2, random_state=0).fit(x, y).score(x, y) > 0.9
        True
    """

    temperature: float = 10.0
    alpha: float = 2.0
    margin: float = 0.1
    solver: Solver = "fixed_point"
    normalize: Normalization = "l1"

    def _make_network(self, encoder: nn.Module, context: FitContext) -> Network:
        check_number("temperature", self.temperature, low=0, high=math.inf, open_low=True, open_high=True)
        check_number("alpha", self.alpha, low=1, open_low=True)
        head = _AdaptiveHead(context.width, context.n_outputs, self.normalize, self.temperature, self.alpha)
        return Network(encoder, head)

    def _make_objective(self, context: FitContext) -> nn.Module:
        loss = AdaptiveLDR(
            context.n_samples,
            context.n_outputs,
            self.temperature,
            self.alpha,
            self.margin,
            self.solver,
        )
        return _AdaptiveRisk(loss)

    def _after_fit(self, encoded: Encoded, targets: Tensor, groups: Tensor, seed: int) -> None:
        if self.normalize != "none":
            _calibrate(self, encoded, targets)

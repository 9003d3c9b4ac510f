"""Learners that ask for the same behaviour in every training environment."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.core.training import StepInfo
from holdfast.nn import Batch, FitContext, NeuralClassifier, SampleLoss, learner
from holdfast.shift.penalties import GroupDROLoss, IRMv1Loss, coral_penalty, vrex_penalty

__all__ = ["CORAL", "IRM", "GroupDRO", "VREx"]


class _GroupDRORisk(nn.Module):
    def __init__(self, n_groups: int, step_size: float, sample_loss: SampleLoss) -> None:
        super().__init__()
        self.loss = GroupDROLoss(n_groups, step_size)
        self.sample_loss = sample_loss

    def forward(self, network: nn.Module, batch: Batch, info: StepInfo) -> Tensor:
        return self.loss(self.sample_loss(network(batch.x), batch.y), batch.environment)


@learner
class GroupDRO(NeuralClassifier):
    """Distributionally robust optimisation over environments; see :class:`~holdfast.shift.GroupDROLoss`.

    Source: Sagawa et al., *Distributionally robust neural networks for group shifts*, ICLR 2020.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(40, 3))
        >>> model = GroupDRO(epochs=1, random_state=0).fit(x, x[:, 0] > 0, environment=np.arange(40) % 2)
        >>> model.environments_.tolist()
        [0, 1]
    """

    balances_environments = True

    step_size: float = 0.01

    def _make_objective(self, context: FitContext) -> nn.Module:
        self._warn_single_environment(context)
        return _GroupDRORisk(context.n_environments, self.step_size, self._sample_loss)


class _PenalisedRisk(nn.Module):
    """Risk plus a penalty that is switched on after the first ``start`` of training."""

    def __init__(self, n_environments: int, penalty: float, start: float) -> None:
        super().__init__()
        self.n_environments = n_environments
        self.penalty = check_number("penalty", penalty, low=0)
        self.start = check_number("penalty_start", start, low=0, high=1)

    def weight(self, info: StepInfo) -> float:
        return self.penalty if info.step >= self.start * info.total else 0.0


class _CORALRisk(_PenalisedRisk):
    def __init__(self, n_environments: int, penalty: float, start: float, sample_loss: SampleLoss) -> None:
        super().__init__(n_environments, penalty, start)
        self.sample_loss = sample_loss

    def forward(self, network: Any, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        features = network.features(batch.x)
        risk = self.sample_loss(network.head(features), batch.y).mean()
        gap = coral_penalty(features, batch.environment, self.n_environments)
        return {"loss": risk + self.weight(info) * gap, "risk": risk, "penalty": gap}


@learner
class CORAL(NeuralClassifier):
    """Correlation alignment: means and covariances of the representation agree between environments.

    See :func:`~holdfast.shift.coral_penalty`. Source: Sun & Saenko, *Deep CORAL*, ECCV-W 2016.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(40, 3))
        >>> model = CORAL(epochs=1, random_state=0).fit(x, x[:, 0] > 0, environment=np.arange(40) % 2)
        >>> model.transform(x).shape[0]
        40
    """

    balances_environments = True

    penalty: float = 1.0
    penalty_start: float = 0.0

    def _make_objective(self, context: FitContext) -> nn.Module:
        self._warn_single_environment(context)
        return _CORALRisk(context.n_environments, self.penalty, self.penalty_start, self._sample_loss)


class _VRExRisk(_PenalisedRisk):
    def __init__(self, n_environments: int, penalty: float, start: float, sample_loss: SampleLoss) -> None:
        super().__init__(n_environments, penalty, start)
        self.sample_loss = sample_loss

    def forward(self, network: nn.Module, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        losses = self.sample_loss(network(batch.x), batch.y)
        risk, variance = vrex_penalty(losses, batch.environment, self.n_environments)
        return {"loss": risk + self.weight(info) * variance, "risk": risk, "penalty": variance}


@learner
class VREx(NeuralClassifier):
    """Risk extrapolation: the risks of the environments agree; see :func:`~holdfast.shift.vrex_penalty`.

    Source: Krueger et al., *Out-of-distribution generalization via risk extrapolation*, ICML 2021.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(40, 3))
        >>> VREx(penalty=5.0, epochs=1, random_state=0).fit(x, x[:, 0] > 0, environment=np.arange(40) % 2).n_steps_
        1
    """

    balances_environments = True

    penalty: float = 10.0
    penalty_start: float = 0.1

    def _make_objective(self, context: FitContext) -> nn.Module:
        self._warn_single_environment(context)
        return _VRExRisk(context.n_environments, self.penalty, self.penalty_start, self._sample_loss)


class _IRMRisk(_PenalisedRisk):
    def __init__(self, n_environments: int, penalty: float, start: float) -> None:
        super().__init__(n_environments, penalty, start)
        self.loss = IRMv1Loss(penalty)

    def forward(self, network: nn.Module, batch: Batch, info: StepInfo) -> Tensor:
        on = 1.0 if self.weight(info) else 0.0
        return self.loss(network(batch.x), batch.y, batch.environment, self.n_environments, weight=on)


@learner
class IRM(NeuralClassifier):
    """Invariant risk minimisation: one head optimal in every environment; see :class:`~holdfast.shift.IRMv1Loss`.

    Source: Arjovsky et al., *Invariant risk minimization*, 2019.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(40, 3))
        >>> model = IRM(epochs=1, random_state=0).fit(x, x[:, 0] > 0, environment=np.arange(40) % 2)
        >>> model.predict_proba(x).shape
        (40, 2)
    """

    balances_environments = True

    penalty: float = 1.0
    penalty_start: float = 0.1

    def _make_objective(self, context: FitContext) -> nn.Module:
        self._warn_single_environment(context)
        return _IRMRisk(context.n_environments, self.penalty, self.penalty_start)

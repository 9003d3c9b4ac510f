"""A classifier on the union of the features that several training episodes found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.core.inputs import Encoded
from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.core.training import StepInfo, TrainResult
from holdfast.nn import Batch, EmpiricalRisk, FitContext, NeuralClassifier, learner
from holdfast.nn.network import Network
from holdfast.representation.concatenation import ConcatRepresentation
from holdfast.representation.multi_head_distillation import multi_head_distillation_loss
from holdfast.representation.probe import LinearProbe
from holdfast.representation.probe_head import ProbeHead

__all__ = ["RichClassifier"]

_FEW = 5


class _TeacherHeads(nn.Module):
    """One head per teacher; a plain call returns their mean, which is what validation looks at."""

    def __init__(self, width: int, n_outputs: int, n_teachers: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, n_outputs) for _ in range(n_teachers))

    def forward(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        return torch.stack([head(z) for head in self.heads]).mean(0)


class _Distillation(nn.Module):
    def __init__(self, teachers: Sequence[Network], temperature: float) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers).requires_grad_(False)
        self.temperature = temperature

    def train(self, mode: bool = True) -> _Distillation:
        super().train(mode)
        self.teachers.eval()
        return self

    def forward(self, network: Network, batch: Batch, info: StepInfo) -> Tensor:
        z = network.features(batch.x)
        with torch.no_grad():
            targets = [teacher(batch.x) for teacher in self.teachers]
        return multi_head_distillation_loss(
            [head(z) for head in cast("_TeacherHeads", network.head).heads], targets, self.temperature
        )


@learner
class RichClassifier(NeuralClassifier):
    r"""Several training episodes, their frozen representations side by side, and a tuned linear layer on top.

    .. math:: \Phi(x) = [\phi_1(x); \dots; \phi_n(x)], \qquad
              \min_{W, b} \frac1N \sum_i \ell(W \Phi(x_i) + b, y_i) + \frac{\lambda}{2} \lVert W \rVert_F^2

    The episodes differ in their seed alone (initial weights and order of the data). Each keeps only the features it
    needed; the union serves shifted distributions and new tasks better. With ``distill``, one network of the
    backbone's own size learns to answer like every episode through a head for each, and the linear layer reads its
    representation: prediction then costs what one network costs. The weight decay of the linear layer is tuned on a
    held-out part of the training data.

    Attributes:
        probe_: the fitted :class:`~holdfast.representation.LinearProbe`; absent after loading.

    Raises:
        ValueError: for fewer than one episode, or a temperature that is not positive.

    Source: Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> model = RichClassifier(n_episodes=2, size="tiny", epochs=20, lr=1e-2, random_state=0).fit(x, y)
        >>> model.transform(x).shape[1] == 2 * model.context_.width
        True
        >>> model.score(x, y) > 0.9
        True
    """

    n_episodes: int = 4
    distill: bool = False
    """Train one network of the original size to replace the concatenation."""
    temperature: float = 4.0
    """Of the distillation."""
    distill_steps: int | None = None
    """Optimiser steps of the distillation; twice those of an episode by default."""

    def _make_network(self, encoder: nn.Module, context: FitContext) -> Network:
        n = int(check_number("n_episodes", self.n_episodes, low=1, integer=True))
        check_number("temperature", self.temperature, low=0, open_low=True)
        if self.distill:
            return self._assemble([encoder], context)
        return self._assemble([encoder, *(self._make_encoder() for _ in range(n - 1))], context)

    def _assemble(self, encoders: Sequence[nn.Module], context: FitContext) -> Network:
        """Return the concatenation under a linear layer that is still to be fitted."""
        width = len(encoders) * context.width
        head = ProbeHead(
            torch.zeros(width), torch.ones(width), torch.zeros(context.n_outputs, width), torch.zeros(context.n_outputs)
        )
        return Network(ConcatRepresentation(encoders, allow_duplicates=True), head)

    def _fit_network(
        self, encoded: Encoded, targets: Tensor, groups: Tensor, context: FitContext, seed: int
    ) -> Network:
        check_number("n_episodes", self.n_episodes, low=1, integer=True)
        check_number("temperature", self.temperature, low=0, open_low=True)
        self.history_, self.n_steps_, self.fit_seconds_ = [], 0, 0.0
        members = [
            self._episode(encoded, targets, groups, context, spawn_seed(seed, "episode", i))
            for i in range(self.n_episodes)
        ]
        if self.distill:
            members = [self._student(members, encoded, targets, groups, context, spawn_seed(seed, "student"))]
        network = self._assemble([member.encoder for member in members], context)
        return self._fit_head(network, encoded, targets)

    def _episode(self, encoded: Encoded, targets: Tensor, groups: Tensor, context: FitContext, seed: int) -> Network:
        with isolated_rng(spawn_seed(seed, "weights")):
            network = Network(self._make_encoder(), nn.Linear(context.width, context.n_outputs))
        objective = EmpiricalRisk(self._sample_loss)
        self._record(self._train(network, objective, encoded, targets, groups, context.steps, seed))
        return network

    def _student(
        self,
        teachers: Sequence[Network],
        encoded: Encoded,
        targets: Tensor,
        groups: Tensor,
        context: FitContext,
        seed: int,
    ) -> Network:
        with isolated_rng(spawn_seed(seed, "weights")):
            heads = _TeacherHeads(context.width, context.n_outputs, len(teachers))
            network = Network(self._make_encoder(), heads)
        steps = 2 * context.steps if self.distill_steps is None else self.distill_steps
        objective = _Distillation(teachers, self.temperature)
        self._record(self._train(network, objective, encoded, targets, groups, steps, seed))
        return network

    def _record(self, result: TrainResult) -> None:
        self.history_ += result.history
        self.n_steps_ += result.steps
        self.fit_seconds_ += result.seconds

    def _fit_head(self, network: Network, encoded: Encoded, targets: Tensor) -> Network:
        z = self._outputs(network, encoded, function=network.features)
        # Too few samples of a class to hold any out: a fixed, moderate penalty.
        tuned = int(torch.bincount(targets).min()) >= _FEW
        probe = LinearProbe(selection="nll", random_state=0)
        if not tuned:
            probe.set_params(weight_decay_grid=(1e-2,))
        self.probe_ = probe.fit(z.numpy(), targets.numpy())
        fitted = {k: v.to(network.head.weight) for k, v in self.probe_.head_.state_dict().items()}
        network.head.load_state_dict(fitted)
        return network

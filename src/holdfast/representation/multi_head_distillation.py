"""Distil several networks into one: a head per teacher, so that the student keeps what each of them knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.core.training import BatchSource, train
from holdfast.representation.rich import Featurizer

__all__ = ["DistilledRepresentation", "MultiHeadDistillation", "multi_head_distillation_loss"]


def multi_head_distillation_loss(
    student_logits: Sequence[Float[Tensor, "batch _classes"]],
    teacher_logits: Sequence[Float[Tensor, "batch _classes"]],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Return the distillation loss of one student head per teacher, a mean over the batch.

    .. math:: L = \sum_i \frac{T^2}{B} \sum_x \mathrm{KL}\big(\mathrm{softmax}(t_i(x)/T) \,\|\,
              \mathrm{softmax}(s_i(x)/T)\big)

    The factor :math:`T^2` keeps the gradient's size when the temperature changes. With one teacher it is ordinary
    distillation.

    Raises:
        ValueError: for a temperature that is not positive, no teacher, or logits that do not match.

    Source: Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023;
    Hinton et al., "Distilling the knowledge in a neural network", 2015.

    Examples:
        >>> t = [torch.tensor([[2.0, 0.0]])]
        >>> multi_head_distillation_loss(t, t, temperature=4.0)
        tensor(0.)
    """
    check_number("temperature", temperature, low=0, open_low=True)
    if not student_logits or len(student_logits) != len(teacher_logits):
        raise ValueError(f"every teacher needs one head: {len(teacher_logits)} teachers, {len(student_logits)} heads")
    terms = []
    for i, (s, t) in enumerate(zip(student_logits, teacher_logits)):
        if s.shape != t.shape:
            raise ValueError(f"logits of teacher {i} have shape {tuple(t.shape)}, the student's {tuple(s.shape)}")
        log_p, log_q = (t / temperature).log_softmax(1), (s / temperature).log_softmax(1)
        terms.append(F.kl_div(log_q, log_p, reduction="batchmean", log_target=True))
    return temperature**2 * torch.stack(terms).sum()


class MultiHeadDistillation(nn.Module):
    r"""A student with one linear head per frozen teacher, and the loss that ties them.

    One target averaged over teachers would let the student drop whatever they differ in; a head for each asks for
    a representation from which all of them can be read.

    Args:
        student: module from input to (B, dim) features, or with ``features(x)``; trained.
        teachers: modules from input to logits, or with ``logits(x)``; frozen here.
        temperature: :math:`T`.
        dim: width of the student's features; ``student.out_dim`` by default.
        n_classes: outputs of each teacher, one number for all or one each; found from ``teacher.head`` by default.
        heads: the student's heads, made here by default.

    Raises:
        ValueError: for no teacher, a temperature that is not positive, unknown sizes, or heads with other numbers
            of outputs than their teachers.

    Examples:
        >>> teachers = [nn.Linear(4, 3), nn.Linear(4, 2)]
        >>> loss = MultiHeadDistillation(nn.Linear(4, 8), teachers, temperature=4.0, dim=8, n_classes=[3, 2])
        >>> bool(loss(torch.randn(5, 4)) > 0)
        True
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module],
        temperature: float = 1.0,
        *,
        dim: int | None = None,
        n_classes: int | Sequence[int] | None = None,
        heads: Sequence[nn.Linear] | None = None,
    ) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, low=0, open_low=True)
        if not len(teachers):
            raise ValueError("multi-head distillation needs at least one teacher, got none")
        self.student = student
        self.teachers = nn.ModuleList(teachers).requires_grad_(False).eval()
        counts = self._class_counts(n_classes)
        if heads is None:
            dim = getattr(student, "out_dim", None) if dim is None else dim
            if not isinstance(dim, int):
                raise ValueError("the width of the student's features is unknown: pass dim, or heads")
            if None in counts:
                raise ValueError(f"the number of classes of teacher {counts.index(None)} is unknown: pass n_classes")
            heads = [nn.Linear(dim, int(c or 0)) for c in counts]
        if len(heads) != len(teachers):
            raise ValueError(f"every teacher needs one head: {len(teachers)} teachers, {len(heads)} heads")
        for i, (head, count) in enumerate(zip(heads, counts)):
            if count is not None and head.out_features != count:
                raise ValueError(f"teacher {i} has {count} classes, its head {head.out_features}")
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Any) -> Float[Tensor, ""]:
        """Return the loss on inputs ``x``; no labels are needed."""
        z = _features(self.student, x)
        with torch.no_grad():
            targets = [_logits(teacher, x) for teacher in self.teachers]
        return multi_head_distillation_loss([head(z) for head in self.heads], targets, self.temperature)

    def train(self, mode: bool = True) -> MultiHeadDistillation:
        """Set the mode; teachers stay in evaluation mode."""
        super().train(mode)
        self.teachers.eval()
        return self

    def _class_counts(self, n_classes: int | Sequence[int] | None) -> list[int | None]:
        if n_classes is None:
            return [getattr(getattr(t, "head", None), "out_features", None) for t in self.teachers]
        counts = [n_classes] * len(self.teachers) if isinstance(n_classes, int) else list(n_classes)
        if len(counts) != len(self.teachers):
            raise ValueError(f"n_classes must hold one number per teacher: {len(self.teachers)}, got {len(counts)}")
        return [int(check_number("n_classes", c, low=1, integer=True)) for c in counts]


class DistilledRepresentation(Featurizer):
    """The student's features, without the heads that taught it, frozen.

    Examples:
        >>> from holdfast.core.batching import Batches, BatchPlan
        >>> x = torch.randn(32, 4)
        >>> loss = MultiHeadDistillation(nn.Linear(4, 8), [nn.Linear(4, 3)], dim=8, n_classes=3)
        >>> batches = Batches(BatchPlan(32, 8, seed=0), lambda rows: x[rows])
        >>> DistilledRepresentation.train_from(loss, batches, steps=4, lr=1e-2)(x).shape
        torch.Size([32, 8])
    """

    @classmethod
    def train_from(
        cls,
        distillation: MultiHeadDistillation,
        batches: BatchSource,
        *,
        steps: int,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        optimizer: str = "adamw",
        schedule: str = "constant",
        device: str | torch.device = "cpu",
        progress: bool | str = False,
        seed: int = 0,
    ) -> DistilledRepresentation:
        """Minimise ``distillation`` over batches of inputs and return the student's representation."""
        train(
            distillation,
            lambda module, x, info: module(x),
            batches,
            steps=steps,
            lr=lr,
            weight_decay=weight_decay,
            optimizer=optimizer,
            schedule=schedule,
            device=device,
            progress=progress,
            seed=seed,
        )
        return cls(distillation.student, name="distilled")


def _features(module: nn.Module, x: Any) -> Tensor:
    features: Callable[[Any], Tensor] | None = getattr(module, "features", None)
    return features(x) if callable(features) else module(x)


def _logits(module: nn.Module, x: Any) -> Tensor:
    logits: Callable[[Any], Tensor] | None = getattr(module, "logits", None)
    return logits(x) if callable(logits) else module(x)

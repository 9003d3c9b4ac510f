"""A teacher that follows its student by an exponential moving average."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.checks import check_number

__all__ = ["EMATeacher"]


class EMATeacher(nn.Module):
    r"""A copy of the student that follows it: :math:`\theta_T \leftarrow m\,\theta_T + (1 - m)\,\theta_S`.

    The momentum rises from its start to 1 along a cosine over ``total`` updates, or, with ``warmup``, update
    :math:`n = 1, 2, \dots` takes :math:`\min(m, (1 + n) / (10 + n))`, so that the random weights of the start are
    forgotten early. Buffers, such as batch statistics, are copied. The teacher never receives gradients.

    Args:
        student: copied at construction.
        momentum: in [0, 1].
        total: number of updates until the momentum is 1; ``None`` keeps it constant.
        warmup: smaller momentum in the first updates.
        evaluate: keep the teacher in evaluation mode, whatever mode the module around it is in.

    Raises:
        ValueError: for a momentum outside [0, 1], or a student whose parameters do not match.

    Source: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020; cosine schedule as in Caron et al., ICCV 2021.

    Examples:
        >>> student = nn.Linear(2, 2)
        >>> teacher = EMATeacher(student, momentum=0.5)
        >>> before = teacher(torch.ones(1, 2))
        >>> _ = student.weight.data.zero_(), student.bias.data.zero_()
        >>> teacher.update(student)
        >>> bool(torch.allclose(teacher(torch.ones(1, 2)), before / 2))
        True
    """

    updates: Tensor

    def __init__(
        self,
        student: nn.Module,
        momentum: float = 0.996,
        total: int | None = None,
        *,
        warmup: bool = False,
        evaluate: bool = False,
    ) -> None:
        super().__init__()
        self.start = check_number("momentum", momentum, low=0, high=1)
        self.total = None if total is None else check_number("total", total, low=1, integer=True)
        self.warmup, self.evaluate = warmup, evaluate
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.train(self.training)

    @property
    def momentum(self) -> float:
        """Momentum of the next update."""
        done = int(self.updates)
        m = self.start
        if self.total is not None:
            m = 1 - (1 - m) * (math.cos(math.pi * min(done / self.total, 1.0)) + 1) / 2
        return min(m, (2 + done) / (11 + done)) if self.warmup else m

    def train(self, mode: bool = True) -> EMATeacher:
        """Set the mode; with ``evaluate`` the teacher stays in evaluation mode."""
        super().train(mode)
        if self.evaluate:
            self.teacher.eval()
        return self

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move one step towards ``student``."""
        ours, theirs = dict(self.teacher.named_parameters()), dict(student.named_parameters())
        if ours.keys() != theirs.keys():
            names = sorted(ours.keys() ^ theirs.keys())
            raise ValueError(f"student and teacher differ in parameters: {', '.join(names[:5])}")
        m = self.momentum
        live = [theirs[name].to(p.dtype) for name, p in ours.items()]
        torch._foreach_lerp_(list(ours.values()), live, 1 - m)  # pyright: ignore[reportPrivateImportUsage]
        for name, b in dict(student.named_buffers()).items():
            self.teacher.get_buffer(name).copy_(b)
        self.updates += 1

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The teacher's output, without gradient."""
        return self.teacher(*args, **kwargs)

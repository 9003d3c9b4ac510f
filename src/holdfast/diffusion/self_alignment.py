"""Self-alignment: an early block at much noise learns from a later block of the network's own average at less noise."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.objective import Term, TermContext
from holdfast.diffusion.paths import LinearPath, Path
from holdfast.diffusion.schedules import Schedule

__all__ = ["SelfAlignmentLoss", "feature_distance", "teacher_times"]

Distance = Literal["cosine", "smooth_l1", "l1", "l2"]
Gap = Literal["dynamic", "fixed"]


def teacher_times(
    t: Float[Tensor, "batch *tokens"],
    max_gap: float,
    *,
    gap: Gap = "dynamic",
    path: Path | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch *tokens"]:
    r"""Times of the teacher, nearer to the data than those of the student: :math:`t' = \max(t - d, t_{\min})`.

    On a continuous path :math:`d \sim U(0, d_{\max})` per sample, in units of the path's length; on a discrete one
    :math:`d` is uniform on the whole steps below :math:`d_{\max} T`, and :math:`t'` is at least 1. A fixed gap takes
    the largest :math:`d` always.

    Args:
        t: times of the student; where tokens have their own, all of a sample get one gap.
        max_gap: largest gap, in [0, 1) of the path's length.
        gap: "dynamic" or "fixed".
        path: default a linear one.
        generator: source of the draws, on the device of ``t``.

    Raises:
        ValueError: for a gap outside [0, 1), or an unknown kind.

    Source: Jiang et al., "No other representation component is needed", ICLR 2026, section 3.

    Examples:
        >>> teacher_times(torch.tensor([0.5, 0.1]), 0.2, gap="fixed")
        tensor([0.3000, 0.0000])
    """
    path = LinearPath() if path is None else path
    check_number("max_gap", max_gap, low=0, high=1, open_high=True)
    check_choice("gap", gap, ("dynamic", "fixed"))
    length = path.t_max - path.t_min + (1 if path.discrete else 0)
    shape = (len(t), *[1] * (t.ndim - 1))
    if path.discrete:
        levels = max(1, int(max_gap * length))
        if gap == "fixed":
            d = t.new_full(shape, float(levels - 1))
        else:
            d = torch.randint(levels, shape, generator=generator, device=t.device).to(t.dtype)
        return torch.minimum(t, (t - d).clamp(min=path.t_min + 1))
    share = t.new_ones(shape) if gap == "fixed" else torch.rand(shape, generator=generator, device=t.device)
    return (t - max_gap * length * share).clamp(min=path.t_min)


def feature_distance(
    p: Float[Tensor, "batch tokens dim"], z: Float[Tensor, "batch tokens dim"], kind: Distance, beta: float = 0.05
) -> Float[Tensor, ""]:
    r"""Mean distance of token features.

    "cosine" is :math:`1 - \cos` over the channels of each token; "smooth_l1" is :math:`u^2 / 2\beta` for
    :math:`|u| < \beta` and :math:`|u| - \beta / 2` beyond, "l1" and "l2" the mean absolute and squared difference.

    Examples:
        >>> z = torch.randn(2, 3, 4)
        >>> bool(feature_distance(2 * z, z, "cosine").abs() < 1e-6)
        True
    """
    check_choice("distance", kind, ("cosine", "smooth_l1", "l1", "l2"))
    if kind == "cosine":
        return 1 - F.cosine_similarity(p.float(), z.float(), dim=-1).mean()
    if kind == "smooth_l1":
        check_number("beta", beta, low=0, open_low=True)
        return F.smooth_l1_loss(p, z, beta=beta)
    return F.l1_loss(p, z) if kind == "l1" else F.mse_loss(p, z)


def _tokens(tap: Tensor, area: int) -> Tensor:
    """Tokens of a tap; a feature map is averaged down to ``area`` places first."""
    if tap.ndim == 4:
        side = tap.shape[-1] * tap.shape[-2] // area
        if side > 1:
            tap = F.avg_pool2d(tap, math.isqrt(side))
        return tap.flatten(2).transpose(1, 2)
    return tap


def _places(tap: Tensor) -> int:
    return tap.shape[-1] * tap.shape[-2] if tap.ndim == 4 else tap.shape[1]


class SelfAlignmentLoss(Term):
    r"""Distance between an early block's features, through a head, and those of a later block at less noise.

    .. math:: L = D\big(\mathrm{head}(h_s(x_t, t)),\; \bar h_r(x_{t'}, t')\big), \qquad t' = t - d

    The teacher :math:`\bar h` is the trailing average of the network, run up to block ``r`` only, on the same data,
    the same noise and the same (possibly dropped) labels. At inference nothing is left of it. Feature maps of
    unequal resolution, as in a U-Net, are averaged down to the coarser grid.

    Args:
        student_block, teacher_block: s and r, counted from 1; about 0.3 and 0.65 of the depth are good places.
        width: channels of the student's block.
        teacher_width: channels of the teacher's block; default ``width``.
        max_gap, gap: see :func:`teacher_times`.
        head: "mlp" (two layers, twice the width between them), "linear", or ``None``.
        distance, beta: see :func:`feature_distance`; cosine is the authors' later recommendation, with a constant
            weight of 0.5, and smooth L1 with weight 0.2 is the paper's.
        weight: factor, constant or a function of the step.
        allow_same_block: permit ``teacher_block <= student_block`` (an ablation).

    Raises:
        ValueError: for blocks out of order, no head between unlike widths, or numbers out of range; while training,
            when no teacher is there.

    Source: Jiang et al., "No other representation component is needed: diffusion transformers can provide
    representation guidance by themselves", ICLR 2026, section 3.

    Examples:
        >>> from holdfast.diffusion import Denoiser, DiT, LinearPath, train_diffusion
        >>> model = Denoiser(DiT(1, 8, patch=4, width=16, depth=3, heads=2), LinearPath())
        >>> term = SelfAlignmentLoss(1, 2, width=16, weight=0.5)
        >>> images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        >>> run = train_diffusion(model, images, steps=2, terms=[term], batch_size=16, log_every=1, device="cpu")
        >>> sorted(k for k in run.history[-1] if k.startswith("self"))
        ['self-alignment', 'self-alignment/clean_share', 'self-alignment/teacher_norm']
    """

    def __init__(
        self,
        student_block: int,
        teacher_block: int,
        *,
        width: int,
        teacher_width: int | None = None,
        max_gap: float = 0.2,
        gap: Gap = "dynamic",
        head: Literal["mlp", "linear"] | None = "mlp",
        distance: Distance = "cosine",
        beta: float = 0.05,
        weight: Schedule = 0.5,
        allow_same_block: bool = False,
        name: str = "self-alignment",
    ) -> None:
        super().__init__(name, weight, taps=(student_block,), needs_teacher=True)
        check_number("student_block", student_block, low=1, integer=True)
        check_number("teacher_block", teacher_block, low=1, integer=True)
        if teacher_block <= student_block and not allow_same_block:
            raise ValueError(
                f"the teacher's block must come after the student's, got {teacher_block} <= {student_block}; "
                "allow_same_block=True permits it"
            )
        self.student_block, self.teacher_block = student_block, teacher_block
        self.max_gap = check_number("max_gap", max_gap, low=0, high=1, open_high=True)
        self.gap: Gap = check_choice("gap", gap, ("dynamic", "fixed"))
        self.distance: Distance = check_choice("distance", distance, ("cosine", "smooth_l1", "l1", "l2"))
        self.beta = check_number("beta", beta, low=0, open_low=True)
        out = width if teacher_width is None else teacher_width
        if check_choice("head", head, ("mlp", "linear", None)) is None:
            if out != width:
                raise ValueError(f"without a head both blocks need one width, got {width} and {out}")
            self.head = nn.Identity()
        elif head == "linear":
            self.head = nn.Linear(width, out)
        else:
            self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, out))

    def teacher_features(self, ctx: TermContext) -> tuple[Tensor, Tensor]:
        """Return the teacher's tap and the times it was taken at."""
        if ctx.teacher is None:
            raise ValueError("self-alignment needs the trailing average of the network, and none is registered")
        t = teacher_times(ctx.t, self.max_gap, gap=self.gap, path=ctx.path, generator=ctx.info.generator)
        block, options = self.teacher_block, {} if ctx.groups is None else {"groups": ctx.groups}
        taps = ctx.teacher(ctx.noised(t), t, ctx.y, taps=(block,), stop_at=block, **options).taps
        return taps[self.teacher_block], t

    def forward(self, ctx: TermContext) -> dict[str, Tensor]:
        """Return the distance, the mean norm of the teacher's features and the share of clean teacher inputs."""
        z, t = self.teacher_features(ctx)
        h = ctx.output.taps[self.student_block]
        area = min(_places(h), _places(z))
        h, z = _tokens(h, area), _tokens(z, area)
        loss = feature_distance(self.head(h), z, self.distance, self.beta)
        clean = (t <= ctx.path.t_min).float().mean()
        return {"loss": loss, "teacher_norm": z.detach().norm(dim=-1).mean(), "clean_share": clean}

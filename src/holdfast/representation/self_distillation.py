"""Self-distillation without labels: the teacher that trails, the crops, and the loss between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_finite, check_number

__all__ = ["DINOLoss", "MultiCropWrapper", "random_resized_crops"]


class DINOLoss(nn.Module):
    r"""Cross-entropy between the centred, sharpened teacher and the student, over all pairs of different crops.

    .. math:: -\frac{1}{|\mathcal P|} \sum_{(t, s) \in \mathcal P} \operatorname*{mean}_b\;
        \mathrm{softmax}\bigl((T_t - c) / \tau_T\bigr)^{\top} \log \mathrm{softmax}\bigl(S_s / \tau_S\bigr),
        \qquad \mathcal P = \{(t, s) : t \ne s\}

    The teacher sees the first (global) crops, the student all of them. The centre c follows the teacher's mean with
    momentum; it keeps the teacher from picking one output for everything, the low temperature from picking none.

    Args:
        out_dim: width of the outputs.
        student_temperature: :math:`\tau_S > 0`.
        teacher_temperature: :math:`\tau_T > 0`.
        center_momentum: in [0, 1).

    Raises:
        ValueError: for outputs of another width, fewer than two crops in all, or values that are not finite.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, equations 1-4.

    Examples:
        >>> import torch
        >>> loss = DINOLoss(out_dim=8)
        >>> student, teacher = torch.zeros(4, 3, 8), torch.zeros(2, 3, 8)
        >>> round(float(loss(student, teacher)), 4)  # log 8
        2.0794
    """

    center: Tensor

    def __init__(
        self,
        out_dim: int,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        check_number("out_dim", out_dim, low=2, integer=True)
        self.student_temperature = check_number("student_temperature", student_temperature, low=0, open_low=True)
        self.teacher_temperature = check_number("teacher_temperature", teacher_temperature, low=0, open_low=True)
        self.center_momentum = check_number("center_momentum", center_momentum, low=0, high=1, open_high=True)
        self.register_buffer("center", torch.zeros(out_dim))

    def forward(
        self, student: Float[Tensor, "crops batch dim"], teacher: Float[Tensor, "globals batch dim"]
    ) -> Float[Tensor, ""]:
        """Mean loss over the pairs; in training mode the centre follows the teacher."""
        for name, out in (("student", student), ("teacher", teacher)):
            if out.ndim != 3 or out.shape[-1] != len(self.center):
                raise ValueError(f"{name} must have shape (crops, batch, {len(self.center)}), got {tuple(out.shape)}")
            check_finite(name, out)
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(f"student and teacher differ in batch size: {student.shape[1]} and {teacher.shape[1]}")
        if len(teacher) > len(student) or len(student) < 2:
            raise ValueError(f"need at least 2 student crops, the teacher's first: {len(student)} and {len(teacher)}")
        target = ((teacher.detach() - self.center) / self.teacher_temperature).softmax(-1)
        log_p = (student / self.student_temperature).log_softmax(-1)
        pairs = -torch.einsum("tbd,sbd->ts", target, log_p) / student.shape[1]
        other = 1 - torch.eye(len(teacher), len(student), dtype=pairs.dtype, device=pairs.device)
        if self.training:
            with torch.no_grad():
                mean = teacher.detach().flatten(0, 1).mean(0)
                self.center.lerp_(mean.to(self.center.dtype), 1 - self.center_momentum)
        return (pairs * other).sum() / other.sum()


class MultiCropWrapper(nn.Module):
    """Run an encoder on crops of several sizes with one pass per size, then the head once on everything.

    ``forward(crops)`` takes a list of image batches (B, C, H, W) and returns the head's output on the crops' features
    stacked in the order given, (crops * B, ...).

    Raises:
        ValueError: for an empty list or batches of different length.

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020
    (multi-crop).

    Examples:
        >>> import torch
        >>> encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> crops = [torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)]
        >>> MultiCropWrapper(encoder, nn.Linear(3, 5))(crops).shape
        torch.Size([6, 5])
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, crops: Sequence[Float[Tensor, "batch c h w"]]) -> Any:
        """Return the head's output on all crops."""
        if not crops:
            raise ValueError("crops must hold at least one batch of images, got none")
        if len({len(c) for c in crops}) > 1:
            raise ValueError(f"crops must have equally many images, got {[len(c) for c in crops]}")
        by_size: dict[tuple[int, ...], list[int]] = {}
        for i, crop in enumerate(crops):
            by_size.setdefault(tuple(crop.shape[1:]), []).append(i)
        features: list[Tensor] = [torch.empty(0)] * len(crops)
        for rows in by_size.values():
            out = self.encoder(torch.cat([crops[i] for i in rows]))
            for i, part in zip(rows, out.chunk(len(rows))):
                features[i] = part
        return self.head(torch.cat(features))


def random_resized_crops(
    images: Float[Tensor, "batch c h w"],
    size: int,
    scale: tuple[float, float],
    generator: torch.Generator | None = None,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Float[Tensor, "batch c size size"]:
    """Cut a random box out of every image, resize it (bilinear), and mirror half of them; one call for the batch.

    Args:
        images: floating-point images.
        size: side of the result, pixels.
        scale: smallest and largest share of the image's area.
        generator: source of randomness, on any device.
        ratio: smallest and largest width over height of the box.

    Raises:
        ValueError: for a scale outside (0, 1] or reversed, or images that are not (n, c, h, w).

    Examples:
        >>> import torch
        >>> random_resized_crops(torch.rand(4, 3, 32, 32), size=16, scale=(0.05, 0.14)).shape
        torch.Size([4, 3, 16, 16])
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be floating point of shape (n, c, h, w), got {tuple(images.shape)}")
    check_number("size", size, low=1, integer=True)
    low, high = scale
    if not 0 < low <= high <= 1:
        raise ValueError(f"scale must be 0 < low <= high <= 1, got {scale}")
    n = len(images)
    device = images.device if generator is None else generator.device
    u = torch.rand(5, n, generator=generator, device=device)
    area = low + (high - low) * u[0]
    aspect = (math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * u[1]).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    # In the sampler's coordinates the image is [-1, 1] squared; a box of width w has its centre within 1 - w of 0.
    x, y = (2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height)
    mirror = torch.where(u[4] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(x)
    theta = torch.stack([torch.stack([mirror * width, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    grid = F.affine_grid(theta.to(images), [n, images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

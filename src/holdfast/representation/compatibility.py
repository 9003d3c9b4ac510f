"""Losses that keep the features of an updated model comparable with those of its predecessor."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_number, check_same_length

__all__ = ["BCTLoss", "FeatureDistillation", "HOCLoss"]


def _check_pair(f_new: Tensor, f_old: Tensor) -> None:
    if f_new.ndim != 2 or f_new.shape != f_old.shape:
        raise ValueError(
            f"new and old features must have one shape (batch, d), got {tuple(f_new.shape)} and {tuple(f_old.shape)}"
        )


def _unit(name: str, f: Tensor) -> Tensor:
    norm = f.norm(dim=1, keepdim=True)
    if bool((norm == 0).any()):
        raise ValueError(f"{name} features of sample {int((norm[:, 0] == 0).nonzero()[0])} are all zero")
    return f / norm


class HOCLoss(nn.Module):
    r"""Higher-order compatibility: a contrastive loss between the features of the old and the new model.

    .. math:: L = \frac1B \sum_n \Bigl[ -\mu \langle o_n, z_n \rangle
              + \log\!\!\sum_{m:\,y_m \ne y_n}\!\! e^{\mu \langle o_n, z_m\rangle} \Bigr], \qquad
              o = \frac{\phi_{old}}{|\phi_{old}|},\; z = \frac{\phi_{new}}{|\phi_{new}|}

    Both models see the same images. The old feature of an image is the anchor; it attracts the new feature of the
    same image and repels new features of other classes, so the two models agree beyond their class means. No
    gradient reaches the old features. By itself it is an InfoNCE between any two models, for instance to distil.

    Args:
        mu: inverse temperature, positive.
        exclude_same_class: leave other samples of the same class out of the sum; otherwise all other samples repel.
        official_mask: count every left-out entry as :math:`e^0 = 1`, as the authors' code does by multiplying the
            similarities with a 0/1 mask, instead of removing it.
        no_negatives: ``"raise"`` or ``"skip"`` samples for which the batch holds no other class.

    Raises:
        ValueError: for features of different shapes or zero norm, and with ``no_negatives="raise"`` for a sample
            without negatives.

    Source: Biondi, Pernici, Ricci, Del Bimbo, "Stationary Representations: Optimally Approximating
    Compatibility and Implications for Improved Model Replacements", CVPR 2024, Section 4.

    Examples:
        >>> f = torch.eye(3)
        >>> round(float(HOCLoss(mu=1.0)(f, f, torch.tensor([0, 1, 2]))), 4)  # -1 + log 2
        -0.3069
    """

    def __init__(
        self,
        mu: float = 10.0,
        *,
        exclude_same_class: bool = True,
        official_mask: bool = False,
        no_negatives: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__()
        self.mu = float(check_number("mu", mu, low=0, open_low=True))
        self.exclude_same_class = exclude_same_class
        self.official_mask = official_mask
        self.no_negatives = check_choice("no_negatives", no_negatives, ["raise", "skip"])

    def forward(
        self,
        f_new: Float[Tensor, "batch d"],
        f_old: Float[Tensor, "batch d"],
        labels: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Mean loss over the batch."""
        _check_pair(f_new, f_old)
        check_same_length(f_new=f_new, labels=labels)
        similarity = self.mu * _unit("old", f_old.detach()) @ _unit("new", f_new).mT
        if self.exclude_same_class:
            left_out = labels[:, None] == labels[None, :]
        else:
            left_out = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        if self.official_mask:
            return (similarity.masked_fill(left_out, 0.0).logsumexp(1) - similarity.diagonal()).mean()
        alone = left_out.all(1)
        if bool(alone.any()):
            if self.no_negatives == "raise":
                raise ValueError(
                    f"sample {int(alone.nonzero()[0])} has no negatives: every sample of the batch that counts "
                    f"has its class {int(labels[alone][0])} (no_negatives='skip' leaves such samples out)"
                )
            if bool(alone.all()):
                return f_new.sum() * 0.0
            left_out = left_out[~alone]
            positive, similarity = similarity.diagonal()[~alone], similarity[~alone]
        else:
            positive = similarity.diagonal()
        return (similarity.masked_fill(left_out, -torch.inf).logsumexp(1) - positive).mean()

    def extra_repr(self) -> str:
        return f"mu={self.mu:g}, exclude_same_class={self.exclude_same_class}"


class FeatureDistillation(nn.Module):
    r"""Distance between the new and the old features of the same samples.

    .. math:: \frac{1}{B} \sum_n \lVert \phi_{new}(x_n) - \phi_{old}(x_n) \rVert^2 \quad\text{or}\quad
              \frac1B \sum_n \bigl(1 - \cos(\phi_{new}(x_n), \phi_{old}(x_n))\bigr)

    Args:
        kind: ``"squared"`` or ``"cosine"``.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015.

    Examples:
        >>> float(FeatureDistillation()(torch.ones(2, 3), torch.zeros(2, 3)))
        3.0
    """

    def __init__(self, kind: Literal["squared", "cosine"] = "squared") -> None:
        super().__init__()
        self.kind = check_choice("kind", kind, ["squared", "cosine"])

    def forward(
        self,
        f_new: Float[Tensor, "batch d"],
        f_old: Float[Tensor, "batch d"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean distance over the batch; labels are not used."""
        _check_pair(f_new, f_old)
        f_old = f_old.detach()
        if self.kind == "squared":
            return (f_new - f_old).square().sum(1).mean()
        return 1.0 - (_unit("new", f_new) * _unit("old", f_old)).sum(1).mean()


class BCTLoss(nn.Module):
    r"""Backward-compatible training: the old classifier must be able to read the new features.

    .. math:: L = -\frac1{B'} \sum_{n:\,y_n \text{ known}}
              \log \mathrm{softmax}\bigl(h_{old}(\phi_{new}(x_n))\bigr)_{y_n}

    Samples of classes that the old classifier has no output for are left out.

    Args:
        old_head: classifier of the old model; a frozen copy is kept.

    Source: Shen, Xiong, Xia, Soatto, "Towards Backward-Compatible Representation Learning", CVPR 2020, eq. 4.

    Examples:
        >>> loss = BCTLoss(nn.Linear(4, 3))
        >>> loss(torch.zeros(2, 4), None, torch.tensor([0, 2])).requires_grad
        False
    """

    def __init__(self, old_head: nn.Module) -> None:
        super().__init__()
        self.old_head = copy.deepcopy(old_head).eval().requires_grad_(False)

    def forward(
        self,
        f_new: Float[Tensor, "batch d"],
        f_old: Float[Tensor, "batch d"] | None,
        labels: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Mean loss over the samples of known classes; the old features are not used."""
        check_same_length(f_new=f_new, labels=labels)
        logits = self.old_head(f_new)
        known = labels < logits.shape[1]
        if not bool(known.any()):
            return f_new.sum() * 0.0
        return F.cross_entropy(logits[known], labels[known])

    def train(self, mode: bool = True) -> BCTLoss:
        """Set the mode of the loss; the old classifier stays in evaluation mode."""
        super().train(mode)
        self.old_head.eval()
        return self

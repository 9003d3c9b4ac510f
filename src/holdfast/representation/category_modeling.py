"""Categories as products of Gaussian groups: the grouped head and the loss that pulls samples to their centres."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_finite, check_labels, check_number

__all__ = ["GroupedCenterHead", "HVCMLoss", "as_groups"]

_CLAMP = (1e-5, 1e5)


def as_groups(q: Float[Tensor, "batch dim"], n_groups: int) -> Float[Tensor, "batch groups d"]:
    """Cut flat features into ``n_groups`` equal groups.

    Raises:
        ValueError: when the width is not a multiple of ``n_groups``.

    Examples:
        >>> import torch
        >>> as_groups(torch.zeros(5, 12), 3).shape
        torch.Size([5, 3, 4])
    """
    check_number("n_groups", n_groups, low=1, integer=True)
    if q.ndim != 2:
        raise ValueError(f"features must have shape (n, groups * d), got {tuple(q.shape)}")
    if q.shape[1] % n_groups:
        raise ValueError(f"{q.shape[1]} features do not divide into {n_groups} groups of equal width")
    return q.unflatten(1, (int(n_groups), -1))


class GroupedCenterHead(nn.Module):
    r"""Head whose output is K groups of d cosines, with one logit per group that says how much the group counts.

    .. math:: b = \frac{g(h)}{\lVert g(h) \rVert}, \quad q_{kj} = \langle b, v_{kj} / \lVert v_{kj} \rVert \rangle
        \in [-1, 1], \quad w = U b

    ``g`` is linear (``mlp_layers=1``) or a three-layer perceptron with GELU (``mlp_layers=3``).

    Args:
        in_dim: width of the features h.
        n_groups: K.
        group_dim: d.
        bottleneck: width of b.
        mlp_layers: 1 or 3.
        hidden: width of the two hidden layers when ``mlp_layers=3``.

    Returns (from ``forward``): q of shape (B, K, d) and w of shape (B, K).

    Raises:
        ValueError: for widths below 1 or ``mlp_layers`` other than 1 and 3.

    Source: Li, Zhou et al., "Hierarchical Visual Categories Modeling: A Joint Representation Learning and Density
    Estimation Framework for Out-of-Distribution Detection", ICCV 2023, the projection head.

    Examples:
        >>> import torch
        >>> q, w = GroupedCenterHead(16, n_groups=4, group_dim=8, bottleneck=12)(torch.randn(5, 16))
        >>> q.shape, w.shape, bool((q.abs() <= 1 + 1e-6).all())
        (torch.Size([5, 4, 8]), torch.Size([5, 4]), True)
    """

    def __init__(
        self,
        in_dim: int,
        n_groups: int,
        group_dim: int,
        bottleneck: int = 256,
        mlp_layers: int = 1,
        hidden: int = 2048,
    ) -> None:
        super().__init__()
        for name, value in (("in_dim", in_dim), ("n_groups", n_groups), ("group_dim", group_dim)):
            check_number(name, value, low=1, integer=True)
        check_number("bottleneck", bottleneck, low=1, integer=True)
        check_number("hidden", hidden, low=1, integer=True)
        check_choice("mlp_layers", mlp_layers, [1, 3])
        self.n_groups, self.group_dim = n_groups, group_dim
        if mlp_layers == 1:
            self.project: nn.Module = nn.Linear(in_dim, bottleneck)
        else:
            self.project = nn.Sequential(
                nn.Linear(in_dim, hidden),
                nn.GELU(),
                nn.Linear(hidden, hidden),
                nn.GELU(),
                nn.Linear(hidden, bottleneck),
            )
        for layer in self.project.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # Weight normalisation with every gain fixed at 1: only the directions are parameters.
        self.directions = nn.Parameter(torch.empty(n_groups * group_dim, bottleneck))
        nn.init.kaiming_uniform_(self.directions, a=5**0.5)
        self.weigh = nn.Linear(bottleneck, n_groups, bias=False)

    def forward(
        self, h: Float[Tensor, "batch in_dim"]
    ) -> tuple[Float[Tensor, "batch groups d"], Float[Tensor, "batch groups"]]:
        """Return the groups of cosines and the group logits."""
        b = F.normalize(self.project(h), dim=-1)
        q = F.linear(b, F.normalize(self.directions, dim=1))
        return q.unflatten(-1, (self.n_groups, self.group_dim)), self.weigh(b)


class HVCMLoss(nn.Module):
    r"""Pulls every group of a sample to its class's centre, and the centre to the samples, by one-sided KL terms.

    With :math:`P_k = \mathrm{softmax}(x_k)`, :math:`M_k = \mathrm{softmax}(\mu_{y,k})` over the d entries of a group
    and sg the stop-gradient,

    .. math:: A_k = \alpha\,\mathrm{KL}(\mathrm{sg}\,M_k \| P_k), \quad
        B_k = \beta\,\mathrm{KL}(\mathrm{sg}\,P_k \| M_k), \qquad
        L = \operatorname*{mean}_{b,k} \mathrm{sg}(A_k)\,\mathrm{softmax}(w)_k
          + \operatorname*{mean}_{b,k} \mathrm{clamp}(A_k + B_k, 10^{-5}, 10^5)

    In training mode each call also moves the mixture weights of the classes present,
    :math:`\pi_c \leftarrow \gamma\,\overline{\mathrm{softmax}(w)} + (1 - \gamma)\,\pi_c`.

    No term pushes classes apart: they stay apart because the centres start at random and :math:`\beta \ll \alpha`.
    Watch ``center_cosine`` (a value above 0.9 means collapse onto one centre). The head's outputs are cosines, so the
    KL terms are small and :math:`\alpha` near 1 is needed where this is the only loss. ``gamma`` of 1e-4 needs tens of
    thousands of steps to forget the random start of the weights: about 10 / steps suits short runs.

    Args:
        n_classes: C.
        n_groups: K.
        group_dim: d.
        alpha: pull of samples to centres, >= 0.
        beta: pull of centres to samples, >= 0.
        gamma: step of the moving average, in (0, 1].
        train_centers: whether the centres learn. The authors' released ImageNet script leaves them at their random
            start (learning rate 0), and on small data that works as well; their text trains them.
        generator: draws the starting centres and weights.

    ``forward(q, w, y)`` returns a dictionary: ``loss``, ``weight`` and ``center`` (its two terms) and the detached
    ``center_cosine``. ``predict(q)`` is the class of the most similar centre over the whole vector.

    Raises:
        ValueError: for negative alpha or beta, gamma outside (0, 1], labels out of range, features of another shape.

    Source: Li, Zhou et al., "Hierarchical Visual Categories Modeling: A Joint Representation Learning and Density
    Estimation Framework for Out-of-Distribution Detection", ICCV 2023, section 3 (loss) and its training algorithm.

    Examples:
        >>> import torch
        >>> loss = HVCMLoss(n_classes=3, n_groups=2, group_dim=4, alpha=1.0, beta=1.0)
        >>> y = torch.tensor([0, 2])
        >>> terms = loss(loss.centers[y].detach(), torch.zeros(2, 2), y)
        >>> round(terms["center"].item(), 7)
        1e-05
    """

    pi: Tensor

    def __init__(
        self,
        n_classes: int,
        n_groups: int,
        group_dim: int,
        alpha: float = 1.0,
        beta: float = 0.1,
        gamma: float = 1e-4,
        train_centers: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_number("n_classes", n_classes, low=2, integer=True)
        check_number("n_groups", n_groups, low=1, integer=True)
        check_number("group_dim", group_dim, low=2, integer=True)
        self.alpha = float(check_number("alpha", alpha, low=0))
        self.beta = float(check_number("beta", beta, low=0))
        self.gamma = float(check_number("gamma", gamma, low=0, high=1, open_low=True))
        shape = (n_classes, n_groups, group_dim)
        self.centers = nn.Parameter(torch.randn(shape, generator=generator), requires_grad=train_centers)
        self.register_buffer("pi", torch.randn(n_classes, n_groups, generator=generator).softmax(1))

    def forward(
        self, q: Float[Tensor, "batch groups d"], w: Float[Tensor, "batch groups"], y: Int[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the terms of the loss; in training mode, move the mixture weights."""
        self._check(q)
        if w.shape != q.shape[:2]:
            raise ValueError(f"w must have shape {tuple(q.shape[:2])}, got {tuple(w.shape)}")
        check_labels("y", y, len(self.centers))
        if len(y) != len(q):
            raise ValueError(f"q and y differ in length: {len(q)} and {len(y)}")
        weights = w.softmax(-1)
        a, b = self.terms(q, y)
        weight = (a.detach() * weights).mean()
        center = (a + b).clamp(*_CLAMP).mean()
        if self.training:
            self._move_weights(weights.detach(), y)
        return {"loss": weight + center, "weight": weight, "center": center, "center_cosine": self.center_cosine()}

    def terms(
        self, q: Float[Tensor, "batch groups d"], y: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch groups"], Float[Tensor, "batch groups"]]:
        """The two one-sided divergences A (moves samples) and B (moves centres)."""
        log_p, log_m = F.log_softmax(q, -1), F.log_softmax(self.centers, -1)[y]
        p, m = log_p.detach().exp(), log_m.detach().exp()
        a = self.alpha * (m * (log_m.detach() - log_p)).sum(-1)
        b = self.beta * (p * (log_p.detach() - log_m)).sum(-1)
        return a, b

    @torch.no_grad()
    def _move_weights(self, weights: Tensor, y: Tensor) -> None:
        weights = weights.to(self.pi.dtype)
        total = torch.zeros_like(self.pi).index_add_(0, y, weights)
        count = torch.bincount(y, minlength=len(self.pi)).to(self.pi.dtype).unsqueeze(1)
        moved = self.gamma * total / count.clamp(min=1) + (1 - self.gamma) * self.pi
        self.pi.copy_(torch.where(count > 0, moved, self.pi))

    def cosines(self, q: Float[Tensor, "batch groups d"]) -> Float[Tensor, "batch classes"]:
        """Cosine of the whole vector with every class's centre."""
        self._check(q)
        return F.normalize(q.flatten(1), dim=1) @ F.normalize(self.centers.flatten(1), dim=1).T

    def predict(self, q: Float[Tensor, "batch groups d"]) -> Int[Tensor, " batch"]:
        """Class whose centre is most similar."""
        return self.cosines(q).argmax(1)

    @torch.no_grad()
    def center_cosine(self) -> Float[Tensor, ""]:
        """Mean cosine between the centres of different classes; above 0.9 the classes have collapsed."""
        unit = F.normalize(self.centers.flatten(1), dim=1)
        c = len(unit)
        return (unit.sum(0).square().sum() - c) / (c * (c - 1))

    def _check(self, q: Tensor) -> None:
        if q.ndim != 3 or q.shape[1:] != self.centers.shape[1:]:
            expected = tuple(self.centers.shape[1:])
            raise ValueError(f"q must have shape (n, groups, d) with (groups, d) = {expected}, got {tuple(q.shape)}")
        check_finite("q", q)

    def extra_repr(self) -> str:
        c, k, d = self.centers.shape
        return f"n_classes={c}, n_groups={k}, group_dim={d}, alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}"

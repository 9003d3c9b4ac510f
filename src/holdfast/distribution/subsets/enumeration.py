"""Small ground sets exactly: the law over all subsets, its marginals, and mean field without sampling."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast.core.checks import check_number

__all__ = ["all_subsets", "exact_gains", "exact_lower_bound", "subset_law"]

_LIMIT = 16


def all_subsets(n: int) -> Bool[Tensor, "subsets n"]:
    """Return the membership masks of all subsets of n elements, the empty one first.

    Raises:
        ValueError: for more than 16 elements.

    Examples:
        >>> all_subsets(2).int().tolist()
        [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    check_number("n", n, low=1, high=_LIMIT, integer=True)
    return (torch.arange(2**n).unsqueeze(1) >> torch.arange(n)) % 2 == 1


def subset_law(values: Float[Tensor, "batch subsets"]) -> Float[Tensor, "batch subsets"]:
    r"""Return :math:`p(S) = e^{F(S)} / \sum_{S'} e^{F(S')}` from the values of F on :func:`all_subsets`.

    Marginals are ``subset_law(values) @ all_subsets(n)``.

    Examples:
        >>> subset_law((all_subsets(2).float() @ torch.tensor([0.0, 3.0]).log1p())[None])
        tensor([[0.1000, 0.1000, 0.4000, 0.4000]])
    """
    _elements(values)
    return values.softmax(-1)


def exact_gains(
    values: Float[Tensor, "batch subsets"], q: Float[Tensor, "batch elements"]
) -> Float[Tensor, "batch elements"]:
    r"""Return :math:`E_{S \sim q}[F(S \cup i) - F(S \setminus i)]` from the values of F on :func:`all_subsets`.

    Examples:
        >>> values = (all_subsets(2).float() @ torch.tensor([3.0, 1.0]))[None]
        >>> exact_gains(values, torch.tensor([[0.2, 0.6]]))
        tensor([[3., 1.]])
    """
    n = _elements(values)
    subsets = all_subsets(n).to(values.device)
    with_i = torch.arange(2**n, device=values.device).unsqueeze(1) | (1 << torch.arange(n, device=values.device))
    without_i = with_i - (1 << torch.arange(n, device=values.device))
    change = values[:, with_i] - values[:, without_i]
    return (_mass(q, subsets).unsqueeze(2) * change).sum(1)


def exact_lower_bound(
    values: Float[Tensor, "batch subsets"], q: Float[Tensor, "batch elements"]
) -> Float[Tensor, " batch"]:
    r"""Return :math:`E_q F + H(q) = \log Z - \mathrm{KL}(q \,\Vert\, p)`.

    Examples:
        >>> values = (all_subsets(2).float() @ torch.tensor([3.0, 1.0]))[None]
        >>> q = torch.tensor([[3.0, 1.0]]).sigmoid()
        >>> bool(torch.isclose(exact_lower_bound(values, q), values.logsumexp(-1)))
        True
    """
    mass = _mass(q, all_subsets(_elements(values)).to(values.device))
    return (mass * values).sum(-1) + torch.special.entr(mass).sum(-1)


def _elements(values: Tensor) -> int:
    n = values.shape[-1].bit_length() - 1
    if values.ndim != 2 or values.shape[-1] != 2**n or not 1 <= n <= _LIMIT:
        raise ValueError(f"values must have shape (batch, 2^n), got {tuple(values.shape)}")
    return n


def _mass(q: Tensor, subsets: Tensor) -> Tensor:
    return torch.where(subsets, q.unsqueeze(1), 1 - q.unsqueeze(1)).prod(-1)

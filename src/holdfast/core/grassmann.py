"""Matrices with orthonormal columns, and gradient descent over the subspaces that they span."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from holdfast.core.checks import check_finite, check_number

__all__ = ["GrassmannSGD", "check_orthonormal", "horizontal", "random_frame", "retract"]


def retract(U: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n d"]:
    """Return the orthonormal basis of the same span that a QR decomposition with a positive diagonal gives.

    Examples:
        >>> retract(torch.tensor([[-2.0], [0.0]]))
        tensor([[-1.],
                [ 0.]])
    """
    q, r = torch.linalg.qr(U)
    sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype)
    return q * sign[..., None, :]


def horizontal(U: Float[Tensor, "*batch n d"], G: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n d"]:
    r"""Return the part :math:`G - U U^\top G` of ``G`` that moves the span of the orthonormal ``U``.

    Applied to a Euclidean gradient this is the Riemannian gradient on the Grassmann manifold.

    Source: Edelman, Arias and Smith, "The geometry of algorithms with orthogonality constraints", SIMAX 1998,
    equation 2.70.

    Examples:
        >>> U = torch.tensor([[1.0], [0.0]])
        >>> horizontal(U, torch.tensor([[3.0], [2.0]])).flatten().tolist()
        [0.0, 2.0]
    """
    return G - U @ (U.mT @ G)


def random_frame(
    *shape: int, generator: torch.Generator | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "*shape"]:
    """Return orthonormal columns of a uniformly random span: the last two of ``shape`` are (n, d), ``d <= n``.

    Raises:
        ValueError: with more columns than rows.

    Examples:
        >>> U = random_frame(5, 2, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(U.T @ U, torch.eye(2), atol=1e-6)
        True
    """
    if len(shape) < 2 or not 1 <= shape[-1] <= shape[-2]:
        raise ValueError(f"a frame needs a shape (..., n, d) with 1 <= d <= n, got {shape}")
    device = None if generator is None else generator.device
    return retract(torch.randn(shape, generator=generator, dtype=dtype, device=device))


def check_orthonormal(name: str, U: Tensor, *, tolerance: float = 1e-3) -> None:
    r"""Raise unless the columns of ``U`` are orthonormal: :math:`\max |U^\top U - I|` at most ``tolerance``.

    Examples:
        >>> check_orthonormal("U", torch.eye(3)[:, :2])
    """
    if not isinstance(U, Tensor) or not U.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {getattr(U, 'dtype', type(U).__name__)}")
    if U.ndim < 2 or not 1 <= U.shape[-1] <= U.shape[-2]:
        raise ValueError(f"{name} must have shape (n, d) with 1 <= d <= n, got {tuple(U.shape)}")
    check_finite(name, U)
    off = float((U.mT @ U - torch.eye(U.shape[-1], dtype=U.dtype, device=U.device)).abs().max())
    if off > tolerance:
        raise ValueError(
            f"{name} must have orthonormal columns within {tolerance:g}, but an entry of U^T U is off by {off:g}; "
            "pass orthonormalise=True to take the span of the columns"
        )


class GrassmannSGD(Optimizer):
    r"""Gradient descent with momentum over spans of orthonormal columns (n, d).

    .. math:: m \leftarrow \mu m + P_U G, \qquad U_+ = \mathrm{qr}(U - \eta m), \qquad
              m \leftarrow P_{U_+} m\, U^\top U_+, \qquad P_U = I - U U^\top

    The last step carries the momentum over to the new basis. Adam with a retraction after it rescales coordinates,
    which a rotation of the basis changes, and is slow along the small directions; this step moves the span the same
    way in every basis. Let the step size fall to zero: a constant one leaves a floor of noise.

    Args:
        params: frames (..., n, d), all leading dimensions a batch.
        lr, momentum: step size and momentum.

    Raises:
        ValueError: for numbers out of range, or parameters that are no frames.

    Source: Absil, Mahony and Sepulchre, "Optimization algorithms on matrix manifolds", 2008, chapter 4.

    Examples:
        >>> U = torch.nn.Parameter(retract(torch.tensor([[1.0], [1.0], [0.5]])))
        >>> step = GrassmannSGD([U], lr=0.1)
        >>> for _ in range(200):  # the top eigenvector
        ...     step.zero_grad()
        ...     (-(torch.tensor([3.0, 2.0, 1.0])[:, None] * U.square()).sum()).backward()
        ...     _ = step.step()
        >>> U.detach().flatten().round(decimals=3).abs().tolist()
        [1.0, 0.0, 0.0]
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.1, momentum: float = 0.9) -> None:
        check_number("lr", lr, low=0, open_low=True)
        check_number("momentum", momentum, low=0, high=1, open_high=True)
        super().__init__(params, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 2 or p.shape[-1] > p.shape[-2]:
                    raise ValueError(f"parameters must be frames (..., n, d) with d <= n, got {tuple(p.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every frame once; return the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for U in group["params"]:
                if U.grad is None:
                    continue
                G = horizontal(U, U.grad)
                state = self.state[U]
                m = state.get("momentum")
                m = G if m is None else group["momentum"] * m + G
                new = retract(U - group["lr"] * m)
                # U^T m = 0, so U^T new is the inverse of the triangular factor: coordinates in the new basis.
                state["momentum"] = horizontal(new, m @ (U.mT @ new))
                U.copy_(new)
        return loss

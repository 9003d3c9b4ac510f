"""Is the mean of a code linear in the action? A penalty that is zero where it is, and a test of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_matrix, check_number, check_same_length
from holdfast.core.random import generator, spawn_seed
from holdfast.nn.sets import KernelMeanEncoder, median_bandwidth

__all__ = ["LinearInvariancePenalty", "MMRTest", "mmr_test"]

_ENTRIES = 2**22  # signs held at once


def linear_residual(
    y: Float[Tensor, "batch d"], x: Float[Tensor, "batch k"], ridge: float = 0.0
) -> Float[Tensor, "batch d"]:
    """Return what is left of ``y`` after its best affine function of ``x``; directions without variance are skipped.

    Examples:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> linear_residual(3 * x + 1, x).abs().max() < 1e-5
        tensor(True)
    """
    y, x = y - y.mean(0), x - x.mean(0)
    # No gradient flows to x, so the decomposition may be taken of it rather than of the normal equations.
    u, s, _ = torch.linalg.svd(x.detach(), full_matrices=False)
    square = s.square()
    kept = s > s.max() * len(x) * torch.finfo(x.dtype).eps
    share = torch.where(kept, square / (square + ridge * len(x)).clamp_min(torch.finfo(x.dtype).tiny), 0)
    return y - u @ (share[:, None] * (u.T @ y))


def standardised(code: Float[Tensor, "batch d"], how: str) -> Float[Tensor, "batch d"]:
    """Return the code centred and, by ``how``, scaled by entry, whitened, or neither."""
    centred = code - code.mean(0)
    if how == "none":
        return centred
    tiny = torch.finfo(code.dtype).tiny
    if how == "scale":
        return centred / centred.square().mean(0).sqrt().clamp_min(tiny)
    covariance = centred.T @ centred / len(code)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        raise ValueError("a code without variance in some direction cannot be whitened: shorten it, or use 'scale'")
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


class LinearInvariancePenalty(nn.Module):
    r"""How far the mean of a code, given the action, is from an affine function of the action.

    .. math:: Q = E\bigl[r^\top r'\, \kappa(A, A')\bigr], \qquad r = \phi(X) - (W A + \alpha)

    with an independent copy :math:`(r', A')`, a Gaussian kernel, and :math:`(W, \alpha)` by least squares on the batch
    (the gradient goes through them). :math:`Q \ge 0`, and 0 exactly where :math:`E[r \mid A] = 0` almost surely: a
    conditional moment restriction. A single estimate without the diagonal can be below 0, and is not clipped.

    The code is standardised on the batch first, as Q could otherwise be made small by shrinking the code.

    Args:
        bandwidth: of the kernel; "median" is the median distance of the actions that :meth:`fit` was given, or of the
            batch.
        estimator: "features": random Fourier features of the action, the diagonal taken out, linear in the batch;
            "u": the kernel matrix without its diagonal; "v": with it, never negative.
        standardise: "scale" (entries), "whiten" (any invertible map of the code leaves Q the same), or "none".
        features: number of random features, an even number for each of the ``scales``.
        scales: the kernel is the mean of Gaussian ones with these multiples of the bandwidth.
        ridge: penalty of the least squares, in units of squared actions.
        seed: of the random features.

    Raises:
        ValueError: for numbers out of range, batches that are too small, or lengths that differ.

    Source: Saengkyongam et al., "Identifying representations for intervention extrapolation", ICLR 2024, section 4;
    Muandet, Jitkrittum and Kubler, "Kernel conditional moment test via maximum moment restriction", UAI 2020.

    Examples:
        >>> a = torch.linspace(-1, 1, 200)[:, None]
        >>> penalty = LinearInvariancePenalty(estimator="v")
        >>> float(penalty(2 * a + 1, a)) < 1e-6, float(penalty(a + a**2, a)) > 0.01
        (True, True)
    """

    scale: Tensor

    def __init__(
        self,
        bandwidth: float | Literal["median"] = "median",
        estimator: Literal["features", "u", "v"] = "features",
        standardise: Literal["scale", "whiten", "none"] = "scale",
        *,
        features: int = 50,
        scales: Sequence[float] = (1.0,),
        ridge: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if bandwidth != "median":
            check_number("bandwidth", bandwidth, low=0, open_low=True)
        self.bandwidth = bandwidth
        self.estimator = check_choice("estimator", estimator, ["features", "u", "v"])
        self.standardise = check_choice("standardise", standardise, ["scale", "whiten", "none"])
        self.features = int(check_number("features", features, low=2, integer=True))
        self.scales = tuple(check_number("scales", s, low=0, open_low=True) for s in scales)
        if not self.scales:
            raise ValueError("scales must name at least one multiple of the bandwidth")
        self.ridge = check_number("ridge", ridge, low=0)
        self.seed = int(check_number("seed", seed, low=0, integer=True))
        self.register_buffer("scale", torch.tensor(math.nan if bandwidth == "median" else float(bandwidth)))
        self._maps: dict[int, KernelMeanEncoder] = {}

    def fit(self, action: Float[Tensor, "n k"]) -> Self:
        """Set the bandwidth to the median distance of these actions, once for all batches; return the penalty.

        Does nothing where the bandwidth is a number.
        """
        if self.bandwidth == "median":
            self.scale.fill_(median_bandwidth(action.detach()))
        return self

    def forward(self, code: Float[Tensor, "batch d"], action: Float[Tensor, "batch k"]) -> Float[Tensor, ""]:
        """Return the estimate of Q on a batch."""
        check_matrix("code", code)
        check_matrix("action", action)
        n = check_same_length(code=code, action=action)
        if n < action.shape[1] + 3:
            raise ValueError(f"a batch of {n} is too small for {action.shape[1]} actions: the fit would leave nothing")
        action = action.to(code.dtype)
        r = linear_residual(standardised(code, self.standardise), action, self.ridge)
        return self.moment(r, action)

    def moment(self, r: Float[Tensor, "batch d"], action: Float[Tensor, "batch k"]) -> Float[Tensor, ""]:
        """Return the estimate of :math:`E[r^T r' \\kappa(A, A')]` for residuals fitted elsewhere."""
        n, b = len(r), self._bandwidth(action)
        if self.estimator == "features":
            psi = self.feature_map(action, b)
            total = (r.T @ psi).square().sum() - (r.square().sum(1) * psi.square().sum(1)).sum()
            return total / (n * (n - 1))
        square = torch.cdist(action, action, compute_mode="donot_use_mm_for_euclid_dist").square()
        kappa = torch.stack([torch.exp(-square / (2 * (s * b) ** 2)) for s in self.scales]).mean(0)
        products = (r @ r.T) * kappa
        if self.estimator == "v":
            return products.sum() / n**2
        return (products.sum() - products.diagonal().sum()) / (n * (n - 1))

    def feature_map(
        self, action: Float[Tensor, "batch k"], bandwidth: float | None = None
    ) -> Float[Tensor, "batch features"]:
        r"""Return random features with :math:`\psi(a)^\top \psi(a') \approx \kappa(a, a')` and unit length."""
        b = self._bandwidth(action) if bandwidth is None else bandwidth
        k = action.shape[1]
        if k not in self._maps:
            each = 2 * math.ceil(self.features / (2 * len(self.scales)))
            self._maps[k] = KernelMeanEncoder(k, out_dim=each, bandwidth=1.0, seed=self.seed)
        # One map on whatever device and in whatever precision the actions come.
        mapping = self._maps[k] = self._maps[k].to(action)
        parts = [mapping.points(action / (s * b), None) for s in self.scales]
        psi = torch.cat(parts, dim=1)
        return psi * math.sqrt(2 / psi.shape[1])

    def _bandwidth(self, action: Tensor) -> float:
        known = float(self.scale)
        return median_bandwidth(action.detach()) if math.isnan(known) else known

    def extra_repr(self) -> str:
        """Show the choices."""
        return f"estimator={self.estimator!r}, standardise={self.standardise!r}, bandwidth={self.bandwidth!r}"


class MMRTest(NamedTuple):
    """Statistic of a test, and the share of resampled ones that are at least as large."""

    statistic: float
    p_value: float


def mmr_test(
    code: Float[Tensor, "n d"],
    action: Float[Tensor, "n k"],
    n_resamples: int = 500,
    *,
    bandwidth: float | Literal["median"] = "median",
    features: int = 50,
    seed: int = 0,
) -> MMRTest:
    r"""Test whether the mean of a code given the action is affine in the action.

    .. math:: T = \frac{\lVert \sum_i r_i \tilde\psi_i^\top \rVert_F^2 - \sum_i \lVert r_i \rVert^2 \lVert \tilde\psi_i
              \rVert^2}{n (n - 1)}

    with residuals r of the whitened code and :math:`\tilde\psi` of the random features, both after their affine
    function of the action: otherwise the slope that was fitted would distort the law of T. That law is found by the
    wild bootstrap: rows of r are multiplied by random signs. The p-value is
    :math:`(1 + \#\{T^* \ge T\}) / (B + 1)`.

    A small value refutes the assumption; a large one does not prove it. A code that was trained to make T small has
    a p-value that is too large on the rows it was trained on.

    Args:
        code: what is tested: a learned code, or a state that is seen.
        action: randomised actions.
        n_resamples: B.
        bandwidth: of the Gaussian kernel on standardised actions, by default their median distance.
        features: number of random features.
        seed: of features and signs.

    Raises:
        ValueError: for lengths that differ, fewer than ten rows for each action, or a code that is constant.

    Source: Saengkyongam et al., "Identifying representations for intervention extrapolation", ICLR 2024; wild
    bootstrap as in Muandet et al., UAI 2020.

    Examples:
        >>> rng = torch.Generator().manual_seed(0)
        >>> a, v = torch.rand(500, 1, generator=rng), 0.1 * torch.randn(500, 1, generator=rng)
        >>> mmr_test(2 * a + v, a).p_value > 0.05, mmr_test(a**2 + v, a).p_value < 0.01
        (True, True)
    """
    check_matrix("code", code)
    check_matrix("action", action)
    n = check_same_length(code=code, action=action)
    check_number("n_resamples", n_resamples, low=20, integer=True)
    if n < 10 * (action.shape[1] + 1):
        raise ValueError(f"{n} rows are too few to test {action.shape[1]} actions; at least ten for each are needed")
    code, action = code.detach().double(), standardised(action.detach().double(), "scale")
    penalty = LinearInvariancePenalty(bandwidth, features=features, seed=spawn_seed(seed, "features"))
    r = linear_residual(standardised(code, "whiten"), action)
    psi = linear_residual(penalty.feature_map(action), action)
    diagonal = float((r.square().sum(1) * psi.square().sum(1)).sum())
    pairs = (r[:, :, None] * psi[:, None, :]).flatten(1)
    found = float(pairs.sum(0).square().sum()) - diagonal
    rng, above = generator(spawn_seed(seed, "signs"), code.device), 0
    step = max(1, _ENTRIES // n)
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        signs = torch.randint(2, (size, n), generator=rng, device=code.device).to(pairs) * 2 - 1
        above += int(((signs @ pairs).square().sum(1) - diagonal >= found).sum())
    return MMRTest(found / (n * (n - 1)), (1 + above) / (n_resamples + 1))

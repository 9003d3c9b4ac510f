"""Particle filters of state-space models on tensors: a batch of sequences, all particles at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.inference.resampling import RESAMPLERS

__all__ = ["FilterResult", "smc_state_space"]


@dataclass(frozen=True)
class FilterResult:
    r"""What a particle filter of B sequences of length T with n particles found.

    The last ``K`` of the T steps are stored: all, or the last one alone.

    Attributes:
        log_evidence: log of the estimate of :math:`p(y_{1:T})`, (B,); the estimate itself is unbiased.
        increments: its parts, estimates of :math:`\log p(y_t \mid y_{1:t-1})`, (B, T).
        particles: states, (B, K, n, ...).
        logw: log-weights, (B, K, n); their log-sum-exp is the log-evidence up to that step.
        ancestors: the particle of the step before that each one comes from, (B, K, n).
        ess: effective sample sizes before resampling, (B, T).
    """

    log_evidence: Float[Tensor, "batch"]
    increments: Float[Tensor, "batch time"]
    particles: Tensor
    logw: Float[Tensor, "batch kept n"]
    ancestors: Int[Tensor, "batch kept n"]
    ess: Float[Tensor, "batch time"]

    @property
    def weights(self) -> Float[Tensor, "batch kept n"]:
        """Weights with sum 1 at each stored step; 0 where all are."""
        top = self.logw.amax(-1, keepdim=True)
        w = torch.where(top == -math.inf, torch.zeros_like(self.logw), (self.logw - top).exp())
        return w / w.sum(-1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)

    def mean(self) -> Tensor:
        """Return the filtering means at the stored steps, (B, K, ...)."""
        extra = self.particles.ndim - 3
        return (self.weights.reshape(*self.logw.shape, *[1] * extra) * self.particles).sum(2)

    def paths(self) -> Tensor:
        """Return each last particle's line of ancestors, (B, T, n, ...), with the last step's weights.

        Raises:
            ValueError: when only the last step was stored.
        """
        kept = self.logw.shape[1]
        if kept != self.increments.shape[1]:
            raise ValueError("paths need every step; run the filter with store=True")
        rows = torch.arange(len(self.logw), device=self.logw.device)[:, None]
        at = torch.arange(self.logw.shape[2], device=self.logw.device).expand(len(rows), -1)
        out = []
        for t in reversed(range(kept)):
            out.append(self.particles[rows, t, at])
            at = self.ancestors[:, t].gather(1, at)
        return torch.stack(out[::-1], 1)


def smc_state_space(
    init: Callable[[int, int, torch.Generator | None], Tensor],
    transition: Callable[[Tensor, int, torch.Generator | None], Tensor],
    loglik: Callable[[Tensor, Tensor, int], Tensor],
    obs: Float[Tensor, "batch time *event"],
    n: int,
    resampler: str = "systematic",
    ess_threshold: float = 0.5,
    generator: torch.Generator | None = None,
    *,
    store: bool = True,
) -> FilterResult:
    r"""Run the bootstrap particle filter of a state-space model on a batch of sequences.

    .. math:: x_1 \sim p(x_1), \quad x_t \sim p(x_t \mid x_{t-1}), \quad
        \hat p(y_{1:T}) = \prod_t \sum_i W_{t-1}^i\, p(y_t \mid x_t^i)

    :math:`W` are the weights carried over, equal right after resampling. Sequences are independent: each is resampled
    when its own effective sample size calls for it. Repeat one sequence along the batch for independent filters of it.

    Args:
        init: ``init(batch, n, generator)`` draws the states at the first observation, (B, n, ...).
        transition: ``transition(x, t, generator)`` draws the states at observation ``t`` from those at ``t - 1``, all
            (B, n, ...).
        loglik: ``loglik(y, x, t)`` is the log-density of the observation ``y`` (B, 1, ...) given the states ``x``
            (B, n, ...): a tensor that broadcasts to (B, n).
        obs: observations, (B, T, ...).
        n: particles per sequence.
        resampler: ``"systematic"``, ``"stratified"``, ``"residual"`` or ``"multinomial"``.
        ess_threshold: resample when the effective sample size falls below this share of ``n``; 1 for every step
            at which the weights differ.
        generator: random state, on the device of ``obs``.
        store: keep every step; with ``False`` only the last, for many particles.

    Returns:
        Evidence, particles, log-weights and ancestors. A sequence that no particle explains has evidence ``-inf``.

    Raises:
        ValueError: for fewer than one particle or observation, an unknown resampler, a threshold outside [0, 1], states
            without the leading shape (B, n), or log-likelihoods that do not broadcast to it or are NaN or ``+inf``.

    References:
        Gordon, Salmond, Smith, "Novel approach to nonlinear/non-Gaussian Bayesian state estimation", 1993.

    Examples:
        A random walk seen through noise, two sequences at once.

        >>> noise = lambda shape, g: torch.randn(shape, generator=g)
        >>> y = torch.tensor([[0.5, 1.0, 1.5], [0.0, -1.0, 0.0]])
        >>> found = smc_state_space(
        ...     lambda b, n, g: noise((b, n), g),
        ...     lambda x, t, g: x + noise(x.shape, g),
        ...     lambda y, x, t: torch.distributions.Normal(x, 1.0).log_prob(y),
        ...     y, 1000, generator=torch.Generator().manual_seed(0),
        ... )
        >>> found.particles.shape, found.mean().shape, found.paths().shape
        (torch.Size([2, 3, 1000]), torch.Size([2, 3]), torch.Size([2, 3, 1000]))
    """
    check_number("number of particles", n, low=1, integer=True)
    check_number("ess_threshold", ess_threshold, low=0, high=1)
    check_choice("resampler", resampler, sorted(RESAMPLERS))
    if not isinstance(obs, Tensor) or obs.ndim < 2 or 0 in obs.shape[:2]:
        shape = tuple(obs.shape) if isinstance(obs, Tensor) else type(obs).__name__
        raise ValueError(f"obs must be a tensor (batch, time, ...) with at least one of each, got {shape}")
    batch, steps = obs.shape[:2]
    offset = n * torch.arange(batch, device=obs.device)[:, None]
    identity = torch.arange(n, device=obs.device).expand(batch, n)
    evidence = torch.zeros(batch, dtype=torch.float64, device=obs.device)
    equal = torch.full((batch, n), -math.log(n), dtype=torch.float64, device=obs.device)
    x, carried, w = _states(init(batch, n, generator), batch, n, "init"), equal, torch.ones_like(equal)
    low = torch.zeros(batch, dtype=torch.bool, device=obs.device)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    increments, sizes = [], []
    for t in range(steps):
        parents = identity
        if bool(low.any()):
            parents = torch.where(low[:, None], RESAMPLERS[resampler](w, generator), identity)
            carried = torch.where(low[:, None], equal, carried)
            x = x.flatten(0, 1).index_select(0, (parents + offset).flatten()).view(x.shape)
        if t > 0:
            x = _states(transition(x, t, generator), batch, n, "transition")
        carried = carried + _log_likelihood(loglik(obs[:, t].unsqueeze(1), x, t), batch, n, t)
        top = carried.amax(-1, keepdim=True)
        if not bool((top < math.inf).all()):
            raise ValueError(f"loglik must be below +inf and not NaN, got such a value at step {t}")
        alive = top[:, 0] > -math.inf
        top = torch.where(alive[:, None], top, 0.0)
        w = (carried - top).exp_()
        total = w.sum(-1)
        step = top[:, 0] + total.log()
        size = torch.where(alive, total.square() / w.square().sum(-1).clamp_min(1e-300), 0.0)
        # A row that no particle explains keeps its particles, and its weights stay 0.
        low = alive & (size < ess_threshold * n)
        w = torch.where(alive[:, None], w, 1.0)
        carried = carried - torch.where(alive, step, 0.0)[:, None]
        evidence = evidence + step
        increments.append(step)
        sizes.append(size)
        if store or t == steps - 1:
            kept.append((x, carried + torch.where(evidence == -math.inf, 0.0, evidence)[:, None], parents))
    particles, logw, ancestors = (torch.stack(parts, 1) for parts in zip(*kept))
    return FilterResult(evidence, torch.stack(increments, 1), particles, logw, ancestors, torch.stack(sizes, 1))


def _states(x: Tensor, batch: int, n: int, name: str) -> Tensor:
    if not isinstance(x, Tensor) or x.shape[:2] != (batch, n):
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must return states of shape ({batch}, {n}, ...), got {shape}")
    return x


def _log_likelihood(value: Tensor, batch: int, n: int, t: int) -> Tensor:
    try:
        out = value.double().broadcast_to(batch, n)
    except RuntimeError as error:
        raise ValueError(
            f"loglik must return log-weights that broadcast to ({batch}, {n}), got {tuple(value.shape)} at step {t}; "
            "sum over the dimensions of the observation"
        ) from error
    return out

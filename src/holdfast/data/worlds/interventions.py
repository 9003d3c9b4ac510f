"""Actions that move a hidden state linearly, features that show it, and an outcome that is confounded with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import spawn_seed

__all__ = ["LinearActionSCM", "simulate_linear_action_scm"]

Mixing = Literal["exponential", "perceptron", "disc"]
_CHUNK = 2**21


@dataclass(frozen=True)
class LinearActionSCM:
    """Draws of a world with its hidden parts.

    Attributes:
        A: (n, k) actions.
        X: (n, ...) features, or images (n, 1, side, side).
        Y: (n,) outcomes.
        Z: (n, d) hidden state.
        V: (n, d) its noise.
        M0: (d, k) effect of the actions.
        direction: (d,) unit vector along which the outcome turns and is confounded.
        curvature: factor of the squared actions.
    """

    A: Float[np.ndarray, "n k"]
    X: Float[np.ndarray, "n *shape"]
    Y: Float[np.ndarray, " n"]
    Z: Float[np.ndarray, "n d"]
    V: Float[np.ndarray, "n d"]
    M0: Float[np.ndarray, "d k"]
    direction: Float[np.ndarray, " d"]
    curvature: float

    def outcome(self, z: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "..."]:
        """Return the outcome of a state without noise, ``2 sin(1.2 u'z) + 0.4 |z|^2 / d``."""
        return _outcome(z, self.direction)

    def state(self, a: Float[np.ndarray, "m k"], v: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
        """Return the states of actions and noise."""
        return (a + self.curvature * a**2) @ self.M0.T + v

    def expected(self, a: Any, *, n_draws: int = 20_000, seed: int = 0) -> Float[np.ndarray, " m"]:
        """Return ``E[Y | do(A = a)]`` for every row of ``a``, the mean over fresh draws of the state's noise.

        Raises:
            ValueError: for actions of another length.
        """
        actions = np.atleast_2d(np.asarray(a, dtype=np.float64))
        if actions.ndim != 2 or actions.shape[1] != self.M0.shape[1]:
            raise ValueError(f"actions must have shape (m, {self.M0.shape[1]}), got {np.shape(a)}")
        check_number("n_draws", n_draws, low=1, integer=True)
        v = np.random.default_rng(spawn_seed(seed, "truth")).standard_normal((n_draws, self.M0.shape[0]))
        return np.array([self.outcome(self.state(row, v)).mean() for row in actions])


def _outcome(z: np.ndarray, direction: np.ndarray) -> np.ndarray:
    return 2 * np.sin(1.2 * z @ direction) + 0.4 * (z**2).mean(-1)


def simulate_linear_action_scm(
    n: int = 3000,
    d: int = 1,
    k: int | None = None,
    m: int = 6,
    *,
    mixing: Mixing = "exponential",
    confounding: float = 1.0,
    action_range: float = 1.5,
    curvature: float = 0.0,
    seed: int,
) -> LinearActionSCM:
    r"""Draw a world in which an action moves a hidden state linearly.

    .. math:: A \sim U[-r, r]^k, \quad V \sim N(0, I_d), \quad Z = M_0 (A + \kappa A^2) + V, \quad X = g_0(Z), \quad
              Y = l(Z) + U

    with :math:`U = c\, u^\top V + 0.3\, \epsilon` and :math:`l(z) = 2 \sin(1.2\, u^\top z) + 0.4\, |z|^2 / d`, so
    that a regression of the outcome on the state is biased by the part of V in both. :math:`M_0` has orthonormal
    rows (1 for one action), :math:`u` is a unit vector (1 for one state). The map :math:`g_0` is injective:

    - "exponential" (d = 1): :math:`w_j (e^{0.6 z} - \tfrac12 e^{-0.4 z}) + 0.3\, w_{j+1} \tanh(a_j (z - b_j))`,
      columns standardised. Its speed grows with \|z\|, unevenly, so a plain autoencoder's code is bent.
    - "perceptron": three layers of orthonormal, widening maps and leaky rectifiers, and a last linear map; columns
      standardised.
    - "disc" (d = 2): grey pictures of 32 x 32 pixels with a soft disc at :math:`0.7 \tanh(z / 3)`.

    Args:
        n: rows.
        d, k, m: length of the state, of the action (d by default), and number of features.
        mixing: the map to features.
        confounding: :math:`c`; 0 for none.
        action_range: :math:`r`.
        curvature: :math:`\kappa`; 0 where the effect is linear, as the method needs it.
        seed: of the world and of the draws.

    Raises:
        ValueError: for numbers out of range, fewer features than states, fewer actions than states, or a mixing that
            needs another d.

    Source: Saengkyongam et al., "Identifying representations for intervention extrapolation", ICLR 2024, section 6;
    the maps are our own.

    Examples:
        >>> world = simulate_linear_action_scm(100, seed=0)
        >>> world.X.shape, world.expected([[0.0], [3.0]]).shape
        ((100, 6), (2,))
    """
    check_number("n", n, low=2, integer=True)
    check_number("d", d, low=1, integer=True)
    k = d if k is None else int(check_number("k", k, low=d, integer=True))
    check_number("m", m, low=d + 1, integer=True)
    check_choice("mixing", mixing, ["exponential", "perceptron", "disc"])
    check_number("confounding", confounding)
    check_number("action_range", action_range, low=0, open_low=True)
    check_number("curvature", curvature)
    if (needed := {"exponential": 1, "disc": 2}.get(mixing, d)) != d:
        raise ValueError(f"mixing={mixing!r} shows a state of length {needed}, got d={d}")
    world = np.random.default_rng(spawn_seed(seed, "world"))
    effect = np.eye(1) if k == 1 else _orthonormal(world, k, d).T
    u = np.ones(1) if d == 1 else _orthonormal(world, d, 1)[:, 0]
    show = _MIXINGS[mixing](world, d, m)

    rng = np.random.default_rng(spawn_seed(seed, "draws"))
    a = rng.uniform(-action_range, action_range, (n, k))
    v = rng.standard_normal((n, d))
    z = (a + curvature * a**2) @ effect.T + v
    y = _outcome(z, u) + confounding * v @ u + 0.3 * rng.standard_normal(n)
    return LinearActionSCM(A=a, X=show(z), Y=y, Z=z, V=v, M0=effect, direction=u, curvature=curvature)


def _orthonormal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((rows, columns)))
    return q * np.sign(np.diag(r))


def _standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)


def _exponential(rng: np.random.Generator, d: int, m: int) -> Callable[[np.ndarray], np.ndarray]:
    w, b, a = rng.standard_normal(m), rng.standard_normal(m), rng.uniform(0.5, 2, m)

    def show(z: np.ndarray) -> np.ndarray:
        bent = np.exp(0.6 * z) - 0.5 * np.exp(-0.4 * z)
        return _standardised(w * bent + 0.3 * np.roll(w, -1) * np.tanh(a * (z - b)))

    return show


def _perceptron(rng: np.random.Generator, d: int, m: int) -> Callable[[np.ndarray], np.ndarray]:
    # A tall matrix with orthonormal columns and a leaky rectifier are injective, and so is a chain of them.
    widths = [d, *(max(d, math.ceil(d + (m - d) * i / 3)) for i in (1, 2, 3))]
    layers = [(_orthonormal(rng, after, before), rng.standard_normal(after)) for before, after in pairwise(widths)]
    last = _orthonormal(rng, m, m)

    def show(z: np.ndarray) -> np.ndarray:
        h = z
        for w, b in layers:
            h = h @ w.T * math.sqrt(len(w) / w.shape[1]) + b
            h = np.where(h > 0, h, 0.2 * h)
        return _standardised(h @ last.T)

    return show


def _disc(rng: np.random.Generator, d: int, m: int) -> Callable[[np.ndarray], np.ndarray]:
    side, radius, edge = 32, 0.2, 0.06
    axis = (np.arange(side) + 0.5) / side * 2 - 1

    def show(z: np.ndarray) -> np.ndarray:
        centre = 0.7 * np.tanh(z / 3)
        pictures = np.empty((len(z), 1, side, side), dtype=np.float32)
        step = _CHUNK // side**2
        for rows in (slice(i, i + step) for i in range(0, len(z), step)):
            dx = axis[None, None, :] - centre[rows, 0, None, None]
            dy = axis[None, :, None] - centre[rows, 1, None, None]
            pictures[rows, 0] = 0.5 * (1 + np.tanh((radius - np.hypot(dx, dy)) / edge))
        return pictures

    return show


_MIXINGS: dict[str, Callable[[np.random.Generator, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "exponential": _exponential,
    "perceptron": _perceptron,
    "disc": _disc,
}

"""What the theory says: rates of convergence, and the size of the noise to add."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.core.checks import check_number, check_same_length

__all__ = ["effective_smoothness", "hellinger_rate", "perturbation_level", "perturbation_rate"]


def perturbation_rate(n: int, beta: float, t: float) -> float:
    r"""Rate of the Wasserstein distance with the best perturbation, which is that perturbation's size too.

    .. math:: n^{-\beta / (2 (\beta + t))}

    up to constants and logarithms. The dimension of the data does not enter.

    Args:
        n: number of data.
        beta, t: smoothness and number of variables of the generator's roughest part, see :func:`effective_smoothness`.

    Raises:
        ValueError: for n below 1, or numbers that are not positive.

    Source: Chae et al., "A likelihood approach to nonparametric estimation of a singular distribution using deep
    generative models", JMLR 2023, theorem on perturbed data.

    Examples:
        >>> round(perturbation_rate(1000, 2, 1), 3), round(perturbation_rate(1000, 2, 2), 3)
        (0.1, 0.178)
    """
    check_number("n", n, low=1)
    check_number("beta", beta, low=0, open_low=True)
    check_number("t", t, low=0, open_low=True)
    return float(n) ** (-1 / (2 * (1 + t / beta)))


def hellinger_rate(n: int, beta: float, t: float, a: float) -> float:
    r"""Rate of the Hellinger distance where the data's own noise is :math:`n^{-a}`.

    .. math:: n^{-(\beta - t a) / (2 \beta + t)}

    It is useless from :math:`a = \beta / t` on: the less noise, the worse. At :math:`a = \beta / 2(\beta + t)` it
    equals the noise, which is where :func:`perturbation_rate` comes from.

    Source: Chae et al., JMLR 2023.

    Examples:
        >>> round(hellinger_rate(1000, 2, 1, 1 / 3), 3)
        0.1
    """
    check_number("n", n, low=1)
    check_number("beta", beta, low=0, open_low=True)
    check_number("t", t, low=0, open_low=True)
    check_number("a", a, low=0)
    return float(n) ** (-(beta - t * a) / (2 * beta + t))


def perturbation_level(n: int, t: float, beta: float = 2.0, scale: float = 1.0) -> float:
    """Rule of thumb for the noise to add: :func:`perturbation_rate` in units of the data's scale.

    Args:
        n: number of data.
        t: dimension of what they lie on, such as :func:`holdfast.metrics.intrinsic_dimension` estimates.
        beta: smoothness, 2 where nothing is known.
        scale: of the data, see :func:`holdfast.distribution.singular.data_scale`.

    Examples:
        >>> round(perturbation_level(1000, t=1, scale=10.0), 2)
        1.0
    """
    check_number("scale", scale, low=0, open_low=True)
    return scale * perturbation_rate(n, beta, t)


def effective_smoothness(betas: Sequence[float], ts: Sequence[float]) -> tuple[float, float]:
    r"""Smoothness and number of variables of the part that makes a composition hard to estimate.

    For :math:`f = g_q \circ \dots \circ g_0`, components of :math:`g_i` being :math:`\beta_i`-Hölder in :math:`t_i`
    variables, the pair :math:`(b_i, t_i)` with the smallest ratio, where

    .. math:: b_i = \beta_i \prod_{l > i} \min(\beta_l, 1)

    Args:
        betas: smoothness of every part, the innermost first.
        ts: variables of every part.

    Raises:
        ValueError: for different lengths, no part, or numbers that are not positive.

    Source: Chae et al., JMLR 2023; Schmidt-Hieber, "Nonparametric regression using deep neural networks with ReLU
    activation function", Annals of Statistics 2020.

    Examples:
        >>> effective_smoothness([2.0, 0.5], [1, 3])
        (0.5, 3)
    """
    check_same_length(betas=betas, ts=ts)
    if not len(betas):
        raise ValueError("a composition needs at least one part, got none")
    for name, values in (("beta", betas), ("t", ts)):
        for v in values:
            check_number(name, v, low=0, open_low=True)
    pairs, loss = [], 1.0
    for beta, t in zip(reversed(betas), reversed(ts)):
        pairs.append((beta * loss, t))
        loss *= min(beta, 1.0)
    return min(pairs, key=lambda pair: pair[0] / pair[1])

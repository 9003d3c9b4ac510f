"""How much a linear probe gains from more members of a concatenated representation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from sklearn.base import clone

from holdfast.core.checks import check_number, check_same_length
from holdfast.representation.probe import LinearProbe

__all__ = ["probe_gain"]


def probe_gain(
    features: Sequence[Float[np.ndarray, "n _dim"]],
    y: Any,
    features_test: Sequence[Float[np.ndarray, "m _dim"]],
    y_test: Any,
    sizes: Sequence[int] | None = None,
    probe: Any = None,
) -> dict[int, float]:
    """Return test accuracy of a probe on the concatenation of *n* members, for every *n* of ``sizes``.

    For each *n* the members are cut into disjoint groups of *n*, and the accuracy is the mean over groups, so that
    small *n* do not hang on one lucky member. The probe is tuned anew for every group: a fixed penalty would favour
    one width.

    Args:
        features: training features of each member.
        y: training labels.
        features_test, y_test: the same on test data.
        sizes: numbers of members; powers of two by default.
        probe: any scikit-learn classifier, by default a :class:`LinearProbe` that tunes its weight decay.

    Raises:
        ValueError: for lists of different lengths, or a size beyond the number of members.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> y = rng.integers(0, 2, 60)
        >>> members = [np.c_[y + rng.normal(size=60)] for _ in range(4)]
        >>> gain = probe_gain(members, y, members, y)
        >>> gain[4] > gain[1]
        True
    """
    check_same_length(features=features, features_test=features_test)
    n = len(features)
    sizes = [2**i for i in range(n.bit_length()) if 2**i <= n] if sizes is None else list(sizes)
    probe = LinearProbe(random_state=0) if probe is None else probe
    out = {}
    for size in sizes:
        check_number("sizes", size, low=1, high=n, integer=True)
        scores = []
        for start in range(0, n - size + 1, size):
            group = slice(start, start + size)
            z, z_test = (np.concatenate([np.asarray(m) for m in f[group]], 1) for f in (features, features_test))
            fitted = cast("Any", clone(probe)).fit(z, y)
            scores.append(float(np.mean(fitted.predict(z_test) == np.asarray(y_test))))
        out[int(size)] = float(np.mean(scores))
    return out

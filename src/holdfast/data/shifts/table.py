"""The shifts by name, for studies: one pooled data set in, several environments out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from holdfast.data.environments import Environments
from holdfast.data.errors import suggest
from holdfast.data.shifts.correlated import (
    spurious_background_environments,
    spurious_colour_environments,
    spurious_feature_environments,
)
from holdfast.data.shifts.moved import (
    corruption_environments,
    rotation_environments,
    scale_environments,
    translation_environments,
)
from holdfast.data.shifts.resampled import (
    covariate_shift_environments,
    label_noise_environments,
    label_prior_environments,
    long_tail_environments,
)

__all__ = ["SHIFTS", "apply_shift", "shift_parameters"]

SHIFTS: Mapping[str, Callable[..., Environments]] = {
    "rotation": rotation_environments,
    "translation": translation_environments,
    "scale": scale_environments,
    "corruption": corruption_environments,
    "spurious-colour": spurious_colour_environments,
    "spurious-background": spurious_background_environments,
    "spurious-feature": spurious_feature_environments,
    "label-prior": label_prior_environments,
    "covariate": covariate_shift_environments,
    "label-noise": label_noise_environments,
    "long-tail": long_tail_environments,
}
"""Functions ``(x, y, *, seed, ...) -> Environments`` by the shift's name; each documents its parameters."""


def shift_parameters(name: str) -> dict[str, Any]:
    """Return the parameters of a shift with their defaults.

    Raises:
        ValueError: for an unknown name, with the closest known one.

    Examples:
        >>> shift_parameters("scale")
        {'factors': (1.0, 0.75, 1.25)}
        >>> shift_parameters("rotaton")
        Traceback (most recent call last):
        ...
        ValueError: there is no shift 'rotaton'; did you mean 'rotation'?
    """
    if name not in SHIFTS:
        raise ValueError(f"there is no shift {name!r}{suggest(name, SHIFTS, limit=len(SHIFTS))}")
    parameters = inspect.signature(SHIFTS[name]).parameters
    return {k: p.default for k, p in parameters.items() if k not in ("x", "y", "seed")}


def apply_shift(environments: Environments, name: str, *, seed: int, **params: Any) -> Environments:
    """Pool the environments and divide them anew by a shift.

    Samples keep their attributes. The environment each came from is kept as the attribute ``source`` where there
    were several, its row in the pool as ``row``.

    Args:
        environments: the samples.
        name: a key of ``SHIFTS``.
        seed: fixes everything drawn; the same seed gives the same bits.
        **params: parameters of that shift; :func:`shift_parameters` lists them with their defaults.

    Raises:
        ValueError: for an unknown name or parameter (with those there are), or a value the shift refuses.

    Examples:
        >>> import numpy as np
        >>> e = Environments.from_arrays(np.ones((6, 2)), [0, 1] * 3)
        >>> apply_shift(e, "scale", seed=1, factors=[1, 2]).names
        ('scale=1', 'scale=2')
        >>> apply_shift(e, "scale", seed=1, angles=[1, 2])
        Traceback (most recent call last):
        ...
        ValueError: the shift 'scale' has no parameter 'angles'; it takes factors=(1.0, 0.75, 1.25)
    """
    allowed = shift_parameters(name)
    for key in params:
        if key not in allowed:
            listed = ", ".join(f"{k}={v!r}" for k, v in allowed.items())
            raise ValueError(f"the shift {name!r} has no parameter {key!r}; it takes {listed}")
    x, y, source = environments.pooled()
    shifted = SHIFTS[name](x, y, seed=seed, **params)
    rows = shifted.attributes["row"]
    carried = {k: v[rows] for k, v in environments.attributes.items()}
    if len(environments.names) > 1:
        carried["source"] = source[rows]
    return replace(shifted, attributes={**carried, **shifted.attributes})

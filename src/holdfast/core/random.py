"""Random state that is passed in and never leaks: seeds, generators, and a fence around the global state."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["generator", "isolated_rng", "seed_from", "spawn_seed"]

_MAX_SEED = 2**31 - 1


def seed_from(random_state: Any) -> int:
    """Return an integer seed from anything scikit-learn accepts as ``random_state``.

    ``None`` draws a fresh seed from the operating system; an ``int`` is kept; a NumPy ``RandomState`` or
    ``Generator`` is advanced by one draw.

    Raises:
        TypeError: for any other type.
        ValueError: for a negative integer.

    Examples:
        >>> seed_from(3)
        3
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0] % _MAX_SEED)
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        if random_state < 0:
            raise ValueError(f"random_state must be non-negative, got {random_state}")
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(_MAX_SEED))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(_MAX_SEED))
    raise TypeError(
        "random_state must be None, a non-negative int, a numpy RandomState or a numpy Generator, "
        f"got {type(random_state).__name__}"
    )


def spawn_seed(seed: int, *keys: int | str) -> int:
    """Return a child seed that depends on ``seed`` and on every key, statistically independent of its siblings.

    Examples:
        >>> spawn_seed(0, "loader") == spawn_seed(0, "loader")
        True
        >>> spawn_seed(0, "loader") == spawn_seed(0, "weights")
        False
    """
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else int(k) & 0xFFFFFFFF for k in keys]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint32)[0] % _MAX_SEED)


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a ``torch.Generator`` on ``device`` started at ``seed``.

    Examples:
        >>> import torch
        >>> bool(torch.rand((), generator=generator(1)) == torch.rand((), generator=generator(1)))
        True
    """
    return torch.Generator(device=device).manual_seed(seed)


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Run a block under torch's global generators started at ``seed``, and restore them afterwards.

    Layers such as ``nn.Dropout`` and weight initialisers can draw from the global generator only; this fence
    makes them reproducible without touching the caller's random state.

    Examples:
        >>> import torch
        >>> before = torch.get_rng_state()
        >>> with isolated_rng(0):
        ...     _ = torch.rand(3)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield

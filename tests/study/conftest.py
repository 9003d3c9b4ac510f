"""What the tests of the study share: the fakes on the path of every worker, and a small data set."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from holdfast.data import Environments

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)


def make_sites(n: int = 240, seed: int = 100, d: int = 5) -> Environments:
    """Two classes in A, B and C: feature 0 always tells them apart, feature 1 too but the other way round in C.

    The last feature is the row number, negative in C, so that a method can tell which rows it was given.
    """
    rng = np.random.default_rng(seed)
    y, e = np.arange(n) % 2, (np.arange(n) // 2) % 3
    x = rng.normal(size=(n, d))
    x[:, 0] += 2 * y
    x[:, 1] += np.where(e == 2, -1, 1) * 3 * y
    x[:, -1] = np.where(e == 2, -1, 1) * (1 + np.arange(n)) / n
    return Environments.from_arrays(x, np.array(["no", "yes"])[y], np.array(list("ABC"))[e])


@pytest.fixture
def sites() -> Environments:
    return make_sites()

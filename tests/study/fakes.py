"""Small classifiers with the interface a study needs, importable by its workers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class NearestMean(ClassifierMixin, BaseEstimator):
    """Nearest class mean on the first ``features`` columns; ``transform`` is the identity on them."""

    def __init__(self, features=None, noise=0.0, seconds=0.0, log=None, random_state=None):
        self.features = features
        self.noise = noise
        self.seconds = seconds
        self.log = log
        self.random_state = random_state

    def fit(self, X, y, *, environment=None):
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write(f"{os.getpid()} {len(X)}\n")
        time.sleep(self.seconds)
        z = self.transform(X)
        self.classes_, codes = np.unique(y, return_inverse=True)
        self.means_ = np.stack([z[codes == c].mean(0) for c in range(len(self.classes_))])
        self.means_ = self.means_ + self.noise * np.random.default_rng(self.random_state).normal(size=self.means_.shape)
        self.seen_ = set(map(float, np.asarray(X)[:, -1]))
        return self

    def transform(self, X):
        return np.asarray(X, dtype=float)[:, : self.features]

    def predict_proba(self, X):
        d = -0.5 * ((self.transform(X)[:, None] - self.means_) ** 2).sum(-1)
        p = np.exp(d - d.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)


class Broken(NearestMean):
    """Raises while it is fitted without environment C."""

    def fit(self, X, y, *, environment=None):
        if "C" not in set(environment):
            raise RuntimeError("the flux capacitor is empty")
        return super().fit(X, y, environment=environment)


class DiesOnce(NearestMean):
    """Kills its own process the first time; ``log`` remembers."""

    def fit(self, X, y, *, environment=None):
        if not Path(self.log).exists():
            Path(self.log).write_text("died\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(X, y, environment=environment)


class AlwaysDies(NearestMean):
    """Kills its own process every time."""

    def fit(self, X, y, *, environment=None):
        os.kill(os.getpid(), signal.SIGKILL)


class Leaky(NearestMean):
    """Fails when it is given a sample it must not see: the last column of held-out samples is negative."""

    def fit(self, X, y, *, environment=None):
        if (np.asarray(X)[:, -1] < 0).any():
            raise AssertionError("held-out samples reached training")
        return super().fit(X, y, environment=environment)


class AlwaysRaises(NearestMean):
    """Never fits."""

    def fit(self, X, y, *, environment=None):
        raise ValueError("it cannot be fitted")

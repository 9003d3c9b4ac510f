"""Small classifiers with the interface a study needs, importable by its workers, and a small data set."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from holdfast.data import Environments
from holdfast.study.spec import parse_spec

HERE = str(Path(__file__).parent)
MEASURED_TIME = ("fit_seconds", "evaluate_seconds")


def fake(name: str, title: str | None = None, **params):
    return {"name": f"fakes:{name}", "params": params} | ({"title": title} if title else {})


def spec_of(tmp_path: Path, methods, **fields):
    return parse_spec({"data": {"path": str(tmp_path)}, "methods": methods, "seeds": 2} | fields)


def without_times(summary):
    text = json.dumps(summary, default=str)
    fields = json.loads(text)
    for setting in fields["settings"]:
        for row in setting["methods"]:
            for k in MEASURED_TIME:
                row.pop(k, None)
    fields.pop("spec")
    return fields


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

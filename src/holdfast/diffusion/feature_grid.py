"""Which block and which time hold the best features: a grid of probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checkpoint import atomic_write
from holdfast.core.checks import check_choice, check_number
from holdfast.core.heat_map import heat_map
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.feature_table import FeatureTable
from holdfast.diffusion.features import DiffusionFeatures, Noise

__all__ = ["Best", "FeatureGrid", "Probe", "feature_quality_map", "few_labels", "make_probe", "sweep_features"]

Probe = Literal["logistic", "ridge"]


class Best(NamedTuple):
    """Where a grid is highest."""

    t: float
    block: int
    score: float


@dataclass(frozen=True)
class FeatureGrid:
    """Scores of probes by block and time.

    Attributes:
        frame: one row per time and block, with columns "t", "block", "score" (accuracy) and "spread" (standard
            deviation over folds; NaN with a validation split).

    Examples:
        >>> grid = FeatureGrid(pd.DataFrame({"t": [10, 90], "block": [4, 4], "score": [0.8, 0.9], "spread": [0, 0]}))
        >>> grid.best()
        Best(t=90.0, block=4, score=0.9)
    """

    frame: pd.DataFrame

    def best(self) -> Best:
        """Return the time and block of the highest score; the first of equals."""
        row = self.frame.loc[self.frame["score"].idxmax()]
        return Best(float(row["t"]), int(row["block"]), float(row["score"]))

    def table(self) -> pd.DataFrame:
        """Return scores with a row per block and a column per time."""
        return self.frame.pivot(index="block", columns="t", values="score")

    def heat_map(self, title: str = "accuracy of a probe by block and time") -> str:
        """Return the table as SVG text, with the best cell framed."""
        table, best = self.table(), self.best()
        mark = (int(table.index.get_loc(best.block)), int(table.columns.get_loc(best.t)))  # pyright: ignore[reportArgumentType]
        columns = [f"{t:g}" for t in table.columns]
        return heat_map(table, list(table.index), columns, title=title, row_axis="block", column_axis="time", mark=mark)

    def save(self, path: str | Path, title: str = "accuracy of a probe by block and time") -> Path:
        """Write the heat map as a file that browsers and documents show."""
        return atomic_write(path, lambda f: f.write(self.heat_map(title).encode()))


def few_labels(y: Any, per_class: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """Draw ``per_class`` rows of every class, in order of class.

    Raises:
        ValueError: for a class that has fewer.

    Examples:
        >>> y = torch.tensor([0, 1, 0, 1, 0])
        >>> y[few_labels(y, 2, torch.Generator().manual_seed(0))].tolist()
        [0, 0, 1, 1]
    """
    check_number("per_class", per_class, low=1, integer=True)
    y = as_tensor(y)
    chosen = []
    for c in y.unique().tolist():
        rows = (y == c).nonzero()[:, 0]
        if len(rows) < per_class:
            raise ValueError(f"class {c} has {len(rows)} rows, fewer than the {per_class} asked for")
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:per_class]])
    return torch.cat(chosen)


def make_probe(probe: Probe = "logistic", *, C: float = 1.0, max_iter: int = 200) -> Pipeline:
    """Return the probe of the grid: standardised features, then a linear classifier with penalty ``1 / C``.

    Examples:
        >>> make_probe("ridge").fit([[0.0], [1.0]], [0, 1]).predict([[2.0]]).tolist()
        [1]
    """
    check_choice("probe", probe, ("logistic", "ridge"))
    check_number("C", C, low=0, open_low=True)
    linear = LogisticRegression(C=C, max_iter=max_iter) if probe == "logistic" else RidgeClassifier(alpha=1 / C)
    return make_pipeline(StandardScaler(), linear)


def sweep_features(
    model: Denoiser,
    x: Any,
    y: Any,
    *,
    times: Sequence[float],
    blocks: Sequence[int] | None = None,
    pool: int | None = 1,
    probe: Probe = "logistic",
    folds: int = 3,
    validation: tuple[Any, Any] | None = None,
    condition: int | None = None,
    C: float = 1.0,
    noise: Noise | str = "fixed",
    bound: float | None = 1.0,
    batch_size: int = 256,
    cache: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> FeatureGrid:
    """Score the features of every block at every time by a linear probe.

    One pass of the network serves all blocks of a time. Choose on data that are in no test set: a choice among 40
    cells on the test set is worth a point or two that are not there.

    Args:
        model: the trained network with its path.
        x, y: inputs (n, ...) and classes (n,).
        times: in the units of the model's path.
        blocks: numbers from 1; all of the network's by default.
        pool: side of the pooled maps.
        probe: "logistic" or "ridge", on standardised features.
        folds: of stratified cross-validation on ``(x, y)``, where there is no validation split.
        validation: inputs and classes that the probe, fitted on ``(x, y)``, is scored on.
        condition: label of every input for a class-conditional network, usually its ``null_class``.
        C: inverse penalty of the probe.
        noise, bound: see :class:`holdfast.diffusion.features.DiffusionFeatures`.
        batch_size: inputs per pass.
        cache: folder that keeps the features, see :func:`holdfast.diffusion.feature_table.extract`.
        seed: of the noise and the folds.
        progress: show a bar.

    Raises:
        ValueError: for a class with fewer rows than folds, a class of the validation split that ``y`` lacks, or what
            the features refuse.

    Source: Mukhopadhyay et al., "Diffusion Models Beat GANs on Image Classification", 2023, section 4.1.

    Examples:
        >>> from holdfast.diffusion.backbones.unet import UNet
        >>> from holdfast.diffusion.ddpm import DDPMSchedule
        >>> model = Denoiser(UNet(1, 8, 8, (1, 2), 1), DDPMSchedule(), "noise")
        >>> y = torch.arange(12) % 2
        >>> x = (2.0 * y - 1)[:, None, None, None].expand(12, 1, 8, 8)
        >>> sweep_features(model, x, y, times=[0, 90], blocks=[1, 4]).best()
        Best(t=0.0, block=1, score=1.0)
    """
    labels = as_tensor(y).cpu().numpy()
    if len(labels) != len(x):
        raise ValueError(f"lengths differ: x has {len(x)}, y has {len(labels)}")
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"y must hold at least two classes, got {classes.tolist()}")
    held = None
    if validation is None:
        check_number("folds", folds, low=2, integer=True)
        if counts.min() < folds:
            few = classes[counts.argmin()]
            raise ValueError(f"class {few} has {counts.min()} rows, fewer than the {folds} folds")
    else:
        held = as_tensor(validation[1]).cpu().numpy()
        if missing := sorted(set(held.tolist()) - set(classes.tolist())):
            raise ValueError(f"the validation split has class {missing[0]}, which y lacks")
    if blocks is None:
        depth = getattr(model.network, "depth", None)
        if not isinstance(depth, int):
            raise ValueError("blocks must be given for a network that does not tell its depth")
        blocks = range(1, depth + 1)
    features = DiffusionFeatures(model, tuple(times), tuple(blocks), pool=pool, noise=noise, seed=seed, bound=bound)
    rng = torch.Generator(next(model.parameters()).device).manual_seed(seed)

    def table(inputs: Any) -> FeatureTable:
        return features.extract(inputs, condition, batch_size=batch_size, cache=cache, generator=rng, progress=progress)

    known = table(x)
    unseen = None if validation is None else table(validation[0])
    rows = []
    for t, block in features.keys:
        z = known.flat(t, block).numpy()
        if unseen is not None:
            scores = [make_probe(probe, C=C).fit(z, labels).score(unseen.flat(t, block).numpy(), held)]
        else:
            cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
            scores = [
                make_probe(probe, C=C).fit(z[a], labels[a]).score(z[b], labels[b]) for a, b in cut.split(z, labels)
            ]
        spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else float("nan")
        rows.append({"t": t, "block": block, "score": float(np.mean(scores)), "spread": spread})
    return FeatureGrid(pd.DataFrame(rows))


def feature_quality_map(
    model: Denoiser,
    x: Any,
    y: Any,
    blocks: Sequence[int] | None,
    times: Sequence[float],
    *,
    pool: int | None = 1,
    probe: Probe = "logistic",
    folds: int = 3,
    validation: tuple[Any, Any] | None = None,
    condition: int | None = None,
    noise: Noise | str = "fixed",
    bound: float | None = 1.0,
    seed: int = 0,
) -> Float[np.ndarray, "blocks times"]:
    """Return accuracies of linear probes, a row per block and a column per time, in the order given.

    Arguments are those of :func:`sweep_features`, which also tells which is best.

    Examples:
        >>> from holdfast.diffusion.backbones.unet import UNet
        >>> from holdfast.diffusion.ddpm import DDPMSchedule
        >>> model = Denoiser(UNet(1, 8, 8, (1, 2), 1), DDPMSchedule(), "noise")
        >>> y = torch.arange(12) % 2
        >>> x = (2.0 * y - 1)[:, None, None, None].expand(12, 1, 8, 8)
        >>> feature_quality_map(model, x, y, [1, 4, 6], [0, 90], probe="ridge").shape
        (3, 2)
    """
    grid = sweep_features(
        model,
        x,
        y,
        times=times,
        blocks=blocks,
        pool=pool,
        probe=probe,
        folds=folds,
        validation=validation,
        condition=condition,
        noise=noise,
        bound=bound,
        seed=seed,
    )
    scores = grid.frame["score"].to_numpy()
    return scores.reshape(len(times), -1).T

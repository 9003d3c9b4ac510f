"""From a trained generator to what people look at: pictures, an evaluation, a summary and a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.image_grid import data_url, image_grid, save_png
from holdfast.diffusion.evaluation import GeneratorEvaluation
from holdfast.diffusion.model import DiffusionModel
from holdfast.study.runner import versions

__all__ = ["Stages", "columns_of", "grid_labels", "pictures", "summarise_generator", "unit_images"]

_SHOWN = 560  # pixels: width of a grid on the page


def unit_images(x: Tensor) -> np.ndarray:
    """Return images in [-1, 1] as floats in [0, 1]; two channels are shown as grey, their mean."""
    images = (x.detach().cpu().float().clamp(-1, 1) + 1) / 2
    return (images if images.shape[1] in (1, 3, 4) else images.mean(1, keepdim=True)).numpy()


def columns_of(model: DiffusionModel) -> int:
    """Return the columns of a grid: one for every class of a model with few, else eight."""
    n = 0 if model.labels_ is None else len(model.labels_)
    return n if 2 <= n <= 12 else 8


def grid_labels(model: DiffusionModel, rows: int) -> np.ndarray | None:
    """Return the labels of a grid whose columns are the classes; ``None`` where columns mean nothing."""
    if model.labels_ is None or columns_of(model) != len(model.labels_):
        return None
    return np.tile(model.labels_.classes, rows)


def _zoom(columns: int, side: int) -> int:
    return max(1, round(_SHOWN / (columns * side)))


@dataclass
class Stages:
    """Writes a grid of samples at every look at a model in training; pass it to ``fit`` as ``watch``.

    All grids start from the same noise and labels, so they show one thing becoming clearer.

    Attributes:
        folder: where the grids go.
        options: of sampling.
        pictures: step and data URL of what was seen.
    """

    folder: Path
    options: Mapping[str, Any]
    pictures: list[tuple[int, str]] = field(default_factory=list)
    told: Callable[[int, Path], None] | None = None

    def __call__(self, model: DiffusionModel, step: int) -> None:
        """Draw and write a grid."""
        columns, rows = columns_of(model), 4
        x = model.draw(columns * rows, grid_labels(model, rows), random_state=0, **self.options).x
        images = unit_images(x)
        picture = image_grid(images, columns=columns, zoom=_zoom(columns, images.shape[-1]))
        path = save_png(picture, self.folder / f"step-{step:06d}.png")
        small = image_grid(images[: min(20, len(images) // 5 * 5)], columns=5, gap=1)
        self.pictures.append((step, data_url(small)))
        if self.told is not None:
            self.told(step, path)

    def chosen(self, n: int = 5) -> list[tuple[int, str]]:
        """Return ``n`` of the pictures, spread over training."""
        if len(self.pictures) <= n:
            return self.pictures
        return [self.pictures[i] for i in np.linspace(0, len(self.pictures) - 1, n).round().astype(int)]


def _by_class(y: np.ndarray, classes: np.ndarray, rows: int) -> list[int]:
    """Rows of the data that fill a grid whose columns are the classes; classes may be used up."""
    found = [np.flatnonzero(y.astype(str) == str(c)) for c in classes]
    if min(map(len, found)) == 0:
        return list(range(min(len(y), rows * len(classes))))
    return [int(found[j][i % len(found[j])]) for i in range(rows) for j in range(len(classes))]


def pictures(
    model: DiffusionModel,
    evaluation: GeneratorEvaluation,
    reference: Tensor,
    reference_y: np.ndarray | None,
    training: Tensor | None,
    stages: Sequence[tuple[int, str]] = (),
    options: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Return the pictures of the page as data URLs, and write the grid of samples to ``folder``.

    Args:
        model: fitted on images; there are no pictures of vectors.
        evaluation: its evaluation.
        reference, reference_y: real data held out, and labels.
        training: real data of training, for nearest neighbours.
        stages: of :class:`Stages`.
        options: of sampling.
        folder: where ``samples.png`` goes.
    """
    if model.scaling_.kind != "image":
        return {"samples": "", "real": "", "neighbours": "", "stages": []}
    columns, rows = columns_of(model), 8
    labels = grid_labels(model, rows)
    drawn = model.draw(
        columns * rows, labels, random_state=1, **(dict(options or {}) | {"steps": evaluation.best_steps})
    )
    images = unit_images(drawn.x)
    if folder is not None:
        save_png(image_grid(images, columns=columns, zoom=_zoom(columns, images.shape[-1])), folder / "samples.png")
    if labels is not None and reference_y is not None and model.labels_ is not None:
        chosen = _by_class(reference_y, model.labels_.classes, rows)
    else:
        chosen = list(range(min(len(reference), columns * rows)))
    found = {
        "samples": data_url(image_grid(images, columns=columns)),
        "real": data_url(image_grid(unit_images(reference[chosen]), columns=columns)),
        "neighbours": "",
        "stages": list(stages),
    }
    if training is not None and evaluation.neighbours:
        near = list(evaluation.neighbours)
        pairs = torch.cat([evaluation.samples[: len(near)], training[near]])
        found["neighbours"] = data_url(image_grid(unit_images(pairs), columns=len(near)))
    return found


def duration(seconds: float) -> str:
    """Return a time as people say it.

    Examples:
        >>> duration(42), duration(372)
        ('42 s', '6 min 12 s')
    """
    check_number("seconds", seconds, low=0)
    minutes, rest = divmod(round(seconds), 60)
    return f"{rest} s" if minutes == 0 else f"{minutes} min {rest} s" if minutes < 60 else f"{minutes / 60:.1f} h"


def summarise_generator(
    model: DiffusionModel,
    evaluation: GeneratorEvaluation,
    *,
    name: str,
    data: str,
    n: int,
    command: str,
    model_path: str = "",
) -> dict[str, Any]:
    """Return the JSON-ready facts of a model and its evaluation, which the page is written from."""
    shape, choice = model.scaling_.shape, model.feature_choice_
    classes = [] if model.labels_ is None else [str(c) for c in model.labels_.classes]
    columns = columns_of(model)
    align = model.align if isinstance(model.align, str) else type(model.align).__name__ if model.align else ""
    return {
        "name": name,
        "data": data,
        "n": n,
        "kind": model.scaling_.kind,
        "shape": " x ".join(map(str, shape[1:] if len(shape) == 3 else shape))
        + (f" in {shape[0]} channels" if len(shape) == 3 and shape[0] > 1 else ""),
        "classes": classes,
        "columns": ", ".join(classes) if columns == len(classes) else "",
        "picture_width": _SHOWN,
        "network": type(model.denoiser_.network).__name__,
        "parameters": sum(p.numel() for p in model.denoiser_.parameters()),
        "steps": model.n_steps_,
        "seconds": model.fit_seconds_,
        "duration": duration(model.fit_seconds_),
        "align": align,
        "model": model_path,
        "settings": {
            k: v for k, v in model.get_params(deep=False).items() if isinstance(v, (str, int, float, type(None)))
        },
        "evaluation": evaluation.to_dict(),
        "history": [{k: v for k, v in h.items() if isinstance(v, int) or math.isfinite(v)} for h in model.history_],
        "features": None if choice is None else choice.to_dict(),
        "command": command,
        "versions": versions(),
    }

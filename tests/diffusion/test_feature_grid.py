"""The grid of probes over blocks and times."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from holdfast.diffusion.denoiser import Denoiser, Output
from holdfast.diffusion.feature_grid import FeatureGrid, feature_quality_map, few_labels, make_probe, sweep_features
from holdfast.diffusion.paths import LinearPath


class _Planted(nn.Module):
    """Block 2 shows the (noisy) input as it is; block 1 shows noise, block 3 a constant."""

    depth = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.passes = 0

    def forward(self, x, t, y=None, *, taps=(), stop_at=None):
        self.passes += 1
        found = {1: torch.sin(1e4 * x), 2: x * self.scale, 3: torch.zeros_like(x)}
        return Output(None, {b: found[b] for b in taps})


def _model() -> Denoiser:
    return Denoiser(_Planted(), LinearPath())


def _data(n: int = 120, seed: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(n) % 3
    g = torch.Generator().manual_seed(seed)
    centres = torch.eye(3) - 0.5
    return centres[y] + 0.1 * torch.randn(n, 3, generator=g), y


def test_the_planted_block_and_the_least_noise_win() -> None:
    model, (x, y) = _model(), _data()
    grid = sweep_features(model, x, y, times=(0.9, 0.1), bound=None)
    best = grid.best()
    assert (best.t, best.block) == (0.1, 2)
    assert best.score > 0.95
    table = grid.table()
    assert list(table.index) == [1, 2, 3]
    assert list(table.columns) == [0.1, 0.9]
    assert (table.loc[[1, 3]] < 0.6).all(axis=None)
    assert table.loc[2, 0.9] < table.loc[2, 0.1] - 0.2
    assert model.network.passes == 2  # one per time, not one per time and block


def test_a_validation_split_scores_what_the_probe_has_not_seen() -> None:
    (x, y), (x_val, y_val) = _data(), _data(60, seed=101)
    grid = sweep_features(_model(), x, y, times=[0.1], blocks=[2], validation=(x_val, y_val), bound=None)
    assert grid.best().score > 0.95
    wrong = sweep_features(_model(), x, y, times=[0.1], blocks=[2], validation=(x_val, (y_val + 1) % 3), bound=None)
    assert wrong.best().score < 0.05
    assert grid.frame["spread"].isna().all()


def test_quality_map_has_the_order_asked_for() -> None:
    x, y = _data()
    scores = feature_quality_map(_model(), x, y, [2, 1], [0.9, 0.1], probe="ridge", bound=None)
    assert scores.shape == (2, 2)
    assert np.unravel_index(scores.argmax(), scores.shape) == (0, 1)
    frame = sweep_features(_model(), x, y, times=[0.9, 0.1], blocks=[2, 1], probe="ridge", bound=None).table()
    np.testing.assert_array_equal(scores, frame.loc[[2, 1], [0.9, 0.1]])


def test_the_same_seed_gives_the_same_grid() -> None:
    x, y = _data()
    a, b = (sweep_features(_model(), x, y, times=[0.5], bound=None, seed=3).frame for _ in range(2))
    pd.testing.assert_frame_equal(a, b)


def test_heat_map_frames_the_best_cell(tmp_path: Path) -> None:
    x, y = _data()
    grid = sweep_features(_model(), x, y, times=(0.1, 0.9), bound=None)
    tree = ElementTree.parse(grid.save(tmp_path / "grid.svg", title="planted")).getroot()
    *cells, frame = tree.findall("{http://www.w3.org/2000/svg}rect")
    assert len(cells) == 6
    titles = [c[0].text for c in cells]
    best = next(i for i, t in enumerate(titles) if t.startswith("2, 0.1:"))
    assert float(frame.get("x")) == pytest.approx(float(cells[best].get("x")) - 1)


def test_ties_go_to_the_first() -> None:
    frame = pd.DataFrame({"t": [1.0, 2.0], "block": [3, 4], "score": [0.5, 0.5], "spread": [0.0, 0.0]})
    assert FeatureGrid(frame).best() == (1.0, 3, 0.5)


def test_few_labels_has_the_same_number_of_every_class() -> None:
    y = torch.tensor([2, 0, 1, 0, 1, 2, 0, 1, 2, 0])
    rows = few_labels(y, 3, torch.Generator().manual_seed(0))
    assert torch.bincount(y[rows]).tolist() == [3, 3, 3]
    assert len(rows.unique()) == 9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: few_labels(torch.tensor([0, 0, 1]), 2, torch.Generator()), "class 1 has 1 rows"),
        (lambda x, y: sweep_features(_model(), x, y[:-1], times=[0.1]), "lengths differ"),
        (lambda x, y: sweep_features(_model(), x, 0 * y, times=[0.1]), "two classes"),
        (lambda x, y: sweep_features(_model(), x[:7], y[:7], times=[0.1], bound=None), "fewer than the 3 folds"),
        (lambda x, y: sweep_features(_model(), x, y, times=[0.1], folds=1), "folds"),
        (lambda x, y: sweep_features(_model(), x, y, times=[1.5], bound=None), "t must be in"),
        (lambda x, y: sweep_features(_model(), x, y, times=[0.1], blocks=[4]), "numbered from 1 to 3"),
        (lambda x, y: sweep_features(_model(), x, y, times=[0.1], validation=(x, y + 1)), "which y lacks"),
        (lambda x, y: sweep_features(_model(), x, y, times=[0.1], probe="forest", bound=None), "probe"),
        (lambda x, y: sweep_features(_model(), 3 * x, y, times=[0.1]), "must lie in"),
        (lambda x, y: make_probe(C=0.0), "C must be"),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*_data())

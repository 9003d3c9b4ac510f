from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

import holdfast
from holdfast.core.random import generator
from holdfast.distribution.singular import make_space_curve, singularity_report


def noise(n=1000, d=5, seed=100):
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def test_it_is_at_hand_at_the_top():
    assert holdfast.singularity_report is singularity_report


@pytest.mark.parametrize("d", [1, 3, 10])
def test_a_law_with_a_density_raises_no_doubt(d):
    report = singularity_report(noise(d=d))
    assert report.verdict == "no sign"
    assert report.likelihood_is_meaningful
    assert "likelihoods can be compared" in str(report)


def test_dependence_that_leaves_a_density_raises_no_doubt():
    x = noise(d=4)
    x[:, 1] += 0.7 * x[:, 0]
    x = x.exp()
    assert singularity_report(x).verdict == "no sign"


@pytest.mark.parametrize("level", [0.0, 0.001, 0.01])
def test_a_curve_is_seen_through_little_noise(level):
    report = singularity_report(make_space_curve(1000, noise=level, seed=100))
    assert report.verdict == ("singular" if level == 0 else "nearly singular")
    if level < 0.01:  # else the noise shows at the distance of neighbours
        assert report.dimension == pytest.approx(1, abs=0.5)
    assert report.rank == (3 if level == 0 else 10)
    # Two directions of a neighbourhood of a curve at most: along it, and its bend.
    assert float(report.local_spectrum[:2].sum()) > 0.6
    assert "not comparable" in str(report)
    assert report.level == pytest.approx(report.scale * 1000 ** (-1 / (2 + report.dimension)), rel=0.02)


def test_the_verdict_does_not_depend_on_units_or_turns():
    x = make_space_curve(400, noise=0.001, seed=100).double()
    q = torch.linalg.qr(noise(10, 10)).Q
    a, b = singularity_report(x), singularity_report(9 * x @ q + 4)
    assert a.verdict == b.verdict
    assert b.dimension == pytest.approx(a.dimension, abs=1e-3)
    assert b.level == pytest.approx(9 * a.level, rel=1e-3)


def test_exact_relations_copies_and_constants_are_singular_and_named():
    x = noise(500, 3)
    total = singularity_report(torch.cat([x, x.sum(1, keepdim=True)], dim=1))
    assert (total.verdict, total.rank) == ("singular", 3)
    constant = singularity_report(torch.cat([x, torch.full((500, 1), 0.3, dtype=x.dtype)], dim=1))
    assert (constant.verdict, constant.constant) == ("singular", (3,))
    copies = singularity_report(torch.cat([x, x[:50]]))
    assert (copies.verdict, copies.duplicates) == ("singular", 50)
    assert any("50 of 550 rows are copies" in reason for reason in copies.reasons())


def test_columns_of_few_integers_are_counted_as_coded():
    table = pd.DataFrame({"a": noise(200, 1)[:, 0], "site": np.arange(200) % 4})
    assert singularity_report(table).coded == (1,)
    codes = np.random.default_rng(100).integers(0, 30, (40, 6))
    assert singularity_report(codes).verdict == "singular"


def test_digits_have_constant_pixels_and_few_grey_levels():
    report = singularity_report(load_digits().data)
    assert report.verdict == "singular"
    assert len(report.constant) == 3
    assert report.rank == 61
    assert len(report.coded) == 61


def test_columns_of_other_scales_are_mentioned():
    x = noise(200, 3)
    x[:, 0] *= 1000
    report = singularity_report(x)
    assert report.scale_ratio == pytest.approx(1000, rel=0.2)
    assert "differ in scale by a factor" in str(report)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 20 rows, got 5"):
        singularity_report(noise(5))
    x = noise(30)
    x[2, 1] = torch.nan
    with pytest.raises(ValueError, match="row 2, column 1 holds nan"):
        singularity_report(x)
    with pytest.raises(ValueError, match="all rows of X are equal"):
        singularity_report(torch.ones(30, 2))
    with pytest.raises(TypeError, match="these columns do not: name"):
        singularity_report(pd.DataFrame({"a": range(30), "name": ["x"] * 30}))
    with pytest.raises(TypeError, match="must hold numbers"):
        singularity_report(np.array([["a"]] * 30))
    with pytest.raises(ValueError, match=r"must have shape \(n, ...\)"):
        singularity_report(torch.zeros(30))

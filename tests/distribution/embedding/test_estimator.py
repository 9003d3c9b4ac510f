from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from holdfast.distribution.embedding.estimator import DistributionEmbedding
from holdfast.distribution.embedding.judge import fidelity, parts_of

OPTIONS = {"width": 32, "code_dim": 4, "lr": 3e-3, "device": "cpu", "random_state": 100}


def _sets(n=24, m=60, seed=100):
    rng = np.random.default_rng(seed)
    means = rng.uniform(-3, 3, n)
    return [rng.normal((a, 1.0), (0.5, 2.0), (m, 2)) for a in means], means


@pytest.fixture(scope="module")
def fitted():
    sets, means = _sets()
    return DistributionEmbedding(steps=250, **OPTIONS).fit(sets), sets, means


def test_a_table_with_groups_and_a_list_of_sets_are_the_same_data(fitted):
    model, sets, _ = fitted
    group = np.repeat([f"g{i:02d}" for i in range(len(sets))], 60)
    x = np.concatenate(sets)
    order = np.random.default_rng(100).permutation(len(x))
    z = model.transform(sets)
    frame = pd.DataFrame(x[order], columns=["a", "b"]).assign(site=group[order])
    np.testing.assert_allclose(model.transform(x[order], group=group[order]), z, atol=1e-5)
    np.testing.assert_allclose(model.transform(frame, group="site"), z, atol=1e-5)
    np.testing.assert_allclose(model.transform(np.stack(sets)), z, atol=1e-5)


def test_codes_do_not_depend_on_the_number_of_copies_and_sets_may_differ_in_size(fitted):
    model, sets, _ = fitted
    z = model.transform([sets[0], np.repeat(sets[0], 5, axis=0), sets[0][:1]])
    np.testing.assert_allclose(z[1], z[0], atol=1e-5)
    assert z.shape == (3, 4)
    assert np.isfinite(z).all()


def test_samples_of_a_new_set_follow_it_in_the_units_of_the_data(fitted):
    model, _, _ = fitted
    rng = np.random.default_rng(101)
    found = [
        model.resample(model.transform([rng.normal((a, 1.0), (0.5, 2.0), (2000, 2))]), 500, random_state=1)[0]
        for a in (-2.0, 2.0)
    ]
    assert found[0].shape == (500, 2)
    assert found[1][:, 0].mean() - found[0][:, 0].mean() > 2
    assert all(0.5 < y[:, 1].std() / y[:, 0].std() / 4 < 2 for y in found)


def test_codes_between_two_are_on_a_line_and_distances_are_euclidean(fitted):
    model, sets, _ = fitted
    z = model.transform(sets[:3])
    line = model.interpolate(z[0], z[1], 3)
    np.testing.assert_allclose(line, [z[0], (z[0] + z[1]) / 2, z[1]], atol=1e-6)
    np.testing.assert_allclose(model.distance(z), np.linalg.norm(z[:, None] - z[None], axis=-1), atol=1e-5)
    assert model.distance(z, z[:1]).shape == (3, 1)


def test_a_saved_model_gives_the_same_codes_and_samples(fitted, tmp_path):
    model, sets, _ = fitted
    other = DistributionEmbedding.load(model.save(tmp_path / "m.holdfast"))
    z = model.transform(sets)
    np.testing.assert_array_equal(other.transform(sets), z)
    np.testing.assert_array_equal(other.resample(z, 5, random_state=2), model.resample(z, 5, random_state=2))
    assert other.groups_.tolist() == model.groups_.tolist()


@pytest.mark.parametrize("encoder", ["resnet", "gnn", "median", "attention", "kernel-mean", "mean"])
@pytest.mark.parametrize("generator", ["ddpm", "direct", "cvae"])
def test_every_encoder_goes_with_every_generator(encoder, generator):
    sets, _ = _sets(6, 20)
    model = DistributionEmbedding(encoder, generator, steps=2, mix=2, components=1, **OPTIONS).fit(sets)
    assert model.resample(model.transform(sets), 3, random_state=0).shape == (6, 3, 2)
    again = clone(model).fit(sets)
    np.testing.assert_array_equal(again.transform(sets), model.transform(sets))


def test_modules_of_ones_own_are_asked_for_when_loading(tmp_path):
    from holdfast.nn.sets import MeanEncoder

    sets, _ = _sets(6, 20)
    model = DistributionEmbedding(MeanEncoder(2, out_dim=4), steps=2, **OPTIONS).fit(sets)
    path = model.save(tmp_path / "m.holdfast")
    with pytest.raises(ValueError, match="your own encoder MeanEncoder"):
        DistributionEmbedding.load(path)
    other = DistributionEmbedding.load(path, backbone=MeanEncoder(2, out_dim=4))
    np.testing.assert_array_equal(other.transform(sets), model.transform(sets))


def test_fidelity_has_chance_as_its_floor_and_parts_vary_about_the_code(fitted):
    model, sets, _ = fitted
    x, group = np.concatenate(sets), np.repeat(np.arange(len(sets)), 60)
    z = model.transform(sets)
    right = fidelity(model, x, group, z)
    swapped = fidelity(model, x, group, z[::-1])
    mean = {k: [np.mean([r[k] for r in rows]) for rows in (right, swapped)] for k in ("sampled", "real")}
    assert mean["real"][0] < mean["sampled"][0] < mean["sampled"][1]
    parts = parts_of(model, x, group, size=60, parts=5)
    own = np.mean([np.linalg.norm(p - c) for p, c in zip(parts, z)])
    other = np.mean([np.linalg.norm(p - c) for p, c in zip(parts, z[::-1])])
    assert own < other


def test_what_cannot_be_embedded_is_refused(fitted):
    model, sets, _ = fitted
    frame = pd.DataFrame({"a": [1.0, 2.0], "donor": ["x", "y"]})
    with pytest.raises(ValueError, match="no column 'donr'; did you mean 'donor'"):
        DistributionEmbedding().fit(frame, group="donr")
    with pytest.raises(ValueError, match="column 'kind' holds no numbers"):
        DistributionEmbedding().fit(frame.assign(kind=["u", "v"]), group="donor")
    with pytest.raises(ValueError, match=r"one table \(n, d\) needs group"):
        DistributionEmbedding().fit(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="row 1 has no group"):
        DistributionEmbedding().fit(np.zeros((3, 2)), group=np.array(["a", None, "b"], dtype=object))
    with pytest.raises(ValueError, match="at least two sets"):
        DistributionEmbedding().fit([sets[0]])
    with pytest.raises(ValueError, match="there is no encoder 'resnt'; did you mean 'resnet'"):
        DistributionEmbedding("resnt").fit(sets)
    with pytest.raises(ValueError, match="there is no generator 'ddmp'; did you mean 'ddpm'"):
        DistributionEmbedding(generator="ddmp").fit(sets)
    with pytest.raises(ValueError, match="mix=25 sets cannot be taken from a batch of 24"):
        DistributionEmbedding(mix=25).fit(sets)
    with pytest.raises(ValueError, match="points must be finite"):
        DistributionEmbedding().fit([sets[0], np.full((3, 2), np.nan)])
    with pytest.raises(ValueError, match="points must have 2 features as in fit, got 3"):
        model.transform([np.zeros((4, 3))])
    with pytest.raises(ValueError, match="set 0 has no points"):
        model.transform([np.zeros((0, 2))])
    with pytest.raises(ValueError, match=r"codes must have shape \(n, 4\), got \(1, 3\); transform makes codes"):
        model.resample(np.zeros((1, 3)), 2)

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from holdfast.core.random import generator
from holdfast.distribution.subspaces import (
    SubspaceClustering,
    clustering_objective,
    compare_subspaces,
    estimate_dims,
    fit_subspace_denoiser,
    k_subspaces,
    make_subspace_samples,
    recovery,
)
from holdfast.metrics import match_subspaces, subspace_error


def fit(x, dims, **options):
    options = {"steps": 300, "device": "cpu", "seed": 100} | options
    return fit_subspace_denoiser(x, dims, **options)


@pytest.fixture(scope="module")
def two():
    data = make_subspace_samples(24, (4, 4), 40, seed=100)
    return data, fit(data.x, (4, 4))


def test_denoising_with_one_subspace_is_pca_whatever_the_law_of_the_samples():
    # Uniform on a box of unequal sides: not Gaussian, not isotropic, and not of low rank.
    sides = torch.cat([torch.tensor([2.0, 1.6, 1.3]), torch.linspace(0.6, 0.1, 9)])
    x = sides * (2 * torch.rand(400, 12, generator=generator(100)) - 1)
    x = x / x.square().mean().sqrt()
    pca = torch.linalg.svd(x)[2][:3].mT
    assert subspace_error(fit(x, (3,), restarts=1, steps=500).bases[0], pca) < 0.05


def test_two_subspaces_are_found_with_their_samples(two):
    data, found = two
    matching = match_subspaces(data.mixture.bases, found.bases)
    assert max(matching.errors) < 0.05
    assert torch.equal(torch.tensor(matching.permutation)[data.y], found.labels)
    assert found.counts == (40, 40)
    assert found.recovery == ("reliable", "reliable")


def test_denoising_and_clustering_find_the_same_subspaces(two):
    data, found = two
    same = k_subspaces(data.x, (4, 4), generator=generator(100))
    assert max(match_subspaces(found.bases, same.bases).errors) < 0.05
    assert found.objective <= same.objective * (1 + 1e-6)
    assert found.objective == max(found.objectives)


def test_bases_stay_orthonormal_and_the_denoiser_has_them(two):
    data, found = two
    for U, V in zip(found.bases, found.denoiser().bases()):
        assert float((U.mT @ U - torch.eye(4)).abs().max()) < 1e-5
        torch.testing.assert_close(U, V)
    x_t = data.x + 0.1 * torch.randn(data.x.shape, generator=generator(101))
    with torch.no_grad():
        away = found.denoiser()(x_t, 0.1) - data.mixture.posterior_mean(x_t, 1.0, 0.1)
    assert float(away.norm() / data.x.norm()) < 0.05


def test_the_same_seed_gives_the_same_bits_and_the_loss_falls():
    data = make_subspace_samples(12, (2, 3), 30, seed=100)
    a, b = (fit(data.x, (2, 3), steps=60) for _ in range(2))
    assert all(torch.equal(U, V) for U, V in zip(a.bases, b.bases))
    assert a.dims == (2, 3)
    assert a.loss_curve[-1][1] < 0.5 * a.loss_curve[0][1]


def test_too_few_samples_are_said_to_be_too_few_and_they_are():
    data = make_subspace_samples(24, (4,), 2, residual=0.0, seed=100)
    with pytest.warns(UserWarning, match="2 samples for 4 dimensions: with fewer samples than dimensions it cannot"):
        found = fit(data.x, (4,), restarts=1)
    # The two directions that were seen are found, the other two are a guess: at best they were orthogonal by chance.
    assert subspace_error(found.bases[0], data.mixture.bases[0]) > 0.5
    assert found.recovery == ("impossible",)
    assert [recovery(m, 4) for m in (3, 4, 7, 8)] == ["impossible", "erratic", "erratic", "reliable"]


def test_clustering_starts_may_be_used_for_denoising():
    data = make_subspace_samples(12, (3, 3), 30, seed=101)
    found = fit(data.x, (3, 3), restarts=3, steps=20, init="k_subspaces", lr=0.05)
    assert max(match_subspaces(data.mixture.bases, found.bases).errors) < 0.1


def test_warnings_tell_what_is_wrong_with_the_samples():
    x = make_subspace_samples(12, (2, 2), 30, seed=100).x
    with pytest.warns(UserWarning, match="of its root mean square, but subspaces go through 0: centre it"):
        fit(x + 1.0, (2, 2), steps=2)
    with pytest.warns(UserWarning, match="more than half of the noise levels in 0.5..2 hide which subspace"):
        fit(0.5 * x, (2, 2), steps=2, noise_range=(0.5, 2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(x, (2, 2), steps=2)


def test_bad_samples_and_ranges_are_refused():
    x = make_subspace_samples(12, (2, 2), 30, seed=100).x
    with pytest.raises(ValueError, match="a subspace of 12 dimensions has 1 to 11, but dims\\[0\\] is 12"):
        fit(x, (12,))
    with pytest.raises(ValueError, match="dims\\[1\\] is 0"):
        fit(x, (2, 0))
    with pytest.raises(ValueError, match="3 subspaces need at least one sample each, but there are 2 samples"):
        fit(x[:2], (2, 2, 2))
    with pytest.raises(ValueError, match="X must be finite, but row 3"):
        fit(x.clone().index_fill_(0, torch.tensor([3]), math.inf), (2, 2))
    with pytest.raises(ValueError, match="noise_range\\[0\\] must be in \\(0, inf\\), got 0"):
        fit(x, (2, 2), noise_range=(0.0, 0.5))
    with pytest.raises(ValueError, match="noise_range must be \\(lowest, highest\\)"):
        fit(x, (2, 2), noise_range=(0.5, 0.1))
    with pytest.raises(ValueError, match="init must be one of"):
        fit(x, (2, 2), init="pca")
    with pytest.raises(ValueError, match="X must be real numbers of shape"):
        k_subspaces(torch.zeros(3, 4, dtype=torch.long), (1,))


def test_lloyd_never_lowers_the_objective_and_one_subspace_is_pca():
    data = make_subspace_samples(10, (3, 2, 2), 30, residual=0.5, seed=100)
    before = -1.0
    for rounds in (1, 2, 4, 8, 16):
        found = k_subspaces(data.x, (3, 2, 2), n_init=1, max_iter=rounds, generator=generator(100))
        assert found.objective >= before - 1e-6
        before = found.objective
    again, labels = clustering_objective(found.bases, data.x)
    assert again == found.objective
    assert torch.equal(labels, found.labels)
    x = torch.randn(50, 6, generator=generator(101))
    top = torch.linalg.eigvalsh(x.T @ x / 50)[-2:].sum()
    assert k_subspaces(x, (2,)).objective == pytest.approx(float(top), rel=1e-5)


def test_a_subspace_that_lost_its_samples_finds_new_ones():
    data = make_subspace_samples(10, (2, 2), 30, seed=100)
    same = data.mixture.bases[0]
    start = [same, torch.linalg.svd(torch.cat([*data.mixture.bases], 1))[0][:, -2:]]  # orthogonal to all samples
    found = k_subspaces(data.x, (2, 2), start=start)
    assert max(match_subspaces(data.mixture.bases, found.bases).errors) < 0.05


def test_dimensions_are_estimated_with_their_uncertainty():
    data = make_subspace_samples(20, (4, 2), (60, 40), residual=0.2, seed=100)
    found = estimate_dims(data.x, 2, d_max=8, generator=generator(100))
    assert found.dims == (4, 2)
    assert found.counts == (60, 40)
    assert min(found.agreement) > 0.5
    assert min(found.gaps) > 2
    noise = torch.randn(60, 20, generator=generator(101))
    assert estimate_dims(noise, 1, generator=generator(100)).gaps[0] < 2
    with pytest.raises(ValueError, match="dimensions of 2 subspaces need at least 4 samples, got 3"):
        estimate_dims(data.x[:3], 2)


def test_a_moved_subspace_is_seen_and_an_unmoved_one_has_a_uniform_p_value():
    data = make_subspace_samples(8, (2, 2), 40, residual=0.1, seed=100)
    other = make_subspace_samples(8, (2, 2), 40, residual=0.1, seed=101)
    quick = {"steps": 2, "init": "k_subspaces"}
    halves = [fit(data.x[i::2], (2, 2), **quick) for i in (0, 1)]
    g = generator(100)
    assert compare_subspaces(halves[0], fit(other.x, (2, 2), **quick), permutations=19, generator=g).p_value == 0.05
    change = compare_subspaces(*halves, permutations=19, generator=g)
    assert change.p_value > 0.05
    assert change.errors[0] == pytest.approx(float((change.angles[0].sin().square().sum() / 2).sqrt()))
    # The rank of the observed statistic among exchangeable ones is uniform.
    noise = torch.randn(40, 60, 4, generator=generator(102))
    pairs = [[fit(x[:30], (2,), restarts=1, **quick), fit(x[30:], (2,), restarts=1, **quick)] for x in noise[:12]]
    p = [compare_subspaces(*pair, permutations=9, generator=g).p_value for pair in pairs]
    assert 0.25 < float(np.mean(p)) < 0.85  # mean 0.55, standard error 0.08
    with pytest.raises(ValueError, match="fits must have the same dimensions"):
        compare_subspaces(halves[0], pairs[0][0])


def test_the_estimator_clusters_denoises_scores_and_samples(tmp_path):
    data = make_subspace_samples(20, (3, 3), 60, residual=0.2, seed=100)
    x, y = (3 * data.x).numpy(), data.y.numpy()
    model = SubspaceClustering(2, 3, solver="k_subspaces", centre=False, random_state=100).fit(x)
    own = model.labels_ == y
    assert max(own.mean(), 1 - own.mean()) > 0.98
    assert model.noise_ == pytest.approx(3 * 0.2 / math.sqrt(20), rel=0.05)
    assert (model.predict(x) == model.labels_).mean() > 0.98
    for k, U in enumerate(model.mixture_.bases):
        assert float(model.mixture_.law.eigenvalues[k].mean()) == pytest.approx(9, rel=0.4)
        assert U.shape == (20, 3)
    clean, again = data.mixture.sample(200, generator(1)).numpy() * 3, None
    noisy = clean + model.noise_ * np.random.default_rng(0).normal(size=clean.shape)
    assert np.square(model.transform(noisy) - clean).sum() < 0.4 * np.square(noisy - clean).sum()
    elsewhere = np.random.default_rng(1).normal(size=x.shape) * x.std()
    assert model.score(x) > model.score(elsewhere) + 10
    rows, labels = model.sample(500)
    assert rows.shape == (500, 20)
    assert (model.predict(rows) == labels).mean() > 0.95
    assert model.bic(x) < SubspaceClustering(1, 3, solver="k_subspaces", centre=False).fit(x).bic(x)
    again = SubspaceClustering.load(model.save(tmp_path / "subspaces.holdfast"))
    np.testing.assert_array_equal(again.score_samples(x), model.score_samples(x))
    np.testing.assert_array_equal(again.labels_, model.labels_)
    assert again.report() == model.report()
    assert again.get_params() == model.get_params()
    assert clone(model).get_params() == model.get_params()


def test_the_denoising_solver_scales_and_centres_by_itself():
    data = make_subspace_samples(12, (3,), 60, residual=0.01, seed=100)
    x = 50 * data.x.numpy() + 7
    model = SubspaceClustering(1, 3, steps=300, restarts=1, device="cpu", random_state=100).fit(x)
    assert subspace_error(model.mixture_.bases[0], data.mixture.bases[0]) < 0.05
    np.testing.assert_allclose(model.mixture_.mean.numpy(), x.mean(0), rtol=1e-6)
    assert model.report() == "subspace 0: 60 samples, d = 3, N/d = 20: reliable"


def test_the_estimator_refuses_what_it_cannot_fit():
    x = np.random.default_rng(0).normal(size=(10, 4))
    for options, match in (
        ({"n_subspaces": 0}, "n_subspaces must be in"),
        ({"dims": 4}, "dims\\[0\\] is 4"),
        ({"n_subspaces": 2, "dims": (1,)}, "one for each of 2 subspaces"),
        ({"solver": "sparse"}, "solver must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            SubspaceClustering(**options).fit(x)
    with pytest.raises(ValueError, match="X is constant"):
        SubspaceClustering(1, 1).fit(np.ones((5, 3)))
    with pytest.raises(ValueError, match="4 features"):
        SubspaceClustering(1, 2, solver="k_subspaces").fit(x).predict(x[:, :3])


@parametrize_with_checks(
    [SubspaceClustering(1, 1, solver="k_subspaces", random_state=0)],
    expected_failed_checks=lambda _: {"check_clustering": "its clusters are around points, ours along subspaces"},
)
def test_the_conventions_of_scikit_learn_are_kept(estimator, check):
    check(estimator)

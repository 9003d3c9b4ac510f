import numpy as np
import pytest
import torch

from holdfast.metrics import environment_probe, equivariance_error, invariance_error


def _z(n=300, d=6, seed=100):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_independent_representation_is_at_chance_and_a_shifted_one_is_recovered():
    site = np.array(["a", "b", "c"])[np.arange(300) % 3]
    z = _z()
    nothing = environment_probe(z, site)
    assert nothing.chance == pytest.approx(1 / 3)
    # Balanced accuracy of 300 held-out guesses at 1/3 has a standard deviation near 0.027.
    assert abs(nothing.balanced_accuracy - 1 / 3) < 0.09
    everything = environment_probe(z + 20 * (site == "b")[:, None] - 20 * (site == "c")[:, None], site)
    assert everything.balanced_accuracy == 1.0
    assert everything.leakage == 1.0
    assert everything.recall == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_a_rare_environment_weighs_as_much_as_a_common_one():
    site = np.r_[np.zeros(280, int), np.ones(20, int)]
    probe = environment_probe(_z(), site)
    assert abs(probe.balanced_accuracy - 0.5) < 0.15  # always saying 0 would look 93 % right, and is 0.5 here
    assert probe.balanced_accuracy == pytest.approx(np.mean(list(probe.recall.values())))
    assert probe.balanced_accuracy == pytest.approx(np.mean(probe.folds))


def test_probe_reads_two_gaussians_as_well_as_the_bayes_rule():
    site = np.arange(4000) % 2
    z = _z(4000, 3)
    z[:, 0] += 2.0 * site
    from scipy.stats import norm

    assert environment_probe(z, site).balanced_accuracy == pytest.approx(norm.cdf(1.0), abs=0.02)


def test_subsampling_is_even_seeded_and_keeps_rare_environments():
    site = np.r_[np.zeros(5000, int), np.ones(50, int)]
    z = _z(5050)
    z[site == 1] += 10
    a = environment_probe(z, site, max_samples=200, seed=100)
    assert a == environment_probe(z, site, max_samples=200, seed=100)
    assert a.balanced_accuracy > 0.99


def test_probe_is_invariant_to_scale_and_shift_of_features():
    site = np.arange(300) % 2
    z = _z() + site[:, None]
    a, b = environment_probe(z, site), environment_probe(z * np.arange(1, 7) * 100 + 5, site)
    assert a.balanced_accuracy == pytest.approx(b.balanced_accuracy, abs=1e-9)


def test_rotation_equivariant_and_invariant_maps_have_no_error():
    x = torch.as_tensor(_z(20, 2))
    angles = [0.3, 1.2, 2.5]
    turns = [torch.tensor([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles]
    actions = [lambda v, q=q: v @ q.T for q in turns]
    assert invariance_error(lambda v: v.norm(dim=1, keepdim=True), actions, x) < 1e-12
    assert equivariance_error(lambda v: v * v.norm(dim=1, keepdim=True), actions, actions, x) < 1e-12
    assert equivariance_error(lambda v: v.abs(), actions, actions, x) > 0.1


def test_error_of_a_known_deviation():
    x = torch.as_tensor(_z(50, 3))
    # f(gx) = -x and f(x) = x: the gap is 2x, relative to x.
    assert equivariance_error(lambda v: v, torch.neg, lambda v: v, x) == pytest.approx(2)
    centred = x - x.mean(0)
    assert invariance_error(lambda v: v, torch.neg, centred) == pytest.approx(2)


def test_invariance_error_ignores_scale_and_offset_and_is_root_two_for_unrelated_outputs():
    x = torch.as_tensor(_z(4000, 3))
    other = torch.as_tensor(_z(4000, 3, 101))
    e = invariance_error(lambda v: v, lambda v: other, x)
    assert e == pytest.approx(2**0.5, rel=0.03)
    assert invariance_error(lambda v: 5 * v + 100, lambda v: other, x) == pytest.approx(e, rel=1e-9)


def test_a_constant_map_is_invariant_and_no_gradient_is_kept():
    x = torch.as_tensor(_z(5, 3)).requires_grad_()
    assert invariance_error(lambda v: torch.ones(len(v), 2), torch.neg, x) == 0.0
    assert x.grad is None


def test_invariance_refuses_bad_input():
    x = torch.ones(4, 2)
    with pytest.raises(ValueError, match="two environments"):
        environment_probe(_z(10), np.zeros(10, int))
    with pytest.raises(ValueError, match="fewer than the 5 folds"):
        environment_probe(_z(10), [0] * 8 + [1] * 2)
    with pytest.raises(ValueError, match="rows but environment"):
        environment_probe(_z(10), [0, 1])
    with pytest.raises(ValueError, match="finite"):
        environment_probe(_z(10) * np.nan, [0, 1] * 5)
    with pytest.raises(ValueError, match="group elements"):
        equivariance_error(torch.relu, [torch.neg], [torch.neg, torch.neg], x)
    with pytest.raises(ValueError, match="empty sequence"):
        invariance_error(torch.relu, [], x)
    with pytest.raises(ValueError, match="keep their shape"):
        equivariance_error(torch.relu, torch.neg, lambda v: v[:, :1], x)
    with pytest.raises(ValueError, match="not finite"):
        invariance_error(lambda v: v / 0 * 0, torch.neg, x)
    with pytest.raises(ValueError, match="two inputs"):
        invariance_error(torch.relu, torch.neg, x[:1])

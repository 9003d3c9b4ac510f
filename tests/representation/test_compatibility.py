from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from holdfast.nn.simplex import simplex_vertices
from holdfast.representation.compatibility import BCTLoss, FeatureDistillation, HOCLoss


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_hoc_by_hand_on_three_samples_of_two_classes():
    f_new = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    f_old = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y, mu, h = torch.tensor([0, 0, 1]), 2.0, math.sqrt(0.5)
    # Samples 0 and 1 share a class: each has sample 2 as its only negative; sample 2 has both of them.
    first = -mu * 0.0 + mu * 0.8
    second = -mu * 0.0 + mu * 0.6
    third = -mu * 1.4 * h + math.log(2 * math.exp(mu * h))
    expected = (first + second + third) / 3
    assert float(HOCLoss(mu)(f_new, f_old, y)) == pytest.approx(expected, abs=1e-6)


def test_hoc_with_all_labels_different_is_log_sum_exp_over_off_diagonals():
    f_new, f_old = _randn(6, 4), _randn(6, 4, seed=1)
    s = 10 * F.normalize(f_old, dim=1) @ F.normalize(f_new, dim=1).T
    off = s[~torch.eye(6, dtype=torch.bool)].reshape(6, 5)
    expected = (-s.diagonal() + off.logsumexp(1)).mean()
    torch.testing.assert_close(HOCLoss(10.0)(f_new, f_old, torch.arange(6)), expected)
    torch.testing.assert_close(
        HOCLoss(10.0, exclude_same_class=False)(f_new, f_old, torch.zeros(6, dtype=torch.long)), expected
    )


def test_hoc_does_not_see_the_lengths_of_features():
    f_new, f_old, y = _randn(8, 5), _randn(8, 5, seed=1), torch.arange(8) % 3
    scale = torch.rand(8, 1, generator=torch.Generator().manual_seed(2)) * 5 + 0.1
    loss = HOCLoss()
    expected = loss(f_new, f_old, y)
    torch.testing.assert_close(loss(scale * f_new, f_old, y), expected)
    torch.testing.assert_close(loss(f_new, scale * f_old, y), expected)


def test_hoc_is_not_symmetric_and_sends_no_gradient_to_the_old_model():
    f_new, f_old = _randn(8, 5).requires_grad_(), _randn(8, 5, seed=1).requires_grad_()
    y = torch.arange(8) % 3
    loss = HOCLoss()(f_new, f_old, y)
    loss.backward()
    assert f_old.grad is None
    assert f_new.grad.abs().sum() > 0
    assert not torch.isclose(HOCLoss()(f_old, f_new, y), loss)


def test_hoc_falls_when_a_new_feature_moves_to_its_old_one():
    f_old, y = F.normalize(_randn(6, 4, seed=1), dim=1), torch.arange(6)
    negatives = F.normalize(_randn(6, 4), dim=1)

    def first_sample(z):  # the loss of sample 0 alone depends on z by the positive term, negatives stay
        f_new = torch.cat([z[None], negatives[1:]])
        s = 10 * f_old @ F.normalize(f_new, dim=1).T
        whole = HOCLoss()(f_new, f_old, y) * 6
        rest = sum(torch.cat([s[i, :i], s[i, i + 1 :]]).logsumexp(0) - s[i, i] for i in range(1, 6))
        return float(whole - rest)

    path = [F.normalize((1 - t) * negatives[0] + t * f_old[0], dim=0) for t in torch.linspace(0, 1, 11)]
    values = [first_sample(z) for z in path]
    assert all(b < a for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("k", [3, 10, 128])
def test_hoc_of_simplex_vertices_in_closed_form(k):
    w, mu = simplex_vertices(k, dtype=torch.float64), 10.0
    expected = -mu + math.log(k - 1) - mu / (k - 1)
    assert float(HOCLoss(mu)(w, w, torch.arange(k))) == pytest.approx(expected, abs=1e-5)


def test_official_mask_counts_each_left_out_entry_as_one():
    f_new, f_old, y = _randn(6, 4), _randn(6, 4, seed=1), torch.arange(6) % 2
    s = 10 * F.normalize(f_old, dim=1) @ F.normalize(f_new, dim=1).T
    keep = (y[:, None] != y).double()
    expected = (((s * keep).exp()).sum(1).log() - s.diagonal()).mean()
    official = HOCLoss(10.0, official_mask=True)(f_new, f_old, y)
    torch.testing.assert_close(official, expected)
    assert official > HOCLoss(10.0)(f_new, f_old, y)


def test_samples_without_negatives_raise_or_are_skipped():
    f_new, f_old = _randn(4, 3).requires_grad_(), _randn(4, 3, seed=1)
    one = torch.full((4,), 7)
    with pytest.raises(ValueError, match=r"sample 0 has no negatives: .* class 7"):
        HOCLoss()(f_new, f_old, one)
    loss = HOCLoss(no_negatives="skip")(f_new, f_old, one)
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert f_new.grad.abs().sum() == 0


def test_bad_hoc_input_is_named():
    f, y = _randn(4, 3), torch.arange(4)
    with pytest.raises(ValueError, match=r"mu must be in \(0, inf\), got 0"):
        HOCLoss(0)
    with pytest.raises(ValueError, match=r"one shape \(batch, d\), got \(4, 3\) and \(4, 5\)"):
        HOCLoss()(f, _randn(4, 5), y)
    with pytest.raises(ValueError, match="lengths differ: f_new has 4, labels has 3"):
        HOCLoss()(f, f, y[:3])
    zero = f.clone()
    zero[2] = 0
    with pytest.raises(ValueError, match="new features of sample 2 are all zero"):
        HOCLoss()(zero, f, y)
    with pytest.raises(ValueError, match="old features of sample 2 are all zero"):
        HOCLoss()(f, zero, y)


def test_feature_distillation_vanishes_at_the_old_features_and_has_their_geometry():
    f, g = _randn(5, 3), _randn(5, 3, seed=1)
    assert float(FeatureDistillation()(f, f)) == 0.0
    assert float(FeatureDistillation("cosine")(3 * f, f)) == pytest.approx(0.0, abs=1e-12)
    a, b = F.normalize(f, dim=1), F.normalize(g, dim=1)
    assert float(FeatureDistillation()(a, b)) == pytest.approx(2 * float(FeatureDistillation("cosine")(f, g)))
    with pytest.raises(ValueError, match="kind must be one of"):
        FeatureDistillation("l1")


def test_bct_is_the_old_classifiers_cross_entropy_on_known_classes_and_freezes_it():
    head = nn.Linear(4, 3).double()
    f, y = _randn(6, 4).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0])
    loss = BCTLoss(head).train()
    value = loss(f, None, y)
    known = torch.tensor([0, 1, 2, 5])
    torch.testing.assert_close(value, F.cross_entropy(head(f)[known], y[known]))
    value.backward()
    assert head.weight.grad is None
    assert not any(p.requires_grad for p in loss.parameters())
    assert f.grad[3:5].abs().sum() == 0
    assert float(loss(f, None, torch.full((6,), 9)).detach()) == 0.0


def test_cosine_of_independently_spread_stationary_features_is_the_product_of_their_alignments():
    # E cos(new_i, old_j) = rho_new rho_old <w_i, w_j> when each feature is w_y up to isotropic tangent spread.
    g = torch.Generator().manual_seed(3)
    k, n = 8, 40_000
    w = simplex_vertices(k, dtype=torch.float64)

    def features(y, spread):
        tangent = torch.randn(n, k - 1, generator=g, dtype=torch.float64)
        tangent -= (tangent * w[y]).sum(1, keepdim=True) * w[y]
        return F.normalize(w[y] + spread * tangent, dim=1)

    for i, j in ((2, 2), (2, 5)):
        yi, yj = torch.full((n,), i), torch.full((n,), j)
        new, old = features(yi, 0.2), features(yj, 0.5)
        cos = (new * old).sum(1)
        rho_new, rho_old = (new @ w[i]).mean(), (old @ w[j]).mean()
        expected = rho_new * rho_old * (w[i] @ w[j])
        assert abs(float(cos.mean() - expected)) < 3 * float(cos.std()) / math.sqrt(n)

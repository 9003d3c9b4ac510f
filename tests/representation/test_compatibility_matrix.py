from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.nn.network import Network
from holdfast.nn.simplex import FixedSimplexClassifier, simplex_vertices
from holdfast.representation.compatibility_matrix import (
    CompatibilityMatrix,
    check_definition,
    template_accuracy,
)


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _lower(t, diagonal, below):
    c = np.full((t, t), np.nan)
    c[np.tril_indices(t, -1)] = below
    np.fill_diagonal(c, diagonal)
    return c


def test_all_greater_is_one_and_all_equal_or_less_is_zero():
    assert CompatibilityMatrix(_lower(5, 0.5, 0.6)).ac() == 1.0
    assert CompatibilityMatrix(_lower(5, 0.5, 0.5)).ac() == 0.0
    assert CompatibilityMatrix(_lower(5, 0.5, 0.4)).ac() == 0.0


def test_hand_example():
    c = CompatibilityMatrix([[0.4, 0, 0], [0.5, 0.6, 0], [0.4, 0.7, 0.8]])
    # Pairs (1,0) 0.5 > 0.4, (2,0) 0.4 = 0.4 is a tie, (2,1) 0.7 > 0.6.
    assert c.ac() == pytest.approx(2 / 3)
    assert c.aa() == pytest.approx((0.4 + 0.5 + 0.6 + 0.4 + 0.7 + 0.8) / 6)
    np.testing.assert_allclose(c.aa_per_step(), [0.4, 0.5, 3.4 / 6])
    assert c.cross_test() == pytest.approx(1.6 / 3)


def test_a_score_of_zero_counts_in_the_mean():
    assert CompatibilityMatrix([[0.5, np.nan], [0.0, 0.7]]).aa() == pytest.approx(0.4)


def test_one_model_is_compatible_with_a_warning():
    c = CompatibilityMatrix([[0.3]])
    with pytest.warns(UserWarning, match="single model"):
        assert c.ac() == 1.0
    assert c.aa() == pytest.approx(0.3)
    with pytest.raises(ValueError, match="no cross-test"):
        c.cross_test()


def test_bad_matrices_are_named():
    with pytest.raises(ValueError, match=r"must be square, got shape \(2, 3\)"):
        CompatibilityMatrix(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="only the upper triangle is filled"):
        CompatibilityMatrix(_lower(3, 0.5, 0.6).T)
    with pytest.raises(ValueError, match="lower triangle must be finite"):
        CompatibilityMatrix([[0.1, 0.0], [np.nan, 0.3]])


def test_from_embeddings_asks_new_models_on_old_galleries():
    q, g, y = [_randn(6, 4, seed=s) for s in (0, 1)], [_randn(6, 4, seed=s) for s in (2, 3)], torch.arange(6) % 3
    c = CompatibilityMatrix.from_embeddings(q, g, y, y)
    assert c.values[1, 0] == template_accuracy(q[1], g[0], y, y)
    assert c.values[1, 1] == template_accuracy(q[1], g[1], y, y)
    assert np.isnan(c.values[0, 1])
    own = CompatibilityMatrix.from_embeddings(q, g, y, y, score=lambda q, g, yq, yg: float((q @ g.T).sum()))
    assert own.values[0, 0] == pytest.approx(float((q[0] @ g[0].T).sum()))


def test_template_accuracy_is_the_nearest_unit_mean():
    y_g = torch.tensor([5, 5, 8])
    g = torch.tensor([[100.0, 0.0], [0.0, 1.0], [-1.0, 0.1]])
    # Unit features are averaged, so the long first vector does not dominate: template of 5 is at 45 degrees.
    q = torch.tensor([[1.0, 3.0], [-2.0, 0.0]])
    assert template_accuracy(q, g, torch.tensor([5, 8]), y_g) == 1.0
    assert template_accuracy(q, g, torch.tensor([8, 5]), y_g) == 0.0


def test_template_accuracy_refuses_classes_on_one_side_only():
    f, y = torch.eye(3), torch.arange(3)
    with pytest.raises(ValueError, match="class 7 of the queries has no sample in the gallery"):
        template_accuracy(f, f, torch.tensor([0, 1, 7]), y)
    with pytest.raises(ValueError, match="class 2 of the gallery is missing from the queries"):
        template_accuracy(f, f, torch.tensor([0, 1, 1]), y)


def _models(*sizes):
    nets = []
    for k in sizes:
        head = FixedSimplexClassifier(k - 1, k, project=False)
        nets.append(Network(nn.Linear(5, k - 1), head))
    return nets


def test_models_with_other_tables_are_refused_with_both_numbers():
    x, y = _randn(6, 5), torch.arange(6) % 3
    c = CompatibilityMatrix.from_models(_models(8, 8), x, x, y, y)
    assert c.values[0, 0] >= 0.5
    with pytest.raises(ValueError, match=r"model 0 and the model 1 .* of size 8 and 9"):
        CompatibilityMatrix.from_models(_models(8, 9), x, x, y, y)
    a, b = _models(8, 8)
    b.head.vertices.neg_()
    with pytest.raises(ValueError, match="digests are"):
        CompatibilityMatrix.from_models([a, b], x, x, y, y)
    with pytest.raises(ValueError, match="model 0 has 4 dimensions and model 1 has 3"):
        CompatibilityMatrix.from_embeddings([x[:, :4], x[:, :3]], [x[:, :4], x[:, :3]], y, y)
    with pytest.raises(ValueError, match="from the same models, got 2 and 1"):
        CompatibilityMatrix.from_embeddings([x, x], [x], y, y)


def test_a_model_that_tightens_around_the_prototypes_meets_the_definition():
    g = torch.Generator().manual_seed(0)
    k, n = 3, 2400
    w, y = simplex_vertices(k), torch.arange(n) % k

    def features(spread):
        return w[y] + spread * torch.randn(n, k - 1, generator=g)

    loose, loose_gallery, tight = features(0.6), features(0.6), features(0.2)
    better = check_definition(tight, loose, loose_gallery, y, y)
    assert better.holds_in_expectation
    assert better.same_by_class == 1.0
    assert better.other_by_class == 1.0
    worse = check_definition(loose, tight, features(0.2), y, y)
    assert not worse.holds_in_expectation
    assert worse.same_by_class == 0.0


def test_definition_by_hand():
    f_old_g, y_g = torch.eye(2), torch.tensor([0, 1])
    f_old_q, y_q = torch.tensor([[1.0, 1.0]]), torch.tensor([0])
    f_new_q = torch.tensor([[1.0, 0.0]])
    c = check_definition(f_new_q, f_old_q, f_old_g, y_q, y_g)
    assert (c.same_new, c.other_new) == (0.0, 1.0)
    assert c.same_old == pytest.approx(1 - 0.5**0.5)
    assert (c.same_fraction, c.other_fraction) == (1.0, 1.0)
    back = check_definition(f_old_q, f_new_q, f_old_g, y_q, y_g)
    assert (back.same_fraction, back.other_fraction) == (0.0, 0.0)


def test_definition_refuses_what_it_cannot_measure():
    f, y = torch.eye(3), torch.arange(3)
    with pytest.raises(ValueError, match="pairs of equal and pairs of different labels"):
        check_definition(f, f, f, y, y + 10)
    with pytest.raises(ValueError, match="f_new_q holds a feature that is all zero"):
        check_definition(torch.zeros(3, 3), f, f, y, y)
    with pytest.raises(ValueError, match="f_old_q must have 3 columns, got 2"):
        check_definition(f, torch.ones(3, 2), f, y, y)

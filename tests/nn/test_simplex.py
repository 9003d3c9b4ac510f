from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from holdfast.nn.contract import EmbeddingContract, tensor_digest
from holdfast.nn.simplex import FixedSimplexClassifier, simplex_vertices


@pytest.mark.parametrize("k", [2, 3, 10, 128, 1024])
def test_table_is_a_centred_regular_simplex(k):
    w = simplex_vertices(k)
    assert w.shape == (k, k - 1)
    torch.testing.assert_close(w.norm(dim=1), torch.ones(k), atol=1e-6, rtol=0)
    gram = w @ w.T
    off = gram[~torch.eye(k, dtype=torch.bool)]
    assert float((off + 1 / (k - 1)).abs().max()) < 1e-5
    assert float(w.double().mean(0).abs().max()) < 1e-6
    if k <= 128:
        assert torch.linalg.matrix_rank(w.double()) == k - 1


def test_float64_table_is_exact_to_rounding():
    w = simplex_vertices(1024, dtype=torch.float64)
    gram = w @ w.T
    expected = torch.full((1024, 1024), -1 / 1023, dtype=torch.float64).fill_diagonal_(1.0)
    assert float((gram - expected).abs().max()) < 1e-13
    assert torch.linalg.matrix_rank(w) == 1023


def test_two_classes_are_plus_and_minus_one_and_three_a_triangle():
    assert simplex_vertices(2).tolist() == [[1.0], [-1.0]]
    sides = torch.pdist(simplex_vertices(3))
    torch.testing.assert_close(sides, torch.full((3,), math.sqrt(3.0)))


def test_half_precision_is_the_rounded_double_table():
    assert torch.equal(simplex_vertices(2000, dtype=torch.float16), simplex_vertices(2000, dtype=torch.float64).half())


def test_extra_dimensions_keep_all_inner_products():
    w, padded = simplex_vertices(6, dtype=torch.float64), simplex_vertices(6, 9, dtype=torch.float64)
    assert padded.shape == (6, 9)
    torch.testing.assert_close(padded @ padded.T, w @ w.T, atol=1e-15, rtol=0)


def test_cross_entropy_does_not_change_when_table_and_features_rotate():
    g = torch.Generator().manual_seed(0)
    w = simplex_vertices(12)
    f, y = torch.randn(40, 11, generator=g), torch.randint(12, (40,), generator=g)
    q = torch.linalg.qr(torch.randn(11, 11, generator=g)).Q
    torch.testing.assert_close(F.cross_entropy(f @ q @ (w @ q).T, y), F.cross_entropy(f @ w.T, y), atol=1e-5, rtol=0)


def test_loss_vanishes_along_the_prototype_and_the_table_has_no_gradient():
    head = FixedSimplexClassifier(9, 10, project=False)
    y = torch.arange(10)
    losses = [float(F.cross_entropy(head(s * head.prototypes), y)) for s in (1.0, 10.0, 100.0)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 1e-6
    projected = FixedSimplexClassifier(5, 10)
    F.cross_entropy(projected(torch.randn(3, 5)), y[:3]).backward()
    assert projected.vertices.grad is None
    assert "vertices" not in dict(projected.named_parameters())
    assert projected.projection.weight.grad.abs().sum() > 0


def test_own_and_pretraining_labels_map_to_disjoint_rows_by_an_involution():
    own, external = FixedSimplexClassifier(4, 20), FixedSimplexClassifier(4, 20, offset="start")
    y = torch.arange(20)
    assert torch.equal(own.rows(own.rows(y)), y)
    assert torch.equal(external.rows(y), y)
    assert not set(own.rows(torch.arange(8)).tolist()) & set(external.rows(torch.arange(12)).tolist())


def test_logits_are_in_the_order_of_local_labels():
    head = FixedSimplexClassifier(6, 7, project=False)
    f = torch.randn(5, 6)
    y = torch.arange(7)
    torch.testing.assert_close(head(f), (f @ head.vertices.T)[:, head.rows(y)])


def test_claims_travel_in_the_state_dict_and_collisions_are_refused():
    external = FixedSimplexClassifier(4, 10, offset="start")
    external.claim(6, owner="pretraining")
    own = FixedSimplexClassifier(4, 10)
    own.load_state_dict(external.state_dict())
    assert own.claim([0, 1, 2, 3], owner="shop").tolist() == [9, 8, 7, 6]
    own.claim([3], owner="shop")
    assert own.owner_of(5) == "pretraining"
    with pytest.raises(ValueError, match=r"row 5 \(class 4\) belongs to 'pretraining'; 0 of 10 rows are free"):
        own.claim([4], owner="shop")


def test_fewer_dimensions_keep_unit_prototypes_apart_but_not_equiangular():
    head = FixedSimplexClassifier(16, 256, dim=64)
    w = head.vertices
    assert w.shape == (256, 64)
    torch.testing.assert_close(w.norm(dim=1), torch.ones(256))
    off = (w @ w.T)[~torch.eye(256, dtype=torch.bool)]
    # Random directions: cosines of standard deviation 1/sqrt(64), 4.5 of them reached over 32,640 pairs.
    assert abs(float(off.mean()) + 1 / 255) < 0.01
    assert float(off.std()) == pytest.approx(1 / 8, rel=0.1)
    assert head.contract == FixedSimplexClassifier(16, 256, dim=64).contract
    assert head.contract != FixedSimplexClassifier(16, 256).contract


def test_bad_heads_are_refused():
    with pytest.raises(ValueError, match=r"n_classes must be in \[2, inf\), got 1"):
        simplex_vertices(1)
    with pytest.raises(ValueError, match="needs dim >= 4, got 3"):
        simplex_vertices(5, 3)
    with pytest.raises(ValueError, match=r"table's 9 entries .* got in_dim=8"):
        FixedSimplexClassifier(8, 10, project=False)
    with pytest.raises(ValueError, match="inputs with 8 entries, got 7"):
        FixedSimplexClassifier(8, 10)(torch.zeros(1, 7))
    with pytest.raises(ValueError, match="claims class 10, but the table has 10 rows"):
        FixedSimplexClassifier(8, 10).claim(11, owner="shop")
    with pytest.raises(ValueError, match="1 to 32 bytes"):
        FixedSimplexClassifier(8, 10).claim(1, owner="")


def test_contract_names_both_sizes_and_both_digests():
    a, b = FixedSimplexClassifier(4, 10), FixedSimplexClassifier(4, 12)
    a.contract.check(FixedSimplexClassifier(99, 10, offset="start").contract)
    with pytest.raises(ValueError, match=r"the old model and the new model .* of size 10 and 12"):
        a.contract.check(b.contract, names=("old model", "new model"))
    rotated = FixedSimplexClassifier(4, 10)
    rotated.vertices.copy_(rotated.vertices.flip(1))
    with pytest.raises(ValueError, match=r"digests are [0-9a-f]{16}… and [0-9a-f]{16}…"):
        a.contract.check(rotated.contract)
    with pytest.raises(ValueError, match="kinds are 'simplex' and 'relative'"):
        a.contract.check(EmbeddingContract("relative", 10, "ab"))
    assert EmbeddingContract.from_dict(a.contract.to_dict()) == a.contract


def test_digest_sees_shape_and_value_but_not_precision():
    x = torch.arange(6.0)
    assert tensor_digest(x) == tensor_digest(x.double())
    assert tensor_digest(x) != tensor_digest(x.reshape(2, 3))
    assert tensor_digest(x) != tensor_digest(x + 1)

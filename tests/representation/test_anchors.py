from __future__ import annotations

import json

import pytest
import torch

from holdfast.representation.anchors import AnchorSet


def _gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("method", ["uniform", "stratified", "fps", "kmeans", "first"])
def test_every_method_draws_k_different_rows_and_repeats_with_its_generator(method):
    z = torch.randn(120, 5, generator=_gen(1))
    labels = torch.arange(120) % 4
    draws = [AnchorSet.sample(z, 40, method, labels=labels, generator=_gen(s)).indices for s in (0, 0)]
    assert torch.equal(*draws)
    assert len(torch.unique(draws[0])) == 40
    assert 0 <= int(draws[0].min()) <= int(draws[0].max()) < 120


def test_stratified_prefixes_stay_balanced():
    labels = torch.tensor([7] * 50 + [3] * 20 + [9] * 30)
    picked = labels[AnchorSet.sample(100, 30, "stratified", labels=labels, generator=_gen()).indices]
    for k in (3, 12, 30):
        assert torch.bincount(picked[:k], minlength=10)[[3, 7, 9]].tolist() == [k // 3] * 3


def test_farthest_points_spread_at_least_as_wide_as_any_other_point_is_near():
    # Gonzalez' bound: all chosen points are at least as far apart as the farthest point is from the chosen ones.
    z = torch.randn(200, 3, generator=_gen(2))
    chosen = AnchorSet.sample(z, 15, "fps", generator=_gen()).indices
    apart = torch.pdist(z[chosen]).min()
    cover = torch.cdist(z, z[chosen]).min(1).values.max()
    assert apart >= cover


def test_farthest_points_work_with_duplicates():
    z = torch.zeros(6, 2)
    assert sorted(AnchorSet.sample(z, 6, "fps", generator=_gen()).indices.tolist()) == list(range(6))


def test_kmeans_visits_every_cluster_before_any_again():
    centres = 100 * torch.randn(8, 4, generator=_gen(3))
    z = centres.repeat_interleave(10, 0) + torch.randn(80, 4, generator=_gen(4))
    picked = AnchorSet.sample(z, 24, "kmeans", n_clusters=8, generator=_gen()).indices // 10
    for block in picked.split(8):
        assert sorted(block.tolist()) == list(range(8))


def test_same_items_same_contract_other_items_other_contract():
    x = torch.randn(50, 3, generator=_gen(5))
    a = AnchorSet.sample(50, 10, generator=_gen()).of(x)
    shuffled_data = x.flip(0)
    same = AnchorSet(49 - a.indices).of(shuffled_data)
    assert same.contract == a.contract
    other_order = AnchorSet(a.indices.flip(0)).of(x)
    with pytest.raises(ValueError, match="digests are"):
        a.contract.check(other_order.contract)


def test_parallel_lists_share_the_contract_and_must_pair_up():
    a = AnchorSet(torch.tensor([4, 2, 7]), torch.randn(3, 5, generator=_gen()))
    b = a.parallel(torch.tensor([0, 1, 2]), torch.randn(3, 9, generator=_gen(1)))
    assert b.contract == a.contract
    with pytest.raises(ValueError, match="pair one to one, got 3 and 2"):
        a.parallel(torch.tensor([0, 1]))


def test_json_round_trip_keeps_order_and_contract_and_checks_the_inputs():
    x = torch.randn(20, 3, generator=_gen())
    a = AnchorSet.sample(20, 5, generator=_gen(1)).of(x)
    stored = json.loads(json.dumps(a.to_dict()))
    assert AnchorSet.from_dict(stored).contract == a.contract
    again = AnchorSet.from_dict(stored, x[a.indices])
    assert torch.equal(again.indices, a.indices)
    assert again.contract == a.contract
    parallel = a.parallel(torch.arange(5), x[:5])
    assert AnchorSet.from_dict(parallel.to_dict(), x[:5]).contract == a.contract
    with pytest.raises(ValueError, match=r"stored anchors and the given inputs .* digests"):
        AnchorSet.from_dict(stored, x[a.indices] + 1)


def test_bad_input_is_named():
    labels = torch.arange(20) % 3
    with pytest.raises(ValueError, match=r"k must be in \[1, inf\), got 0"):
        AnchorSet.sample(20, 0)
    with pytest.raises(ValueError, match="k=21 anchors cannot be drawn from 20 samples"):
        AnchorSet.sample(20, 21)
    with pytest.raises(ValueError, match="positive multiple of the 3 classes, got k=10"):
        AnchorSet.sample(20, 10, "stratified", labels=labels)
    with pytest.raises(ValueError, match="positive multiple of the 3 classes, got k=2"):
        AnchorSet.sample(20, 2, "stratified", labels=labels)
    with pytest.raises(ValueError, match="5 anchors per class wanted, but class 1 has only 2"):
        AnchorSet.sample(20, 10, "stratified", labels=torch.tensor([0] * 18 + [1] * 2))
    with pytest.raises(ValueError, match="one label for each of the 20 samples, got none"):
        AnchorSet.sample(20, 3, "stratified")
    with pytest.raises(ValueError, match="'fps' needs the embeddings"):
        AnchorSet.sample(20, 3, "fps")
    with pytest.raises(ValueError, match="embeddings must be finite"):
        AnchorSet.sample(torch.full((5, 2), torch.inf), 3, "fps")
    with pytest.raises(ValueError, match="non-empty list"):
        AnchorSet(torch.empty(0, dtype=torch.long))
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        AnchorSet(torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="2 anchor indices, but 3 inputs"):
        AnchorSet(torch.tensor([0, 1]), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="anchor index 9 lies beyond the 5 samples"):
        AnchorSet(torch.tensor([9])).of(torch.zeros(5, 2))
    with pytest.warns(UserWarning, match="1 of 3 anchor indices are duplicates"):
        AnchorSet(torch.tensor([1, 2, 1]))

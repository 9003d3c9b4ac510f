import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors
from torchmetrics.retrieval import (
    RetrievalHitRate,
    RetrievalMAP,
    RetrievalMRR,
    RetrievalPrecision,
    RetrievalRecall,
)

from holdfast.metrics import (
    hit_at_k,
    label_hits,
    mean_average_precision,
    mrr,
    nearest_neighbours,
    precision_at_k,
    recall_at_k,
    relevant_counts,
    top1,
)


def _rng(seed=100):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("metric", "peer"), [("cosine", "cosine"), ("l2", "euclidean")])
@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_neighbours_agree_with_scikit_learn_whatever_the_chunk(metric, peer, chunk):
    q, g = _rng().normal(size=(23, 5)), _rng(101).normal(size=(40, 5))
    found = nearest_neighbours(q, g, 6, metric, chunk=chunk)
    d, i = NearestNeighbors(n_neighbors=6, metric=peer, algorithm="brute").fit(g).kneighbors(q)
    assert np.array_equal(found.indices.numpy(), i)
    np.testing.assert_allclose(found.distances.numpy(), d, atol=1e-10)


def test_l2_ranking_of_unit_vectors_equals_cosine_ranking():
    q = torch.nn.functional.normalize(torch.as_tensor(_rng().normal(size=(20, 6))), dim=1)
    g = torch.nn.functional.normalize(torch.as_tensor(_rng(101).normal(size=(30, 6))), dim=1)
    assert torch.equal(nearest_neighbours(q, g, 30, "l2").indices, nearest_neighbours(q, g, 30).indices)


def test_l2_distance_survives_a_large_common_shift():
    q, g = _rng().normal(size=(10, 3)), _rng(101).normal(size=(15, 3))
    near, far = nearest_neighbours(q, g, 4, "l2"), nearest_neighbours(q + 1e4, g + 1e4, 4, "l2")
    assert torch.equal(near.indices, far.indices)
    torch.testing.assert_close(near.distances, far.distances, atol=1e-9, rtol=0)


def test_exclude_self_returns_the_neighbours_after_the_first():
    x = _rng().normal(size=(31, 4))
    with_self = nearest_neighbours(x, x, 5, "l2").indices
    assert torch.equal(with_self[:, 0], torch.arange(31))
    assert torch.equal(nearest_neighbours(x, x, 4, "l2", exclude_self=True, chunk=10).indices, with_self[:, 1:])


def test_float32_input_stays_float32():
    assert nearest_neighbours(torch.eye(3), torch.eye(3), 1).distances.dtype == torch.float32


def test_map_hand_example():
    assert mean_average_precision([[1, 0, 1]], k=3) == pytest.approx((1 + 2 / 3) / 3)
    assert mean_average_precision([[1, 0, 1]], k=3, denominator="hits") == pytest.approx((1 + 2 / 3) / 2)
    assert mean_average_precision([[1, 0, 1]], 3, denominator="relevant", n_relevant=[2]) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    assert mean_average_precision([[1, 0, 1]], 3, denominator="relevant", n_relevant=[9]) == pytest.approx(
        (1 + 2 / 3) / 3
    )


def test_perfect_list_scores_one_and_empty_list_zero():
    ones, zeros = np.ones((4, 6)), np.zeros((4, 6))
    for metric in (mean_average_precision, mrr, hit_at_k, top1, precision_at_k):
        assert metric(ones) == 1.0
        assert metric(zeros) == 0.0


def test_ranked_list_metrics_agree_with_torchmetrics():
    rng = _rng()
    n, m, k = 12, 20, 7
    relevant = rng.random((n, m)) < 0.3
    relevant[:, 3] = True
    scores = rng.uniform(0.01, 1, size=(n, m))  # torchmetrics ignores items with scores below 0
    hits = np.take_along_axis(relevant, np.argsort(-scores, axis=1), axis=1)
    t = [torch.as_tensor(a.ravel()) for a in (scores, relevant, np.repeat(np.arange(n), m))]
    peers = {
        RetrievalMAP(top_k=k): mean_average_precision(hits, k, denominator="hits"),
        RetrievalMAP(): mean_average_precision(hits, denominator="relevant", n_relevant=relevant.sum(1)),
        RetrievalMRR(top_k=k): mrr(hits, k),
        RetrievalPrecision(top_k=k): precision_at_k(hits, k),
        RetrievalRecall(top_k=k): recall_at_k(hits, relevant.sum(1), k),
        RetrievalHitRate(top_k=k): hit_at_k(hits, k),
    }
    for peer, ours in peers.items():
        assert ours == pytest.approx(float(peer(t[0], t[1], indexes=t[2])), abs=1e-6)


def test_map_of_whole_lists_is_mean_average_precision_of_scikit_learn():
    rng = _rng(102)
    scores, relevant = rng.normal(size=(9, 15)), rng.random((9, 15)) < 0.4
    relevant[:, 0] = True
    hits = np.take_along_axis(relevant, np.argsort(-scores, axis=1), axis=1)
    expected = np.mean([average_precision_score(r, s) for r, s in zip(relevant, scores)])
    assert mean_average_precision(hits, denominator="hits") == pytest.approx(expected, abs=1e-12)


def test_hits_and_class_sizes_from_labels_of_any_kind():
    gallery, query = np.array(["a", "b", "a"]), np.array(["a", "b"])
    assert label_hits(query, gallery, torch.tensor([[0, 1, 2], [0, 1, 2]])).tolist() == [
        [True, False, True],
        [False, True, False],
    ]
    assert relevant_counts(query, gallery).tolist() == [2, 1]
    assert relevant_counts(torch.tensor([7, 5]), torch.tensor([5, 5, 5])).tolist() == [0, 3]


def test_retrieval_refuses_bad_input():
    with pytest.raises(ValueError, match="columns"):
        nearest_neighbours(np.ones((2, 3)), np.ones((2, 4)), 1)
    with pytest.raises(ValueError, match="k must be in"):
        nearest_neighbours(np.ones((2, 3)), np.ones((2, 3)), 3)
    with pytest.raises(ValueError, match="k must be in"):
        nearest_neighbours(np.eye(2), np.eye(2), 2, exclude_self=True)
    with pytest.raises(ValueError, match="row 1"):
        nearest_neighbours(np.eye(2), np.array([[1.0, 0.0], [0.0, 0.0]]), 1)
    with pytest.raises(ValueError, match="finite"):
        nearest_neighbours(np.array([[np.nan, 1.0]]), np.eye(2), 1)
    with pytest.raises(ValueError, match="metric"):
        nearest_neighbours(np.eye(2), np.eye(2), 1, "dot")
    with pytest.raises(ValueError, match="0 or 1"):
        mrr([[2, 0]])
    with pytest.raises(ValueError, match="n_relevant"):
        mean_average_precision([[1, 0]], denominator="relevant")
    with pytest.raises(ValueError, match="at least the hits"):
        recall_at_k([[1, 1]], [1])
    with pytest.raises(ValueError, match="k must be in"):
        precision_at_k([[1, 1]], 3)

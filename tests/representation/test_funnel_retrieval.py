from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from holdfast.metrics.retrieval import nearest_neighbours
from holdfast.representation.funnel_retrieval import AdaptiveRetriever
from holdfast.representation.inner_product_search import InnerProductTable

DIMS = [4, 8, 16]


def _vectors(n: int, d: int = 16, seed: int = 0) -> torch.Tensor:
    """Return vectors whose later coordinates are smaller, as nested training leaves them."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng) * torch.exp(-torch.arange(d) / 5)


DB, Q = _vectors(700), _vectors(23, seed=1)


@pytest.mark.parametrize("n", [5, 63, 64, 65, 4000, 40_001])
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("with_bias", [False, True])
def test_block_search_finds_the_largest_inner_products(n: int, k: int, with_bias: bool) -> None:
    x, q = _vectors(n, 6), _vectors(9, 6, seed=2)
    bias = -x.square().sum(1) / 2 if with_bias else None
    scores, rows = InnerProductTable(x, bias).top(q, k)
    expected = (q @ x.T + (0 if bias is None else bias)).topk(k, dim=1)
    torch.testing.assert_close(scores, expected.values)
    assert torch.equal(rows, expected.indices)


def test_block_search_on_all_negative_scores_ignores_padding() -> None:
    x = -torch.ones(65, 2) - torch.rand(65, 2, generator=torch.Generator().manual_seed(0))
    scores, rows = InnerProductTable(x).top(torch.ones(1, 2), 65)
    assert sorted(rows[0].tolist()) == list(range(65))
    assert bool(torch.isfinite(scores).all())


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dim", DIMS)
def test_exact_search_agrees_with_brute_force_on_prefixes(metric: str, dim: int) -> None:
    ours = AdaptiveRetriever(DB, DIMS, metric).exact(Q, 10, dim)
    reference = nearest_neighbours(Q[:, :dim], DB[:, :dim], 10, metric)
    assert torch.equal(ours.indices, reference.indices)
    torch.testing.assert_close(ours.distances, reference.distances, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_shortlist_of_everything_equals_exact_search(metric: str) -> None:
    retriever = AdaptiveRetriever(DB, DIMS, metric)
    whole = retriever.search(Q, 4, 16, k_short=700, k=10)
    assert torch.equal(whole.indices, retriever.exact(Q, 10).indices)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_reranking_by_the_same_length_returns_the_head_of_the_shortlist(metric: str) -> None:
    retriever = AdaptiveRetriever(DB, DIMS, metric)
    assert torch.equal(retriever.search(Q, 8, 8, 50, 10).indices, retriever.exact(Q, 50, 8).indices[:, :10])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_funnel_of_one_stage_equals_adaptive_retrieval(metric: str) -> None:
    retriever = AdaptiveRetriever(DB, DIMS, metric)
    funnel, search = retriever.funnel(Q, 4, [16], [50]), retriever.search(Q, 4, 16, 50, 50)
    assert torch.equal(funnel.indices, search.indices)
    assert torch.equal(funnel.distances, search.distances)


def test_funnel_equals_its_definition_step_by_step() -> None:
    unit = [F.normalize(DB[:, :m]) for m in (4, 8, 16)]
    funnel = AdaptiveRetriever(DB, DIMS).funnel(Q, 4, [8, 16], [60, 20], k=5)
    for q, found in zip(Q, funnel.indices):
        rows = torch.arange(700)
        for table, m, size in zip(unit, (4, 8, 16), (700, 60, 20)):
            rows = rows[:size]
            rows = rows[(table[rows] @ F.normalize(q[:m], dim=0)).argsort(descending=True, stable=True)]
        assert torch.equal(found, rows[:5])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_recall_does_not_fall_as_the_shortlist_grows(metric: str) -> None:
    retriever = AdaptiveRetriever(DB, DIMS, metric)
    exact = retriever.exact(Q, 10).indices
    recall = [
        (retriever.search(Q, 4, 16, k_short, 10).indices[:, :, None] == exact[:, None]).sum().item()
        for k_short in (10, 20, 50, 100, 300, 700)
    ]
    assert recall == sorted(recall)
    assert recall[0] < recall[-1] == exact.numel()


def test_ranking_of_unit_vectors_by_distance_equals_ranking_by_cosine() -> None:
    db, q = F.normalize(DB), F.normalize(Q)
    cosine, l2 = AdaptiveRetriever(db, [16]).exact(q, 20), AdaptiveRetriever(db, [16], "l2").exact(q, 20)
    assert torch.equal(cosine.indices, l2.indices)
    torch.testing.assert_close(2 * cosine.distances, l2.distances**2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_length_of_the_query_does_not_change_the_ranking_of_normalised_vectors(metric: str) -> None:
    db = F.normalize(DB)
    retriever = AdaptiveRetriever(db, DIMS, metric)
    scaled = retriever.search(3 * F.normalize(Q), 16, 16, 50, 10)
    assert torch.equal(retriever.search(F.normalize(Q), 16, 16, 50, 10).indices, scaled.indices)


def test_operations_are_counted_exactly() -> None:
    retriever = AdaptiveRetriever(DB, DIMS)
    assert retriever.flops(16) == 700 * 16
    assert retriever.flops(4, [16], [50]) == 700 * 4 + 50 * 16
    assert retriever.flops(4, [8, 16], [60, 20]) == 700 * 4 + 60 * 8 + 20 * 16
    with pytest.warns(UserWarning, match="clipped"):
        assert retriever.flops(4, [16], [1000]) == 700 * 4 + 700 * 16


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_flat_faiss_index_finds_the_same(metric: str) -> None:
    pytest.importorskip("faiss")
    ours, faiss = AdaptiveRetriever(DB, DIMS, metric), AdaptiveRetriever(DB, DIMS, metric, backend="faiss")
    a, b = ours.funnel(Q, 4, [8, 16], [60, 20], k=5), faiss.funnel(Q, 4, [8, 16], [60, 20], k=5)
    assert torch.equal(a.indices, b.indices)
    torch.testing.assert_close(a.distances, b.distances, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.exact(Q, 7).indices, faiss.exact(Q, 7).indices)
    torch.testing.assert_close(ours.exact(Q, 7).distances, faiss.exact(Q, 7).distances, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_graph_index_finds_nearly_the_same(metric: str) -> None:
    pytest.importorskip("faiss")
    exact = AdaptiveRetriever(DB, DIMS, metric).search(Q, 4, 16, 100, 10).indices
    graph = AdaptiveRetriever(DB, DIMS, metric, "faiss-hnsw", hnsw_search=200).search(Q, 4, 16, 100, 10).indices
    assert (exact[:, :, None] == graph[:, None]).sum().item() >= 0.95 * exact.numel()


def test_saved_index_finds_the_same(tmp_path: Path) -> None:
    retriever = AdaptiveRetriever(DB, DIMS)
    again = AdaptiveRetriever.load(retriever.save(tmp_path / "index"))
    a, b = retriever.funnel(Q, 4, [8, 16], [60, 20]), again.funnel(Q, 4, [8, 16], [60, 20])
    assert again.dims == retriever.dims
    assert torch.equal(a.indices, b.indices)
    torch.testing.assert_close(a.distances, b.distances)


def test_missing_or_foreign_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no retrieval index"):
        AdaptiveRetriever.load(tmp_path)
    path = AdaptiveRetriever(DB, DIMS).save(tmp_path)
    text = (path / "index.json").read_text().replace('"format": 1', '"format": 99')
    (path / "index.json").write_text(text)
    with pytest.raises(ValueError, match="another index format"):
        AdaptiveRetriever.load(path)


def test_memory_grows_only_by_the_prefixes_in_use() -> None:
    retriever = AdaptiveRetriever(DB, DIMS)
    before = retriever.nbytes
    retriever.funnel(Q, 4, [8, 16], [60, 20])
    assert before == 700 * 16 * 4
    assert before + 700 * 12 * 4 <= retriever.nbytes <= before + 704 * 13 * 4


def test_accepts_arrays_and_no_queries() -> None:
    retriever = AdaptiveRetriever(DB.numpy().astype(np.float64), DIMS)
    assert torch.equal(retriever.exact(Q.numpy(), 3).indices, AdaptiveRetriever(DB, DIMS).exact(Q, 3).indices)
    assert retriever.search(Q[:0], 4, 16, 50, 3).indices.shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, [8, 16], [50]), "2 lengths, 1 lists"),
        ((4, [8, 16], [50, 50]), "strictly decreasing"),
        ((4, [8, 16], [20, 50]), "strictly decreasing"),
        ((4, [16, 8], [50, 20]), "strictly increasing"),
        ((8, [4], [50]), "not be below the first one, 8"),
        ((4, [12], [50]), r"among the retriever's \[4, 8, 16\]"),
        ((4, [16], [5], 10), "k must not exceed the last shortlist, 5"),
        ((4, [16], [0]), r"shortlists\[0\]"),
    ],
)
def test_wrong_funnels_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveRetriever(DB, DIMS).funnel(Q, *arguments)


def test_shortlist_beyond_the_database_is_clipped_with_a_warning() -> None:
    retriever = AdaptiveRetriever(DB[:30], DIMS)
    with pytest.warns(UserWarning, match="asked for 200 candidates of 30"):
        found = retriever.search(Q, 4, 16, 200, 10)
    assert torch.equal(found.indices, retriever.exact(Q, 10).indices)


def test_wrong_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="q must have 16 columns, got 8"):
        AdaptiveRetriever(DB, DIMS).exact(Q[:, :8], 3)
    bad = DB.clone()
    bad[3, 2] = torch.nan
    with pytest.raises(ValueError, match="db must be finite, but row 3"):
        AdaptiveRetriever(bad, DIMS)
    bad = DB.clone()
    bad[5, :4] = 0
    with pytest.raises(ValueError, match="norm zero in row 5"):
        AdaptiveRetriever(bad, DIMS).search(Q, 4, 16)
    with pytest.raises(ValueError, match="must not exceed"):
        AdaptiveRetriever(DB, [4, 32])
    with pytest.raises(ValueError, match="at least one vector"):
        AdaptiveRetriever(DB[:0], DIMS)

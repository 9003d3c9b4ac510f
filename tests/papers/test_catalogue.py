"""The catalogue is complete, finds what is asked for, and names parts that exist."""

from __future__ import annotations

from importlib import import_module

import pytest

from holdfast import cite
from holdfast.papers import BUILT, UNDESCRIBED, describe, load_paper, papers, search
from holdfast.papers.cite import _entries
from holdfast.shift import ERM, GroupDRO


def test_every_number_is_described_or_kept():
    described = {p.number for p in papers()}
    assert described | set(UNDESCRIBED) == set(range(1, 57))
    assert not described & set(UNDESCRIBED)


def test_every_record_has_its_facts():
    for p in papers():
        assert p.title, p.number
        assert len(p.summary) > 60, p.number
        assert p.keywords, p.number
        assert 2017 < p.year < 2027, p.number
        assert p.url.count(".") == 2, p.number


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("truncate embeddings", 27),
        ("stitch encoders of different runs with anchors", 14),
        ("label noise robust loss", 48),
        ("backward compatible retrieval gallery", 12),
        ("pedestrian motion forecasting", 8),
        ("exact counting of objects in generated images", 53),
        ("graph heterophily", 7),
    ],
)
def test_search_finds_by_meaning(query, number):
    assert number in [p.number for p, _ in search(query, limit=3)]


def test_search_ranks_best_first_and_knows_when_nothing_fits():
    scores = [s for _, s in search("diffusion transformer features", limit=8)]
    assert scores == sorted(scores, reverse=True)
    assert search("zzzz qqqq") == []
    with pytest.raises(ValueError, match="empty"):
        search("  ")


def test_built_papers_load_and_their_claims_have_unique_names():
    for number in BUILT:
        paper = load_paper(number)
        assert paper.number == number
        assert paper.state == "built"
        keys = [c.key for c in paper.claims]
        assert len(keys) == len(set(keys))


def test_unknown_and_undescribed_numbers_are_refused():
    with pytest.raises(ValueError, match="not in the catalogue"):
        describe(99)
    with pytest.raises(ValueError, match="not described yet"):
        describe(UNDESCRIBED[0])


def test_every_cited_part_exists():
    for name in _entries():
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name


def test_every_built_paper_gave_parts():
    for number in BUILT:
        assert describe(number).parts, number


def test_cite_by_class_instance_and_part():
    assert cite(GroupDRO) == cite(GroupDRO(step_size=0.1))
    assert "Sagawa" in cite(GroupDRO)
    assert "Gulrajani" in cite(ERM())
    with pytest.raises(ValueError, match="no paper is recorded behind int"):
        cite(3)

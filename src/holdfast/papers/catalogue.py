"""All papers of the field that the library is built from, and the search over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from holdfast.papers.record import Claim, Paper, Scale

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["BUILT", "UNDESCRIBED", "describe", "evidence", "load_paper", "papers", "search"]

BUILT: dict[int, str] = {
    10: "p10_gde",
    11: "p11_distribution_transformer",
    12: "p12_stationary",
    13: "p13_singular_likelihood",
    14: "p14_relative",
    17: "p17_category_modeling",
    19: "p19_composable_inference",
    20: "p20_addp",
    22: "p22_erw",
    23: "p23_rich_representations",
    27: "p27_matryoshka",
    30: "p30_binary_latent",
    36: "p36_repa",
    37: "p37_diti",
    39: "p39_subspace_diffusion",
    41: "p41_sra",
    44: "p44_inset",
    45: "p45_attribute_cvae",
    46: "p46_diffusion_features",
    48: "p48_label_robust",
    49: "p49_masked_diffusion",
    54: "p54_intervention_extrapolation",
}
"""Papers whose experiment can be run, and the module that holds it."""

UNDESCRIBED: tuple[int, ...] = (25, 26, 28, 29, 33, 35, 43, 50, 55)
"""Numbers kept for papers of the field whose facts are not in the catalogue yet."""


@cache
def _facts() -> dict[int, dict[str, Any]]:
    rows = json.loads((files("holdfast.papers") / "catalogue.json").read_text(encoding="utf-8"))
    return {row["number"]: row for row in rows}


def describe(
    number: int,
    *,
    experiment: Callable[[Scale, int], dict[str, float]] | None = None,
    claims: tuple[Claim, ...] = (),
    seeds: int = 5,
) -> Paper:
    """Return the catalogue's record of a paper, with the experiment and the claims that a module adds to it.

    Raises:
        ValueError: for a number that is not in the catalogue.

    Examples:
        >>> describe(27).first_author
        'Kusupati'
    """
    facts = _facts().get(number)
    if facts is None:
        known = ", ".join(map(str, sorted(_facts())))
        what = "has a number but is not described yet" if number in UNDESCRIBED else "is not in the catalogue"
        raise ValueError(f"paper {number} {what}; described are: {known}")
    lists: dict[str, Any] = {k: tuple(facts[k]) for k in ("keywords", "parts")}
    return Paper(**(facts | lists), experiment=experiment, claims=claims, seeds=seeds)


def papers() -> list[Paper]:
    """Return every paper of the catalogue in order of number, without importing any experiment.

    Examples:
        >>> [p.number for p in papers()][:3]
        [1, 2, 3]
    """
    return [describe(n) for n in sorted(_facts())]


def load_paper(number: int) -> Paper:
    """Return a paper with its experiment and claims, where it is built.

    Raises:
        ValueError: for a number that is not in the catalogue.
    """
    if number not in BUILT:
        return describe(number)
    return import_module(f"holdfast.papers.{BUILT[number]}").PAPER


def evidence(number: int, scale: Scale = "small") -> dict[str, Any] | None:
    """Return the recorded evidence of a paper at a scale, or ``None``."""
    name = f"{number:02d}.json" if scale == "small" else f"{number:02d}-{scale}.json"
    path = files("holdfast.papers") / "evidence" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


@cache
def _index() -> tuple[Any, Any, csr_matrix, np.ndarray]:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    texts = [" ".join([p.title, p.title, p.first_author, *p.keywords, p.summary]) for p in papers()]
    # Pieces of words meet across inflections: "truncate" and "truncation", "embedding" and "embeddings".
    words = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 6), sublinear_tf=True)
    tfidf = cast("csr_matrix", words.fit_transform(texts))
    topics = TruncatedSVD(min(24, len(texts) - 1), random_state=0)
    return words, topics, tfidf, np.asarray(normalize(topics.fit_transform(tfidf)))


def search(query: str, limit: int = 10) -> list[tuple[Paper, float]]:
    """Return the papers nearest in meaning to ``query``, best first, with a similarity in [0, 1].

    The score is the mean of the cosine in TF-IDF space (pieces of the words themselves) and in the space of its
    leading singular vectors (latent semantic analysis: words that go together).

    Raises:
        ValueError: for an empty query.

    Examples:
        >>> search("truncate embeddings to shorter prefixes")[0][0].number
        27
    """
    if not query.strip():
        raise ValueError("the query is empty; give words to search for")
    words, topics, tfidf, documents = _index()
    q = words.transform([query])
    if q.nnz == 0:
        return []
    literal = np.asarray((tfidf @ q.T).todense())[:, 0]
    # Not normalised: a query that the topics hardly cover gets little from them.
    latent = documents @ np.asarray(topics.transform(q))[0]
    score = np.clip((literal + latent) / 2, 0, 1)
    all_papers = papers()
    order = np.argsort(-score, kind="stable")[:limit]
    return [(all_papers[i], float(score[i])) for i in order if score[i] > 0.03]

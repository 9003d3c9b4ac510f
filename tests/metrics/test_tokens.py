import math
from types import SimpleNamespace

import pytest
import torch

from holdfast.metrics.ngrams import NGramModel
from holdfast.metrics.tokens import causal_scorer, generative_perplexity, token_entropy


def _tokens(seed=100):
    return torch.randint(0, 4, (30, 50), generator=torch.Generator().manual_seed(seed))


def test_entropy_is_that_of_the_frequencies():
    x = _tokens()
    rows = [torch.special.entr(torch.bincount(row) / 50).sum() for row in x]
    assert token_entropy(x) == pytest.approx(float(torch.stack(rows).mean()), rel=1e-6)
    pooled = torch.special.entr(torch.bincount(x.flatten()) / x.numel()).sum()
    assert token_entropy(x, "corpus") == pytest.approx(float(pooled), rel=1e-6)
    assert token_entropy(x, "corpus") >= token_entropy(x)


def test_entropy_has_its_ends_and_ignores_names_and_order():
    assert token_entropy(torch.full((3, 7), 50_000)) == 0
    assert token_entropy(torch.arange(7).expand(3, 7)) == pytest.approx(math.log(7))
    x = _tokens()
    assert token_entropy(9 - 2 * x, "corpus") == pytest.approx(token_entropy(x.flip(1), "corpus"))


def test_perplexity_is_that_of_the_law_and_of_any_batching():
    x = _tokens()
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    score = causal_scorer(lambda t: logits.expand(*t.shape, 4))
    expected = math.exp(-float(logits[x[:, 1:]].double().mean()))
    for batch_size in (1, 7, 64):
        assert generative_perplexity(score, x, batch_size) == pytest.approx(expected, rel=1e-5)
    wrapped = causal_scorer(lambda t: SimpleNamespace(logits=logits.expand(*t.shape, 4)))
    assert generative_perplexity(wrapped, x) == pytest.approx(expected, rel=1e-5)


def test_a_repeated_token_has_low_perplexity_and_no_entropy():
    x = _tokens()
    reference = NGramModel(x, 4, order=1)
    dull = torch.full_like(x, int(torch.bincount(x.flatten()).argmax()))
    assert generative_perplexity(reference, dull) < generative_perplexity(reference, x)
    assert token_entropy(dull) < token_entropy(x)


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        (lambda x: torch.zeros(len(x)), "scored tokens"),
        (lambda x: torch.zeros(1, 3), "scored tokens"),
        (lambda x: torch.full(x.shape, math.nan), "finite"),
        (lambda x: torch.ones(x.shape), "at most 0; got 1"),
    ],
)
def test_scorers_that_are_none_are_refused(scorer, words):
    with pytest.raises(ValueError, match=words):
        generative_perplexity(scorer, _tokens())


def test_tokens_that_are_none_are_refused():
    for bad in (torch.zeros(3).long(), torch.zeros(0, 3).long(), torch.full((1, 2), -1)):
        with pytest.raises(ValueError, match="tokens must"):
            token_entropy(bad)
    with pytest.raises(TypeError, match="integers"):
        token_entropy(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="mode must be one of"):
        token_entropy(_tokens(), "both")  # pyright: ignore[reportArgumentType]


def test_ngram_laws_sum_to_one_and_score_what_they_say():
    x = _tokens()
    model = NGramModel(x, 5, order=3)  # token 4 is never seen
    history = x[:, :6]
    law = model.law(history)
    torch.testing.assert_close(law.sum(1), torch.ones(30, dtype=torch.float64))
    assert float(law.min()) > 0
    torch.testing.assert_close(model(x[:, :7])[:, -1].exp(), law.gather(1, x[:, 6:7])[:, 0])


def test_bigrams_follow_the_formula():
    text = torch.tensor([0, 1, 0, 1, 0, 2])
    model = NGramModel(text, 3, order=2)
    # Unigrams: 3, 2, 1 of 6 with 3 kinds over the uniform law; after 0: 1 twice, 2 once, 2 kinds.
    first = [(c + 3 / 3) / 9 for c in (3, 2, 1)]
    after_0 = [(c + 2 * p) / 5 for c, p in zip((0, 2, 1), first)]
    assert model.law(torch.tensor([[0]]))[0].tolist() == pytest.approx(after_0)
    assert model.law(torch.tensor([[2]]))[0].tolist() == pytest.approx(first)


def test_a_long_sample_of_a_chain_is_learned():
    g = torch.Generator().manual_seed(100)
    x = [torch.zeros(64, dtype=torch.long)]
    p = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    for _ in range(400):
        x.append(torch.multinomial(p[x[-1]], 1, generator=g)[:, 0])
    model = NGramModel(torch.stack(x, 1), 3, order=3)
    torch.testing.assert_close(model.law(torch.tensor([[0], [1], [2]])).float(), p, atol=0.03, rtol=0)


def test_ngrams_do_not_cross_rows():
    model = NGramModel(torch.tensor([[0, 0], [1, 1]]), 2, order=2)
    assert float(model.law(torch.tensor([[0]]))[0, 0]) > 0.7


def test_bad_ngram_input_is_refused():
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 3\), got 0 to 3"):
        NGramModel(torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match="do not fit 63 bits"):
        NGramModel(torch.tensor([0, 1]), 50_257, order=5)

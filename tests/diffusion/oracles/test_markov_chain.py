import itertools
import math

import pytest
import torch
from scipy import stats

from holdfast.diffusion.oracles.markov_chain import ExactChainDenoiser, MarkovChain


def _chain(vocab=3, seed=100):
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(vocab, vocab, generator=g, dtype=torch.float64) ** 2
    start = torch.rand(vocab, generator=g, dtype=torch.float64)
    return MarkovChain(p / p.sum(1, keepdim=True), start / start.sum())


def _all(vocab, length):
    return torch.tensor(list(itertools.product(range(vocab), repeat=length)))


def test_oracle_equals_bayes_over_all_sequences():
    chain, length = _chain(), 5
    x = _all(3, length)
    p = chain.log_prob(x).exp()
    assert float(p.sum()) == pytest.approx(1)
    seen = torch.randint(0, 4, (60, length), generator=torch.Generator().manual_seed(1))  # 3 is hidden
    seen[0] = 3
    found = ExactChainDenoiser(chain, length=length)(seen).exp()
    for row, law in zip(seen, found):
        weight = p * ((row == 3) | (x == row)).all(1)
        exact = torch.stack([(weight[:, None] * (x == k)).sum(0) for k in range(3)], 1) / weight.sum()
        torch.testing.assert_close(law, exact)


def test_some_positions_are_the_same_as_all():
    model = ExactChainDenoiser(_chain(), length=8)
    seen = torch.randint(0, 4, (20, 8), generator=torch.Generator().manual_seed(1))
    places = torch.tensor([[5, 0]]).expand(20, 2)
    torch.testing.assert_close(model.at(seen, None, places), model(seen)[:, [5, 0]])


def test_entropy_and_pairs_are_those_of_all_sequences():
    chain = _chain()
    x = _all(3, 4)
    logp = chain.log_prob(x)
    assert chain.entropy(4) == pytest.approx(float(-(logp.exp() * logp).sum()))
    pairs = torch.zeros(3, 3, dtype=torch.float64)
    for i in range(3):
        pairs.index_put_((x[:, i], x[:, i + 1]), logp.exp() / 3, accumulate=True)
    torch.testing.assert_close(chain.bigrams(4), pairs)


def test_samples_follow_the_chain():
    chain = _chain()
    x = chain.sample(20_000, 2, torch.Generator().manual_seed(100))
    counts = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9)
    expected = (chain.initial[:, None] * chain.transition).flatten() * 20_000
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_default_start_is_stationary():
    chain = MarkovChain(_chain().transition)
    torch.testing.assert_close(chain.initial @ chain.transition, chain.initial)
    assert MarkovChain.sticky(5, 0.7).initial.tolist() == pytest.approx([0.2] * 5)


def test_an_impossible_transition_stays_impossible():
    model = ExactChainDenoiser(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]))
    law = model(torch.tensor([[0, 3, 2]])).exp()[0, 1]  # 0 -> ? -> 2 leads over 1 alone
    assert law.tolist() == pytest.approx([0, 1, 0])


@pytest.mark.parametrize(
    ("transition", "words"),
    [
        ([[0.5, 0.4], [0.5, 0.5]], "sum to 1 within 1e-6"),
        ([[1.5, -0.5], [0.5, 0.5]], "smallest entry of -0.5"),
        ([[math.nan, 1.0], [0.5, 0.5]], "finite"),
        ([[0.5, 0.5]], "shape"),
    ],
)
def test_what_is_no_chain_is_refused(transition, words):
    with pytest.raises(ValueError, match=words):
        MarkovChain(torch.tensor(transition))


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match="initial must have shape"):
        MarkovChain(torch.eye(2), torch.full((3,), 1 / 3))
    with pytest.raises(ValueError, match="at most 4 tokens, got 5; give length=5"):
        ExactChainDenoiser(_chain(), length=4)(torch.full((1, 5), 3))

import math

import pytest
import torch
from scipy import stats

from holdfast.diffusion.masked.confidence import ConfidenceSampler, hidden_counts, hide_least_confident

V = MASK = 5


def _gen(seed=100):
    return torch.Generator().manual_seed(seed)


class _Recorder:
    """Fixed logits per position; keeps what it was called with."""

    def __init__(self, logits, time_input=False):
        self.logits, self.seen, self.times, self.time_input = logits, [], [], time_input

    def __call__(self, tokens, t=None):
        self.seen.append(tokens.clone())
        self.times.append(t)
        return self.logits.expand(len(tokens), -1, -1)


def _fixed(length, seed=2):
    return torch.randn(length, V, generator=_gen(seed))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_number_hidden_follows_the_schedule_and_known_tokens_stay(schedule):
    length, steps = 11, 6
    model = _Recorder(_fixed(length))
    out = ConfidenceSampler(steps, schedule).sample(model, 40, length, MASK, _gen())
    ratio = math.cos if schedule == "cosine" else None
    for s, tokens in enumerate(model.seen[1:]):
        x = (s + 1) / steps
        share = ratio(math.pi / 2 * x) if ratio else 1 - x
        assert bool(((tokens == MASK).sum(1) == math.ceil(length * share - 1e-6)).all())
    for before, after in zip(model.seen, [*model.seen[1:], out.x]):
        known = before != MASK
        assert torch.equal(before[known], after[known])
    assert out.calls == len(model.seen) == steps
    assert out.draws == sum(int((tokens == MASK).sum()) for tokens in model.seen)
    assert bool((out.x < V).all())


def test_one_step_draws_every_position_from_the_model():
    logits = _fixed(3)
    x = ConfidenceSampler(1).sample(_Recorder(logits), 30_000, 3, MASK, _gen()).x
    for place in range(3):
        counts = torch.bincount(x[:, place], minlength=V)
        assert stats.chisquare(counts, logits[place].double().softmax(0) * 30_000).pvalue > 1e-3
    pair = torch.bincount(V * x[:, 0] + x[:, 2], minlength=V * V).view(V, V)
    assert stats.chi2_contingency(pair).pvalue > 1e-3  # pyright: ignore[reportAttributeAccessIssue]


def test_without_choice_noise_the_least_probable_draws_are_hidden_again():
    logits = _fixed(9)
    model = _Recorder(logits)
    ConfidenceSampler(3, choice_temperature=0.0, temperature=0.0).sample(model, 2, 9, MASK, _gen())
    sure = logits.log_softmax(-1).amax(-1)
    hidden = model.seen[1][0] == MASK
    assert float(sure[hidden].max()) <= float(sure[~hidden].min())


def test_noise_alone_hides_uniformly():
    hidden = torch.ones(20_000, 6, dtype=torch.bool)
    again = hide_least_confident(torch.zeros(20_000, 6), hidden, 2, temperature=1.0, generator=_gen())
    assert bool((again.sum(1) == 2).all())
    assert stats.chisquare(again.sum(0)).pvalue > 1e-3


def test_prompts_of_different_lengths_are_kept_and_filled():
    prompt = torch.full((3, 8), MASK)
    prompt[0, :7], prompt[1, 2] = 1, 3
    for steps in (1, 4, 20):
        out = ConfidenceSampler(steps).sample(_Recorder(_fixed(8)), 3, 8, MASK, _gen(), prompt=prompt)
        given = prompt != MASK
        assert torch.equal(out.x[given], prompt[given])
        assert bool((out.x < V).all())


def test_top_p_draws_from_the_smallest_set_that_holds_it():
    logits = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]).log().expand(1, -1)
    x = ConfidenceSampler(1, top_p=0.7).sample(_Recorder(logits), 20_000, 1, MASK, _gen()).x
    counts = torch.bincount(x.flatten(), minlength=V)
    assert counts[2:].sum() == 0
    assert stats.chisquare(counts[:2], torch.tensor([4 / 7, 3 / 7], dtype=torch.float64) * 20_000).pvalue > 1e-3


def test_a_model_that_reads_time_gets_the_share_hidden():
    model = _Recorder(_fixed(4), time_input=True)
    ConfidenceSampler(2, "linear").sample(model, 2, 4, MASK, _gen())
    assert [t.tolist() for t in model.times] == [[1.0, 1.0], [0.5, 0.5]]


def test_some_tokens_may_stay_hidden():
    assert hidden_counts(16, 20, minimum=1)[-1] == 1
    assert hidden_counts(torch.tensor([0, 4]), 2, "linear", minimum=1).tolist() == [[0, 2], [0, 1]]


def test_bad_input_is_refused():
    model = _Recorder(_fixed(4))
    for options, words in (
        ({"steps": 0}, "steps must be in"),
        ({"steps": 2, "schedule": "square"}, "schedule must be one of"),
        ({"steps": 2, "top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"steps": 2, "top_p": 1.1}, r"top_p must be in \(0, 1\]"),
        ({"steps": 2, "choice_temperature": -1.0}, "choice_temperature must be in"),
        ({"steps": 2, "temperature": -1.0}, "temperature must be in"),
    ):
        with pytest.raises(ValueError, match=words):
            ConfidenceSampler(**options)  # pyright: ignore[reportArgumentType]
    sampler = ConfidenceSampler(2)
    with pytest.raises(ValueError, match=r"outside the vocabulary \[0, 5\)"):
        sampler.sample(model, 1, 4, 4)
    with pytest.raises(ValueError, match="prompt must hold tokens of shape"):
        sampler.sample(model, 1, 4, MASK, prompt=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="prompt must hold tokens in"):
        sampler.sample(model, 1, 4, MASK, prompt=torch.full((4,), -1))
    with pytest.raises(ValueError, match="logits of shape"):
        sampler.sample(model, 1, 6, MASK)
    with pytest.raises(ValueError, match="largest logit"):
        sampler.sample(_Recorder(torch.full((4, V), -math.inf)), 1, 4, MASK)
    with pytest.raises(ValueError, match="confidence must be a number"):
        hide_least_confident(torch.full((1, 2), math.nan), torch.ones(1, 2, dtype=torch.bool), 1)

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.random import generator, isolated_rng
from holdfast.distribution.subsets import (
    CopulaBernoulli,
    MeanFieldSubsetModel,
    ProbabilisticGreedy,
    RandomSubset,
    RecognitionNetwork,
    all_subsets,
    exact_gains,
    exact_lower_bound,
    make_subset_utility,
    membership_loss,
    subset_law,
)

DRAWS = ("shared", "separate")


class Additive(nn.Module):
    """F(S) = sum of the elements' own values."""

    def features(self, V: Tensor) -> Tensor:
        return V

    def score(self, h: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
        return ((masks * valid.unsqueeze(1)).to(h.dtype) @ h).squeeze(-1)


def _model(mode="diffmf", seed=100, **options):
    with isolated_rng(seed):
        make = lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh())  # noqa: E731
        utility = make_subset_utility(make(), 8, head_width=16)
        law = {"ind": "independent", "copula": "copula"}.get(mode)
        recogniser = RecognitionNetwork(make(), 8, hidden=16, law=law) if law else None
        return MeanFieldSubsetModel(utility, recogniser, mode=mode, **options)


@torch.no_grad()
def _sharpen(model):
    """Larger weights, so that what an element adds depends on the others."""
    for p in model.utility.parameters():
        p.mul_(3)


def _batch(n=6, sets=3):
    V = torch.randn(sets, n, 3, generator=generator(101))
    S = torch.zeros(sets, n, dtype=torch.bool)
    S[:, :2] = True
    return V, S


def test_for_an_additive_utility_one_step_gives_the_true_marginals():
    a = torch.randn(2, 8, 1, generator=generator(100), dtype=torch.float64)
    model = MeanFieldSubsetModel(Additive(), mc=1)  # type: ignore[arg-type]
    q = model.marginals(a, generator=generator(101))
    torch.testing.assert_close(q, a.squeeze(-1).sigmoid(), rtol=0, atol=1e-6)
    masks = all_subsets(8)
    law = subset_law(Additive().score(a, masks.expand(2, -1, -1), torch.ones(2, 8).bool()))
    torch.testing.assert_close(law.sum(1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(law @ masks.double(), q, rtol=0, atol=1e-6)


@pytest.mark.parametrize("draws", DRAWS)
def test_the_estimate_of_the_gains_is_unbiased(draws):
    model, (V, _) = _model(mc=1, draws=draws), _batch(n=8, sets=1)
    _sharpen(model)
    with torch.no_grad():
        h, valid = model.utility.features(V), torch.ones(1, 8, dtype=torch.bool)
        q = torch.rand(1, 8, generator=generator(102))
        exact = exact_gains(model.utility.score(h, all_subsets(8)[None], valid), q)
        many = [t.expand(10_000, *t.shape[1:]) for t in (h, q, valid)]
        draws = model.gains(*many, generator=generator(103))
    error = draws.std(0) / 100
    assert (error > 1e-4).all()
    assert ((draws.mean(0) - exact[0]).abs() < 4 * error).all()


def test_gains_of_elements_correlate_where_they_share_the_draws():
    spread = {}
    for draws in DRAWS:
        model, (V, _) = _model(mc=1, draws=draws), _batch(n=8, sets=1)
        _sharpen(model)
        with torch.no_grad():
            many = V.expand(4000, -1, -1)
            h, valid = model.utility.features(many), torch.ones(4000, 8, dtype=torch.bool)
            found = torch.corrcoef(model.gains(h, 0.5 * valid, valid, generator(103)).T)
        spread[draws] = (found - torch.eye(8)).abs().max()
    # 56 sample correlations of independent numbers stay below 5 standard errors.
    assert spread["separate"] < 5 / 4000**0.5 < 2 * 5 / 4000**0.5 < spread["shared"]


@pytest.mark.parametrize("draws", DRAWS)
def test_gains_of_the_elements_that_count_are_what_they_are_beside_the_others(draws):
    model, (V, _) = _model(draws=draws), _batch(n=7, sets=4)
    _sharpen(model)
    h, valid = model.utility.features(V), torch.arange(7) < torch.tensor([[7], [5], [6], [7]])
    q = torch.rand(4, 7, generator=generator(102))
    counted = torch.rand(4, 7, generator=generator(103)) < 0.4
    counted[3] = False
    full = model.gains(h, q, valid, generator(104))
    some = model.gains(h, q, valid, generator(104), counted=counted)
    torch.testing.assert_close(some, full * counted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("steps", [1, 2])
def test_the_loss_has_the_same_gradient_whether_or_not_the_others_are_computed(steps, draws):
    model, (V, S) = _model(steps=steps, draws=draws), _batch()
    counted = S.clone()
    counted[:, 3] = True
    model.energy_loss(V, S, counted=counted, generator=generator(0)).backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    valid, rng = torch.ones_like(S), generator(0)
    h, q = model.utility.features(V), model.initial(V, valid)
    for _ in range(steps):
        logits = model.gains(h, q, valid, rng)
        q = logits.detach().sigmoid()
    membership_loss(logits, S, counted).backward()
    for p, grad in zip(model.parameters(), found):
        torch.testing.assert_close(p.grad, grad)


def _pairwise(n=6):
    rng = generator(100)
    a = torch.randn(n, generator=rng, dtype=torch.float64)
    w = 0.3 * torch.randn(n, n, generator=rng, dtype=torch.float64)
    w = (w + w.T).fill_diagonal_(0) / 2
    masks = all_subsets(n).double()
    return a, w, (masks @ a + (masks @ w * masks).sum(1) / 2)[None]


def test_the_iterated_fixed_point_is_that_of_coordinate_ascent():
    a, w, values = _pairwise()
    q = torch.full((1, 6), 0.5, dtype=torch.float64)
    for _ in range(60):
        q = exact_gains(values, q).sigmoid()
    p = torch.full((6,), 0.5, dtype=torch.float64)
    for _ in range(60):
        for i in range(6):
            p[i] = (a[i] + w[i] @ p).sigmoid()
    torch.testing.assert_close(q[0], p, rtol=0, atol=1e-4)


def test_the_lower_bound_rises_along_coordinates_and_stays_below_the_log_sum():
    _, _, values = _pairwise()
    q = torch.full((1, 6), 0.5, dtype=torch.float64)
    bounds = [float(exact_lower_bound(values, q))]
    for step in range(18):
        q[:, step % 6] = exact_gains(values, q).sigmoid()[:, step % 6]
        bounds.append(float(exact_lower_bound(values, q)))
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(bounds))
    assert bounds[0] < bounds[-1] <= float(values.logsumexp(-1))


def test_more_draws_lower_the_variance_of_a_prediction_in_proportion():
    model, (V, _) = _model(mc=1), _batch(sets=1)
    _sharpen(model)
    many, rng = V.expand(3000, -1, -1), generator(104)
    one = model.mean_marginals(many, n_eval=1, generator=rng).var(0).sum()
    four = model.mean_marginals(many, n_eval=4, generator=rng).var(0).sum()
    assert one > 1e-6
    assert abs(float(one / four) - 4) < 0.6


@pytest.mark.parametrize("mode", ["diffmf", "copula"])
def test_the_same_seed_gives_the_same_marginals_and_another_does_not(mode):
    model, (V, _) = _model(mode), _batch()
    a, b, c = (model.marginals(V, generator=generator(s)) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_elements_that_do_not_count_get_no_gradient():
    logits = torch.randn(2, 5, generator=generator(100), requires_grad=True)
    S = torch.tensor([[True, False, False, False, True]] * 2)
    counted = torch.tensor([[True, True, False, False, True]] * 2)
    membership_loss(logits, S, counted).backward()
    assert logits.grad is not None
    assert (logits.grad[~counted] == 0).all()
    assert (logits.grad[counted] != 0).all()


def test_the_loss_is_finite_where_probabilities_saturate():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = membership_loss(logits, torch.tensor([[False, True]]), torch.ones(1, 2, dtype=torch.bool))
    assert float(loss.detach()) == pytest.approx(400)


@pytest.mark.parametrize("mode", ["ind", "copula"])
def test_each_objective_moves_its_own_part_only(mode):
    for name, moved in (("energy_loss", "utility"), ("elbo", "recogniser")):
        model, (V, S) = _model(mode), _batch()
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        value = model.energy_loss(V, S, generator=generator(0)) if name == "energy_loss" else -model.elbo(V)
        value.backward()
        optimizer.step()
        changed = {k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {moved}


@pytest.mark.parametrize("mode", ["ind", "copula"])
def test_gradients_of_the_joint_loss_are_those_of_the_two_objectives(mode):
    model, (V, S) = _model(mode), _batch()
    model.loss(V, S, generator=generator(0)).backward()
    joint = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    assert joint.keys() == dict(model.named_parameters()).keys()
    model.zero_grad()
    rng = generator(0)
    model.energy_loss(V, S, generator=rng).backward()
    (-model.elbo(V, generator=rng)).backward()
    for k, p in model.named_parameters():
        torch.testing.assert_close(p.grad, joint[k])


def test_independent_copula_entries_have_their_own_probabilities():
    logits = torch.tensor([[-2.0, -0.5, 0.0, 1.5]])
    law = CopulaBernoulli(logits, torch.ones(1, 4), torch.zeros(1, 4, 3))
    n = 20_000
    x = law.rsample(n, generator(100))[0]
    q = logits.sigmoid()[0]
    assert ((x.mean(0) - q).abs() < 4 * (q * (1 - q) / n).sqrt()).all()
    corr = torch.corrcoef(x.T) - torch.eye(4)
    assert corr.abs().max() < 4 / n**0.5


def test_unit_rows_keep_the_probabilities_and_correlate_the_entries():
    logits = torch.tensor([[-1.0, 1.0]])
    factor = torch.tensor([[[0.8], [0.8]]])
    n = 20_000
    x = CopulaBernoulli(logits, torch.full((1, 2), 0.6), factor).rsample(n, generator(100))[0]
    q = logits.sigmoid()[0]
    assert ((x.mean(0) - q).abs() < 4 * (q * (1 - q) / n).sqrt()).all()
    assert float(torch.corrcoef(x.T)[0, 1]) > 0.2


def test_relaxed_samples_become_hard_as_the_temperature_falls_and_carry_gradients():
    logits = torch.randn(2, 6, generator=generator(100), requires_grad=True)
    gaps = []
    for tau in (1.0, 0.1, 1e-4):
        law = CopulaBernoulli(logits, tau=tau)
        soft, hard = (law.rsample(50, generator(101), hard=h) for h in (False, True))
        gaps.append(float((soft - hard).detach().abs().mean()))
        assert set(hard.detach().unique().tolist()) <= {0.0, 1.0}
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3
    CopulaBernoulli(logits, tau=1.0).rsample(5, generator(102)).sum().backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_extreme_copula_noise_gives_finite_gradients():
    logits = torch.zeros(1, 3, requires_grad=True)
    scale = torch.full((1, 3), 100.0, requires_grad=True)
    CopulaBernoulli(logits, scale).rsample(50, generator(100)).sum().backward()
    assert logits.grad is not None
    assert scale.grad is not None
    assert logits.grad.isfinite().all()
    assert scale.grad.isfinite().all()


def test_entropy_is_that_of_independent_entries():
    logits = torch.randn(2, 6, generator=generator(100))
    q = logits.sigmoid()
    expected = torch.special.entr(q) + torch.special.entr(1 - q)
    torch.testing.assert_close(CopulaBernoulli(logits).entropy(), expected)


def test_a_recogniser_with_context_sees_the_ground_set_and_one_without_does_not():
    V, _ = _batch()
    moved = V.clone()
    moved[:, 0] += 1
    for context in (False, True):
        with isolated_rng(100):
            net = RecognitionNetwork(nn.Linear(3, 8), 8, hidden=16, context=context)
        assert bool((net(moved).logits[:, 1:] != net(V).logits[:, 1:]).any()) == context


def test_greedy_is_exact_for_additive_utilities():
    a = torch.randn(3, 7, 1, generator=generator(100))
    valid = torch.arange(7) < torch.tensor([[7], [5], [6]])
    model = MeanFieldSubsetModel(Additive())  # type: ignore[arg-type]
    chosen = model.greedy(a, 3, valid)
    best = a.squeeze(-1).masked_fill(~valid, -9).topk(3).indices
    assert torch.equal(chosen, torch.zeros_like(valid).scatter(1, best, True))
    free = ProbabilisticGreedy(Additive()).predict(a, valid=valid)  # type: ignore[arg-type]
    assert torch.equal(free, (a.squeeze(-1) > 0) & valid)


def test_probabilistic_greedy_gives_the_likelihood_of_a_sequence():
    a = torch.tensor([[[0.3], [-0.2], [1.0]]])
    model = ProbabilisticGreedy(Additive())  # type: ignore[arg-type]
    w = a.flatten().exp()
    first, end = w[2] / (1 + w.sum()), 1 / (1 + w[0] + w[1])
    loss = model.loss(a, torch.tensor([[False, False, True]]))
    torch.testing.assert_close(loss, -(first * end).log())


def test_drawn_sequences_have_the_frequencies_of_the_law():
    a = torch.tensor([[[0.3], [-0.2]]])
    q = ProbabilisticGreedy(Additive(), mc=20_000).marginals(a, generator=generator(100))[0]  # type: ignore[arg-type]
    w = a.flatten().exp()
    total = 1 + w.sum()
    exact = torch.stack(
        [w[0] / total + w[1] / total * w[0] / (1 + w[0]), w[1] / total + w[0] / total * w[1] / (1 + w[1])]
    )
    assert ((q - exact).abs() < 4 * (exact * (1 - exact) / 20_000).sqrt()).all()


def test_probabilistic_greedy_learns_padded_sets():
    V, S = _batch()
    valid = torch.ones_like(S)
    valid[0, 4:] = False
    with isolated_rng(100):
        model = ProbabilisticGreedy(make_subset_utility(nn.Linear(3, 8), 8, head_width=16))
    full = model.loss(V, S, valid, generator=generator(0))
    other = V.clone()
    other[0, 4:] = 9.0
    torch.testing.assert_close(model.loss(other, S, valid, generator=generator(0)), full)
    full.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_random_subsets_have_the_jaccard_index_of_chance():
    V = torch.zeros(4000, 8, 1)
    picked = RandomSubset().predict(V, size=2, generator=generator(100))
    assert (picked.sum(1) == 2).all()
    share = picked.float().mean(0)
    assert ((share - 0.25).abs() < 4 * (0.25 * 0.75 / 4000) ** 0.5).all()


def test_bad_models_are_refused():
    utility = make_subset_utility(nn.Identity(), 3)
    with pytest.raises(ValueError, match=r"steps must be in \[1, inf\)"):
        MeanFieldSubsetModel(utility, steps=0)
    with pytest.raises(ValueError, match="draws must be one of"):
        MeanFieldSubsetModel(utility, draws="one")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mc must be in \[1, inf\)"):
        MeanFieldSubsetModel(utility, mc=0)
    with pytest.raises(ValueError, match="'copula' takes a recogniser, got none"):
        MeanFieldSubsetModel(utility, mode="copula")
    with pytest.raises(ValueError, match="'diffmf' takes no recogniser"):
        MeanFieldSubsetModel(utility, RecognitionNetwork(nn.Identity(), 3))
    with pytest.raises(ValueError, match="needs a recogniser of the law 'independent'"):
        MeanFieldSubsetModel(utility, RecognitionNetwork(nn.Identity(), 3), mode="ind")
    model = MeanFieldSubsetModel(utility)
    with pytest.raises(ValueError, match="no recogniser and no lower bound"):
        model.elbo(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match=r"valid must have shape \(1, 4\)"):
        model.marginals(torch.zeros(1, 4, 3), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="ground sets must have shape"):
        model.marginals(torch.zeros(1, 0, 3))
    with pytest.raises(ValueError, match="tau must be in"):
        CopulaBernoulli(torch.zeros(1, 2), tau=0.0)
    with pytest.raises(ValueError, match="scale must have the shape of logits"):
        CopulaBernoulli(torch.zeros(1, 2), torch.ones(1, 3))

import math

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from holdfast.core.random import generator
from holdfast.shift.adaptive_label_robust import AdaptiveLDR, adaptive_temperature
from holdfast.shift.label_robust import ldr_kl, score_gaps


def draw(n=64, k=5, scale=3.0, seed=100, dtype=torch.float64):
    g = generator(seed)
    f = scale * torch.randn(n, k, generator=g, dtype=dtype)
    return f, torch.randint(k, (n,), generator=g), torch.randperm(n, generator=g)


def kl_to_uniform(gaps, lam):
    p = torch.softmax(gaps / lam[:, None], 1)
    return torch.xlogy(p, gaps.shape[1] * p).sum(1)


@pytest.mark.parametrize("lam0", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("k", [2, 5, 100])
@pytest.mark.parametrize("alpha", [1.05, 2.0, 10.0])
def test_temperature_is_stationary_and_stays_in_its_interval(lam0, k, alpha):
    gaps = torch.cat([score_gaps(*draw(k=k, scale=s)[:2], 0.1) for s in (0.01, 0.3, 3.0, 30.0)])
    lam = adaptive_temperature(gaps, lam0, alpha)
    residual = lam - lam0 * (1 - kl_to_uniform(gaps, lam) / (alpha * math.log(k)))
    assert float(residual.abs().max()) < 1e-5 * max(1.0, lam0)
    assert float(lam.min()) >= lam0 * (1 - 1 / alpha) - 1e-12
    assert float(lam.max()) <= lam0 + 1e-12


@pytest.mark.parametrize("lam0", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("k", [2, 3, 10, 300])
def test_value_is_at_least_the_maximum_over_a_fine_grid(k, lam0):
    # Scales around the temperature are where the objective has several stationary points.
    f = torch.cat([draw(n=32, k=k, scale=s, seed=100 + i)[0] for i, s in enumerate((0.1, 1.0, 3.0, 10.0, 100.0))])
    y, alpha = torch.zeros(len(f), dtype=torch.long), 1.2
    loss = AdaptiveLDR(len(f), k, lam0, alpha, reduction="none").double()
    value = loss(f, y, torch.arange(len(f)))
    a = alpha * math.log(k) / lam0
    grid = torch.linspace(lam0 * 1e-3, 1.5 * lam0, 400).double()
    best = torch.stack([ldr_kl(f, y, float(t), 0.1, "none") - a / 2 * (float(t) - lam0) ** 2 for t in grid]).amax(0)
    assert float((best - value).max()) <= 1e-6 * max(1.0, lam0)


def test_a_second_stationary_point_exists_and_the_higher_one_is_taken():
    # One distant class: the objective has two maxima in temperature; brute force says which is higher.
    found = 0
    for gap in torch.linspace(0.5, 12, 60).double():
        gaps = torch.cat([torch.zeros(30), gap[None]]).double()[None]
        lam0, alpha = 2.0, 1.05
        a = alpha * math.log(31) / lam0
        grid = torch.linspace(lam0 * (1 - 1 / alpha), lam0, 4000).double()
        objective = grid * (torch.logsumexp(gaps / grid[:, None], 1) - math.log(31)) - a / 2 * (grid - lam0) ** 2
        slope = objective.diff().sign()
        found += int((slope.diff() < 0).sum() > 1)
        ours = adaptive_temperature(gaps, lam0, alpha)
        value = ours * (torch.logsumexp(gaps / ours[:, None], 1) - math.log(31)) - a / 2 * (ours - lam0) ** 2
        assert float(value) >= float(objective.max()) - 1e-6
    assert found > 0


def test_huge_alpha_is_the_fixed_temperature_loss():
    f, y, i = draw()
    loss = AdaptiveLDR(64, 5, temperature=1.7, alpha=1e6).double()
    torch.testing.assert_close(loss(f, y, i), ldr_kl(f, y, 1.7, 0.1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalize", ["none", "l1", "softplus_mean"])
def test_gradient_is_the_envelope_gradient(normalize):
    f, y, _ = draw(n=6)
    loss = AdaptiveLDR(6, 5, 1.0, normalize=normalize).double()
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, y, torch.arange(6)), (f,), atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 80.0])
def test_value_is_the_penalised_robust_loss_at_its_temperature(temperature):
    f, y, i = draw()
    loss = AdaptiveLDR(64, 5, temperature, margin=0.4).double()
    value, lam = loss(f, y, i), loss.temperatures[i]
    paid = 2 * math.log(5) / (2 * temperature) * (lam - temperature) ** 2
    torch.testing.assert_close(value, (ldr_kl(f, y, lam, 0.4, "none") - paid).mean())


def test_doubtful_rows_stay_hot_and_confident_rows_reach_the_lower_end():
    f = torch.tensor([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0]])
    loss = AdaptiveLDR(2, 3, 4.0, alpha=2.0, margin=0.0)
    loss(f, torch.tensor([0, 0]), torch.tensor([0, 1]))
    torch.testing.assert_close(loss.temperatures, torch.tensor([4.0, 2.0]))


def test_one_step_is_one_iteration_from_the_stored_temperature_without_margin():
    f, y, i = draw()
    loss = AdaptiveLDR(64, 5, 2.0, solver="one_step", margin=0.3).double()
    stored = torch.linspace(1, 2, 64).double()
    loss.temperatures.copy_(stored)
    loss(f, y, i)
    expected = 2.0 * (1 - kl_to_uniform(f, stored[i]) / (2 * math.log(5)))
    torch.testing.assert_close(loss.temperatures[i], expected)


def test_repeated_one_steps_without_margin_reach_the_exact_solution():
    f, y, i = draw(scale=1.0)
    lagged = AdaptiveLDR(64, 5, 1.0, alpha=4.0, solver="one_step", margin=0.0).double()
    exact = AdaptiveLDR(64, 5, 1.0, alpha=4.0, margin=0.0).double()
    for _ in range(200):
        value = lagged(f, y, i)
    torch.testing.assert_close(value, exact(f, y, i), atol=1e-6, rtol=0)


class Rows(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.full((3,), float(i % 3 == 0)) * torch.tensor([9.0, 0.0, 0.0]), 0, i


def test_shuffled_subset_writes_the_rows_of_the_data_set_behind_it():
    loss = AdaptiveLDR(40, 3, 1.0)
    chosen = list(range(0, 40, 3)) + [1, 4]
    for f, y, index in DataLoader(Subset(Rows(), chosen), 4, shuffle=True, generator=generator(100)):
        loss(f, y, index)
    moved = (loss.temperatures < 0.9).nonzero().squeeze(1).tolist()
    assert moved == list(range(0, 40, 3))


def test_table_is_saved_and_evaluation_leaves_it_alone():
    f, y, i = draw(dtype=torch.float32)
    loss = AdaptiveLDR(64, 5)
    trained = loss(f, y, i)
    other = AdaptiveLDR(64, 5)
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other.temperatures, loss.temperatures)
    before = other.eval().temperatures.clone()
    torch.testing.assert_close(other(f, y, i), trained)
    other(2 * f, y, i)
    torch.testing.assert_close(other.temperatures, before, atol=0, rtol=0)


def call(change):
    f, y, i = draw(dtype=torch.float32)
    args = {"scores": f, "target": y, "index": i} | change(f, y, i)
    return AdaptiveLDR(64, 5)(**args)


@pytest.mark.parametrize(
    ("match", "change"),
    [
        ("index is needed", lambda f, y, i: {"index": None}),
        ("more than once", lambda f, y, i: {"index": i * 0}),
        (r"\[0, 64\)", lambda f, y, i: {"index": i + 1}),
        ("differ in length", lambda f, y, i: {"index": i[:-1]}),
        ("differ in length", lambda f, y, i: {"target": y[:-1]}),
        ("5 columns", lambda f, y, i: {"scores": f[:, :4], "target": y.clamp(max=3)}),
        ("finite", lambda f, y, i: {"scores": f / 0}),
    ],
)
def test_bad_batches_are_refused_by_name(match, change):
    with pytest.raises(ValueError, match=match):
        call(change)


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("alpha", {"alpha": 1.0}),
        ("temperature", {"temperature": 0.0}),
        ("temperature", {"temperature": math.inf}),
        ("margin", {"margin": -1.0}),
        ("solver", {"solver": "newton"}),
        ("normalize", {"normalize": "l2"}),
    ],
)
def test_bad_settings_are_refused_by_name(match, options):
    with pytest.raises(ValueError, match=match):
        AdaptiveLDR(10, 3, **options)


def test_fewer_than_two_classes_or_no_samples_are_refused():
    with pytest.raises(ValueError, match="num_classes"):
        AdaptiveLDR(10, 1)
    with pytest.raises(ValueError, match="num_samples"):
        AdaptiveLDR(0, 3)

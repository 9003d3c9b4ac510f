import math

import pytest
import torch

from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.oracles.empirical import EmpiricalDenoiser
from holdfast.diffusion.paths import LinearPath, VPPath

F64 = torch.float64


def rows(n=7, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def samples(n=5, d=3, seed=1):
    return rows(n, d, seed)


def at(t, n=5):
    return torch.full((n,), float(t), dtype=F64)


@pytest.mark.parametrize("path", [LinearPath(), VPPath()])
def test_one_row_is_returned_whatever_the_sample(path):
    one = rows(1)
    torch.testing.assert_close(EmpiricalDenoiser(one, path).data(samples(), at(0.4)), one.expand(5, 3))


def test_no_noise_gives_the_nearest_row_and_no_signal_the_mean():
    data, x = rows(), samples()
    oracle = EmpiricalDenoiser(data, LinearPath())
    nearest = data[torch.cdist(x, data).argmin(1)]
    torch.testing.assert_close(oracle.data(x, at(0)), nearest)
    torch.testing.assert_close(oracle.data(x, at(1e-4)), nearest)
    torch.testing.assert_close(oracle.data(x, at(1)), data.mean(0).expand(5, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("path", [LinearPath(), VPPath()])
def test_posterior_mean_is_the_weighted_mean_of_the_rows(path):
    data, x, t = rows(), samples(), torch.linspace(0.2, 0.9, 5, dtype=F64)
    alpha, sigma, *_ = path.coefficients(t)
    logits = -(x[:, None] - alpha[:, None, None] * data).square().sum(2) / (2 * sigma.square()[:, None])
    torch.testing.assert_close(EmpiricalDenoiser(data, path).data(x, t), logits.softmax(1) @ data)


@pytest.mark.parametrize("path", [LinearPath(), VPPath()])
def test_score_is_the_gradient_of_the_log_mixture(path):
    data, t = rows(), torch.linspace(0.2, 0.9, 5, dtype=F64)
    oracle = EmpiricalDenoiser(data, path)
    x = samples().requires_grad_()
    alpha, sigma, *_ = path.coefficients(t)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(5, 7, dtype=F64)),
        torch.distributions.Independent(
            torch.distributions.Normal(alpha[:, None, None] * data, sigma[:, None, None].expand(5, 7, 3)), 1
        ),
    )
    log_density = mixture.log_prob(x)
    torch.testing.assert_close(oracle.log_density(x, t), log_density)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    torch.testing.assert_close(oracle.predict(x, t, target="score"), gradient, atol=1e-8, rtol=1e-8)
    (ours,) = torch.autograd.grad(oracle.log_density(x, t).sum(), x)
    torch.testing.assert_close(ours, gradient, atol=1e-8, rtol=1e-8)


def test_targets_agree_by_tweedie_and_the_definition_of_the_path():
    path, x, t = LinearPath(), samples(), torch.linspace(0.2, 0.9, 5, dtype=F64)
    oracle = EmpiricalDenoiser(rows(), path)
    alpha, sigma, dalpha, dsigma = (c[:, None] for c in path.coefficients(t))
    data, noise = oracle.data(x, t), oracle.predict(x, t, target="noise")
    torch.testing.assert_close(alpha * data + sigma * noise, x)
    torch.testing.assert_close(x + sigma.square() * oracle.predict(x, t, target="score"), alpha * data)
    torch.testing.assert_close(oracle.predict(x, t, target="velocity"), dalpha * data + dsigma * noise)


def test_parts_of_any_size_and_images_give_the_same():
    data, x, t = rows(6, 12).view(6, 3, 2, 2), samples(5, 12).view(5, 3, 2, 2), at(0.5)
    whole = EmpiricalDenoiser(data, VPPath()).data(x, t)
    torch.testing.assert_close(EmpiricalDenoiser(data, VPPath(), chunk=1).data(x, t), whole)
    flat = EmpiricalDenoiser(data.flatten(1), VPPath()).data(x.flatten(1), t)
    torch.testing.assert_close(whole.flatten(1), flat)


def test_a_class_conditions_on_its_rows_and_the_null_class_on_nothing():
    data, labels, x, t = rows(), torch.tensor([0, 1, 0, 1, 1, 0, 1]), samples(), at(0.5)
    oracle = EmpiricalDenoiser(data, VPPath(), labels=labels)
    y = torch.tensor([0, 1, 2, 1, 0])
    found = oracle.data(x, t, y)
    for c in (0, 1):
        alone = EmpiricalDenoiser(data[labels == c], VPPath())
        torch.testing.assert_close(found[y == c], alone.data(x, t)[y == c])
        torch.testing.assert_close(oracle.log_density(x, t, torch.full((5,), c)), alone.log_density(x, t))
    torch.testing.assert_close(found[2], oracle.data(x, t)[2])


def test_times_in_steps_may_be_integers():
    oracle, x = EmpiricalDenoiser(rows(), DDPMSchedule(100)), samples()
    t = torch.tensor([0, 20, 50, 80, 99])
    torch.testing.assert_close(oracle.predict(x, t, target="data"), oracle.data(x, t.double()))
    torch.testing.assert_close(oracle.data(x, 50), oracle.data(x, at(50)))


def test_rows_far_from_the_origin_lose_no_precision():
    data = rows(4, 50).float()
    x, t = data[:2] + 0.01, at(0.02, 2).float()
    near = EmpiricalDenoiser(data, LinearPath()).data(0.98 * x, t)
    far = EmpiricalDenoiser(data + 100, LinearPath()).data(0.98 * (x + 100), t) - 100
    torch.testing.assert_close(far, near, atol=1e-3, rtol=0)


def test_draws_have_the_moments_of_the_noised_law():
    data, path = rows(), LinearPath()
    x = EmpiricalDenoiser(data, path).draw(40000, 0.5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean(0), 0.5 * data.mean(0), atol=5 * 1.2 / math.sqrt(40000), rtol=0)
    torch.testing.assert_close(x.var(0), 0.25 * data.var(0, unbiased=False) + 0.25, atol=0.03, rtol=0)


def test_bad_input_is_refused_by_name():
    data, path = rows(), LinearPath()
    oracle = EmpiricalDenoiser(data, path)
    with pytest.raises(TypeError, match=r"data must be a floating tensor, got torch\.int64"):
        EmpiricalDenoiser(torch.zeros(3, 2, dtype=torch.int64), path)
    with pytest.raises(ValueError, match=r"data must have shape \(n, ...\)"):
        EmpiricalDenoiser(torch.zeros(0, 2), path)
    with pytest.raises(ValueError, match="data must be finite, but row 1 holds nan"):
        EmpiricalDenoiser(torch.tensor([[0.0], [math.nan]]), path)
    with pytest.raises(ValueError, match=r"rows' shape \(3,\), got \(2,\)"):
        oracle.data(samples(5, 2), at(0.5))
    with pytest.raises(ValueError, match="one number, or one per sample"):
        oracle.data(samples(), at(0.5, 4))
    with pytest.raises(ValueError, match="target must be one of"):
        oracle.predict(samples(), at(0.5), target="x0")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="y needs labels"):
        oracle.data(samples(), at(0.5), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got 0 to 3"):
        EmpiricalDenoiser(data, path, labels=torch.tensor([0, 1, 3, 1, 1, 0, 1]), num_classes=2)
    with pytest.raises(ValueError, match="every one of the 4 classes needs a row"):
        EmpiricalDenoiser(data, path, labels=torch.tensor([0, 1, 3, 1, 1, 0, 1]))
    labelled = EmpiricalDenoiser(data, path, labels=torch.tensor([0, 1, 0, 1, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"in \[0, 2\], 2 for none"):
        labelled.data(samples(), at(0.5), torch.full((5,), 3))

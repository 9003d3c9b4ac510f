"""The Gaussian oracles agree with regression, with automatic differentiation and with the path's conversions."""

from __future__ import annotations

import pytest
import torch

from holdfast.core.random import generator
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.oracles.gaussian import GaussianMixtureOracle, GaussianOracle
from holdfast.diffusion.paths import CosinePath, LinearPath, VPPath

MEANS = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 0.0, 2.0]], dtype=torch.float64)
ROOTS = torch.tensor(
    [[[1.0, 0, 0], [0.5, 0.7, 0], [0.1, -0.4, 0.3]], [[0.4, 0, 0], [0.3, 1.0, 0], [-0.2, 0.1, 0.8]]],
    dtype=torch.float64,
)
COVARIANCES = ROOTS @ ROOTS.mT
PATHS = [LinearPath(), CosinePath(), VPPath(), DDPMSchedule(100)]
ids = [type(p).__name__ for p in PATHS]


def middle(path, n):
    return torch.linspace(0.1, 0.9, n, dtype=torch.float64) * path.t_max


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize(
    "covariances", [COVARIANCES, torch.diagonal(COVARIANCES, 0, 1, 2), 0.3], ids=["full", "diagonal", "one"]
)
def test_score_is_the_gradient_of_the_log_density(path, covariances):
    oracle = GaussianMixtureOracle(MEANS, covariances, path, weights=torch.tensor([0.3, 0.7]))
    x = torch.randn(7, 3, generator=generator(100), dtype=torch.float64).requires_grad_()
    t = middle(path, 7)
    for y in (None, torch.tensor([0, 1, 2, 0, 1, 2, 0])):
        (gradient,) = torch.autograd.grad(oracle.log_density(x, t, y).sum(), x)
        torch.testing.assert_close(oracle.predict(x, t, y, target="score"), gradient, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_the_four_predictions_are_one(path):
    oracle = GaussianMixtureOracle(MEANS, COVARIANCES, path)
    x = torch.randn(7, 3, generator=generator(101), dtype=torch.float64)
    t = middle(path, 7)
    score = oracle.predict(x, t, target="score")
    for target in ("velocity", "noise", "data"):
        expected = path.convert(score, x, t, "score", target)
        torch.testing.assert_close(oracle.predict(x, t, target=target), expected, atol=1e-8, rtol=1e-8)


def test_data_is_the_linear_regression_of_clean_on_noisy():
    """For Gaussian data the posterior mean is the regression line, whatever the path."""
    path, t = LinearPath(), 0.6
    oracle = GaussianOracle(MEANS[0], COVARIANCES[0], path)
    joint = 0.4 * COVARIANCES[0] @ torch.linalg.inv(0.16 * COVARIANCES[0] + 0.36 * torch.eye(3, dtype=torch.float64))
    x = torch.randn(5, 3, generator=generator(102), dtype=torch.float64)
    torch.testing.assert_close(oracle.predict(x, t, target="data"), MEANS[0] + (x - 0.4 * MEANS[0]) @ joint.mT)


def test_a_label_picks_a_component_and_the_null_label_none():
    path = CosinePath()
    mixture = GaussianMixtureOracle(MEANS, COVARIANCES, path)
    x = torch.randn(4, 3, generator=generator(103), dtype=torch.float64)
    for k in (0, 1):
        alone = GaussianOracle(MEANS[k], COVARIANCES[k], path)
        y = torch.full((4,), k)
        torch.testing.assert_close(mixture.predict(x, 0.4, y), alone.predict(x, 0.4))
        torch.testing.assert_close(mixture.log_density(x, 0.4, y), alone.log_density(x, 0.4))
    null = torch.full((4,), mixture.null_class)
    torch.testing.assert_close(mixture.predict(x, 0.4, null), mixture.predict(x, 0.4))


def test_the_ends_of_a_path_are_finite():
    path = LinearPath()
    oracle = GaussianOracle(MEANS[0], COVARIANCES[0], path)
    x = torch.randn(4, 3, generator=generator(104), dtype=torch.float64)
    torch.testing.assert_close(oracle.predict(x, 0.0, target="data"), x)
    torch.testing.assert_close(oracle.predict(x, 0.0, target="noise"), torch.zeros_like(x))
    torch.testing.assert_close(oracle.predict(x, 1.0, target="data"), MEANS[0].expand(4, 3))
    torch.testing.assert_close(oracle.predict(x, 1.0, target="noise"), x)


def test_samples_have_the_moments_asked_for():
    oracle = GaussianMixtureOracle(MEANS, COVARIANCES, LinearPath(), weights=torch.tensor([1.0, 3.0]))
    n = 40_000
    x = oracle.sample(n, generator(105))
    mean = 0.25 * MEANS[0] + 0.75 * MEANS[1]
    gap = MEANS[0] - MEANS[1]
    cov = 0.25 * COVARIANCES[0] + 0.75 * COVARIANCES[1] + 0.1875 * torch.outer(gap, gap)
    assert float((x.mean(0) - mean).abs().max()) < 5 * float(cov.diagonal().max() / n) ** 0.5
    assert float((x.T.cov() - cov).abs().max()) < 0.1
    second = oracle.sample(2000, generator(106), torch.ones(2000, dtype=torch.long))
    assert float((second.mean(0) - MEANS[1]).abs().max()) < 0.15


def test_images_keep_their_shape():
    oracle = GaussianOracle(torch.zeros(1, 4, 4), 0.25, LinearPath())
    x = torch.randn(3, 1, 4, 4, generator=generator(107))
    assert oracle.predict(x, 0.5).shape == x.shape
    assert oracle.sample(2, generator(108)).shape == (2, 1, 4, 4)


def test_bad_arguments_say_what_is_expected():
    path = LinearPath()
    with pytest.raises(TypeError, match="mean must be a floating tensor"):
        GaussianOracle(3.0, 1.0, path)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="floating"):
        GaussianOracle(torch.tensor([1, 2]), 1.0, path)
    with pytest.raises(ValueError, match="must have shape"):
        GaussianMixtureOracle(torch.zeros(3), 1.0, path)
    with pytest.raises(ValueError, match="negative eigenvalues"):
        GaussianOracle(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), path)
    with pytest.raises(ValueError, match="symmetric"):
        GaussianOracle(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), path)
    with pytest.raises(ValueError, match=r"shape \(1, 2\) or shape \(1, 2, 2\)"):
        GaussianOracle(torch.zeros(2), torch.eye(3), path)
    with pytest.raises(ValueError, match="positive"):
        GaussianMixtureOracle(MEANS, 1.0, path, weights=torch.tensor([0.0, 1.0]))
    oracle = GaussianMixtureOracle(MEANS, 1.0, path)
    x = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3\)"):
        oracle.predict(torch.zeros(2, 4), 0.5)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        oracle.predict(x, 1.5)
    with pytest.raises(ValueError, match="y must lie in"):
        oracle.predict(x, 0.5, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="target must be one of"):
        oracle.predict(x, 0.5, target="flow")  # pyright: ignore[reportArgumentType]

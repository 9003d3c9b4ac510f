"""Laws of the network and its estimator: symmetries, exact maps, calibration."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch.distributions import ExpTransform

from holdfast.distribution import GaussianMixture
from holdfast.distribution.transformer import (
    AmortizedPosterior,
    DistributionTransformer,
    InferenceProblem,
    InverseGammaMetaPrior,
    LinearObservation,
    MappedMixture,
    MixtureFilter,
    MixtureMetaPrior,
    OutlierObservation,
    ParametricPriorEmbedding,
    VarianceObservation,
    WishartMixtureMetaPrior,
    amortised_loss,
    component_vectors,
    extended_kalman,
    fit_amortised,
    kalman_moment_matched,
    kernel_log_prob,
    mixture_of_vectors,
    particle_filter,
    prior_blind,
    simulation_based_calibration,
    svi_mixture,
)

ONE = torch.eye(1)


def rng(seed: int = 100) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(K: int = 3, D: int = 1, **options) -> DistributionTransformer:
    torch.manual_seed(100)
    net = DistributionTransformer(K, D, {"a": 1, "b": 2}, width=16, heads=2, layers=2, hidden=32, **options)
    for p in net.parameters():  # away from the start, where self-attention is switched off
        if p.ndim == 2:
            torch.nn.init.xavier_uniform_(p)
    return net


def seen(n: int, a: int = 4, b: int = 3) -> dict[str, torch.Tensor]:
    return {"a": torch.randn(n, a, 1, generator=rng(101)), "b": torch.randn(n, b, 2, generator=rng(102))}


def same(p: GaussianMixture, q: GaussianMixture, tolerance: float = 1e-5) -> None:
    for s, t in zip(p._parts(), q._parts()):
        torch.testing.assert_close(s, t, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5])
def test_vectors_of_components_give_the_mixture_back(dim):
    p = WishartMixtureMetaPrior(4, dim).sample(50, rng()).to(torch.float64)
    p = GaussianMixture((p.weights + 1e-3) / (1 + 4e-3), p.means, p.scale_tril)
    same(p, mixture_of_vectors(component_vectors(p), dim), 1e-6)


def test_permuted_components_give_permuted_components():
    net, phi, obs = small(D=2), MixtureMetaPrior(3, 2).sample(5, rng()), seen(5)
    turn = torch.tensor([2, 0, 1])
    permuted = GaussianMixture(phi.weights[:, turn], phi.means[:, turn], phi.scale_tril[:, turn])
    before, after = net(phi, obs)
    for p, q in zip((before, after), net(permuted, obs)):
        same(GaussianMixture._of(*(t[:, turn] for t in p._parts())), q)
    assert bool(((after.means[:, 0] - after.means[:, 1]).abs() > 1e-3).any())


def test_the_order_of_observations_does_not_matter():
    net, phi, obs = small(), MixtureMetaPrior(3).sample(5, rng()), seen(5)
    same(net(phi, obs)[1], net(phi, {"b": obs["b"].flip(1), "a": obs["a"].roll(1, 1)})[1])
    other = net(phi, {"a": obs["a"] + 1, "b": obs["b"]})[1]
    assert bool(((other.means - net(phi, obs)[1].means).abs() > 1e-3).any())


def test_a_masked_observation_is_an_absent_one():
    net, phi, obs = small(), MixtureMetaPrior(3).sample(5, rng()), seen(5)
    mask = {"a": torch.tensor([True, True, False, False]).expand(5, 4), "b": torch.zeros(5, 3, dtype=torch.bool)}
    same(net(phi, obs, mask)[1], net(phi, {"a": obs["a"][:, :2]})[1])
    same(net(phi, {})[1], net(phi, obs, {k: torch.zeros_like(m) for k, m in mask.items()})[1])


def test_at_the_start_tokens_do_not_see_each_other():
    torch.manual_seed(100)
    net = DistributionTransformer(3, 1, {"a": 1}, width=16, heads=2, layers=2, hidden=32)
    phi, obs = MixtureMetaPrior(3).sample(4, rng()), {"a": torch.randn(4, 2, 1, generator=rng())}
    moved = GaussianMixture(phi.weights, phi.means + torch.tensor([[[0.0], [0.0], [5.0]]]), phi.scale_tril)
    a, b = net(phi, obs)[1], net(moved, obs)[1]
    torch.testing.assert_close(a.means[:, :2], b.means[:, :2])
    assert bool(((a.means[:, 2] - b.means[:, 2]).abs() > 1e-4).all())


def test_outputs_are_mixtures_and_gradients_finite_where_a_weight_vanishes():
    net, obs = small(D=2), seen(2)
    w = torch.tensor([[1e-12, 0.5, 0.5 - 1e-12], [1.0, 0.0, 0.0]])
    phi = GaussianMixture(w, torch.randn(2, 3, 2, generator=rng()), torch.eye(2).expand(2, 3, 2, 2))
    before, after = net(phi, obs)
    for p in (before, after):
        torch.testing.assert_close(p.weights.sum(-1), torch.ones(2))
        assert float(torch.linalg.eigvalsh(p.covariances).min()) > 0
    (-after.log_prob(torch.zeros(2, 2)) - before.log_prob(torch.zeros(2, 2))).sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in net.parameters())


def test_the_loss_has_no_gradient_at_the_exact_posterior():
    problem = InferenceProblem(MixtureMetaPrior(3), {"z": LinearObservation(ONE, ONE)})
    batch = problem.sample(20_000, rng())
    exact = batch.phi.linear_gaussian_update(ONE, ONE, batch.obs["z"][:, 0])
    v = component_vectors(exact.to(torch.float64)).requires_grad_()
    loss = -mixture_of_vectors(v, 1).log_prob(batch.x.double())
    (g,) = torch.autograd.grad(loss.sum(), v)
    # Summed over the components, the score of every kind of parameter has mean 0.
    for column in (g[..., 1].sum(-1), g[..., 2].sum(-1), g[..., 0, 0], g[..., 1, 1]):
        assert abs(float(column.mean())) < 4 * float(column.std()) / len(column) ** 0.5
    wrong = mixture_of_vectors(v.detach() + torch.tensor([0.0, 0.1, 0.0]), 1)
    assert float(-wrong.log_prob(batch.x.double()).mean()) > float(loss.mean())


def test_a_mapped_mixture_is_a_density_of_positive_states():
    p = MappedMixture(MixtureMetaPrior(3, mean_scale=1.0).sample(4, rng()), ExpTransform().inv)
    u = torch.linspace(-12, 8, 4001, dtype=torch.float64)[:, None, None].expand(-1, 4, 1)
    total = torch.trapezoid((p.log_prob(u.exp()) + u[..., 0]).exp(), u[..., 0], dim=0)
    torch.testing.assert_close(total, torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_a_prior_blind_network_has_the_sizes_and_not_the_prior():
    net, obs = small(), seen(4)
    twin = prior_blind(net)
    one, other = (MixtureMetaPrior(3).sample(4, rng(s)) for s in (1, 2))
    same(twin(one, obs)[1], twin(other, obs)[1])
    assert {k: v.shape for k, v in net.core.state_dict().items()} == {
        k: v.shape for k, v in twin.core.state_dict().items()
    }


def test_a_filter_predicts_exactly_and_breaks_the_tie_of_equal_components():
    torch.manual_seed(100)
    net = DistributionTransformer(3, 2, {"z": 1}, width=16, heads=2, layers=1, hidden=32)
    A, Q, b = torch.tensor([[1.0, 0.5], [0.0, 0.9]]), 0.1 * torch.eye(2), torch.tensor([1.0, -1.0])
    track = MixtureFilter(net, A, Q, b)
    p = MixtureMetaPrior(3, 2).sample(6, rng())
    moved = track.predict(p)
    torch.testing.assert_close(moved.mean, p.mean @ A.T + b, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moved.cov, A @ p.cov @ A.T + Q, rtol=1e-5, atol=1e-5)
    start = track.start(GaussianMixture.gaussian(torch.zeros(6, 2), torch.eye(2)))
    torch.testing.assert_close(start.weights.sort(-1).values, torch.tensor([[1.0, 2.0, 3.0]]).expand(6, 3) / 6)
    z = torch.randn(6, 4, 1, 1, generator=rng())
    laws = track.run({"z": z}, start)
    assert len(laws) == 4
    step = track.step(track.predict(laws[2]), {"z": z[:, 3]})
    same(step, laws[3])


def test_particles_agree_with_the_exact_filter_where_there_is_one():
    x0, A, Q = GaussianMixture.gaussian(torch.zeros(1, 1), ONE), 0.9 * ONE, 0.5 * ONE
    z = torch.tensor([0.5, 1.0, -0.3])[None, :, None, None]
    found = particle_filter(x0, A, Q, {"z": LinearObservation(ONE, 0.4 * ONE)}, {"z": z}, 100_000, generator=rng())
    law, evidence = x0, 0.0
    for t in range(3):
        law = law.affine(A, None, Q)
        evidence += float(law.log_evidence(ONE, 0.4 * ONE, z[:, t, 0]))
        law = law.linear_gaussian_update(ONE, 0.4 * ONE, z[:, t, 0])
        assert float(found.mean()[0, t, 0]) == pytest.approx(float(law.mean), abs=0.02)
    assert float(found.log_evidence) == pytest.approx(evidence, abs=0.02)
    smooth = law.affine(ONE, None, 0.01 * ONE).log_prob(torch.zeros(1, 1))
    kernel = kernel_log_prob(found, torch.zeros(1, 3, 1), 0.1)[:, 2]
    torch.testing.assert_close(kernel, smooth, rtol=0.05, atol=0.05)


def test_extended_kalman_is_kalman_for_linear_sensors():
    p = MixtureMetaPrior(3, 2).sample(5, rng())
    H, R, z = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.3]]), torch.randn(5, 1, generator=rng())
    same(extended_kalman(p, lambda x: H @ x, R, z), kalman_moment_matched(p, H, R, z))


def test_the_variational_fit_finds_a_posterior_of_its_family():
    problem = InferenceProblem(MixtureMetaPrior(2), {"z": LinearObservation(ONE, ONE)})
    batch = problem.sample(20, rng())
    found = svi_mixture(lambda x: problem.log_joint(batch.phi, x, batch.obs), batch.phi, steps=300, generator=rng(101))
    exact = batch.phi.linear_gaussian_update(ONE, ONE, batch.obs["z"][:, 0])
    assert float(exact.kl_mc(found, 2000, rng()).median()) < 0.02
    assert float(exact.kl_mc(batch.phi, 2000, rng()).median()) > 0.1


def _exact(phi, obs, mask, sharper: float = 1.0):
    p = phi.linear_gaussian_update(ONE, ONE, obs["z"][:, 0])
    return GaussianMixture._of(p.log_weights, p.means, p.scale_tril * sharper)


def test_calibration_passes_the_exact_posterior_and_finds_one_that_is_too_sure():
    problem = InferenceProblem(MixtureMetaPrior(3), {"z": LinearObservation(ONE, ONE)})
    good = simulation_based_calibration(_exact, problem, 2000, generator=rng())
    assert good.p_value > 0.01
    assert good.coverage(0.8) == pytest.approx(0.8, abs=0.04)
    sure = simulation_based_calibration(lambda *a: _exact(*a, sharper=0.5), problem, 1000, generator=rng())
    assert sure.p_value < 1e-6
    assert sure.coverage(0.9) < 0.8


@pytest.fixture(scope="module")
def trained() -> AmortizedPosterior:
    problem = InferenceProblem(MixtureMetaPrior(2), {"z": LinearObservation(ONE, ONE)}, keep=0.7)
    options = {"width": 32, "heads": 4, "layers": 1, "hidden": 64, "steps": 400, "batch_size": 128, "lr": 4e-3}
    return AmortizedPosterior(problem, 2, **options, device="cpu", random_state=100).fit()


def test_training_comes_near_to_the_exact_posterior(trained):
    batch = InferenceProblem(trained.problem.meta_prior, trained.problem.observation_models).sample(300, rng())
    exact = batch.phi.linear_gaussian_update(ONE, ONE, batch.obs["z"][:, 0])
    found = trained.posterior(batch.phi, batch.obs).mixture
    kalman = kalman_moment_matched(batch.phi, ONE, ONE, batch.obs["z"][:, 0])
    kl = float(exact.kl_mc(found, 1000, rng()).mean())
    assert kl < 0.5 * float(exact.kl_mc(kalman, 1000, rng()).mean())


def test_without_observations_the_posterior_is_the_prior(trained):
    batch = trained.problem.sample(300, rng())
    found = trained.posterior(batch.phi, {}).mixture
    assert float(batch.phi.kl_mc(found, 2000, rng()).mean()) <= 0.02


def test_ranks_of_true_states_are_uniform_on_a_thousand_problems(trained):
    assert trained.calibration(1000, random_state=100).p_value > 0.01


def test_a_saved_estimator_gives_the_same_posteriors(trained, tmp_path):
    batch = trained.problem.sample(20, rng())
    again = AmortizedPosterior.load(trained.save(tmp_path / "m.holdfast"), problem=trained.problem)
    same(trained.posterior(batch.phi, batch.obs).mixture, again.posterior(batch.phi, batch.obs).mixture, 1e-6)
    torch.testing.assert_close(trained.prior_distance(batch.phi), again.prior_distance(batch.phi))
    with pytest.raises(ValueError, match="pass load"):
        AmortizedPosterior.load(tmp_path / "m.holdfast")


def test_a_prior_far_from_training_is_warned_of(trained):
    near = trained.problem.sample(50, rng())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained.posterior(near.phi, near.obs)
    far = GaussianMixture.gaussian(torch.full((1, 1), 1000.0), ONE).pad_components(2)
    with pytest.warns(UserWarning, match="far from all priors of training"):
        trained.posterior(far, {"z": torch.zeros(1, 1, 1)})


def test_a_positive_state_of_a_parametric_prior_is_learned():
    problem = InferenceProblem(InverseGammaMetaPrior((4.0, 2.0), (4.0, 2.0)), {"z": VarianceObservation()}, {"z": 2})
    options = {"width": 32, "heads": 4, "layers": 1, "hidden": 32, "steps": 200, "batch_size": 64, "lr": 5e-3}
    model = AmortizedPosterior(problem, 3, "positive", **options, device="cpu", random_state=100).fit()
    phi, x, obs, mask = problem.sample(1000, rng())
    a, b = phi[:, :1] + 1.0, phi[:, 1:] + obs["z"][..., 0].square().sum(1, keepdim=True) / 2
    exact = torch.distributions.InverseGamma(a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none of these priors is far from those of training
        gap = exact.log_prob(x)[:, 0] - model.posterior(phi, obs, mask).log_prob(x)
    prior = problem.meta_prior.prior(phi).log_prob(x)
    assert float(gap.mean()) < 0.3 * float((exact.log_prob(x)[:, 0] - prior).mean())


def test_the_same_seed_trains_the_same_network():
    problem = InferenceProblem(MixtureMetaPrior(2), {"z": OutlierObservation()})
    nets = []
    for _ in range(2):
        torch.manual_seed(100)
        net = DistributionTransformer(2, 1, {"z": 1}, width=16, heads=2, layers=1, hidden=32)
        fit_amortised(net, problem, steps=5, batch_size=16, seed=100, device="cpu")
        nets.append(net.state_dict())
    assert all(torch.equal(nets[0][k], nets[1][k]) for k in nets[0])


def test_a_loss_that_is_not_finite_is_counted_and_raised():
    problem = InferenceProblem(MixtureMetaPrior(3), {"a": OutlierObservation()})
    batch = problem.sample(8, rng())
    batch.x[2:5] = math.nan
    with pytest.raises(FloatingPointError, match="3 of 8 problems"):
        amortised_loss(small(), batch)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: m.posterior(p.pad_components(5), {}), r"5 components.*reduce_components\(2\)"),
        (lambda m, p: m.posterior(p.moment_match(), {}), r"1 components.*pad_components\(2\)"),
        (lambda m, p: m.posterior(MixtureMetaPrior(2, 2).sample(3), {}), "dimension 2"),
        (lambda m, p: m.posterior(p, {"y": torch.zeros(3, 1, 1)}), "unknown observation type 'y'"),
        (lambda m, p: m.posterior(p, {"z": torch.full((3, 1, 1), math.nan)}), "hold NaN"),
        (lambda m, p: m.posterior(p[0], {}), "must be a batch"),
        (lambda m, p: m.fit(torch.zeros(3)), "fit takes no data"),
        (lambda m, p: AmortizedPosterior().fit(), "problem must be an InferenceProblem, got None"),
        (lambda m, p: AmortizedPosterior(m.problem, 3).fit(), "components must be the same, got 3"),
        (lambda m, p: AmortizedPosterior(m.problem, 2, "circle").fit(), "sample_space must be one of"),
        (lambda m, p: m.filter(torch.eye(2), torch.eye(2)), r"must be \(1, 1\)"),
        (lambda m, p: m.calibration(draws=100), "multiple of bins"),
        (lambda m, p: m.calibration(n=20), "at least 50 problems"),
        (lambda m, p: m.model_(p, {"y": torch.zeros(3, 1, 1)}), "unknown observation type 'y'"),
        (lambda m, p: DistributionTransformer(2, 1, {"z": 1}, width=10, heads=4), "multiple of heads"),
        (lambda m, p: DistributionTransformer(2, 1, {}), "at least one type"),
    ],
)
def test_bad_input_is_named(trained, call, message):
    with pytest.raises(ValueError, match=message):
        call(trained, MixtureMetaPrior(2).sample(3, rng()))


def test_states_outside_the_map_and_bad_parameters_are_refused():
    p = MappedMixture(MixtureMetaPrior(3).sample(2, rng()), ExpTransform().inv)
    with pytest.raises(ValueError, match="domain of the sample-space map"):
        p.log_prob(torch.tensor([[1.0], [-1.0]]))
    problem = InferenceProblem(InverseGammaMetaPrior(), {"z": VarianceObservation()})
    model = AmortizedPosterior(problem, 2, "positive", width=16, heads=2, layers=1, hidden=32, steps=1, random_state=0)
    model.fit()
    with pytest.raises(ValueError, match="must be positive, got -1"):
        model.posterior(torch.tensor([[1.0, -1.0]]), {})
    with pytest.raises(ValueError, match=r"positive parameters \(batch, 2\)"):
        model.posterior(torch.ones(1, 3), {})
    with pytest.raises(ValueError, match="needs mixture priors"):
        model.filter(ONE, ONE)
    net = DistributionTransformer(
        2,
        1,
        {"z": 1},
        prior=ParametricPriorEmbedding(2, 2, 16),
        width=16,
        heads=2,
        layers=1,
        sample_space=ExpTransform().inv,
    )
    with pytest.raises(ValueError, match="without a sample-space map"):
        MixtureFilter(net, ONE, ONE)


def test_many_dimensions_are_warned_of():
    with pytest.warns(UserWarning, match="66 outputs"):
        DistributionTransformer(2, 11, {"z": 1}, width=16, heads=2, layers=1, hidden=32)

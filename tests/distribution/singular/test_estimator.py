from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks as checks

from holdfast.distribution.singular import PerturbedGenerator, generation_error, make_space_curve, singularity_report

FAST = {
    "latent": "circle",
    "objective": "quadrature",
    "nodes": 64,
    "width": 32,
    "steps": 400,
    "lr": 1e-2,
    "lr_sigma": 2e-2,
}
CURVE = make_space_curve(400, 3, seed=100)
NEW = make_space_curve(2000, 3, seed=101)


@pytest.fixture(scope="module")
def fitted():
    return PerturbedGenerator(perturbation=0.1, **FAST, device="cpu", random_state=100).fit(CURVE.numpy())


def test_samples_follow_the_law_along_the_curve(fitted):
    drawn = torch.from_numpy(fitted.sample(2000))
    # Points spread over a normal law of the same moments are far worse.
    twin = NEW.mean(0) + torch.randn(2000, 3) @ torch.linalg.cholesky(torch.cov(NEW.T)).T
    assert generation_error(drawn, NEW) < 0.4 * generation_error(twin, NEW)
    assert fitted.sigma_ == pytest.approx(0.1, rel=0.2)
    assert "added 0.1" in fitted.report_


def test_the_score_is_minus_the_distance_to_clean_rows(fitted):
    assert fitted.score(NEW.numpy()) == pytest.approx(-generation_error(torch.from_numpy(fitted.sample(4000)), NEW))
    assert fitted.score(NEW.numpy()) > fitted.score(NEW.numpy() + 1)


def test_saved_and_loaded_it_samples_the_same(fitted, tmp_path):
    again = PerturbedGenerator.load(fitted.save(tmp_path / "m.holdfast"))
    np.testing.assert_array_equal(fitted.sample(20), again.sample(20))
    assert again.perturbation_ == 0.1
    assert again.report_ == fitted.report_
    assert again.get_params()["nodes"] == 64


def test_samples_repeat_unless_asked_for_others(fitted):
    np.testing.assert_array_equal(fitted.sample(5), fitted.sample(5))
    assert not np.array_equal(fitted.sample(5), fitted.sample(5, random_state=7))


def test_the_rule_follows_the_report_and_validation_the_errors():
    few = FAST | {"steps": 5}
    rule = PerturbedGenerator(perturbation="rule", **few, random_state=100).fit(CURVE.numpy())
    assert rule.perturbation_ == pytest.approx(singularity_report(CURVE).level, rel=1e-6)
    chosen = PerturbedGenerator(grid=(0.1, 0.3), folds=1, **few, random_state=100).fit(CURVE.numpy())
    assert chosen.perturbation_ == min(chosen.curve_, key=chosen.curve_.__getitem__)
    assert len(chosen.curve_) == 2


@pytest.mark.parametrize(
    "check",
    [
        checks.check_do_not_raise_errors_in_init_or_set_params,
        checks.check_estimator_cloneable,
        checks.check_estimator_repr,
        checks.check_get_params_invariance,
        checks.check_no_attributes_set_in_init,
        checks.check_parameters_default_constructible,
        checks.check_set_params,
    ],
)
def test_scikit_learn_conventions_that_know_nothing_of_the_data(check):
    check("PerturbedGenerator", PerturbedGenerator(**FAST))


def test_bad_input_is_refused(fitted):
    x = CURVE.numpy()
    with pytest.raises(NotFittedError):
        clone(fitted).sample(3)
    with pytest.raises(ValueError, match="perturbation must be one of 'validate', 'rule'"):
        PerturbedGenerator(perturbation="some").fit(x)
    with pytest.raises(ValueError, match=r"perturbation must be in \[0, inf\), got -0.1"):
        PerturbedGenerator(perturbation=-0.1).fit(x)
    with pytest.raises(ValueError, match=r"X must have shape \(n, d\)"):
        PerturbedGenerator(perturbation=0.1).fit(x[:, None])
    with pytest.raises(ValueError, match=r"X must have shape \(n, 3\), got \(5, 2\)"):
        fitted.score(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="need a normal latent, got CircleLatent"):
        PerturbedGenerator(latent="circle", perturbation=0.1).fit(x)
    with pytest.raises(TypeError, match="noise on codes means nothing"):
        PerturbedGenerator(perturbation=0.1).fit(np.ones((30, 2), dtype=int))

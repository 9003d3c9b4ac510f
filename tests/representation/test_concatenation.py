from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from torch import nn

from holdfast.metrics.overlap import effective_rank, feature_overlap
from holdfast.nn.network import Network
from holdfast.representation.concatenation import ConcatRepresentation, TwoStageFineTune, concat_heads
from holdfast.representation.probe_gain import probe_gain
from holdfast.representation.rich import Featurizer


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _linear(d_in: int, d_out: int, seed: int) -> nn.Linear:
    layer = nn.Linear(d_in, d_out)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(d_out, d_in, generator=_rng(seed)))
        layer.bias.copy_(torch.randn(d_out, generator=_rng(seed + 100)))
    return layer


X = torch.randn(50, 4, generator=_rng())


def test_output_is_the_members_side_by_side_whatever_their_widths() -> None:
    members = [_linear(4, 3, 0), _linear(4, 5, 1), _linear(4, 1, 2)]
    z = ConcatRepresentation(members)(X)
    assert z.shape == (50, 9)
    assert torch.equal(z, torch.cat([m(X) for m in members], 1))


def test_copies_of_one_member_change_no_ridge_probe_once_the_penalty_is_rescaled() -> None:
    member, n = _linear(4, 3, 0).double(), 5
    x = X.double()
    one = ConcatRepresentation([member])(x).numpy()
    many = ConcatRepresentation([member] * n, allow_duplicates=True)(x).numpy()
    y = np.random.default_rng(0).normal(size=50)
    # n copies share a weight w as w/n each, so their penalty is 1/n of that of one.
    a = Ridge(alpha=2.0).fit(one, y).predict(one)
    b = Ridge(alpha=2.0 * n).fit(many, y).predict(many)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_training_error_of_least_squares_does_not_rise_with_members() -> None:
    members = [_linear(4, 3, s).double() for s in range(5)]
    nonlinear = [nn.Sequential(m, nn.ReLU()) for m in members]
    y = np.random.default_rng(0).normal(size=50)
    errors = []
    for n in range(1, 6):
        z = ConcatRepresentation(nonlinear[:n])(X.double()).numpy()
        errors.append(((LinearRegression().fit(z, y).predict(z) - y) ** 2).sum())
    assert np.all(np.diff(errors) <= 1e-9)


@pytest.mark.parametrize("scale", ["sum", "mean"])
def test_concatenated_heads_combine_the_members_logits(scale: str) -> None:
    nets = [Network(_linear(4, width, s), _linear(width, 3, 10 + s)) for s, width in enumerate([2, 5, 3])]
    phi = ConcatRepresentation([Featurizer(net) for net in nets])
    logits = concat_heads([net.head for net in nets], scale)(phi(X))
    each = torch.stack([net(X) for net in nets])
    torch.testing.assert_close(logits, each.sum(0) if scale == "sum" else each.mean(0), atol=1e-5, rtol=1e-6)


def test_heads_without_bias_give_a_head_without_bias() -> None:
    assert concat_heads([nn.Linear(2, 3, bias=False)] * 2).bias is None


def test_zscore_gives_mean_zero_and_deviation_one_and_keeps_constants_at_zero() -> None:
    member = _linear(4, 3, 0)
    with torch.no_grad():
        member.weight[1] = 0
    phi = ConcatRepresentation([member], standardize="zscore").fit(X)
    z = phi(X)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0)[[0, 2]], torch.ones(2))
    torch.testing.assert_close(z[:, 1], torch.zeros(50), atol=1e-6, rtol=0)


def test_batchnorm_has_no_parameters_and_standardises_a_batch() -> None:
    phi = ConcatRepresentation([_linear(4, 3, 0), _linear(4, 2, 1)], standardize="batchnorm").train()
    z = phi(X)
    assert not [p for p in phi.norm.parameters() if p.requires_grad]
    torch.testing.assert_close(z.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(5), atol=1e-3, rtol=0)


def test_frozen_members_keep_mode_and_get_no_gradient() -> None:
    member = nn.Sequential(_linear(4, 3, 0), nn.Dropout(0.5))
    frozen = ConcatRepresentation([member]).train()
    assert torch.equal(frozen(X), frozen(X))
    assert not frozen(X).requires_grad
    free = ConcatRepresentation([member], freeze=False).train()
    assert free(X).requires_grad


def test_two_stages_tune_copies_alone_then_only_the_head() -> None:
    nets = [Network(_linear(4, 3, s), _linear(3, 2, 10 + s)) for s in range(2)]
    before = [p.clone() for net in nets for p in net.parameters()]
    calls = []

    def shift(model: nn.Module, index: int) -> None:
        calls.append(index)
        with torch.no_grad():
            model.encoder.bias += 1

    y = (X[:, 0] > 0).long()
    plain = TwoStageFineTune(nets, shift, head_epochs=0).fit(X, y)
    tuned = TwoStageFineTune(nets, shift, head_epochs=3, head_lr=1e-2).fit(X, y)
    assert calls == [0, 1, 0, 1]
    assert all(torch.equal(a, b) for a, b in zip(before, [p for net in nets for p in net.parameters()]))
    torch.testing.assert_close(
        plain(X), torch.stack([net.head(net.encoder(X) + 1) for net in nets]).mean(0), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(plain.features(X), tuned.features(X))
    loss = nn.CrossEntropyLoss()
    assert loss(tuned(X), y) < loss(plain(X), y)


def test_probe_gain_averages_disjoint_groups() -> None:
    class Constant:
        def __init__(self) -> None: ...
        def get_params(self, deep: bool = False) -> dict:
            return {}

        def fit(self, z: np.ndarray, y: np.ndarray) -> Constant:
            self.sign = z.shape[1]
            return self

        def predict(self, z: np.ndarray) -> np.ndarray:
            return z[:, 0] > 0

    y = np.array([True, False, True, False])
    good, bad = np.where(y, 1.0, -1.0)[:, None], np.where(y, -1.0, 1.0)[:, None]
    gain = probe_gain([good, bad, good, bad], y, [good, bad, good, bad], y, sizes=[1, 2, 4], probe=Constant())
    assert gain == {1: 0.5, 2: 1.0, 4: 1.0}


# -- why it works: layered weight decay is a sparsity penalty on features ---------------------------------------------


@pytest.mark.parametrize("a", [-3.0, -0.2, 0.5, 2.0])
def test_least_squared_norm_of_a_factorisation_is_the_absolute_value(a: float) -> None:
    log_u = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_u], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-14)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        u = log_u.exp()
        value = (u**2 + (a / u) ** 2) / 2
        value.backward()
        return value

    optimizer.step(closure)
    assert abs(closure().item() - abs(a)) < 1e-8


def _factored(
    x: torch.Tensor, y: torch.Tensor, alpha: float, steps: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimise |y - x (u v)|^2 / 2n + alpha (|u|^2 + |v|^2) / 2 by gradient descent; return u and v."""
    u = torch.rand(x.shape[1], generator=_rng(seed), dtype=torch.float64).add(0.5).requires_grad_()
    v = torch.rand(x.shape[1], generator=_rng(seed + 1), dtype=torch.float64).sub(0.5).requires_grad_()
    for _ in range(steps):
        loss = (y - x @ (u * v)).square().mean() / 2 + alpha * (u.square().sum() + v.square().sum()) / 2
        gradients = torch.autograd.grad(loss, [u, v])
        with torch.no_grad():
            for p, g in zip((u, v), gradients):
                p -= 0.1 * g
    return u.detach(), v.detach()


def test_factored_ridge_regression_converges_to_the_lasso() -> None:
    x = torch.randn(80, 6, generator=_rng(), dtype=torch.float64)
    y = x @ torch.tensor([2.0, -1.0, 0.0, 0.0, 0.5, 0.0], dtype=torch.float64)
    y = y + 0.3 * torch.randn(80, generator=_rng(1), dtype=torch.float64)
    u, v = _factored(x, y, alpha=0.2, steps=4000)
    lasso = Lasso(alpha=0.2, fit_intercept=False, tol=1e-10).fit(x.numpy(), y.numpy()).coef_
    np.testing.assert_allclose((u * v).numpy(), lasso, atol=1e-2)
    assert (np.abs(lasso) < 1e-8).sum() >= 2


def test_redundant_columns_share_a_unique_sum_in_an_arbitrary_way() -> None:
    one = torch.randn(80, 1, generator=_rng(), dtype=torch.float64)
    x, y = one.repeat(1, 2), 2 * one[:, 0]
    weights = torch.stack([torch.mul(*_factored(x, y, alpha=0.2, steps=1500, seed=s)) for s in range(6)])
    torch.testing.assert_close(weights.sum(1), weights.sum(1).mean().expand(6), atol=1e-3, rtol=0)
    assert weights[:, 0].std() > 0.1


# -- diagnostics ------------------------------------------------------------------------------------------------------


def test_rotated_features_overlap_wholly_and_noise_hardly() -> None:
    z = torch.randn(400, 5, generator=_rng(), dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(5, 5, generator=_rng(1), dtype=torch.float64))[0]
    rotated = feature_overlap(z, z @ q)
    assert rotated["cka"] == pytest.approx(1, abs=1e-6)
    assert rotated["r2_12"] > 0.999
    noise = feature_overlap(z, torch.randn(400, 5, generator=_rng(2), dtype=torch.float64))
    assert noise["cka"] < 3 * 5 / 400
    assert abs(noise["r2_12"]) < 3 * 5 / 400


def test_effective_rank_of_orthonormal_columns_is_their_number() -> None:
    q = torch.linalg.qr(torch.randn(30, 7, generator=_rng(), dtype=torch.float64))[0]
    assert effective_rank(q) == pytest.approx(7, abs=1e-6)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_no_member_and_equal_members_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one featuriser"):
        ConcatRepresentation([])
    with pytest.raises(ValueError, match="member 0 and member 2 hold the same weights"):
        ConcatRepresentation([_linear(4, 3, 0), _linear(4, 3, 1), _linear(4, 3, 0)])


def test_member_for_another_input_is_refused_by_name() -> None:
    phi = ConcatRepresentation(
        [Featurizer(_linear(4, 3, 0), name="first"), Featurizer(_linear(5, 3, 1), name="second")]
    )
    with pytest.raises(ValueError, match=r"member 1 \(second\) cannot read the input \(50, 4\)"):
        phi(X)


def test_member_with_other_preprocessing_is_refused() -> None:
    members = [_linear(4, 3, 0), _linear(4, 3, 1)]
    for member, scale in zip(members, (1.0, 2.0)):
        member.signature = {"std": scale}
    with pytest.raises(ValueError, match=r"member 0 reads \{'std': 1.0\}, but member 1 reads \{'std': 2.0\}"):
        ConcatRepresentation(members)


def test_unfrozen_member_is_refused_where_frozen_ones_are_expected() -> None:
    phi = ConcatRepresentation([_linear(4, 3, 0), _linear(4, 3, 1)])
    phi.members[1].requires_grad_(True)
    with pytest.raises(ValueError, match="member 1 is not frozen"):
        phi(X)


def test_features_that_are_not_finite_name_the_member() -> None:
    bad = _linear(4, 3, 1)
    with torch.no_grad():
        bad.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"member 1 \(seed 7\) returned features that are not finite"):
        ConcatRepresentation([_linear(4, 3, 0), Featurizer(bad, name="seed 7")])(X)


def test_zscore_without_statistics_and_statistics_without_zscore_are_refused() -> None:
    with pytest.raises(ValueError, match="needs fit"):
        ConcatRepresentation([_linear(4, 3, 0)], standardize="zscore")(X)
    with pytest.raises(ValueError, match="not of 'none'"):
        ConcatRepresentation([_linear(4, 3, 0)]).fit(X)
    with pytest.raises(ValueError, match="standardize must be one of"):
        ConcatRepresentation([_linear(4, 3, 0)], standardize="minmax")


def test_wrong_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one head"):
        concat_heads([])
    with pytest.raises(ValueError, match=r"heads\[1\] has 4"):
        concat_heads([nn.Linear(2, 3), nn.Linear(2, 4)])
    with pytest.raises(TypeError, match=r"heads\[0\] must be nn.Linear, got ReLU"):
        concat_heads([nn.ReLU()])
    with pytest.raises(ValueError, match="needs a linear head"):
        TwoStageFineTune([_linear(4, 3, 0)], lambda m, i: m).fit(X, torch.zeros(50, dtype=torch.long))
    with pytest.raises(ValueError, match="lengths differ"):
        TwoStageFineTune([_linear(4, 3, 0)], lambda m, i: m).fit(X, torch.zeros(5, dtype=torch.long))


def test_probe_gain_beyond_the_members_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sizes must be in \[1, 1\]"):
        probe_gain([np.zeros((4, 1))], [0, 1, 0, 1], [np.zeros((4, 1))], [0, 1, 0, 1], sizes=[2])

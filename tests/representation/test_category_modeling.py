import numpy as np
import pytest
import torch
from torch.nn import functional as F

from holdfast.core.random import generator
from holdfast.representation.category_modeling import GroupedCenterHead, HVCMLoss, as_groups


def draw(n=12, c=3, k=4, d=5, seed=100, **options):
    g = generator(seed)
    loss = HVCMLoss(c, k, d, generator=g, **options).double()
    x = torch.randn(n, k, d, generator=g, dtype=torch.float64, requires_grad=True)
    w = torch.randn(n, k, generator=g, dtype=torch.float64, requires_grad=True)
    return loss, x, w, torch.arange(n) % c


def test_samples_at_their_centres_cost_exactly_the_lower_clamp():
    loss, _, w, y = draw(alpha=1.0, beta=1.0)
    x = loss.centers[y].detach()
    a, b = (t.detach() for t in loss.terms(x, y))
    assert float(a.abs().max()) < 1e-15
    assert float(b.abs().max()) < 1e-15
    terms = loss(x, w, y)
    assert float(terms["center"].detach()) == pytest.approx(1e-5, abs=1e-18)


def test_divergences_equal_torch_and_numpy_and_are_not_negative():
    loss, x, _, y = draw(alpha=0.7, beta=0.3)
    a, b = loss.terms(x, y)
    mu = loss.centers[y]
    ref = F.kl_div(F.log_softmax(x, -1), F.softmax(mu, -1), reduction="none").sum(-1)
    torch.testing.assert_close(a, 0.7 * ref, atol=1e-6, rtol=0)

    def softmax(z):
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    p, m = softmax(x.detach().numpy()), softmax(mu.detach().numpy())
    np.testing.assert_allclose(a.detach().numpy(), 0.7 * (m * np.log(m / p)).sum(-1), atol=1e-6)
    np.testing.assert_allclose(b.detach().numpy(), 0.3 * (p * np.log(p / m)).sum(-1), atol=1e-6)
    assert float(a.min()) >= 0
    assert float(b.min()) >= 0


def test_constants_added_to_a_group_change_nothing():
    loss, x, w, y = draw()
    before = loss.eval()(x, w, y)["loss"]
    shift = torch.randn(12, 4, 1, dtype=torch.float64, generator=generator(101))
    torch.testing.assert_close(loss(x + shift, w, y)["loss"], before)
    with torch.no_grad():
        loss.centers += torch.randn(3, 4, 1, dtype=torch.float64, generator=generator(102))
    torch.testing.assert_close(loss(x, w, y)["loss"], before)


def test_samples_move_by_a_alone_and_centres_by_b_alone():
    loss, x, w, y = draw(alpha=1.0, beta=0.5)
    loss(x, w, y)["loss"].backward()
    of_x, of_mu = x.grad.clone(), loss.centers.grad.clone()

    def grads(alpha, beta):
        other, z, v, _ = draw(alpha=alpha, beta=beta)
        other(z, v, y)["center"].backward()
        return z.grad, other.centers.grad

    only_a, none = grads(1.0, 0.0)
    torch.testing.assert_close(of_x, only_a)
    assert float(none.abs().max()) == 0
    nothing, only_b = grads(0.0, 0.5)
    assert float(nothing.abs().max()) == 0
    torch.testing.assert_close(of_mu, only_b)


def test_weighting_term_moves_the_weight_logits_alone():
    loss, x, w, y = draw()
    weight = loss(x, w, y)["weight"]
    of_x, of_mu, of_w = torch.autograd.grad(weight, [x, loss.centers, w], allow_unused=True)
    assert of_x is None
    assert of_mu is None
    assert float(of_w.abs().max()) > 0
    loss.eval()
    assert torch.autograd.gradcheck(lambda v: loss(x.detach(), v, y)["weight"], (w,))
    center = loss(x, w, y)["center"]
    assert torch.autograd.grad(center, [w], allow_unused=True) == (None,)


def test_weighting_term_drives_the_weights_to_the_best_group():
    loss, x, _, y = draw(n=6)
    w = torch.zeros(6, 4, dtype=torch.float64, requires_grad=True)
    best = loss.terms(x.detach(), y)[0].argmin(1)
    descent = torch.optim.SGD([w], lr=100.0)
    start = w.detach().softmax(1)[torch.arange(6), best].clone()
    for _ in range(200):
        descent.zero_grad()
        loss(x.detach(), w, y)["weight"].backward()
        descent.step()
    share = w.detach().softmax(1)
    assert bool((share.argmax(1) == best).all())
    assert bool((share[torch.arange(6), best] > 2 * start).all())


def test_moving_average_leaves_absent_classes_and_keeps_rows_normalised():
    loss, x, w, _ = draw(gamma=0.3)
    y = torch.zeros(12, dtype=torch.long)
    before = loss.pi.clone()
    for _ in range(50):
        loss(x, w, y)
        torch.testing.assert_close(loss.pi.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(loss.pi[1:], before[1:], atol=0, rtol=0)
    assert not torch.equal(loss.pi[0], before[0])
    loss.eval()(x, w, y + 1)
    torch.testing.assert_close(loss.pi[1:], before[1:], atol=0, rtol=0)


def test_gamma_one_gives_the_mean_of_the_batch():
    loss, x, w, y = draw(gamma=1.0)
    loss(x, w, y)
    expected = torch.stack([w.detach().softmax(1)[y == c].mean(0) for c in range(3)])
    torch.testing.assert_close(loss.pi, expected)


def test_prediction_is_the_most_similar_centre_and_ignores_length():
    loss, x, _, y = draw()
    centers = loss.centers.detach()
    assert loss.predict(centers[y] * 3).tolist() == y.tolist()
    cosine = F.cosine_similarity(x.flatten(1)[:, None], centers.flatten(1)[None], dim=2)
    torch.testing.assert_close(loss.cosines(x), cosine)


def test_centre_cosine_is_the_mean_over_pairs_and_one_at_collapse():
    loss, _, _, _ = draw()
    flat = loss.centers.detach().flatten(1)
    pairs = [F.cosine_similarity(flat[i], flat[j], dim=0) for i in range(3) for j in range(3) if i != j]
    torch.testing.assert_close(loss.center_cosine(), torch.stack(pairs).mean())
    with torch.no_grad():
        loss.centers.copy_(loss.centers[:1].expand_as(loss.centers).clone())
    assert float(loss.center_cosine()) == pytest.approx(1)


def test_frozen_centres_get_no_gradient():
    loss, x, w, y = draw(train_centers=False)
    loss(x, w, y)["loss"].backward()
    assert loss.centers.grad is None
    assert float(x.grad.abs().max()) > 0


@pytest.mark.parametrize("layers", [1, 3])
def test_head_outputs_cosines_of_a_unit_bottleneck(layers):
    head = GroupedCenterHead(10, 4, 6, bottleneck=8, mlp_layers=layers, hidden=32)
    h = 50 * torch.randn(7, 10, generator=generator(100))
    q, w = head(h)
    assert q.shape == (7, 4, 6)
    assert w.shape == (7, 4)
    assert float(q.abs().max()) <= 1 + 1e-6
    b = F.normalize(head.project(h), dim=1)
    expected = F.cosine_similarity(b[:, None], head.directions[None], dim=2)
    torch.testing.assert_close(q.flatten(1), expected)
    with torch.no_grad():
        head.directions *= 7
    torch.testing.assert_close(head(h)[0], q)


def test_head_starts_with_narrow_weights_and_no_bias():
    head = GroupedCenterHead(400, 4, 6, bottleneck=300)
    assert float(head.project.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(head.project.bias.abs().max()) == 0
    assert head.weigh.bias is None


def test_training_separates_classes_that_share_no_centre():
    g = generator(100)
    y = torch.arange(120) % 4
    x = 3 * torch.randn(4, 8, generator=g)[y] + 0.3 * torch.randn(120, 8, generator=g)
    torch.manual_seed(100)
    head, loss = GroupedCenterHead(8, 4, 8, bottleneck=32), HVCMLoss(4, 4, 8, generator=g)
    step = torch.optim.SGD([*head.parameters(), *loss.parameters()], lr=0.3, momentum=0.9)
    for _ in range(200):
        step.zero_grad()
        loss(*head(x), y)["loss"].backward()
        step.step()
    assert float((loss.predict(head(x)[0]) == y).float().mean()) == 1
    assert float(loss.center_cosine()) < 0.9


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("do not divide", lambda: as_groups(torch.zeros(2, 10), 3)),
        ("shape", lambda: as_groups(torch.zeros(2, 3, 4), 3)),
        ("gamma", lambda: HVCMLoss(3, 2, 4, gamma=0.0)),
        ("gamma", lambda: HVCMLoss(3, 2, 4, gamma=1.5)),
        ("alpha", lambda: HVCMLoss(3, 2, 4, alpha=-1.0)),
        ("beta", lambda: HVCMLoss(3, 2, 4, beta=-1.0)),
        ("mlp_layers", lambda: GroupedCenterHead(3, 2, 4, mlp_layers=2)),
        ("n_groups", lambda: GroupedCenterHead(3, 0, 4)),
        (r"\(groups, d\) = \(4, 5\)", lambda: call(q=torch.zeros(12, 4, 6))),
        ("w must have shape", lambda: call(w=torch.zeros(12, 3))),
        (r"\[0, 3\)", lambda: call(y=torch.full((12,), 3))),
        ("differ in length", lambda: call(y=torch.zeros(11, dtype=torch.long))),
        ("finite", lambda: call(q=torch.full((12, 4, 5), float("nan")))),
    ],
)
def test_bad_input_is_refused_by_name(match, call):
    with pytest.raises(ValueError, match=match):
        call()


def call(**changed):
    loss, x, w, y = draw()
    given = {"q": x, "w": w, "y": y} | changed
    return loss(given["q"], given["w"], given["y"])

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from holdfast.diffusion.autoencoder import (
    ConvAutoencoder,
    ReconstructionLoss,
    VectorQuantizer,
    code_perplexity,
    codebook_hash,
    train_autoencoder,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def quantizer(**options):
    torch.manual_seed(0)
    return VectorQuantizer(codes=8, width=6, dim=3, **options)


def feature_map(seed=0, n=4):
    return torch.randn(n, 6, 5, 5, generator=rng(seed))


def test_the_code_is_the_nearest_entry():
    q, h = quantizer().eval(), feature_map()
    z = q.enter(h).movedim(1, -1).reshape(-1, 3)
    nearest = torch.cdist(z, q.codebook).argmin(1)
    assert torch.equal(q.encode(h).flatten(), nearest)
    assert torch.equal(q(h).code, q.encode(h))


def test_forward_embeds_the_entry_and_passes_the_gradient_straight_through():
    q, h = quantizer().eval(), feature_map().requires_grad_()
    out = q(h)
    torch.testing.assert_close(out.embedding, q.embed(out.code), atol=1e-6, rtol=1e-6)
    weight = torch.randn(out.embedding.shape, generator=rng(1))
    (through,) = torch.autograd.grad((out.embedding * weight).sum(), h, retain_graph=True)
    (plain,) = torch.autograd.grad((q.leave(q.enter(h)) * weight).sum(), h)
    torch.testing.assert_close(through, plain)


def test_loss_is_commitment_times_the_squared_distance_to_the_entry():
    q, h = quantizer(commitment=0.5).eval(), feature_map()
    out = q(h)
    z = q.enter(h).movedim(1, -1)
    torch.testing.assert_close(out.loss, 0.5 * (z - q.codebook[out.code]).square().mean())


def test_soft_embedding_is_linear_and_agrees_with_the_hard_one():
    q = quantizer()
    ids = torch.randint(8, (2, 5, 5), generator=rng())
    hard = F.one_hot(ids, 8).float()
    torch.testing.assert_close(q.embed(hard), q.embed(ids), atol=1e-6, rtol=0)
    other = F.one_hot((ids + 1) % 8, 8).float()
    mixed = q.embed(0.3 * hard + 0.7 * other)
    torch.testing.assert_close(mixed, 0.3 * q.embed(hard) + 0.7 * q.embed(other), atol=1e-6, rtol=1e-5)


def test_the_first_batch_in_training_mode_starts_the_codebook_on_its_own_vectors():
    q, h = quantizer(restart_dead=False, decay=0.999).train(), feature_map()
    z = q.enter(h).movedim(1, -1).reshape(-1, 3).detach()
    before = q.codebook.clone()
    q(h, generator=rng())
    assert bool(q.started)
    assert not torch.allclose(q.codebook, before)
    assert float(torch.cdist(q.codebook, z).min(1).values.max()) < 0.1


def test_codebook_follows_to_the_means_of_its_members():
    # Vectors at 8 well separated places: each entry ends on one of them (Lloyd's fixed point).
    q = VectorQuantizer(codes=8, width=3, dim=3, decay=0.5).train()
    with torch.no_grad():
        q.enter.weight.copy_(torch.eye(3)[:, :, None, None])
        q.enter.bias.zero_()
    places = 10 * torch.tensor([[i, j, k] for i in (-1.0, 1) for j in (-1.0, 1) for k in (-1.0, 1)])
    noise = 0.1 * torch.randn(64, 8, 3, generator=rng())
    h = (places + noise).movedim(-1, 1)[..., None]
    for step in range(30):
        q(h, generator=rng(step))
    gaps = torch.cdist(q.codebook, (places + noise).mean(0))
    assert float(gaps.min(0).values.max()) < 0.05
    assert float(q(h).stats["code_perplexity"]) == pytest.approx(8, rel=1e-3)


def test_dead_entries_are_restarted_on_the_data_and_only_when_asked():
    def trained(restart):
        q = quantizer(restart_dead=restart, decay=0.5).train()
        q(feature_map(), generator=rng())
        q.codebook[3:] += 1000.0
        q.sums[3:] = q.codebook[3:] * q.counts[3:, None]
        for step in range(12):
            q(feature_map(step), generator=rng(step))
        return q

    assert float(trained(True).codebook.abs().max()) < 100
    assert float(trained(False).codebook.abs().max()) > 100


def test_evaluation_leaves_the_codebook_alone():
    q = quantizer().eval()
    state = {k: v.clone() for k, v in q.state_dict().items()}
    q(feature_map(), generator=rng())
    q.train().encode(feature_map())
    assert all(torch.equal(v, state[k]) for k, v in q.state_dict().items())


def test_without_ema_the_codebook_is_a_parameter_with_a_loss_of_its_own():
    q = quantizer(ema=False).eval()
    q(feature_map()).loss.backward()
    assert q.codebook.grad is not None
    assert float(q.codebook.grad.abs().sum()) > 0
    assert "codebook" in dict(q.named_parameters())


def test_training_an_autoencoder_reconstructs_better_than_the_mean_and_uses_many_codes():
    x = F.interpolate(2 * torch.rand(64, 1, 2, 2, generator=rng()) - 1, scale_factor=4.0)
    torch.manual_seed(0)
    net = ConvAutoencoder(VectorQuantizer(16, 16, dim=4), channels=1, widths=(16, 16), blocks=0, middle=False, stem=2)
    result = train_autoencoder(
        net, x, loss=ReconstructionLoss(0, 1), steps=100, batch_size=32, lr=2e-3, device="cpu", log_every=20
    )
    error = float((net(x).x - x).detach().square().mean())
    assert error < 0.5 * float((x - x.mean(0)).square().mean())
    assert result.history[-1]["code_perplexity"] > 4


def test_perplexity_is_the_number_of_codes_where_all_are_used_alike_and_one_where_one_is():
    assert float(code_perplexity(torch.arange(12) % 6, 6)) == pytest.approx(6)
    assert float(code_perplexity(torch.zeros(12, dtype=torch.long), 6)) == pytest.approx(1)


def test_the_hash_tells_codebooks_apart():
    a = torch.randn(4, 3, generator=rng())
    b = a.clone()
    assert codebook_hash(a) == codebook_hash(b.double())
    b[2, 1] += 1e-4
    assert codebook_hash(a) != codebook_hash(b)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VectorQuantizer(0, 4), "codes must be in"),
        (lambda: VectorQuantizer(4, 4, dim=0), "dim must be in"),
        (lambda: VectorQuantizer(4, 4, commitment=-1.0), "commitment must be in"),
        (lambda: VectorQuantizer(4, 4, decay=1.0), "decay must be in"),
        (lambda: quantizer()(torch.zeros(2, 5, 4, 4)), r"\(batch, 6, h, w\), got \(2, 5, 4, 4\)"),
        (lambda: quantizer().embed(torch.full((1, 2, 2), 8)), r"indices must lie in \[0, 8\), got 8 to 8"),
        (lambda: quantizer().embed(torch.full((1, 2, 2), -1)), "got -1 to -1"),
        (lambda: quantizer().embed(torch.ones(1, 2, 2, 8)), "sum to 1"),
        (lambda: quantizer().embed(torch.full((1, 2, 2, 8), float("nan"))), "finite and sum to 1"),
        (lambda: quantizer().embed(torch.ones(1, 2, 2, 7)), "probabilities must have shape"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from holdfast.diffusion.alternating import FrozenTokenizer, MaskedTokenPredictor, PixelToToken
from holdfast.diffusion.autoencoder import BernoulliCode, ConvAutoencoder
from holdfast.diffusion.backbones.vit import ViTEncoder

from .conftest import CODES, LENGTH, make_network, make_predictor, make_tokenizer


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(n=4, seed=0):
    return torch.randint(CODES, (n, LENGTH), generator=rng(seed))


def images(n=4, seed=0):
    return torch.rand(n, 1, 8, 8, generator=rng(seed))


def ragged_mask():
    """Rows that hide 5, 9, 12 and 15 of 16 places."""
    scores = torch.rand(4, LENGTH, generator=rng(9))
    return scores.argsort(1).argsort(1) < torch.tensor([5, 9, 12, 15])[:, None]


# -- tokenizer


def test_without_hidden_places_decoding_is_the_decoder_of_the_codes(tokenizer):
    x = images()
    ids = tokenizer.encode(x)
    nothing = torch.zeros_like(ids, dtype=torch.bool)
    soft = torch.full((4, LENGTH, CODES), 1 / CODES)
    torch.testing.assert_close(tokenizer.decode(ids, nothing, soft), tokenizer.decode(ids))
    own = (tokenizer.autoencoder.eval()(2 * x - 1).x + 1) / 2
    torch.testing.assert_close(tokenizer.decode(ids), own, atol=1e-5, rtol=1e-5)


def test_one_hot_soft_tokens_decode_like_hard_ones(tokenizer):
    ids, mask = tokens(), ragged_mask()
    soft = F.one_hot(ids, CODES).float()
    torch.testing.assert_close(tokenizer.decode(ids, mask, soft), tokenizer.decode(ids), atol=1e-6, rtol=1e-5)


def test_the_tokenizer_stays_frozen_and_in_evaluation_mode(tokenizer):
    before = tokenizer.hash()
    tokenizer.train()
    assert not any(m.training for m in tokenizer.modules())
    assert not any(p.requires_grad for p in tokenizer.parameters())
    tokenizer.encode(images())
    assert tokenizer.hash() == before


# -- token predictor


def test_the_predictor_does_not_read_hidden_tokens_and_reads_seen_ones():
    net, ids, mask = make_predictor(), tokens(), ragged_mask()
    p = net.probs(ids, mask)
    torch.testing.assert_close(p.sum(-1), torch.ones(4, LENGTH))
    assert torch.equal(p, net.probs(torch.where(mask, (ids + 3) % CODES, ids), mask))
    assert not torch.allclose(p, net.probs(torch.where(mask, ids, (ids + 3) % CODES), mask), atol=1e-6)


def test_its_call_by_samplers_writes_hidden_tokens_as_k():
    net, ids, mask = make_predictor(), tokens(), ragged_mask()
    torch.testing.assert_close(net.token_logits(ids.masked_fill(mask, CODES)), net(ids, mask))


def test_dropping_leaves_out_hidden_places_only_and_changes_nothing_for_the_rest():
    net, mask = make_predictor(min_drop=0.5), ragged_mask()[1:]
    keep = net._kept(mask, rng())
    assert keep.shape == (3, LENGTH - 8)
    kept = torch.zeros_like(mask).scatter_(1, keep, True)
    assert bool((kept | mask).all())  # every seen token is kept
    # Rows that hide fewer than the share to drop: as many as can be.
    assert net._kept(ragged_mask(), rng()).shape == (4, LENGTH - 5)
    everything = torch.arange(LENGTH).expand(3, -1)
    ids = tokens(3)
    torch.testing.assert_close(net.encode(ids, mask, everything), net.encode(ids, mask))


def test_the_stamp_of_the_codebook_travels_with_the_weights():
    net = make_predictor(make_tokenizer())
    other = make_predictor(seed=7)
    assert other.trained_on == ""
    other.load_state_dict(net.state_dict())
    assert other.trained_on == make_tokenizer().hash()


# -- pixels to tokens


def test_no_leak_logits_do_not_depend_on_the_true_ids_of_hidden_places():
    net, x, ids, mask = make_network(), images(), tokens(), ragged_mask()
    logits = net(x, ids, mask)
    changed = torch.where(mask, (ids + 3) % CODES, ids)
    assert torch.equal(logits, net(x, changed, mask))
    visible = torch.where(mask, ids, (ids + 3) % CODES)
    assert not torch.allclose(logits, net(x, visible, mask), atol=1e-4)


def test_all_hidden_the_output_does_not_depend_on_the_pixels():
    net, mask = make_network(), torch.ones(4, LENGTH, dtype=torch.bool)
    assert torch.equal(net(images(), tokens(), mask), net(images(seed=5), tokens(), mask))
    kept = make_network(replace_hidden=False)
    assert not torch.allclose(kept(images(), tokens(), mask), kept(images(seed=5), tokens(), mask), atol=1e-4)


def test_pixels_of_hidden_patches_matter_through_the_visible_ones():
    net, x, ids = make_network(), images(), tokens()
    mask = torch.ones(4, LENGTH, dtype=torch.bool)
    mask[:, 3] = False
    changed = x.clone()
    changed[:, :, 6:, 6:] = 1 - changed[:, :, 6:, 6:]  # patch 15, hidden
    assert not torch.allclose(net(x, ids, mask), net(changed, ids, mask), atol=1e-4)


def test_a_row_gives_the_same_alone_and_among_rows_that_know_more():
    net, x, ids, mask = make_network(), images(), tokens(), ragged_mask()
    together = net(x, ids, mask)
    alone = torch.cat([net(x[i : i + 1], ids[i : i + 1], mask[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_without_token_input_the_known_tokens_do_not_matter():
    net, x, mask = make_network(token_input=False), images(), ragged_mask()
    assert torch.equal(net(x, tokens(), mask), net(x, tokens(seed=3), mask))


def test_pixels_outside_of_the_unit_interval_are_clipped():
    net, ids, mask = make_network(), tokens(), ragged_mask()
    x = 3 * images() - 1
    assert torch.equal(net(x, ids, mask), net(x.clamp(0, 1), ids, mask))


def test_encoder_and_decoder_get_gradient_and_the_token_table_gets_none_through_the_logits():
    net, x, ids, mask = make_network(), images(), tokens(), ragged_mask()
    F.cross_entropy(net(x, ids, mask)[mask], ids[mask]).backward()
    for name in ("encoder.embed.weight", "decoder.blocks.0.mlp.0.weight", "enter.weight", "mask_token", "bias"):
        assert float(net.get_parameter(name).grad.abs().sum()) > 0, name
    table = net.table.weight.grad
    shown = torch.zeros(CODES, dtype=torch.bool)
    shown[ids[~mask]] = True
    net.zero_grad()
    everything = torch.ones_like(mask)
    F.cross_entropy(net(x, ids, everything)[everything], ids[everything]).backward()
    assert net.table.weight.grad is None or float(net.table.weight.grad.abs().sum()) == 0
    assert bool((table.abs().sum(1) > 0)[shown].all())


# -- bad input


def bernoulli_autoencoder():
    return ConvAutoencoder(BernoulliCode(4, 8), channels=1, widths=(8, 8), blocks=0, middle=False)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FrozenTokenizer(bernoulli_autoencoder(), 8), TypeError, "VectorQuantizer, got BernoulliCode"),
        (lambda: FrozenTokenizer(make_tokenizer().autoencoder, 9), ValueError, "multiples of 2, got 9 x 9"),
        (lambda: make_tokenizer().encode(images() + 0.5), ValueError, r"must lie in \[0, 1\]"),
        (lambda: make_tokenizer().encode(images() - 0.5), ValueError, r"must lie in \[0, 1\]"),
        (lambda: make_tokenizer().encode(images() * float("nan")), ValueError, "finite"),
        (lambda: make_tokenizer().encode(torch.zeros(2, 3, 8, 8)), ValueError, "images must have shape"),
        (lambda: make_tokenizer().decode(tokens() + 1), ValueError, r"must lie in \[0, 8\)"),
        (lambda: make_tokenizer().decode(tokens(), ragged_mask()), ValueError, "mask and soft go together"),
        (lambda: make_tokenizer().decode(tokens(), ragged_mask(), torch.ones(4, 16, 8)), ValueError, "sum to 1"),
        (lambda: make_predictor()(tokens() - 1, ragged_mask()), ValueError, "got -1 to 6"),
        (lambda: make_predictor()(tokens()[:, :5], ragged_mask()), ValueError, r"of shape \(batch, 16\)"),
        (lambda: make_predictor()(tokens(), ragged_mask()[:2]), ValueError, "mask must be boolean of shape"),
        (lambda: make_network()(images(), tokens() + 8, ragged_mask()), ValueError, r"must lie in \[0, 8\)"),
        (lambda: make_network()(images(), tokens(), ragged_mask().float()), ValueError, "mask must be boolean"),
        (lambda: MaskedTokenPredictor(8, 16, width=16, depth=1, heads=2, min_drop=1.0), ValueError, "min_drop"),
        (lambda: PixelToToken(ViTEncoder(1, 8, 2, 16, 1, 2), 0), ValueError, "codes must be in"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from holdfast.diffusion.alternating import (
    ADDP,
    MaskedTokenPredictor,
    PixelToToken,
    soft_token_loss,
    train_addp,
    train_token_predictor,
)
from holdfast.diffusion.backbones.vit import ViTEncoder
from holdfast.diffusion.masked.confidence import hidden_counts

from .conftest import CODES, LENGTH, make_addp, make_network, make_predictor, make_tokenizer


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(n=4, seed=0):
    return torch.randint(CODES, (n, LENGTH), generator=rng(seed))


def images(n=4, seed=0):
    return torch.rand(n, 1, 8, 8, generator=rng(seed))


# -- training samples and loss


def test_a_sample_is_what_the_definition_says(addp):
    """Rebuilt from the same draws: nested masks of the law's sizes, the larger one for what is seen."""
    ids = tokens(64)
    drawn = addp.draw(ids, rng(3))
    g = rng(3)
    now, more = addp.law.sample_counts(64, LENGTH, generator=g)
    order = torch.rand(64, LENGTH, dtype=torch.float64, generator=g).argsort(1).argsort(1)
    mask, larger = order < now[:, None], order < more[:, None]
    assert torch.equal(drawn.mask, mask)
    assert bool((mask <= larger).all())
    assert torch.equal(mask.sum(1), now)
    seen = addp.predictor.probs(ids, larger)
    torch.testing.assert_close(drawn.x, addp.tokenizer.decode(ids, mask, seen))
    torch.testing.assert_close(drawn.target, addp.predictor.probs(ids, mask))


def test_hidden_places_are_uniform(addp):
    where = addp.draw(tokens(4000), rng()).mask.double().mean(0)
    assert float((where - where.mean()).abs().max()) < 4 * (0.25 / 4000) ** 0.5


def test_hard_targets_are_the_true_tokens():
    ids = tokens()
    assert torch.equal(make_addp(target="hard").draw(ids, rng()).target, F.one_hot(ids, CODES).float())


def test_only_the_network_learns(addp):
    addp.train()
    assert not addp.predictor.training
    addp.training_step(images(), rng())["loss"].backward()
    assert all(p.grad is None for part in (addp.tokenizer, addp.predictor) for p in part.parameters())
    assert float(addp.network.encoder.embed.weight.grad.abs().sum()) > 0
    assert float(addp.network.decoder.blocks[0].mlp[0].weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_torchs_cross_entropy_with_probabilities_and_least_at_the_smoothed_target(smoothing):
    target = torch.rand(2, LENGTH, CODES, generator=rng()).softmax(-1)
    mask = torch.rand(2, LENGTH, generator=rng(1)) < 0.5
    logits = torch.randn(2, LENGTH, CODES, generator=rng(2))
    ours = soft_token_loss(logits, target, mask, smoothing)
    smooth = (1 - smoothing) * target + smoothing / CODES
    plain = -(smooth * logits.log_softmax(-1)).sum(-1)[mask].mean()
    torch.testing.assert_close(ours, plain)
    best = smooth.log().requires_grad_()
    (slope,) = torch.autograd.grad(soft_token_loss(best, target, mask, smoothing), best)
    assert float(slope.abs().max()) < 1e-7
    assert float(soft_token_loss(best, target, mask, smoothing).detach()) < float(ours)


def test_the_encoder_holds_nothing_from_training(addp):
    x = images()
    before = addp.encoder.features(x)
    addp.training_step(images(seed=3), rng())
    addp.generate(2, 2, generator=rng())
    alone = ViTEncoder(1, 8, patch=2, width=16, depth=2, heads=2).eval()
    alone.load_state_dict(addp.network.encoder.state_dict())
    assert torch.equal(addp.encoder.features(x), before)
    assert torch.equal(alone.features(x), before)


# -- generation


def watch(call):
    steps = []
    out = call(lambda s, ids, hidden: steps.append((s, ids.clone(), hidden.clone())))
    return out, steps


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_hidden_places_follow_the_schedule_and_known_tokens_stay(addp, schedule):
    out, steps = watch(lambda f: addp.generate(5, 6, schedule, 3.0, generator=rng(), on_step=f))
    counts = hidden_counts(LENGTH, 6, schedule, minimum=1)
    assert [int(h.sum(1).unique()) for _, _, h in steps] == counts.tolist()
    assert counts[-1] == 1
    for (_, ids, hidden), (_, later, still) in pairwise(steps):
        assert bool((later == ids)[~hidden].all())
        assert bool((still <= hidden).all())
    assert out.calls == 6 + 1
    assert out.draws == 5 * (LENGTH + int(counts[:-1].sum()))
    assert 0 <= float(out.x.min()) <= float(out.x.max()) <= 1


def test_the_image_is_decoded_from_the_last_tokens_with_one_place_soft(addp):
    out, steps = watch(lambda f: addp.generate(3, 4, generator=rng(), on_step=f))
    ids, hidden = steps[-1][1:]
    hard = addp.tokenizer.decode(ids)
    assert bool((hidden.sum(1) == 1).all())
    assert not torch.allclose(out.x, hard.clamp(0, 1), atol=1e-6)


def test_one_step_draws_every_token_from_the_law_of_nothing_known(addp):
    _, steps = watch(lambda f: addp.generate(6000, 1, generator=rng(), on_step=f))
    ids = steps[-1][1]
    mask = torch.ones(1, LENGTH, dtype=torch.bool)
    p = addp.network(images(1), tokens(1), mask).softmax(-1)[0].double()
    counts = F.one_hot(ids, CODES).double().sum(0)
    chi2 = ((counts - 6000 * p) ** 2 / (6000 * p)).sum()
    dof = LENGTH * (CODES - 1)
    assert float(chi2) < dof + 5 * (2 * dof) ** 0.5
    # Independent: the joint law of two places is the product.
    joint = torch.einsum("ni,nj->ij", *(F.one_hot(ids[:, i], CODES).double() for i in (0, 7))) / 6000
    product = p[0][:, None] * p[7]
    assert float((joint - product).abs().max()) < 5 * float((product / 6000).sqrt().max())


def test_the_same_generator_gives_the_same_images_and_the_choice_without_noise_is_by_confidence(addp):
    a, b = (addp.generate(4, 5, choice_temperature=0.0, generator=rng(1)).x for _ in range(2))
    assert torch.equal(a, b)
    _, steps = watch(lambda f: addp.generate(4, 2, choice_temperature=0.0, generator=rng(1), on_step=f))
    ids, hidden = steps[0][1:]
    nothing = torch.ones_like(hidden)
    log_p = addp.network(torch.zeros(4, 1, 8, 8), ids, nothing).log_softmax(-1).gather(2, ids[..., None])[..., 0]
    kept = log_p.masked_fill(hidden, float("inf")).amin(1)
    given_up = log_p.masked_fill(~hidden, float("-inf")).amax(1)
    assert bool((given_up <= kept + 1e-6).all())


def test_a_small_top_p_draws_the_most_probable_token_alone(addp):
    _, steps = watch(lambda f: addp.generate(4, 1, top_p=0.01, generator=rng(), on_step=f))
    nothing = torch.ones(1, LENGTH, dtype=torch.bool)
    best = addp.network(images(1), tokens(1), nothing).argmax(-1)
    assert torch.equal(steps[0][1], best.expand(4, -1))


# -- inpainting


def region(rows=slice(2, 5), columns=slice(0, 4)):
    r = torch.zeros(8, 8, dtype=torch.bool)
    r[rows, columns] = True
    return r


def test_pixels_outside_of_the_region_come_back_and_those_inside_are_not_looked_at(addp):
    x, r = images(), region()
    out = addp.inpaint(x, r, 4, generator=rng()).x
    assert torch.equal(out[:, :, ~r], x[:, :, ~r])
    changed = torch.where(r, 1 - x, x)
    assert torch.equal(addp.inpaint(changed, r, 4, generator=rng()).x, out)
    assert not torch.allclose(out[:, :, r], x[:, :, r], atol=1e-3)


def test_tokens_outside_of_the_region_stay(addp):
    x, r = images(), region()
    _, steps = watch(lambda f: addp.inpaint(x, r, 4, generator=rng(), on_step=f))
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[1:3, 0:2] = True  # rows 2 to 4 touch the patches of rows 1 and 2
    mean = (x * ~r).sum((2, 3), keepdim=True) / (~r).sum()
    given = addp.tokenizer.encode(torch.where(r, mean, x))
    for _, ids, still in steps:
        assert torch.equal(ids[:, ~hidden.flatten()], given[:, ~hidden.flatten()])
        assert not bool(still[:, ~hidden.flatten()].any())
    assert [int(h.sum(1).unique()) for _, _, h in steps] == hidden_counts(4, 4, minimum=1).tolist()


def test_every_image_may_have_a_region_of_its_own(addp):
    x = images(2)
    regions = torch.stack([region(), region(slice(0, 8), slice(0, 8))])
    out, steps = watch(lambda f: addp.inpaint(x, regions, 3, generator=rng(), on_step=f))
    assert torch.equal(out.x[0][:, ~region()], x[0][:, ~region()])
    counts = torch.stack([h.sum(1) for _, _, h in steps])
    assert torch.equal(counts, hidden_counts(torch.tensor([4, 16]), 3, minimum=1))


# -- training


def test_training_lowers_the_loss_stamps_the_predictor_and_moves_the_network_alone():
    tokenizer = make_tokenizer()
    x = F.interpolate(torch.rand(64, 1, 2, 2, generator=rng()), scale_factor=4.0)
    predictor = make_predictor()
    first = train_token_predictor(predictor, tokenizer, x, steps=60, batch_size=32, lr=3e-3, device="cpu", log_every=10)
    assert predictor.trained_on == tokenizer.hash()
    assert first.history[-1]["loss"] < first.history[0]["loss"]
    addp = ADDP(tokenizer, predictor, make_network())
    frozen = {k: v.clone() for part in (tokenizer, predictor) for k, v in part.state_dict().items()}
    second = train_addp(addp, x, steps=30, batch_size=32, device="cpu", log_every=10, augment=lambda x, g: x.flip(3))
    assert second.history[-1]["loss"] < second.history[0]["loss"]
    assert all(torch.equal(v, frozen[k]) for part in (tokenizer, predictor) for k, v in part.state_dict().items())


def test_training_repeats_bit_for_bit():
    def run():
        addp = make_addp()
        train_addp(addp, images(16), steps=3, batch_size=8, seed=5, device="cpu")
        return addp.network.state_dict()

    a, b = run(), run()
    assert all(torch.equal(a[k], b[k]) for k in a)


# -- bad input


def unmatched(patch=2, size=8, codes=CODES, channels=1):
    return PixelToToken(ViTEncoder(channels, size, patch, 16, 1, 2), codes, decoder_depth=1)


def assemble(tokenizer=None, predictor=None, network=None, **options):
    tokenizer = make_tokenizer() if tokenizer is None else tokenizer
    predictor = make_predictor(tokenizer) if predictor is None else predictor
    return ADDP(tokenizer, predictor, make_network() if network is None else network, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: assemble(network=unmatched(patch=4)), "one patch per token"),
        (lambda: assemble(network=unmatched(patch=4, size=16)), "one patch per token"),
        (lambda: assemble(network=unmatched(codes=9)), "as many everywhere"),
        (lambda: assemble(network=unmatched(channels=3)), "takes 3 channels"),
        (lambda: assemble(predictor=make_predictor()), "trained on the tokenizer's codebook .* got none"),
        (lambda: assemble(predictor=make_predictor(make_tokenizer(5))), "trained on the tokenizer's codebook"),
        (lambda: assemble(label_smoothing=1.0), "label_smoothing must be in"),
        (lambda: assemble(target="both"), "target must be one of"),
        (lambda: make_addp().training_step(images() * 2), r"must lie in \[0, 1\]"),
        (lambda: make_addp().generate(0), "n must be in"),
        (lambda: make_addp().generate(2, 0), "steps must be in"),
        (lambda: make_addp().generate(2, 2, top_p=0.0), "top_p must be in"),
        (lambda: make_addp().generate(2, 2, top_p=1.5), "top_p must be in"),
        (lambda: make_addp().generate(2, 2, choice_temperature=-1.0), "choice_temperature must be in"),
        (lambda: make_addp().generate(2, 2, "square"), "schedule must be one of"),
        (lambda: make_addp().inpaint(images() + 1, region()), r"must lie in \[0, 1\]"),
        (lambda: make_addp().inpaint(images(), region().float()), "region must be boolean"),
        (lambda: make_addp().inpaint(images(), region()[:4]), "region must be boolean of shape"),
        (lambda: make_addp().inpaint(images(), torch.zeros(8, 8, dtype=torch.bool)), "at least one pixel"),
        (
            lambda: soft_token_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool)),
            "hides no token",
        ),
        (
            lambda: soft_token_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool)),
            "must have shapes",
        ),
        (
            lambda: train_token_predictor(
                MaskedTokenPredictor(4, 16, width=16, depth=1, heads=2), make_tokenizer(), images(), steps=1
            ),
            "made for 4 codes",
        ),
        (lambda: train_addp(make_addp(), images() - 1, steps=1), r"must lie in \[0, 1\]"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""The alternating denoising process: tokens are decoded to pixels, and a network that sees the pixels improves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_number
from holdfast.core.progress import ProgressBar
from holdfast.diffusion.alternating.pixel_to_token import PixelToToken
from holdfast.diffusion.alternating.ratio_law import RatioLaw
from holdfast.diffusion.alternating.token_predictor import MaskedTokenPredictor
from holdfast.diffusion.alternating.tokenizer import FrozenTokenizer, check_tokens, check_unit_images
from holdfast.diffusion.draws import gumbel_argmax
from holdfast.diffusion.masked.confidence import HidingSchedule, hidden_counts, hide_least_confident
from holdfast.diffusion.masked.masking import lowest
from holdfast.diffusion.masked.model import restricted_log_probs
from holdfast.diffusion.samples import Samples

__all__ = ["ADDP", "AlternatingSample", "soft_token_loss"]

OnStep = Callable[[int, Tensor, Tensor], None]
"""Called after every generation step with its number from 1, the tokens, and where they are hidden again."""


class AlternatingSample(NamedTuple):
    """What the network is trained on.

    Attributes:
        x: [B, C, H, W], the image decoded from reliable and unreliable tokens.
        ids: [B, L], the true tokens; reliable, and shown to the network, where ``mask`` is false.
        mask: [B, L], true where tokens are hidden and the loss is taken.
        target: [B, L, K], the law that the network should predict.
    """

    x: Tensor
    ids: Tensor
    mask: Tensor
    target: Tensor


def soft_token_loss(
    logits: Float[Tensor, "batch tokens codes"],
    target: Float[Tensor, "batch tokens codes"],
    mask: Bool[Tensor, "batch tokens"],
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    r"""Cross-entropy between laws over the codes, mean over hidden places.

    .. math:: -\operatorname*{mean}_{l:\, m_l = 1} \sum_k \Bigl((1 - s)\,\bar q_{l,k} + \frac{s}{K}\Bigr) \log p_{l,k}

    Raises:
        ValueError: for a mask that hides nothing, shapes that differ, or a smoothing outside [0, 1).

    Examples:
        >>> target, mask = torch.tensor([[[0.3, 0.7]]]), torch.tensor([[True]])
        >>> loss = soft_token_loss(target.log(), target, mask)
        >>> bool(torch.isclose(loss, -(target * target.log()).sum()))  # the entropy is the least that there is
        True
    """
    check_number("label_smoothing", label_smoothing, low=0, high=1, open_high=True)
    if logits.shape != target.shape or logits.shape[:2] != mask.shape:
        raise ValueError(
            "logits, target and mask must have shapes (batch, tokens, codes) twice and (batch, tokens), got "
            f"{tuple(logits.shape)}, {tuple(target.shape)} and {tuple(mask.shape)}"
        )
    if not bool(mask.any()):
        raise ValueError("mask hides no token: there is nothing to predict and no loss")
    return F.cross_entropy(logits[mask].float(), target[mask].float(), label_smoothing=label_smoothing)


class ADDP(nn.Module):
    r"""Alternating denoising diffusion: one encoder of pixels for recognition, one loop with it for generation.

    With tokens :math:`z_0` of an image and nested masks :math:`m_t \subset m_{t+1}` of hidden places,

    .. math:: x_t = \mathrm{Dec}\bigl(z_0 \text{ off } m_t,\; P(\cdot \mid z_0 \text{ off } m_{t+1}) \text{ on } m_t
        \bigr), \qquad
        \min_\theta\; -\mathbb E \operatorname*{mean}_{l \in m_t} \sum_k P(k \mid z_0 \text{ off } m_t)_l
        \log p_\theta(k \mid x_t, z_0 \text{ off } m_t)_l

    Tokenizer and predictor P are frozen; only ``network`` learns.

    Args:
        tokenizer: images to tokens and back.
        predictor: P, trained on the same codebook.
        network: from pixels and known tokens to logits.
        law: of the ratios of hidden tokens; :class:`RatioLaw` with its defaults where omitted. On few tokens choose
            its ``offset`` as wide as a step of generation.
        target: ``"soft"``: the predictor's law, as above; ``"hard"``: the true tokens.
        label_smoothing: of the target, in [0, 1).

    Raises:
        ValueError: for a patch grid that is not the token grid, a codebook of another size, or a predictor that was
            trained on another codebook or on none.

    Source: Tian et al., "ADDP: Learning General Representations for Image Recognition and Generation with Alternating
    Denoising Diffusion Process", ICLR 2024, sections 3.2-3.4.

    Examples:
        >>> from holdfast.diffusion.autoencoder import ConvAutoencoder, VectorQuantizer
        >>> from holdfast.diffusion.backbones.vit import ViTEncoder
        >>> vq = ConvAutoencoder(VectorQuantizer(8, 8, dim=4), channels=1, widths=(8, 8), blocks=0, middle=False)
        >>> tokenizer = FrozenTokenizer(vq, size=8)
        >>> predictor = MaskedTokenPredictor(8, 16, width=16, depth=1, heads=2, decoder_depth=1)
        >>> predictor.trained_on = tokenizer.hash()  # train_token_predictor does this
        >>> network = PixelToToken(ViTEncoder(1, 8, patch=2, width=16, depth=1, heads=2), codes=8, decoder_depth=1)
        >>> addp = ADDP(tokenizer, predictor, network)
        >>> sorted(addp.training_step(torch.rand(4, 1, 8, 8)))
        ['accuracy', 'hidden', 'loss']
        >>> out = addp.eval().generate(2, steps=3)
        >>> out.x.shape, out.calls
        (torch.Size([2, 1, 8, 8]), 4)
    """

    def __init__(
        self,
        tokenizer: FrozenTokenizer,
        predictor: MaskedTokenPredictor,
        network: PixelToToken,
        *,
        law: RatioLaw | None = None,
        target: Literal["soft", "hard"] = "soft",
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        check_choice("target", target, ("soft", "hard"))
        check_number("label_smoothing", label_smoothing, low=0, high=1, open_high=True)
        encoder = network.encoder
        if encoder.grid != tokenizer.grid or encoder.size != tokenizer.size:
            raise ValueError(
                f"there must be one patch per token: the network has {encoder.grid} patches of images {encoder.size}, "
                f"the tokenizer {tokenizer.grid} tokens of images {tokenizer.size}"
            )
        if encoder.in_channels != tokenizer.channels:
            raise ValueError(f"the network takes {encoder.in_channels} channels, the images have {tokenizer.channels}")
        sizes = {"tokenizer": tokenizer, "predictor": predictor, "network": network}
        if len({part.codes for part in sizes.values()}) > 1 or predictor.length != tokenizer.length:
            told = ", ".join(f"{name} {part.codes} and {part.length}" for name, part in sizes.items())
            raise ValueError(f"codes and tokens must be as many everywhere, got {told}")
        if predictor.trained_on != tokenizer.hash():
            theirs = predictor.trained_on[:12] or "none: it was not trained with train_token_predictor"
            raise ValueError(
                f"the predictor must be trained on the tokenizer's codebook {tokenizer.hash()[:12]}, got {theirs}"
            )
        self.tokenizer, self.predictor = tokenizer, predictor.requires_grad_(False)
        self.network = network
        self.law = RatioLaw() if law is None else law
        self.target, self.label_smoothing = target, label_smoothing
        self.predictor.eval()

    def train(self, mode: bool = True) -> ADDP:
        """Put the network in that mode; tokenizer and predictor stay in evaluation mode."""
        super().train(mode)
        self.predictor.eval()
        return self

    @property
    def encoder(self) -> nn.Module:
        """The image encoder, with ``features`` for probes and fine-tuning."""
        return self.network.encoder

    @torch.no_grad()
    def draw(self, ids: Int[Tensor, "batch tokens"], generator: torch.Generator | None = None) -> AlternatingSample:
        """Draw masks for a batch of true tokens, and with them what the network sees and what it should say."""
        length = self.tokenizer.length
        counts = torch.stack(self.law.sample_counts(len(ids), length, generator=generator)).to(ids.device)
        scores = torch.rand(ids.shape, dtype=torch.float64, device=ids.device, generator=generator)
        mask, larger = lowest(scores.expand(2, -1, -1), counts)
        if self.target == "soft":
            seen, target = self.predictor.probs(ids.repeat(2, 1), torch.cat([larger, mask])).chunk(2)
        else:
            seen = self.predictor.probs(ids, larger)
            target = F.one_hot(ids, self.tokenizer.codes).to(seen.dtype)
        return AlternatingSample(self.tokenizer.decode(ids, mask, seen), ids, mask, target)

    def loss(self, sample: AlternatingSample) -> dict[str, Tensor]:
        """Return the loss of a drawn sample, with the network's accuracy at hidden places and their share."""
        logits = self.network(sample.x, sample.ids, sample.mask)
        loss = soft_token_loss(logits, sample.target, sample.mask, self.label_smoothing)
        right = (logits.detach().argmax(-1) == sample.ids)[sample.mask]
        return {"loss": loss, "accuracy": right.float().mean(), "hidden": sample.mask.float().mean()}

    def training_step(
        self, x0: Float[Tensor, "batch channels height width"], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the loss on images in [0, 1], with accuracy and share of hidden places beside it.

        Raises:
            ValueError: for images of another shape or outside [0, 1].
        """
        return self.loss(self.draw(self.tokenizer.encode(x0), generator))

    @torch.no_grad()
    def generate(
        self,
        n: int,
        steps: int = 20,
        schedule: HidingSchedule = "cosine",
        choice_temperature: float = 6.0,
        top_p: float = 1.0,
        *,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
        progress: bool = False,
    ) -> Samples:
        r"""Draw images from nothing.

        In step s of N tokens are drawn at all hidden places, those of least confidence are hidden again, and the next
        image is decoded from the drawn tokens and, where hidden, from the predicted law. One token stays hidden in the
        end, and is decoded from its law.

        Args:
            n: number of images.
            steps: N.
            schedule: how fewer and fewer places are hidden, see
                :func:`holdfast.diffusion.masked.confidence.hidden_counts`.
            choice_temperature: of the Gumbel noise on confidences, falling to 0 along the steps. 6 suits 256 tokens
                and 20 steps; with 16 tokens take 2 to 4.
            top_p: share of the tokens' probability to draw from.
            generator: source of randomness, on the device of the network.
            on_step: called with (step, tokens, hidden) after every step.
            progress: show a bar.

        Returns:
            Images in [0, 1]; ``calls`` counts the predictor's call at the start too.

        Raises:
            ValueError: for ``n`` or ``steps`` below 1, ``top_p`` outside (0, 1], or another number out of range.
        """
        check_number("n", n, low=1, integer=True)
        device = self.network.bias.device
        ids = torch.zeros(n, self.tokenizer.length, dtype=torch.long, device=device)
        hidden = torch.ones_like(ids, dtype=torch.bool)
        return self._alternate(ids, hidden, steps, schedule, choice_temperature, top_p, generator, on_step, progress)

    @torch.no_grad()
    def inpaint(
        self,
        x0: Float[Tensor, "batch channels height width"],
        region: Bool[Tensor, "*batch height width"],
        steps: int = 20,
        schedule: HidingSchedule = "cosine",
        choice_temperature: float = 6.0,
        top_p: float = 1.0,
        *,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
        progress: bool = False,
    ) -> Samples:
        """Draw the pixels of a region anew, given the rest of an image.

        Pixels of the region are not looked at: the mean of the rest stands in their place when the image is made into
        tokens. Tokens whose patch the region touches are drawn; pixels outside of the region are returned as given.

        Args:
            x0: images in [0, 1].
            region: true where to draw; one for all images, or one per image.
            steps, schedule, choice_temperature, top_p, generator, on_step, progress: as in :meth:`generate`.

        Raises:
            ValueError: for images outside [0, 1], a region of another shape or that is empty for an image.
        """
        check_unit_images("images", x0)
        shape = (len(x0), *x0.shape[2:])
        if region.dtype != torch.bool or region.shape not in (shape, shape[1:]):
            raise ValueError(
                f"region must be boolean of shape {shape[1:]} or {shape}, got {region.dtype} {tuple(region.shape)}"
            )
        region = region.to(x0.device).expand(shape)[:, None]
        if not bool(region.flatten(1).any(1).all()):
            raise ValueError("region must hold at least one pixel of every image")
        known = (~region).to(x0)
        mean = (x0 * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp_min(1)
        ids = self.tokenizer.encode(torch.where(region, mean, x0))
        hidden = F.max_pool2d(region.float(), self.tokenizer.patch).flatten(1) > 0
        drawn = self._alternate(ids, hidden, steps, schedule, choice_temperature, top_p, generator, on_step, progress)
        return drawn._replace(x=torch.where(region, drawn.x, x0))

    def _alternate(
        self,
        ids: Tensor,
        hidden: Tensor,
        steps: int,
        schedule: HidingSchedule,
        choice_temperature: float,
        top_p: float,
        generator: torch.Generator | None,
        on_step: OnStep | None,
        progress: bool,
    ) -> Samples:
        check_number("steps", steps, low=1, integer=True)
        check_number("choice_temperature", choice_temperature, low=0)
        check_number("top_p", top_p, low=0, high=1, open_low=True)
        check_tokens(ids, hidden, self.tokenizer.codes, self.tokenizer.length)
        counts = hidden_counts(hidden.sum(1), steps, schedule, minimum=1)
        x = self.tokenizer.decode(ids, hidden, self.predictor.probs(ids, hidden))
        draws = 0
        with ProgressBar("alternating", total=steps, enabled=progress, measure=None) as bar:
            for s in range(steps):
                logits = self.network(x, ids, hidden).float()
                log_p = restricted_log_probs(logits[hidden], top_p=top_p)
                drawn = gumbel_argmax(log_p, generator=generator)
                confidence = torch.zeros(ids.shape, dtype=torch.float64, device=ids.device)
                confidence[hidden] = log_p.gather(1, drawn[:, None])[:, 0].double()
                ids = ids.masked_scatter(hidden, drawn)
                draws += len(drawn)
                tau = choice_temperature * (1 - (s + 1) / steps)
                hidden = hide_least_confident(confidence, hidden, counts[s], tau, generator)
                x = self.tokenizer.decode(ids, hidden, logits.softmax(-1))
                bar.tick(s + 1)
                if on_step is not None:
                    on_step(s + 1, ids, hidden)
        return Samples(x.clamp(0, 1), steps + 1, draws)

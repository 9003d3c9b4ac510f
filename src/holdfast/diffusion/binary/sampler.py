"""Sampling bits: fair coins, turned step by step into data by the reversed binary diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.core.progress import ProgressBar
from holdfast.diffusion.autoencoder.bernoulli import check_bits
from holdfast.diffusion.binary.schedule import POSTERIORS, BinarySchedule, PosteriorKind
from holdfast.diffusion.draws import bernoulli
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.samples import Samples

__all__ = ["BitPredictor", "binary_ancestral", "data_probability"]


class BitPredictor(Protocol):
    """What the sampler needs: logits that a bit of z_t differs from z_0. Networks and the oracle offer it."""

    @property
    def schedule(self) -> BinarySchedule:
        """The process."""
        ...

    def flip_logits(
        self, z_t: Float[Tensor, "batch *shape"], t: Int[Tensor, " batch"], y: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch *shape"]:
        """Return the logit of every bit's flip at ``(z_t, t)``."""
        ...


def data_probability(
    model: BitPredictor,
    z_t: Float[Tensor, "batch *shape"],
    t: int,
    y: Int[Tensor, " batch"] | None = None,
    *,
    temperature: float = 1.0,
    guidance: Guidance | None = None,
) -> Float[Tensor, "batch *shape"]:
    r"""Return :math:`P(z_0 = 1 \mid z_t)` in float64, guided and sharpened.

    .. math:: \ell = \ell_\varnothing + w\,(\ell_y - \ell_\varnothing), \qquad f = \sigma(\ell / \tau), \qquad
              p_0 = z_t (1 - f) + (1 - z_t) f

    Guidance is on where its interval holds the time t / T. The scale w is one more than that of the paper.
    """
    times = torch.full((len(z_t),), t, device=z_t.device)
    if guidance is not None and y is not None and guidance.active(t / model.schedule.steps):
        null = torch.full_like(y, guidance.null_class(model))
        both = model.flip_logits(torch.cat([z_t, z_t]), torch.cat([times, times]), torch.cat([y, null])).double()
        conditional, unconditional = both.chunk(2)
        logits = torch.lerp(unconditional, conditional, guidance.scale)
    else:
        logits = model.flip_logits(z_t, times, y).double()
    return ((1 - 2 * z_t.double()) * logits / temperature).sigmoid()


@torch.no_grad()
def binary_ancestral(
    model: BitPredictor,
    shape: Sequence[int],
    *,
    steps: int | None = None,
    y: Int[Tensor, " batch"] | None = None,
    temperature: float = 1.0,
    guidance: Guidance | None = None,
    known: tuple[Tensor, Tensor] | None = None,
    last: Literal["draw", "argmax"] = "draw",
    posterior: PosteriorKind = "mixture",
    draw_dtype: torch.dtype = torch.float64,
    generator: torch.Generator | None = None,
    progress: bool | str = False,
) -> Samples:
    r"""Draw :math:`z_T` from fair coins and every state from :math:`p_\theta(z_s \mid z_t)`, down to z_0.

    Args:
        model: network or oracle.
        shape: of the batch of codes, (n, ...).
        steps: calls of the network, at the times of
            :meth:`~holdfast.diffusion.binary.schedule.BinarySchedule.grid`; all T where omitted.
        y: labels, for a conditional model.
        temperature: divides the logits; below 1 samples are cleaner and less diverse.
        guidance: see :func:`data_probability`.
        known: bits and a mask of the same or a broadcastable shape: where the mask is true the bits are imposed on
            every state, and the others are filled in.
        last: draw z_0 from its probability, or ("argmax", as published) take the more probable value, which throws
            away the diversity of the last step.
        posterior: "mixture" or "plug_in", see
            :meth:`~holdfast.diffusion.binary.schedule.BinarySchedule.posterior`.
        draw_dtype: of the uniform numbers; anything below float64 can never draw rates below its step.
        generator: source of every draw, on the device of the samples.
        progress: show a bar; a string is its label.

    Raises:
        ValueError: for more steps than T, a temperature of 0 or less, guidance of a model that is not conditional,
            known bits that are none or of another shape, and labels of another length.

    Source: Wang et al., "Binary Latent Diffusion", CVPR 2023, Section 3.2.

    Examples:
        >>> from holdfast.diffusion.oracles.bits import ExactBitDenoiser
        >>> templates = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])
        >>> model = ExactBitDenoiser(templates, 0.0, BinarySchedule(200))
        >>> out = binary_ancestral(model, (500, 4), generator=torch.Generator().manual_seed(0))
        >>> round(((out.x.sum(1) == 0) | (out.x.sum(1) == 4)).float().mean().item(), 1)
        1.0
    """
    schedule = model.schedule
    check_number("temperature", temperature, low=0, open_low=True)
    check_choice("last", last, ("draw", "argmax"))
    check_choice("posterior", posterior, POSTERIORS)
    shape = tuple(int(check_number("shape", s, low=1, integer=True)) for s in shape)
    if len(shape) < 2:
        raise ValueError(f"shape must be (n, ...), got {shape}")
    if y is not None and len(y) != shape[0]:
        raise ValueError(f"y must have one label per sample: shape begins with {shape[0]}, y has {len(y)}")
    if guidance is not None:
        if y is None:
            raise ValueError("guidance needs the labels y to guide towards")
        guidance.null_class(model)
    device = _device(model) if generator is None else generator.device
    bits, mask = _known(known, shape, device)
    y = None if y is None else y.to(device)

    def draw(p: Tensor) -> Tensor:
        return bernoulli(p, dtype=draw_dtype, generator=generator).to(torch.get_default_dtype())

    def impose(z: Tensor) -> Tensor:
        return z if bits is None or mask is None else torch.where(mask, bits, z)

    times = schedule.grid(schedule.steps if steps is None else steps)
    label = progress if isinstance(progress, str) else "sampling"
    live = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    z = impose(draw(torch.full(shape, 0.5, device=device)))
    calls, drawn = 0, 1
    try:
        for m in live:
            m.training = False
        with ProgressBar(label, total=len(times), enabled=bool(progress), measure=None) as bar:
            for i, (t, s) in enumerate(zip(times, [*times[1:], 0]), start=1):
                p0 = data_probability(model, z, t, y, temperature=temperature, guidance=guidance)
                calls += 2 if guidance is not None and guidance.active(t / schedule.steps) else 1
                if s == 0 and last == "argmax":
                    z = (p0 > 0.5).to(z)
                else:
                    z = draw(schedule.posterior(z, p0, t, s, posterior))
                    drawn += 1
                z = impose(z)
                bar.tick(i)
    finally:
        for m in live:
            m.training = True
    return Samples(z, calls, drawn * z.numel())


def _device(model: BitPredictor) -> torch.device:
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


def _known(
    known: tuple[Tensor, Tensor] | None, shape: tuple[int, ...], device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    if known is None:
        return None, None
    bits, mask = known
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask of known bits must be boolean, got {mask.dtype}")
    try:
        bits, mask = bits.expand(shape), mask.expand(shape)
    except RuntimeError as error:
        raise ValueError(
            f"known bits and mask must fit the shape {shape}, got {tuple(bits.shape)} and {tuple(mask.shape)}"
        ) from error
    check_bits("known bits", bits[mask])
    return bits.to(device, torch.get_default_dtype()), mask.to(device)

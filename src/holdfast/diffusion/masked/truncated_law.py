r"""What ancestral sampling really samples from when its noise has a ceiling."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.diffusion.gumbel_truncation import truncated_gumbel_probs
from holdfast.diffusion.masked.ancestral import stay_probabilities
from holdfast.diffusion.masked.schedules import LinearMask, MaskSchedule, check_mask_schedule

__all__ = ["truncated_ancestral_law"]


def truncated_ancestral_law(
    pi: Float[Tensor, " vocab"], steps: int, ceiling: float, schedule: MaskSchedule | None = None
) -> Float[Tensor, " vocab"]:
    r"""Law of a token that the joint ancestral sampler reveals from ``pi`` when its Gumbel noise has a ceiling M.

    Every step of :class:`holdfast.diffusion.masked.AncestralMaskedSampler` draws from the mask, with nearly all of
    the mass, and from tokens of mass :math:`\pi_k (\alpha_s - \alpha_t)/(1 - \alpha_t)`, which the ceiling distorts
    (:func:`holdfast.diffusion.gumbel_truncation.truncated_gumbel_probs`); here the distorted law is carried through
    all steps exactly. Rare tokens can hardly be revealed: the more steps, the lower the entropy.

    Args:
        pi: what the network predicts, the same at every step.
        steps: N.
        ceiling: M, e.g. ``gumbel_ceiling(torch.float32)``.
        schedule: linear when omitted.

    Raises:
        ValueError: for steps below 1, and as ``truncated_gumbel_probs``.

    Source: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
    Categorical Sampling", ICLR 2025.

    Examples:
        >>> pi = torch.tensor([0.9, 0.1])
        >>> truncated_ancestral_law(pi, 100, ceiling=5.0)[1] < 0.1
        tensor(True)
    """
    check_number("steps", steps, low=1, integer=True)
    schedule = LinearMask() if schedule is None else schedule
    check_mask_schedule(schedule)
    law, hidden = torch.zeros_like(pi, dtype=torch.float64), 1.0
    for _, stay in stay_probabilities(schedule, steps):
        drawn = truncated_gumbel_probs(torch.cat([(1 - stay) * pi.double(), pi.new_tensor([stay]).double()]), ceiling)
        law += hidden * drawn[:-1]
        hidden *= float(drawn[-1])
    return law

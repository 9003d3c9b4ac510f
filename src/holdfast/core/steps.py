"""What a step knows of itself, and the random numbers it draws: functions of the seed and the step alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from holdfast.core.random import spawn_seed

__all__ = ["StepInfo", "StepSeeds"]

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class StepInfo:
    """Where training stands.

    Attributes:
        step: optimizer steps done before this one, 0 to ``total - 1``.
        total: optimizer steps in all.
        epoch: passes over the batches done before this one.
        generator: on the device of training, seeded from the seed and the step (and the batch within it).

    Examples:
        >>> info = StepInfo(step=0, total=10, epoch=0, generator=torch.Generator())
        >>> info.step / info.total
        0.0
    """

    step: int
    total: int
    epoch: int
    generator: torch.Generator


def _mix(base: int, k: int) -> int:
    """Scramble (base, k) into 64 bits (the finaliser of SplitMix64)."""
    z = (base + (k + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class StepSeeds:
    """Restarts the global generators, and one of its own, from ``(seed, k)``: no random state to save.

    Examples:
        >>> from holdfast.core.random import isolated_rng
        >>> seeds = StepSeeds(0, torch.device("cpu"))
        >>> with isolated_rng(0):
        ...     seeds.restart(7); a = torch.rand(2)
        ...     seeds.restart(7); b = torch.rand(2)
        >>> bool((a == b).all())
        True
    """

    def __init__(self, seed: int, device: torch.device, rank: int = 0) -> None:
        self._base = spawn_seed(seed, "steps", rank) << 32 | spawn_seed(seed, "steps again", rank)
        self.generator = torch.Generator(device=device)
        self._globals = [torch.default_generator]
        if device.type == "cuda":
            self._globals.append(torch.cuda.default_generators[device.index or 0])
        elif device.type == "mps":
            self._globals.append(torch.mps._get_default_mps_generator())

    def restart(self, k: int) -> None:
        """Start every generator at the seed of micro-batch ``k``."""
        seed = _mix(self._base, k)
        for g in self._globals:
            g.manual_seed(seed)
        self.generator.manual_seed(seed ^ 0x5851F42D4C957F2D)

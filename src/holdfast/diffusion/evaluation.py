"""How good a trained generator is: scores against real data and controls, over sampler steps, and a look for copies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.random import generator, spawn_seed
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.model import DiffusionModel
from holdfast.metrics.generation import FeatureSpace, GenerationScores, frechet_distance, generation_scores
from holdfast.metrics.retrieval import nearest_neighbours

__all__ = ["GeneratorEvaluation", "StepScore", "evaluate_generator"]


@dataclass(frozen=True)
class StepScore:
    """Fréchet distance of samples drawn with so many sampler steps, and what they cost."""

    steps: int
    calls: int
    frechet: float
    seconds: float


@dataclass(frozen=True)
class GeneratorEvaluation:
    """What was measured, on which samples, in which space.

    Attributes:
        scores: of the model's best number of steps.
        real: of another half of the real data in the model's place: what a perfect generator scores.
        trivial: of independent Gaussians of every pixel (or column): what no learning scores.
        steps: Fréchet distance over sampler steps, all from the same noise and labels.
        best_steps: the number of steps that ``scores`` and ``samples`` are of.
        samples: generated samples on the network's scale, for pictures; not part of the dictionary.
        copies: share of generated samples that lie nearer to a training sample than most held-out real samples do
            (5% of real samples do, by definition); ``None`` where no training data were given.
        neighbours: for the first generated samples, the training sample that is nearest in feature space.
        nearest_share: for each of these, the share of held-out real samples that lie nearer to training than it.
    """

    space: str
    sampler: str
    guidance: float
    scores: GenerationScores
    real: GenerationScores
    trivial: GenerationScores
    steps: tuple[StepScore, ...]
    best_steps: int
    samples: Float[Tensor, "n *shape"]
    copies: float | None = None
    neighbours: tuple[int, ...] = ()
    nearest_share: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary of the numbers."""
        out = asdict(self)
        del out["samples"]
        return out


def evaluate_generator(
    model: DiffusionModel,
    reference: Float[Tensor, "n *shape"],
    space: FeatureSpace,
    *,
    training: Float[Tensor, "m *shape"] | None = None,
    steps: Sequence[int] = (2, 5, 10, 20, 40),
    n: int | None = None,
    sampler: str = "heun",
    guidance: float | Guidance = 1.0,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> GeneratorEvaluation:
    """Measure a model against real data that it was not trained on.

    The reference is cut in two: one half is what everything is compared with, the other stands in for a perfect
    generator. All rows of the result come from equally many samples, so their biases are alike.

    Args:
        model: fitted.
        reference: real data on the network's scale (``model.scaling_.encode``), not seen in training.
        space: where they are compared.
        training: the data of training, to look for copies.
        steps: numbers of sampler steps.
        n: samples of everything; by default half of the reference.
        sampler, guidance, batch_size: of sampling.
        seed: of noise, labels and the cut.
        progress: show a bar for every number of steps.

    Raises:
        ValueError: for fewer than 12 real samples, or numbers out of range.
    """
    if len(reference) < 12:
        raise ValueError(f"an evaluation needs at least 12 held-out real samples, got {len(reference)}")
    wanted = sorted({int(check_number("steps", s, low=1, integer=True)) for s in steps})
    half = len(reference) // 2
    n = half if n is None else int(check_number("n", n, low=6, high=half, integer=True))
    order = torch.randperm(len(reference), generator=generator(spawn_seed(seed, "halves")))
    real, other = (space(reference[rows]) for rows in (order[:n], order[n : 2 * n]))
    found: list[StepScore] = []
    best: tuple[float, int, Tensor, Tensor] | None = None
    for s in wanted:
        begin = time.perf_counter()
        drawn = model.draw(
            n,
            guidance=guidance,
            steps=s,
            sampler=sampler,
            random_state=seed,
            batch_size=batch_size,
            progress=f"{s} steps" if progress else False,
        )
        seconds = time.perf_counter() - begin
        z = _finite(space, _on_scale(model, drawn.x))
        distance = frechet_distance(real, z)
        found.append(StepScore(s, drawn.calls, distance, seconds))
        if best is None or distance < best[0]:
            best = (distance, s, _on_scale(model, drawn.x), z)
    _, best_steps, samples, z = best  # pyright: ignore[reportGeneralTypeIssues]
    k = min(5, n - 1)
    scores, perfect, trivial = (
        generation_scores(real, other_z, space=space.name, k=k, seed=seed)
        for other_z in (z, other, space(_independent_gaussians(reference, n, seed)))
    )
    copies, neighbours, share = _copies(space, training, z, torch.cat([real, other]))
    scale = guidance.scale if isinstance(guidance, Guidance) else float(guidance)
    return GeneratorEvaluation(
        space.name, sampler, scale, scores, perfect, trivial, tuple(found), best_steps, samples, copies, neighbours,
        share,
    )  # fmt: skip


def _on_scale(model: DiffusionModel, x: Tensor) -> Tensor:
    """Samples as they would be handed out: image values clamped to their range."""
    return x.clamp(-1, 1) if model.scaling_.kind == "image" else x


def _finite(space: FeatureSpace, x: Tensor) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the model's samples are not finite: it needs longer training or a smaller learning rate")
    return space(x)


def _independent_gaussians(reference: Tensor, n: int, seed: int) -> Tensor:
    g = generator(spawn_seed(seed, "trivial"))
    x = reference.mean(0) + reference.std(0) * torch.randn((n, *reference.shape[1:]), generator=g)
    return x.clamp(-1, 1) if reference.ndim == 4 else x


def _copies(
    space: FeatureSpace, training: Tensor | None, z: Tensor, held: Tensor
) -> tuple[float | None, tuple[int, ...], tuple[float, ...]]:
    if training is None or len(training) == 0:
        return None, (), ()
    known = space(training)
    ours, theirs = (nearest_neighbours(q, known, 1, "l2") for q in (z, held))
    threshold = float(np.quantile(theirs.distances[:, 0].numpy(), 0.05))
    share = float((ours.distances[:, 0] < threshold).double().mean())
    shown = min(len(z), 10)
    nearer = (theirs.distances[:, 0][None] < ours.distances[:shown, :1]).double().mean(1)
    return share, tuple(ours.indices[:shown, 0].tolist()), tuple(nearer.tolist())

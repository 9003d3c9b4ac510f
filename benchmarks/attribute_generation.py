"""Photographs of faces on request, and the price of a training step.

Smiles. 4,000 crops of faces, half of them smiling: a third trains the judge, a third the generators, and samples are
asked for the attributes of the last third. Reported: how often the judge sees what was asked for, pixel variance within
a request over that of real faces, energy distance to the real faces, seconds of training and of drawing 1,000 samples.
Peers: a standard prior, half a stochastic network, a deterministic network, and real faces themselves.

People. 40 people with ten photographs each; the person is the attribute, and two photographs of each are held out.
Reported: log-likelihood per pixel of those under a Gaussian of deviation 0.1 around the decoded mean, by importance
sampling where there is a latent.

Pyro. The same model, networks and bound written in Pyro 1.9: seconds per step, and the largest difference of the bound
of a batch (both average over draws).

The data are in the folders smiles-lfw and orl-faces of HOLDFAST_DATA.

    python benchmarks/attribute_generation.py [--seeds 100 101] [--steps 1000] [--grid faces.png] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.core.image_grid import image_grid, save_png
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.training import train
from holdfast.data import load_named
from holdfast.distribution import (
    AttributeEmbedding,
    AttributeJudge,
    AttributePrior,
    ConditionalVAE,
    DeterministicRegressor,
    GaussianLikelihood,
    KLSchedule,
    attribute_accuracy,
    diversity_ratio,
    train_attributes,
)
from holdfast.metrics import energy_distance
from holdfast.nn import MLPDecoder, MLPEncoder

LATENT, WIDTH = 32, 512


def cvae(shape: tuple[int, ...], attributes: int, steps: int, **options: Any) -> ConditionalVAE:
    """Return the model under test; ``options`` are those of :class:`ConditionalVAE`, and ``prior``."""
    return ConditionalVAE(
        MLPEncoder(shape, 64, 2 * LATENT, width=WIDTH),
        AttributePrior(64, LATENT, options.pop("prior", "learned")),
        MLPDecoder(LATENT + 64, shape, width=WIDTH),
        embedding=AttributeEmbedding(attributes, 64, missing=False),
        likelihood=GaussianLikelihood(0.1),
        beta=KLSchedule("linear", 1.0, warmup=steps // 10),
        **options,
    )


def regressor(shape: tuple[int, ...], attributes: int) -> DeterministicRegressor:
    """Return the deterministic peer."""
    embedding = AttributeEmbedding(attributes, 64, missing=False)
    return DeterministicRegressor(
        MLPDecoder(64, shape, width=WIDTH), embedding=embedding, likelihood=GaussianLikelihood(0.1)
    )


def read(name: str) -> tuple[Tensor, Tensor]:
    """Return images in [0, 1] and labels from 0."""
    data = load_named(name)
    x = torch.from_numpy(np.asarray(data.x, dtype=np.float32) / 255)
    return x, torch.from_numpy(np.unique(np.asarray(data.y), return_inverse=True)[1])


def smiles(seed: int, steps: int, grid: str | None) -> dict[str, dict[str, float]]:
    """Return the measures by method."""
    x, y = read("smiles-lfw")
    order = torch.randperm(len(x), generator=generator(spawn_seed(seed, "split")))
    first, second, third = order.tensor_split(3)
    c = y[:, None].float()
    judge = AttributeJudge((1, 32, 32), 1, widths=(16, 32, 64)).fit(
        x[first], c[first], steps=400, seed=seed, device="cpu"
    )
    real, asked = x[third], c[third]
    rows: dict[str, dict[str, float]] = {
        "real faces": {"accuracy": attribute_accuracy(real, asked, judge).overall, "variety": 1.0}
    }
    half = len(real) // 2
    rows["real faces"]["energy"] = energy_distance(real[:half].flatten(1), real[half:].flatten(1), estimator="unbiased")
    shape, pictures = (1, 32, 32), [real[asked[:, 0] == k][:8] for k in (0, 1)]
    makers: dict[str, Any] = {
        "cvae": lambda: cvae(shape, 1, steps),
        "cvae, standard prior": lambda: cvae(shape, 1, steps, prior="standard"),
        "cvae, alpha 0.5": lambda: cvae(shape, 1, steps, alpha=0.5),
        "deterministic": lambda: regressor(shape, 1),
    }
    for name, make in makers.items():
        with isolated_rng(spawn_seed(seed, "weights")):
            model = make()
        start = time.perf_counter()
        train_attributes(model, x[second], c[second], steps=steps, seed=seed, device="cpu")
        fitted = time.perf_counter() - start
        start = time.perf_counter()
        drawn = model.sample(asked, 1, generator(spawn_seed(seed, "samples")))[:, 0]
        seconds = time.perf_counter() - start
        rows[name] = {
            "accuracy": attribute_accuracy(drawn, asked, judge).overall,
            "variety": diversity_ratio(drawn, real, asked),
            "energy": energy_distance(drawn.flatten(1), real.flatten(1), estimator="unbiased"),
            "fit s": fitted,
            "1000 samples s": seconds * 1000 / len(asked),
        }
        pictures += [drawn[asked[:, 0] == k][:8] for k in (0, 1)]
    if grid is not None:
        save_png(image_grid(torch.cat(pictures).numpy(), columns=16, zoom=2), grid)
    return rows


def people(seed: int, steps: int) -> dict[str, float]:
    """Return the log-likelihood per pixel of held-out photographs."""
    x, y = read("orl-faces")
    x = nn.functional.avg_pool2d(x, 2)
    c = nn.functional.one_hot(y).float()
    rng = generator(spawn_seed(seed, "people"))
    held = torch.cat([(y == k).nonzero().flatten()[torch.randperm(10, generator=rng)[:2]] for k in range(40)])
    rest = torch.ones(len(x), dtype=torch.bool)
    rest[held] = False
    shape, out = tuple(x.shape[1:]), {}
    pixels = int(np.prod(shape))
    for name in ("cvae", "deterministic"):
        with isolated_rng(spawn_seed(seed, "weights")):
            model: Any = cvae(shape, 40, steps) if name == "cvae" else regressor(shape, 40)
        train_attributes(model, x[rest], c[rest], steps=steps, batch_size=64, seed=seed, device="cpu")
        if name == "cvae":
            found = model.log_likelihood(x[held], c[held], 100, generator=rng).mean()
        else:
            with torch.no_grad():
                found = -model.loss(x[held], c[held])
        out[name] = float(found) / pixels
    return out


def pyro_step(seed: int, repeats: int = 100) -> dict[str, float]:
    """Return seconds per step of both libraries, and the difference of their bounds."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI, TraceMeanField_ELBO
    from pyro.optim import Adam  # type: ignore[attr-defined]

    shape, pixels = (1, 32, 32), 1024
    rng = generator(spawn_seed(seed, "pyro"))
    x = torch.rand(128, *shape, generator=rng)
    c = (torch.rand(128, 5, generator=rng) < 0.5).float()
    with isolated_rng(seed):
        ours = cvae(shape, 5, 0)
    ours.eval()
    recogniser = ours.recogniser
    assert recogniser is not None

    def model(x: Tensor, c: Tensor) -> None:
        pyro.module("embedding", ours.embedding)
        pyro.module("prior", ours.prior)
        pyro.module("generator", ours.generator)
        e = ours.embedding(c)
        with pyro.plate("rows", len(x)):
            law = ours.prior(e)
            z = pyro.sample("z", dist.Normal(law.mean, law.std).to_event(1))
            mean = ours.generator(torch.cat([z, e], -1)).sigmoid().flatten(1)
            pyro.sample("x", dist.Normal(mean, 0.1).to_event(1), obs=x.flatten(1))

    def guide(x: Tensor, c: Tensor) -> None:
        pyro.module("recogniser", recogniser)
        q = ours.posterior(x, ours.embedding(c))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(q.mean, q.std).to_event(1))

    with torch.no_grad():
        theirs = np.mean([TraceMeanField_ELBO().loss(model, guide, x, c) / 128 for _ in range(50)])
        own = np.mean([float(ours.loss(x, c, generator(k))) for k in range(50)])
    svi = SVI(model, guide, Adam({"lr": 1e-6}), TraceMeanField_ELBO())
    svi.step(x, c)
    start = time.perf_counter()
    for _ in range(repeats):
        svi.step(x, c)
    peer = (time.perf_counter() - start) / repeats

    class Same:
        def __len__(self) -> int:
            return 1

        def epoch(self, e: int, start: int = 0) -> Any:
            return iter([(x, c)][start:])

    def loss(m: Any, batch: Any, info: Any) -> Tensor:
        return m.loss(batch[0], batch[1], info.generator)

    train(ours, loss, Same(), steps=2, optimizer="adam", lr=1e-6, device="cpu")
    start = time.perf_counter()
    train(ours, loss, Same(), steps=repeats, optimizer="adam", lr=1e-6, device="cpu")
    mine = (time.perf_counter() - start) / repeats
    return {
        "holdfast ms per step": 1000 * mine,
        "pyro ms per step": 1000 * peer,
        "bound of holdfast, nats per pixel": -float(own) / pixels,
        "bound of pyro, nats per pixel": -float(theirs) / pixels,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--grid", help="write a picture of the first seed's samples here, real faces first")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    grids = [options.grid] + [None] * len(options.seeds)
    runs = [smiles(seed, options.steps, grid) for seed, grid in zip(options.seeds, grids)]
    results: dict[str, Any] = {
        "smiles": {row: {k: [r[row][k] for r in runs] for k in runs[0][row]} for row in runs[0]},
        "people": [people(seed, options.steps) for seed in options.seeds],
        "pyro": pyro_step(options.seeds[0]),
    }
    if options.json:
        print(json.dumps({"settings": vars(options), "results": results}))
        return
    print(f"smiles on request, means of seeds {options.seeds}")
    for row, values in results["smiles"].items():
        print(f"  {row:22s} " + "  ".join(f"{k} {np.mean(v):.3f}" for k, v in values.items()))
    print("people: log-likelihood per pixel of held-out photographs")
    for row in results["people"][0]:
        print(f"  {row:22s} {np.mean([r[row] for r in results['people']]):.3f}")
    print("one step, batch of 128, the same networks")
    for k, v in results["pyro"].items():
        print(f"  {k:36s} {v:.4f}")


if __name__ == "__main__":
    main()

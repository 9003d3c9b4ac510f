"""Baby registries among other products: which products of a ground set belong to one registry.

A ground set is a registry of three or more products and other random products of its category, 30 in all; the registry
is to be picked. A product is its number alone, so all that can be learned is which products are wanted often, and which
are wanted together. No registry of training is among those of the test.

Compared are the utility that sees the ground set (INSET), the same without it (EquiVSet), scorers of every product with
the mean of the ground set beside it (DeepSet) and alone, and chance; all with the same table of products and the same
batches. The score is the mean Jaccard index of the picked products with the registry's, at the registry's size and with
the size chosen by the model. The interval of the difference to EquiVSet is over the test's registries of all seeds.

The data are the registries of Gillenwater et al. (NeurIPS 2014), in the file
``amazon-baby-registry/1_100_100_100_apparel-diaper-feeding_regs.csv.gz`` of HOLDFAST_DATA or given by ``--file``; see
https://github.com/cgartrel/nonsymmetric-DPP-learning.

    python benchmarks/subset_selection.py [--categories apparel diaper feeding] [--seeds 100 101] [--steps 600] [--json]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.distribution.subsets import (
    DeepSetScorer,
    MeanFieldSubsetModel,
    RandomSubset,
    SubsetDataset,
    SubsetModel,
    make_subset_utility,
    subset_jaccard,
    train_subsets,
)
from holdfast.metrics import t_interval

FILE = Path(os.environ.get("HOLDFAST_DATA", ".")) / (
    "amazon-baby-registry/1_100_100_100_apparel-diaper-feeding_regs.csv.gz"
)
CATEGORIES = ("apparel", "diaper", "feeding")
PRODUCTS, GROUND, SMALLEST, WIDTH = 100, 30, 3, 64


def registries(path: Path, category: str) -> list[np.ndarray]:
    """Return the different registries of a category, as products 0 to 99."""
    first = 1 + PRODUCTS * CATEGORIES.index(category)
    with gzip.open(path, "rt") as lines:
        sets = {tuple(sorted({int(w) for w in line.replace(",", " ").split()})) for line in lines}
    found = [
        np.array(s) - first for s in sorted(sets) if SMALLEST <= len(s) < GROUND and first <= s[0] < first + PRODUCTS
    ]
    if not found or max(int(s.max()) for s in found) >= PRODUCTS:
        raise SystemExit(f"{path} does not hold registries of {category} as products {first} to {first + PRODUCTS - 1}")
    return found


def ground_sets(chosen: list[np.ndarray], seed: int) -> SubsetDataset:
    """Fill every registry up with random other products."""
    rng = np.random.default_rng(spawn_seed(seed, "others"))
    inside = np.zeros((len(chosen), PRODUCTS), dtype=bool)
    for row, products in zip(inside, chosen):
        row[products] = True
    # Products of the registry come first, the others in random order; then the places are mixed.
    keys = np.where(inside, -1.0, rng.random(inside.shape))
    V = rng.permuted(np.argsort(keys, axis=1)[:, :GROUND], axis=1)
    return SubsetDataset(torch.from_numpy(V), torch.from_numpy(np.take_along_axis(inside, V, axis=1)))


def models() -> dict[str, SubsetModel]:
    """Return what is compared; the heads of the two utilities have about as many parameters."""
    table = lambda: nn.Embedding(PRODUCTS, WIDTH)  # noqa: E731
    inset = make_subset_utility(table(), WIDTH, head_width=128)
    equivset = make_subset_utility(table(), WIDTH, background="none", head_width=144)
    return {
        "INSET": MeanFieldSubsetModel(inset),
        "EquiVSet": MeanFieldSubsetModel(equivset),
        "DeepSet": DeepSetScorer(table(), WIDTH, hidden=144),
        "alone": DeepSetScorer(table(), WIDTH, hidden=144, context=False),
        "random": RandomSubset(),
    }


def run(path: Path, category: str, seed: int, options: argparse.Namespace) -> dict[str, dict[str, torch.Tensor]]:
    """Train all on one split and return the Jaccard index of every test registry."""
    found = registries(path, category)
    order = np.random.default_rng(spawn_seed(seed, "split")).permutation(len(found))
    held = len(found) // options.folds
    test = ground_sets([found[i] for i in order[:held][: options.test]], spawn_seed(seed, "test"))
    train = ground_sets([found[i] for i in order[held:][: options.train]], spawn_seed(seed, "train"))
    with isolated_rng(spawn_seed(seed, "weights")):
        arms = models()
    out: dict[str, dict[str, torch.Tensor]] = {}
    for name, model in arms.items():
        begin = time.perf_counter()
        if name != "random":
            train_subsets(
                model,
                train,
                steps=options.steps,
                batch_size=64,
                lr=2e-3,
                schedule="cosine",
                seed=seed,
                device=options.device,
            )
        seconds = time.perf_counter() - begin
        scores = {rule: subset_jaccard(model, test, rule, n_eval=10) for rule in ("topk", "expected_jaccard")}
        out[name] = scores | {"seconds": torch.tensor(seconds)}
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--categories", nargs="+", choices=CATEGORIES, default=list(CATEGORIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--train", type=int, default=4000, help="largest number of registries to learn from")
    parser.add_argument("--test", type=int, default=1000, help="largest number of registries to test on")
    parser.add_argument("--folds", type=int, default=4, help="one fold of this many is the test's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    if not options.file.is_file():
        raise SystemExit(f"there is no file {options.file}; set HOLDFAST_DATA or give --file")

    rows = []
    for category in options.categories:
        runs = [run(options.file, category, seed, options) for seed in options.seeds]
        for name in runs[0]:
            scores = {r: torch.cat([one[name][r] for one in runs]) for r in ("topk", "expected_jaccard")}
            gain = t_interval(scores["topk"] - torch.cat([one["EquiVSet"]["topk"] for one in runs]))
            rows.append(
                {
                    "category": category,
                    "model": name,
                    "jaccard": float(scores["topk"].mean()),
                    "jaccard_size_unknown": float(scores["expected_jaccard"].mean()),
                    "over_equivset": gain.estimate,
                    "low": gain.low,
                    "high": gain.high,
                    "by_seed": [float(one[name]["topk"].mean()) for one in runs],
                    "seconds": float(sum(one[name]["seconds"] for one in runs)),
                }
            )
    if options.json:
        about = {"torch": torch.__version__, "python": platform.python_version(), **vars(options), "file": ""}
        print(json.dumps({"settings": about, "results": rows}))
        return
    print(f"{options.steps} steps of 64 ground sets of {GROUND} products, seeds {options.seeds}")
    print(
        f"{'category':10s} {'model':9s} {'Jaccard':>8s} {'size unknown':>13s}  {'over EquiVSet':>24s} {'seconds':>8s}"
    )
    for r in rows:
        gain = f"{r['over_equivset']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"
        print(
            f"{r['category']:10s} {r['model']:9s} {r['jaccard']:8.3f} {r['jaccard_size_unknown']:13.3f}  "
            f"{gain:>24s} {r['seconds']:8.1f}"
        )


if __name__ == "__main__":
    main()

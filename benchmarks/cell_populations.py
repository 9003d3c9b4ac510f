"""Populations of single cells: the composition of a mixture, and a condition that was held out.

Composition. Populations of 100 cells are mixed from the cell types of the PBMC sample (700 cells, 765 genes, the ten
types joined to the five largest and the rest) in Dirichlet proportions; cells of training and test are different. The
code of a population is the input of a ridge regression on the proportions. Reported: mean absolute error of a
proportion.

Held-out condition. Blood cells without and with interferon beta (2,000 cells, 2,000 genes) are clustered into types by
the genes that the control cells vary in and that do not respond; every type by condition is a population. One
stimulated type is held out of all training; its code is that of its control population plus the mean shift of the other
types, and cells are sampled from it. Reported: energy distance to the true stimulated cells, in 20 principal
components fitted without them.

Peers: pseudobulk (the mean profile; a held-out population is the control cells moved by the mean shift), a kernel mean
embedding of the same length with its bandwidth from the median distance and the same generator, and the control cells
as they are.

The data are in the folders kang-pbmc-ifnb and pbmc68k-reduced of HOLDFAST_DATA.

    python benchmarks/cell_populations.py [--seeds 100 101] [--steps 600] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV

from holdfast.core.random import spawn_seed
from holdfast.data import log_counts
from holdfast.data.readers.npz import stored_csr
from holdfast.distribution.embedding.estimator import DistributionEmbedding
from holdfast.metrics import energy_distance, t_interval

FOLDER = Path(os.environ.get("HOLDFAST_DATA", "."))
COMPONENTS, TYPES, CELLS = 20, 5, 100


def mixtures(
    x: np.ndarray, kind: np.ndarray, n: int, kinds: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return populations mixed of cell types, and their true proportions."""
    members = [np.flatnonzero(kind == k) for k in range(kinds)]
    share = rng.dirichlet(np.ones(kinds), n)
    sets, truth = [], []
    for w in share:
        drawn = rng.choice(kinds, CELLS, p=w)
        sets.append(x[[rng.choice(members[k]) for k in drawn]])
        truth.append(np.bincount(drawn, minlength=kinds) / CELLS)
    return np.stack(sets), np.stack(truth)


def model(encoder: str, steps: int, seed: int) -> DistributionEmbedding:
    """Return what is compared; all take points in principal components."""
    return DistributionEmbedding(
        encoder, code_dim=16, width=64, steps=steps, batch_size=32, lr=2e-3, mix=2, device="cpu", random_state=seed
    )


def composition(seed: int, steps: int) -> dict[str, float]:
    """Return the error of the proportions by method."""
    with np.load(FOLDER / "pbmc68k-reduced/pbmc68k_reduced.npz") as file:
        x, cell_type = file["scaled"].astype(np.float64), file["cell_type"]
    largest = np.argsort(-np.bincount(cell_type))[:TYPES]
    kind = np.full(len(x), TYPES)
    for k, t in enumerate(largest):
        kind[cell_type == t] = k
    rng = np.random.default_rng(spawn_seed(seed, "cells"))
    order = rng.permutation(len(x))
    learn, test = order[: len(x) // 2], order[len(x) // 2 :]
    pca = PCA(COMPONENTS, random_state=0).fit(x[learn])
    y = pca.transform(x)
    y = y / y[learn].std()
    train_sets, train_share = mixtures(y[learn], kind[learn], 200, TYPES + 1, rng)
    test_sets, test_share = mixtures(y[test], kind[test], 200, TYPES + 1, rng)
    codes: dict[str, tuple[np.ndarray, np.ndarray]] = {"pseudobulk": (train_sets.mean(1), test_sets.mean(1))}
    for name in ("resnet", "kernel-mean"):
        fitted = model(name, steps if name == "resnet" else 1, seed).fit(train_sets)
        codes[name] = (fitted.transform(train_sets), fitted.transform(test_sets))
    out = {"proportions of training": float(np.abs(test_share - train_share.mean(0)).mean())}
    for name, (a, b) in codes.items():
        mean, std = a.mean(0), a.std(0) + 1e-9
        ridge = RidgeCV(np.logspace(-4, 3, 15)).fit((a - mean) / std, train_share)
        out[name] = float(np.abs(ridge.predict((b - mean) / std) - test_share).mean())
    return out


def held_out(seed: int, steps: int) -> dict[str, float]:
    """Return the energy distance to the stimulated cells of a type never seen stimulated, averaged over types."""
    with np.load(FOLDER / "kang-pbmc-ifnb/kang_pbmc_ifnb_2000genes.npz") as file:
        counts = stored_csr(file)
        stimulated, total = file["stimulated"].astype(bool), file["total_umi_all_genes"]
    x = log_counts(counts, total)
    shift = np.abs(x[stimulated].mean(0) - x[~stimulated].mean(0))
    quiet = shift < np.quantile(shift, 0.9)
    low = PCA(10, random_state=seed).fit(x[~stimulated][:, quiet])
    kind = KMeans(TYPES, n_init=5, random_state=seed).fit(low.transform(x[~stimulated][:, quiet])).predict(
        low.transform(x[:, quiet])
    )  # fmt: skip
    found: dict[str, list[float]] = {}
    rng = np.random.default_rng(spawn_seed(seed, "kang"))
    for k in range(TYPES):
        target = stimulated & (kind == k)
        if target.sum() < 30 or (~stimulated & (kind == k)).sum() < 30:
            continue
        pca = PCA(COMPONENTS, random_state=0).fit(x[~target])
        y = pca.transform(x)
        y = y / y[~target].std()
        others = [
            j for j in range(TYPES) if j != k and all((kind == j)[s].sum() >= 10 for s in (stimulated, ~stimulated))
        ]
        cells = {(j, s): y[(kind == j) & (stimulated == s)] for j in [*others, k] for s in (False, True)}
        truth = cells.pop((k, True))
        control = cells[(k, False)]
        names = list(cells)

        def score(sampled: np.ndarray, truth: np.ndarray = truth) -> float:
            return energy_distance(sampled[rng.permutation(len(sampled))[:400]], truth[:400])

        move = np.mean([cells[(j, True)].mean(0) - cells[(j, False)].mean(0) for j in others], axis=0)
        row = {"control as it is": score(control), "pseudobulk": score(control + move)}
        half = rng.permutation(len(truth))
        row["two halves of the truth"] = energy_distance(truth[half[::2]], truth[half[1::2]])
        for name in ("resnet", "kernel-mean"):
            fitted = model(name, steps, seed).fit([cells[c] for c in names])
            z = dict(zip(names, fitted.transform([cells[c] for c in names])))
            code = z[(k, False)] + np.mean([z[(j, True)] - z[(j, False)] for j in others], axis=0)
            row[name] = score(fitted.resample(code[None], min(400, len(truth)), random_state=seed)[0])
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for task, run in (("composition", composition), ("held-out condition", held_out)):
        runs = [run(seed, options.steps) for seed in options.seeds]
        results[task] = {name: [r[name] for r in runs] for name in runs[0]}
    if options.json:
        print(json.dumps({"settings": vars(options), "results": results}))
        return
    units = {"composition": "mean absolute error of a proportion", "held-out condition": "energy distance"}
    for task, rows in results.items():
        print(f"{task}: {units[task]}, seeds {options.seeds}")
        for name, values in sorted(rows.items(), key=lambda r: float(np.mean(r[1]))):
            tail = ""
            if len(values) > 1:
                i = t_interval(np.array(values))
                tail = f"  [{i.low:.4f}, {i.high:.4f}]"
            print(f"  {name:26s} {np.mean(values):.4f}{tail}")


if __name__ == "__main__":
    main()

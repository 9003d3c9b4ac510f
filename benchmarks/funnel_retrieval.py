"""Funnel retrieval with nested embeddings against exact search over full vectors with faiss.

An encoder is trained with the nested loss on a hierarchical world (super- and subclasses seen through a fixed
nonlinearity), then embeds a fresh database and fresh queries. Every search runs in turn within each repetition, on
the same number of threads; the fastest and the median repetition are printed, and two recalls: of the class (share
of the class found in the first ten, and its ratio to exact search) and of the exact ten nearest neighbours.

    python benchmarks/funnel_retrieval.py [--n 200000] [--repetitions 5] [--threads 1] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.training import train
from holdfast.metrics.retrieval import label_hits, precision_at_k, recall_at_k, relevant_counts
from holdfast.nn.matryoshka import MatryoshkaHead, nesting_dims
from holdfast.representation.funnel_retrieval import AdaptiveRetriever
from holdfast.representation.matryoshka import MatryoshkaLoss, PrefixCrossEntropy

K = 10
DIM = 512


class World:
    """Classes in two levels: means in 64 dimensions, unit noise, seen as x = z + 2 W2 tanh(W1 z)."""

    def __init__(self, n_super: int, n_sub: int, seed: int) -> None:
        d, hidden = 64, 128
        rng = generator(spawn_seed(seed, "world"))
        means = torch.randn(n_super, 1, d, generator=rng) + 0.6 * torch.randn(n_super, n_sub, d, generator=rng)
        self.means = means.flatten(0, 1)
        self.w1 = torch.randn(d, hidden, generator=rng) / d**0.5
        self.w2 = torch.randn(hidden, d, generator=rng) / hidden**0.5

    def draw(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        rng = generator(seed)
        y = torch.randint(len(self.means), (n,), generator=rng)
        z = self.means[y] + torch.randn(n, self.means.shape[1], generator=rng)
        return z + 2 * torch.tanh(z @ self.w1) @ self.w2, y


def train_encoder(world: World, n: int, epochs: int, seed: int) -> nn.Module:
    """Train a perceptron to 512 dimensions with a cross-entropy at every prefix of 8, 16, ..., 512."""
    x, y = world.draw(n, spawn_seed(seed, "train"))
    dims = nesting_dims(DIM)
    with isolated_rng(seed):
        encoder = nn.Sequential(nn.Linear(x.shape[1], 512), nn.ReLU(), nn.Linear(512, DIM))
        head = MatryoshkaHead(dims, len(world.means))
    pair = nn.ModuleList([encoder, head])
    loss = MatryoshkaLoss(PrefixCrossEntropy(head), dims)
    plan = BatchPlan(n, 512, seed=seed)
    train(
        pair,
        lambda pair, batch, info: loss(pair[0](batch[0]), batch[1]),
        Batches(plan, lambda rows: (x[rows], y[rows])),
        steps=epochs * len(plan),
        lr=2e-3,
        weight_decay=1e-3,
        schedule="cosine",
        device="cpu",
        seed=seed,
    )
    return encoder.eval()


@torch.no_grad()
def embed(encoder: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([encoder(part) for part in x.split(10_000)])


@dataclass
class Search:
    """One contender: what runs per batch of queries, and what it found."""

    name: str
    run: Callable[[Tensor], np.ndarray]
    megabytes: float
    flops: int
    seconds: list[float]
    found: np.ndarray | None = None


def contenders(db: Tensor, funnels: dict[str, tuple[int, list[int], list[int]]], graph: bool) -> list[Search]:
    """Build every index; none of this is timed."""
    unit = torch.nn.functional.normalize(db)
    searches = []
    for name, index in (
        ("faiss flat L2", faiss.IndexFlatL2(DIM)),
        ("faiss flat inner product", faiss.IndexFlatIP(DIM)),
    ):
        index.add(unit.numpy())

        def full(q: Tensor, index: faiss.Index = index) -> np.ndarray:
            return index.search(torch.nn.functional.normalize(q).numpy(), K)[1]

        searches.append(Search(name, full, len(db) * DIM * 4 / 2**20, len(db) * DIM, []))
    backends = ["torch", "faiss", *(["faiss-hnsw"] if graph else [])]
    for backend in backends:
        # Other first stages are timed on the first funnel alone.
        for label, (start, dims, lists) in list(funnels.items())[: None if backend == "torch" else 1]:
            retriever = AdaptiveRetriever(db, nesting_dims(DIM), backend=backend)

            def funnel(q: Tensor, r: AdaptiveRetriever = retriever, stages=(start, dims, lists)) -> np.ndarray:
                return r.funnel(q, *stages, k=K).indices.numpy()

            funnel(db[:2])
            # The flat faiss index and the graph hold the first prefix themselves; the graph also holds its links.
            extra = 0 if backend == "torch" else len(db) * start * 4
            if backend == "faiss-hnsw":
                extra += len(db) * (2 * retriever.hnsw_links + 1) * 4
            megabytes = (retriever.nbytes + extra) / 2**20
            searches.append(
                Search(f"funnel {label} ({backend})", funnel, megabytes, retriever.flops(start, dims, lists), [])
            )
    return searches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000, help="vectors in the database")
    parser.add_argument("--queries", type=int, default=1000, help="queries per batch")
    parser.add_argument("--super", type=int, default=10)
    parser.add_argument("--sub", type=int, default=10)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--graph", action="store_true", help="also HNSW over the first prefix")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)

    world = World(args.super, args.sub, args.seed)
    start = time.perf_counter()
    encoder = train_encoder(world, args.train, args.epochs, args.seed)
    training = time.perf_counter() - start
    x, y = world.draw(args.n, spawn_seed(args.seed, "database"))
    db = embed(encoder, x)
    x_query, y_query = world.draw(args.queries, spawn_seed(args.seed, "queries"))
    queries = embed(encoder, x_query)

    funnels = {
        "16>64>512 (80, 16)": (16, [64, 512], [80, 16]),
        "8>64>512 (300, 30)": (8, [64, 512], [300, 30]),
        "16>64>512 (400, 60)": (16, [64, 512], [400, 60]),
        "32>128>512 (200, 40)": (32, [128, 512], [200, 40]),
    }
    searches = contenders(db, funnels, args.graph)
    for repetition in range(-1, args.repetitions):
        for s in searches:
            start = time.perf_counter()
            s.found = s.run(queries)
            if repetition >= 0:
                s.seconds.append(time.perf_counter() - start)

    exact = searches[0]
    relevant = relevant_counts(y_query, y)
    base = recall_at_k(label_hits(y_query, y, exact.found), relevant, K)
    rows = []
    for s in searches:
        hits = label_hits(y_query, y, s.found)
        recall = recall_at_k(hits, relevant, K)
        same = (s.found[:, :, None] == exact.found[:, None]).any(1).mean()
        speedups = np.array(exact.seconds) / np.array(s.seconds)
        rows.append(
            {
                "search": s.name,
                "milliseconds_per_query_best": 1000 * min(s.seconds) / args.queries,
                "milliseconds_per_query_median": 1000 * float(np.median(s.seconds)) / args.queries,
                "speedup_median": float(np.median(speedups)),
                "speedup_range": [float(speedups.min()), float(speedups.max())],
                "class_precision@10": precision_at_k(hits, K),
                "class_recall@10": recall,
                "class_recall_ratio": recall / base,
                "neighbour_recall@10": float(same),
                "megabytes": s.megabytes,
                "multiply_adds_per_query": s.flops,
            }
        )
    report = {
        "vectors": args.n,
        "dimensions": DIM,
        "classes": len(world.means),
        "queries": args.queries,
        "threads": args.threads,
        "repetitions": args.repetitions,
        "training_seconds": training,
        "faiss": faiss.__version__,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "rows": rows,
    }
    if args.json:
        print(json.dumps(report, indent=1))
        return
    print(
        f"{args.n} trained vectors of {DIM} dimensions, {len(world.means)} classes, batches of {args.queries} queries, "
        f"{args.threads} thread(s), {args.repetitions} interleaved repetitions; encoder trained in {training:.0f} s"
    )
    print(f"{'search':38} {'ms/query':>9} {'speed-up':>9} {'range':>13} {'class recall':>13} {'same 10':>8} {'MB':>7}")
    for r in rows:
        low, high = r["speedup_range"]
        print(
            f"{r['search']:38} {r['milliseconds_per_query_median']:9.3f} {r['speedup_median']:8.1f}x "
            f"{low:5.1f} - {high:5.1f} {r['class_recall_ratio']:13.4f} {r['neighbour_recall@10']:8.3f} "
            f"{r['megabytes']:7.0f}"
        )
    size = float(relevant.double().mean())
    print(
        f"class recall is relative to exact search, whose recall@10 is {base:.4f} (of a class of {size:.0f}), "
        f"precision@10 {rows[0]['class_precision@10']:.4f}"
    )


if __name__ == "__main__":
    main()

"""``holdfast retrieve``: an index of nested embeddings, and the nearest vectors by a funnel of prefixes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.arrays import load_array

if TYPE_CHECKING:
    import numpy as np

__all__ = ["app"]

app = typer.Typer(
    help="Retrieve with nested embeddings: a short prefix first, longer ones after.", no_args_is_help=True
)


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"{name} must be integers separated by commas, such as 16,64,256; got {text!r}") from error


def _embeddings(path: Path) -> np.ndarray:
    import numpy as np

    z = load_array(path, "embeddings as one .npy array")
    if z.ndim != 2 or z.dtype.kind not in "fiu":
        raise ValueError(f"{path} must hold embeddings (n, d), got {z.dtype} of shape {z.shape}")
    return z.astype(np.float32, copy=False)


@app.command()
def index(
    embeddings: Annotated[Path, typer.Argument(help="Database embeddings (n, d), .npy.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the index.")],
    dims: Annotated[str, typer.Option(help="Prefix lengths that will be asked for, e.g. 16,64,256.")] = "",
    labels: Annotated[Path | None, typer.Option(help="Labels (n,), .npy, kept for scoring.")] = None,
    metric: Annotated[str, typer.Option(help="cosine or l2.")] = "cosine",
) -> None:
    """Check the embeddings and write them as an index."""
    import numpy as np

    from holdfast.core.checks import check_same_length
    from holdfast.representation.funnel_retrieval import AdaptiveRetriever

    z = _embeddings(embeddings)
    y = None if labels is None else load_array(labels, "labels as one .npy array")
    check_same_length(embeddings=z, labels=y)
    retriever = AdaptiveRetriever(z, _numbers("--dims", dims) or None, metric)  # pyright: ignore[reportArgumentType]
    retriever.save(out)
    kept = out / "labels.npy"
    if y is not None:
        np.save(kept, y)
    elif kept.exists():
        kept.unlink()
    lengths = ", ".join(map(str, retriever.dims))
    typer.echo(f"{out}: {retriever.n} vectors of {retriever.d} dimensions, prefixes {lengths}, {metric}")


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(help="Folder that `holdfast retrieve index` wrote.")],
    queries: Annotated[Path, typer.Argument(help="Query embeddings (m, d), .npy.")],
    dims: Annotated[str, typer.Option(help="First prefix length, then those that re-rank: 16,64,256.")] = "",
    funnel: Annotated[str, typer.Option(help="Candidates that each re-ranking looks at: 200,50.")] = "",
    k: Annotated[int, typer.Option("--k", help="Results per query.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where indices and distances go, .npz.")] = None,
    query_labels: Annotated[Path | None, typer.Option(help="Labels (m,), .npy: score the results.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also search exactly and say what the funnel lost.")
    ] = False,
    backend: Annotated[str, typer.Option(help="torch, faiss or faiss-hnsw.")] = "torch",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the nearest vectors of every query, exactly or by a funnel.

    With --dims 16,64,256 --funnel 200,50 the whole database is ranked by 16 dimensions, the first 200 by 64 and the
    first 50 of those by 256. A last list more than there are lengths to re-rank by is read as the number of results:
    --dims 16,64,256 --funnel 200,50,10.
    """
    import time

    import numpy as np

    from holdfast.representation.funnel_retrieval import AdaptiveRetriever

    retriever = AdaptiveRetriever.load(folder, backend=backend)  # pyright: ignore[reportArgumentType]
    q = _embeddings(queries)
    lengths, lists = _numbers("--dims", dims), _numbers("--funnel", funnel)
    start = lengths[0] if lengths else retriever.d
    stages = lengths[1:]
    if len(lists) == len(stages) + 1 and stages:
        k = lists.pop()
    if len(lists) != len(stages):
        raise ValueError(
            f"--dims names {len(stages)} re-ranking lengths after the first, --funnel {len(lists)} shortlists; "
            "give one shortlist per re-ranking length (and, if you like, the number of results last)"
        )
    begin = time.perf_counter()
    found = retriever.funnel(q, start, stages, lists, k=k)
    seconds = time.perf_counter() - begin
    report = {
        "queries": len(q),
        "vectors": retriever.n,
        "dims": [start, *stages],
        "funnel": [*lists, k],
        "seconds": seconds,
        "multiply_adds_per_query": retriever.flops(start, stages, lists),
        "multiply_adds_exact": retriever.flops(retriever.d),
    }
    if query_labels is not None:
        report |= _scores(folder, found.indices.numpy(), load_array(query_labels, "labels as one .npy array"))
    if compare:
        begin = time.perf_counter()
        exact = retriever.exact(q, k).indices
        report["seconds_exact"] = time.perf_counter() - begin
        report["same_as_exact"] = float((found.indices[:, :, None] == exact[:, None]).any(1).double().mean())
    if out is not None:
        np.savez(out, indices=found.indices.numpy(), distances=found.distances.numpy())
    if as_json:
        rows = {} if out is not None else {"indices": found.indices.tolist(), "distances": found.distances.tolist()}
        typer.echo(json.dumps(report | rows, indent=1))
        return
    for name, value in report.items():
        typer.echo(
            f"{name.replace('_', ' '):26} {value:.4g}"
            if isinstance(value, float)
            else f"{name.replace('_', ' '):26} {value}"
        )
    if out is None:
        for i, (rows, distances) in enumerate(zip(found.indices[:5].tolist(), found.distances[:5].tolist())):
            typer.echo(f"query {i}: " + "  ".join(f"{r} ({d:.3f})" for r, d in zip(rows, distances)))
        if len(q) > 5:
            typer.echo(f"... and {len(q) - 5} more; --out FILE.npz writes all")


def _scores(folder: Path, indices: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from holdfast.core.checks import check_same_length
    from holdfast.metrics.retrieval import label_hits, mean_average_precision, precision_at_k, top1

    if not (folder / "labels.npy").is_file():
        raise ValueError(f"{folder} was indexed without labels: index again with --labels to score")
    check_same_length(queries=indices, query_labels=labels)
    hits = label_hits(labels, load_array(folder / "labels.npy", "labels as one .npy array"), indices)
    k = indices.shape[1]
    return {"top1": top1(hits), f"precision@{k}": precision_at_k(hits), f"map@{k}": mean_average_precision(hits)}

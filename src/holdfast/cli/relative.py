"""``holdfast relative``: compare saved embedding spaces, and describe embeddings by their anchors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.arrays import load_array

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["app"]

app = typer.Typer(help="Relative representations of saved embeddings.", no_args_is_help=True)

Similarity = Annotated[str, typer.Option(help="cosine, inner, euclidean or basis.")]
Method = Annotated[str, typer.Option(help="How anchors are chosen: uniform, first, fps or kmeans.")]
Center = Annotated[bool, typer.Option("--center", help="Subtract the anchors' mean first.")]


def _embeddings(path: Path) -> Tensor:
    import numpy as np
    import torch

    z = load_array(path, "one array of embeddings (n, d)")
    if z.ndim != 2 or z.dtype.kind not in "fiu":
        raise ValueError(f"{path} must hold one array of embeddings (n, d), got {z.dtype} of shape {z.shape}")
    return torch.from_numpy(z.astype(np.float64))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Embeddings (n, d1), .npy.")],
    second: Annotated[Path, typer.Argument(help="Embeddings of the same items (n, d2), .npy.")],
    anchors: Annotated[int, typer.Option(help="Number of anchors.")] = 300,
    k: Annotated[int, typer.Option("--k", help="Neighbours of the overlap.")] = 5,
    seeds: Annotated[int, typer.Option(help="Draws of the anchors.")] = 10,
    similarity: Similarity = "cosine",
    method: Method = "uniform",
    center: Center = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how well vectors of one space retrieve their items in the other: absolute, relative, rotated, by chance."""
    from holdfast.core.checks import check_number
    from holdfast.metrics.similarity import linear_cka
    from holdfast.papers.record import mean_interval
    from holdfast.representation.space_comparison import compare_spaces

    check_number("seeds", seeds, low=1, integer=True)
    options: dict[str, Any] = {"similarity": similarity, "center": center, "method": method}
    z1, z2 = _embeddings(first), _embeddings(second)
    runs = [compare_spaces(z1, z2, n_anchors=anchors, k=k, seed=s, **options) for s in range(seeds)]
    table: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in runs[0]:
        table[row] = {}
        for metric in runs[0][row]:
            i = mean_interval([run[row][metric] for run in runs])
            half = None if seeds == 1 else i.high - i.mean
            table[row][metric] = {"mean": i.mean, "half_width": half}
    summary = {"items": len(z1), "anchors": anchors, "k": k, "seeds": seeds, "linear_cka": linear_cka(z1, z2)}
    if as_json:
        typer.echo(json.dumps(summary | {"rows": table}, indent=1))
        return
    _print(summary, table)


def _print(summary: dict[str, Any], table: dict[str, dict[str, dict[str, float | None]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("space")
    for name in ("MRR", f"Jaccard@{summary['k']}", "mean cosine"):
        shown.add_column(name, justify="right")
    for row, metrics in table.items():
        cells = []
        for value in metrics.values():
            half = value["half_width"]
            cells.append(f"{value['mean']:.3f}" + ("" if half is None else f" ± {half:.3f}"))
        shown.add_row(row, *cells)
    console = Console()
    console.print(shown)
    console.print(
        f"{summary['items']} items, {summary['anchors']} anchors, {summary['seeds']} draws of anchors (95% interval); "
        f"linear CKA {summary['linear_cka']:.3f}",
        style="dim",
    )


@app.command()
def project(
    embeddings: Annotated[Path, typer.Argument(help="Embeddings (n, d), .npy.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the similarities (n, k) go, .npy.")],
    anchors: Annotated[int, typer.Option(help="Number of anchors to draw.")] = 300,
    anchor_file: Annotated[
        Path | None, typer.Option(help="Anchors to use: row numbers as written by --save-anchors, .json.")
    ] = None,
    save_anchors: Annotated[Path | None, typer.Option(help="Where the chosen row numbers go, .json.")] = None,
    similarity: Similarity = "cosine",
    method: Method = "uniform",
    center: Center = False,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Write every embedding's similarities to anchors; use one anchor file for all models of the same items."""
    import numpy as np
    import torch

    from holdfast.representation.anchors import AnchorSet
    from holdfast.representation.relative import relative_projection

    z = _embeddings(embeddings)
    if anchor_file is not None:
        if not anchor_file.is_file():
            raise FileNotFoundError(f"no file at {anchor_file}")
        try:
            chosen = AnchorSet.from_dict(json.loads(anchor_file.read_text()))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{anchor_file} is not an anchor file as --save-anchors writes it") from error
    else:
        what = z if method in ("fps", "kmeans") else len(z)
        way: Any = method
        chosen = AnchorSet.sample(what, anchors, way, generator=torch.Generator().manual_seed(seed))
    measure: Any = similarity
    r = relative_projection(z, z[chosen.of(z).indices], measure, center=center)
    np.save(out, r.numpy().astype(np.float32))
    if save_anchors is not None:
        save_anchors.write_text(json.dumps(chosen.to_dict()))
    digest = chosen.contract.digest[:16]
    typer.echo(f"{out}: {r.shape[0]} items, {r.shape[1]} anchors ({digest})")

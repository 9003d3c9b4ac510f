"""``holdfast compat``: may an updated model query the gallery that its predecessors embedded?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.arrays import load_array

if TYPE_CHECKING:
    import numpy as np

    from holdfast.representation.compatibility_matrix import CompatibilityMatrix, DefinitionCheck

__all__ = ["app"]

app = typer.Typer(help="Compatibility of the embeddings of successive models.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the subcommand's name also while it is the only one."""


def _halves(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return gallery and query rows; every class is divided."""
    import numpy as np

    rng = np.random.default_rng(seed)
    gallery, queries = [], []
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        if len(rows) < 2:
            raise ValueError(f"class {c} has one sample, but gallery and queries need one each")
        cut = min(len(rows) - 1, max(1, round(share * len(rows))))
        gallery.append(rows[:cut])
        queries.append(rows[cut:])
    return np.concatenate(gallery), np.concatenate(queries)


@app.command()
def matrix(
    embeddings: Annotated[
        Path, typer.Option(help="Folder with one .npy (n, d) per model, all of the same samples, in order of name.")
    ],
    labels: Annotated[Path, typer.Option(help="Labels of the samples (n,), .npy.")],
    gallery: Annotated[
        Path | None, typer.Option(help="Row numbers or a boolean mask of the gallery, .npy; the rest are queries.")
    ] = None,
    gallery_share: Annotated[float, typer.Option(help="Share of every class in the gallery, without --gallery.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the division into gallery and queries.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score every newer model's queries on every older model's gallery."""
    import numpy as np
    import torch

    from holdfast.core.checks import check_number
    from holdfast.representation.compatibility_matrix import CompatibilityMatrix, check_definition

    check_number("gallery-share", gallery_share, low=0, high=1, open_low=True, open_high=True)
    if not embeddings.is_dir():
        raise FileNotFoundError(f"no folder at {embeddings}")
    files = sorted(p for p in embeddings.glob("*.npy") if p.resolve() != labels.resolve())
    if not files:
        raise FileNotFoundError(f"{embeddings} holds no .npy file of embeddings")
    y = load_array(labels, "one array")
    if y.ndim != 1:
        raise ValueError(f"{labels} must hold labels (n,), got shape {y.shape}")
    models = []
    for path in files:
        z = load_array(path, "one array")
        if z.ndim != 2 or len(z) != len(y) or z.dtype.kind not in "fiu":
            raise ValueError(f"{path} must hold embeddings of the {len(y)} samples, got {z.dtype} of shape {z.shape}")
        models.append(torch.from_numpy(z.astype(np.float32)))
    if gallery is None:
        g, q = _halves(y, gallery_share, seed)
    else:
        mask = np.zeros(len(y), dtype=bool)
        mask[load_array(gallery, "one array")] = True
        g, q = np.flatnonzero(mask), np.flatnonzero(~mask)
        if len(g) == 0 or len(q) == 0:
            raise ValueError(f"{gallery} leaves {len(g)} samples for the gallery and {len(q)} for queries")
    codes = torch.from_numpy(np.unique(y, return_inverse=True)[1].astype(np.int64))
    y_q, y_g = codes[q], codes[g]
    queries, galleries = [z[q] for z in models], [z[g] for z in models]
    c = CompatibilityMatrix.from_embeddings(queries, galleries, y_q, y_g)
    checks = [check_definition(queries[t + 1], queries[t], galleries[t], y_q, y_g) for t in range(len(models) - 1)]
    names = [p.stem for p in files]
    if as_json:
        typer.echo(json.dumps(_summary(c, checks, names, len(g), len(q)), indent=1))
        return
    _print(c, checks, names, len(g), len(q))


def _summary(
    c: CompatibilityMatrix, checks: list[DefinitionCheck], names: list[str], n_gallery: int, n_queries: int
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "models": names,
        "gallery": n_gallery,
        "queries": n_queries,
        "matrix": [[c.values[i, j] for j in range(i + 1)] for i in range(len(c))],
        "ac": c.ac() if len(c) > 1 else 1.0,
        "aa": c.aa(),
        "aa_per_step": c.aa_per_step().tolist(),
        "cross_test": c.cross_test() if len(c) > 1 else None,
        "definition": [asdict(check) for check in checks],
    }


def _print(
    c: CompatibilityMatrix, checks: list[DefinitionCheck], names: list[str], n_gallery: int, n_queries: int
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("queries \\ gallery")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("AA so far", justify="right")
    per_step = c.aa_per_step()
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            value = "" if j > i else f"{c.values[i, j]:.3f}"
            better = j < i and c.values[i, j] > c.values[j, j]
            cells.append(f"[green]{value}[/]" if better else value)
        table.add_row(name, *cells, f"{per_step[i]:.3f}")
    console = Console()
    console.print(table)
    ac = f"{c.ac():.3f}" if len(c) > 1 else "1 (one model)"
    console.print(f"AC {ac}  AA {c.aa():.3f}  [dim]gallery {n_gallery}, queries {n_queries}, one template per class[/]")
    for t, check in enumerate(checks):
        same, other = check.same_new <= check.same_old, check.other_new >= check.other_old
        console.print(
            f"{names[t]} to {names[t + 1]}: same class {'no farther' if same else 'farther'} "
            f"({check.same_new:.3f} against {check.same_old:.3f}), other classes "
            f"{'no nearer' if other else 'nearer'} ({check.other_new:.3f} against {check.other_old:.3f})",
            style="dim",
        )

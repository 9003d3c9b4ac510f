"""``holdfast embed``: a code for every group of a table, a map of the groups, and what lies between two of them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np

__all__ = ["embed"]

_DATA, _MODEL, _RUN = "Your data", "The model", "How it is run"
_PARTS, _JUDGED = 12, 400


def _read_npz(path: Path, group: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read a matrix (``x``, or ``data``, ``indices``, ``indptr`` and ``shape`` of a CSR one) and the groups.

    Groups that are numbers get their names from an array ``GROUP_names``, where there is one.
    """
    import numpy as np

    from holdfast.data.errors import DataError
    from holdfast.data.readers.npz import CSR_PARTS, load_archive, named_values, stored_csr

    arrays = load_archive(path)
    if set(CSR_PARTS) <= set(arrays):
        x = stored_csr(arrays).toarray().astype(np.float64)
    elif "x" in arrays:
        x = arrays["x"].astype(np.float64)
    else:
        raise DataError(f"{path} has no array 'x', nor the parts of a CSR matrix; it holds {', '.join(arrays)}")
    columns = arrays["genes"].astype(str).tolist() if "genes" in arrays else [f"x{i}" for i in range(x.shape[1])]
    return x, named_values(arrays, group, len(x), path, "group"), columns


def _read(path: Path, group: str, columns: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    import numpy as np

    from holdfast.data.errors import DataError
    from holdfast.data.readers.frames import check_columns, column_names, read_arrow

    if path.suffix == ".npz" and path.is_file():
        return _read_npz(path, group)
    names = column_names(path)
    check_columns(path.name, names, group=group, columns=columns)
    wanted = columns or [n for n in names if n and n != group]
    frame = read_arrow(path, [*wanted, group], text=[group]).to_pandas()
    for name in wanted:
        if frame[name].dtype.kind not in "fiub":
            raise DataError(f"{path.name}, column {name!r} holds no numbers; choose columns with --columns")
        if frame[name].isna().any():
            row = int(frame[name].isna().to_numpy().argmax())
            raise DataError(f"{path.name}, column {name!r}, row {row}: the value is missing; fill it or drop the row")
    return frame[wanted].to_numpy(dtype=np.float64), frame[group].to_numpy(), wanted


def embed(
    data: Annotated[
        Path,
        typer.Option(help="Table (.csv, .parquet, .jsonl), or .npz: x or a CSR matrix.", rich_help_panel=_DATA),
    ],
    group: Annotated[
        str, typer.Option(help="Column that says which population a row belongs to.", rich_help_panel=_DATA)
    ],
    columns: Annotated[
        str, typer.Option(help="Features, comma-separated; default all other columns.", rich_help_panel=_DATA)
    ] = "",
    log_counts: Annotated[
        bool, typer.Option("--log-counts", help="Rows are counts: log(1 + 10,000 share).", rich_help_panel=_DATA)
    ] = False,
    components: Annotated[
        int | None, typer.Option(help="Work in so many principal components.", rich_help_panel=_MODEL)
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="resnet, gnn, median, attention, kernel-mean or mean.", rich_help_panel=_MODEL)
    ] = "resnet",
    generator: Annotated[str, typer.Option(help="ddpm, direct or cvae.", rich_help_panel=_MODEL)] = "ddpm",
    code_dim: Annotated[int, typer.Option(help="Length of a code.", rich_help_panel=_MODEL)] = 16,
    width: Annotated[int, typer.Option(help="Units of the networks.", rich_help_panel=_MODEL)] = 128,
    set_size: Annotated[int, typer.Option(help="Points drawn of a group at a step.", rich_help_panel=_MODEL)] = 64,
    mix: Annotated[
        int | None, typer.Option(help="Train on mixtures of so many groups too.", rich_help_panel=_MODEL)
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps.", rich_help_panel=_RUN)] = 1500,
    between: Annotated[
        str, typer.Option(help="Two groups A,B to interpolate; default the farthest.", rich_help_panel=_RUN)
    ] = "",
    stops: Annotated[int, typer.Option(help="Codes on the way, both ends included.", rich_help_panel=_RUN)] = 5,
    points: Annotated[int, typer.Option(help="Points drawn at each of them.", rich_help_panel=_RUN)] = 200,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; default holdfast-runs/embed-NAME.", rich_help_panel=_RUN)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.", rich_help_panel=_RUN)] = "auto",
    seed: Annotated[int, typer.Option(help="Of everything that is random.", rich_help_panel=_RUN)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Embed every group of a table: codes, a map coloured by group, and interpolations.

    Writes embeddings.csv, map.svg, interpolation.csv, model.holdfast and report.html.
    """
    import numpy as np
    import pandas as pd
    import torch

    from holdfast import __version__
    from holdfast.core.checks import check_number
    from holdfast.data.counts import log_counts as normalise
    from holdfast.data.errors import DataError, suggest
    from holdfast.distribution.embedding.estimator import DistributionEmbedding
    from holdfast.distribution.embedding.judge import fidelity, parts_of
    from holdfast.study.report.embedding import code_map, write_embedding_report

    check_number("stops", stops, low=2, integer=True)
    check_number("points", points, low=1, integer=True)
    x, of, names = _read(data, group, [c.strip() for c in columns.split(",") if c.strip()])
    if log_counts:
        x = normalise(x)
    model = DistributionEmbedding(
        encoder=encoder, generator=generator, code_dim=code_dim, width=width, components=components,
        set_size=set_size, mix=mix, steps=steps, device=device, verbose=int(sys.stderr.isatty()), random_state=seed,
    )  # fmt: skip
    groups = [str(g) for g in np.unique(of)]
    ends = [e.strip() for e in between.split(",")] if between else []
    if between and len(ends) != 2:
        raise DataError(f"--between takes two groups A,B, got {between!r}")
    for end in ends:
        if end not in groups:
            raise DataError(f"there is no group {end!r} in column {group!r}{suggest(end, groups)}")
    begin = time.perf_counter()
    model.fit(x, group=of)
    seconds = time.perf_counter() - begin
    z = model.transform(x, group=of)
    d = model.distance(z)
    i, j = np.triu_indices(len(z), 1)
    nearest, farthest = ([groups[int(side[k])] for side in (i, j)] for k in (d[i, j].argmin(), d[i, j].argmax()))
    first, last = (groups.index(e) for e in (ends or farthest))
    path = model.interpolate(z[first], z[last], stops)
    drawn = model.resample(path, points, random_state=seed)

    folder = out or Path("holdfast-runs") / f"embed-{data.name.split('.')[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [int((of == g).sum()) for g in np.unique(of)]
    table = pd.DataFrame(z, columns=[f"z{k}" for k in range(z.shape[1])])
    table.insert(0, "points", sizes)
    table.insert(0, group, groups)
    table.to_csv(folder / "embeddings.csv", index=False)
    way = pd.DataFrame(drawn.reshape(-1, drawn.shape[2]), columns=names)
    way.insert(0, "share", np.repeat(np.linspace(0, 1, stops), points))
    way.to_csv(folder / "interpolation.csv", index=False, float_format="%.6g")
    model.save(folder / "model.holdfast")
    parts = parts_of(model, x, of, size=set_size, parts=_PARTS, seed=seed)
    picture = code_map(z, groups, parts, path, title=f"{data.name} by {group}")
    (folder / "map.svg").write_text(picture, encoding="utf-8")
    rows = [
        {"group": g, "points": n} | f
        for g, n, f in zip(groups, sizes, fidelity(model, x, of, z, limit=_JUDGED, seed=seed))
    ]
    options = {"encoder": encoder, "generator": generator, "code_dim": code_dim, "components": components, "mix": mix}
    summary: dict[str, Any] = {
        "name": f"{data.name} by {group}",
        "groups": rows,
        "distances": d.tolist(),
        "code_dim": z.shape[1],
        "nearest": nearest,
        "farthest": farthest,
        "between": [groups[first], groups[last]],
        "steps": model.n_steps_,
        "seconds": seconds,
        "settings": options,
        "command": "holdfast " + " ".join(sys.argv[1:]),
        "versions": {"holdfast": __version__, "torch": torch.__version__},
        "files": {
            "embeddings": "embeddings.csv",
            "map": "map.svg",
            "interpolation": "interpolation.csv",
            "model": "model.holdfast",
        },
    }
    write_embedding_report(summary, {"map": picture}, folder / "report.html")
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(summary))
        return
    sampled, real = (float(np.mean([r[k] for r in rows])) for k in ("sampled", "real"))
    typer.echo(f"{len(groups)} groups, {len(x)} points, codes of {z.shape[1]} numbers, {seconds:.0f} s")
    typer.echo(f"nearest: {nearest[0]} and {nearest[1]}; farthest: {farthest[0]} and {farthest[1]}")
    typer.echo(f"energy distance of sampled points to their group {sampled:.3g}; two halves of a group {real:.3g}")
    typer.echo(f"{folder / 'report.html'}")

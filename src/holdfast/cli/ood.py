"""``holdfast ood``: fit, apply and compare out-of-distribution detectors on saved features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.arrays import open_arrays

if TYPE_CHECKING:
    import numpy as np

    from holdfast.representation.ood import OODDetector

__all__ = ["app"]

app = typer.Typer(help="Detect what is unlike the training data, from saved features and logits.", no_args_is_help=True)

_KEYS = ("features", "labels", "logits", "weights")

Detector = Annotated[str, typer.Option(help="msp, max-logit, energy, mahalanobis, knn, vim or grouped-gaussian.")]
Neighbours = Annotated[int | None, typer.Option("--k", help="Which neighbour (knn).")]
Temperature = Annotated[float | None, typer.Option(help="Temperature (energy).")]
Groups = Annotated[int | None, typer.Option(help="Number of feature groups (grouped-gaussian).")]
Components = Annotated[int | None, typer.Option(help="Dimension of the principal space (vim).")]
Shrinkage = Annotated[str | None, typer.Option(help="none, ledoit_wolf or a number (mahalanobis, grouped-gaussian).")]


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read features, labels, logits and weights from .npz, or features from .npy."""
    import numpy as np

    loaded = open_arrays(path, ".npz or .npy file of plain arrays")
    if isinstance(loaded, np.ndarray):
        return {"features": loaded}
    with loaded:
        found = {key: loaded[key] for key in _KEYS if key in loaded.files}
        if "features" not in found and "logits" not in found:
            raise ValueError(f"{path} needs an array named features or logits, it holds: {', '.join(loaded.files)}")
    return found


def _make(name: str, options: dict[str, Any]) -> OODDetector:
    from dataclasses import fields

    from holdfast.core.checks import check_choice
    from holdfast.representation.ood import DETECTORS

    kind = DETECTORS[check_choice("detector", name, list(DETECTORS))]
    given = {key: value for key, value in options.items() if value is not None}
    unknown = given.keys() - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"{name} has no setting {', '.join(sorted(unknown))}")
    if (shrinkage := given.get("shrinkage")) not in (None, "none", "ledoit_wolf"):
        try:
            given["shrinkage"] = float(shrinkage)
        except ValueError:
            raise ValueError(f"shrinkage must be none, ledoit_wolf or a number, got {shrinkage!r}") from None
    return kind(**given)


def _fit(detector: OODDetector, data: dict[str, np.ndarray]) -> OODDetector:
    from holdfast.representation.ood import GroupedGaussian

    args = (data.get("features"), data.get("labels"), data.get("logits"))
    if isinstance(detector, GroupedGaussian):
        return detector.fit(*args, weights=data.get("weights"))
    return detector.fit(*args)


def _scores(detector: OODDetector, data: dict[str, np.ndarray]) -> np.ndarray:
    return detector.score(data.get("features"), data.get("logits"))


@app.command()
def fit(
    train: Annotated[Path, typer.Argument(help=".npz with features, labels, logits (what the detector needs).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the detector goes.")] = Path("detector.safetensors"),
    detector: Detector = "knn",
    calibration: Annotated[Path | None, typer.Option(help="Held-out known rows; default: the training rows.")] = None,
    coverage: Annotated[float, typer.Option(help="Share of known rows below the threshold.")] = 0.95,
    k: Neighbours = None,
    temperature: Temperature = None,
    groups: Groups = None,
    components: Components = None,
    shrinkage: Shrinkage = None,
) -> None:
    """Fit a detector, set its threshold, and save it."""
    options = {
        "k": k, "temperature": temperature, "n_groups": groups, "n_components": components, "shrinkage": shrinkage,
    }  # fmt: skip
    data = _read(train)
    fitted = _fit(_make(detector, options), data)
    held = data if calibration is None else _read(calibration)
    fitted.calibrate(held.get("features"), held.get("logits"), coverage=coverage)
    path = fitted.save(out)
    seen = " on training rows, which lie closer than new ones; --calibration is better" if calibration is None else ""
    typer.echo(f"{fitted}\nthreshold {fitted.threshold:.6g} at coverage {coverage:g}{seen}\nsaved to {path}")


@app.command()
def score(
    detector: Annotated[Path, typer.Argument(help="What `holdfast ood fit` saved.")],
    data: Annotated[Path, typer.Argument(help=".npz with features and logits, or .npy with features.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV or .npy to write; default: print.")] = None,
) -> None:
    """Score rows; higher means more unlike the training data."""
    import numpy as np

    from holdfast.representation.ood import OODDetector

    loaded = OODDetector.load(detector)
    scores = _scores(loaded, _read(data))
    outlier = scores > (np.inf if loaded.threshold is None else loaded.threshold)
    if out is not None and out.suffix == ".npy":
        np.save(out, scores)
    else:
        lines = ["row,score,outlier", *(f"{i},{s:.9g},{int(o)}" for i, (s, o) in enumerate(zip(scores, outlier)))]
        if out is None:
            typer.echo("\n".join(lines))
            return
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    typer.echo(f"{int(outlier.sum())} of {len(scores)} rows above the threshold; scores in {out}")


@app.command()
def compare(
    train: Annotated[Path, typer.Argument(help=".npz with features, labels, logits of training rows.")],
    known: Annotated[Path, typer.Option("--in", help="Held-out rows of the known classes.")],
    outliers: Annotated[list[Path], typer.Option("--out", help="Rows from elsewhere; repeat for several sets.")],
    groups: Groups = None,
    k: Annotated[int, typer.Option("--k", help="Which neighbour (knn).")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare every detector that the arrays allow, on held-out known rows against outliers."""
    from rich.console import Console
    from rich.table import Table

    from holdfast.metrics.detection import ood_metrics
    from holdfast.representation.ood import DETECTORS

    data, inside = _read(train), _read(known)
    outside = {path.stem: _read(path) for path in outliers}
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for name, kind in DETECTORS.items():
        missing = [x for x in ("features", "labels", "logits") if getattr(kind, f"needs_{x}") and x not in data]
        if missing:
            skipped[name] = f"needs {', '.join(missing)}"
            continue
        options = {"knn": {"k": k}, "grouped-gaussian": {"n_groups": groups}}.get(name, {})
        try:
            fitted = _fit(_make(name, options), data)
        except ValueError as error:
            skipped[name] = str(error)
            continue
        known_scores = _scores(fitted, inside)
        rows += [
            {"detector": name, "outliers": stem, **ood_metrics(known_scores, _scores(fitted, other))}
            for stem, other in outside.items()
        ]
    if as_json:
        typer.echo(json.dumps({"rows": rows, "skipped": skipped}, indent=1))
        return
    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("detector", "outliers", "AUROC", "FPR95", "AUPR in", "AUPR out"):
        table.add_column(column, justify="left" if column in ("detector", "outliers") else "right")
    for row in sorted(rows, key=lambda r: (r["outliers"], -r["auroc"])):
        numbers = (f"{row[m]:.3f}" for m in ("auroc", "fpr95", "aupr_in", "aupr_out"))
        table.add_row(row["detector"], row["outliers"], *numbers)
    console.print(table)
    for name, why in skipped.items():
        console.print(f"[dim]{name} left out: {why}[/]")

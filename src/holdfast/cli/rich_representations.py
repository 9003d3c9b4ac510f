"""``holdfast rich``: concatenated representations of several training episodes, their probes, their distillation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from holdfast.data import Environments
    from holdfast.representation.probe_head import ProbeHead

__all__ = ["app"]

app = typer.Typer(help="Rich representations: the union of several training episodes.", no_args_is_help=True)

Label = Annotated[str | None, typer.Option(help="Column of the label.")]
Environment = Annotated[str | None, typer.Option(help="Column that says where a sample comes from.")]
Episodes = Annotated[int, typer.Option(help="Training episodes.")]
Epochs = Annotated[int, typer.Option(help="Epochs of an episode.")]
Size = Annotated[str, typer.Option(help="Size of the backbone: tiny, small or base.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _read(path: str, label: str | None, environment: str | None) -> Environments:
    from holdfast.data import list_named, load_named, read

    if path in list_named():
        return load_named(path)
    return read(path, label=label, environment=environment)


def _fit(data: str, out: Path, label: str | None, environment: str | None, as_json: bool, **options: Any) -> None:
    from holdfast.representation.rich_classifier import RichClassifier

    source = _read(data, label, environment)
    rest, part = source.split(0.2, seed=options["random_state"])
    model = RichClassifier(progress=not as_json, **options).fit(rest.x, rest.y)
    model.save(out)
    report = {
        "model": str(out),
        "episodes": model.n_episodes,
        "distilled": model.distill,
        "features": int(cast("ProbeHead", model.network_.head).weight.shape[1]),
        "train": len(rest),
        "held_out": len(part),
        "held_out_accuracy": float((model.predict(part.x) == part.y).mean()),
        "seconds": model.fit_seconds_,
    }
    _print(report, as_json)


def _print(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    for name, value in report.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        typer.echo(f"{name.replace('_', ' '):18} {shown}")


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="A file, a folder, or the name of a data set.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the model goes.")],
    label: Label = None,
    environment: Environment = None,
    episodes: Episodes = 4,
    epochs: Epochs = 30,
    size: Size = "small",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train episodes that differ in their seed, join their representations, and fit a linear layer on top."""
    _fit(data, out, label, environment, as_json, n_episodes=episodes, epochs=epochs, size=size, random_state=seed)


@app.command()
def distill(
    data: Annotated[str, typer.Argument(help="A file, a folder, or the name of a data set.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the model goes.")],
    label: Label = None,
    environment: Environment = None,
    episodes: Episodes = 4,
    epochs: Epochs = 30,
    temperature: Annotated[float, typer.Option(help="Of the distillation.")] = 4.0,
    size: Size = "small",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train episodes and distil them, with a head for each, into one network of the original size."""
    options = {"n_episodes": episodes, "epochs": epochs, "size": size, "random_state": seed}
    _fit(data, out, label, environment, as_json, distill=True, temperature=temperature, **options)


@app.command()
def probe(
    model: Annotated[Path, typer.Argument(help="A model that `holdfast rich train` or `distill` wrote.")],
    data: Annotated[str, typer.Argument(help="The target task: a file, a folder, or the name of a data set.")],
    label: Label = None,
    environment: Environment = None,
    test_fraction: Annotated[float, typer.Option(help="Part of the target that scores the probe.")] = 0.5,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a linear layer on the frozen representation for another task, and say what each episode alone would give."""
    import torch

    from holdfast.core.checks import check_number
    from holdfast.metrics.overlap import effective_rank
    from holdfast.representation.probe_gain import probe_gain
    from holdfast.representation.rich_classifier import RichClassifier

    check_number("--test-fraction", test_fraction, low=0, high=1, open_low=True, open_high=True)
    fitted = RichClassifier.load(model)
    rest, part = _read(data, label, environment).split(test_fraction, seed=seed)
    z, z_test = fitted.transform(rest.x), fitted.transform(part.x)
    members = z.shape[1] // fitted.context_.width
    split, split_test = (
        [block.numpy() for block in torch.from_numpy(a).split(fitted.context_.width, dim=1)] for a in (z, z_test)
    )
    gain = probe_gain(
        split, rest.y, split_test, part.y, sizes=sorted({1, *(s for s in (2, 4, 8) if s < members), members})
    )
    report = {
        "train": len(rest),
        "test": len(part),
        "features": z.shape[1],
        "effective_rank": effective_rank(z_test, center=True),
        **{f"accuracy_{n}_episode{'s' if n > 1 else ''}": v for n, v in gain.items()},
    }
    _print(report, as_json)

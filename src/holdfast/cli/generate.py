"""``holdfast generate``: train a diffusion model on one's own images, draw from it, and judge it."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.generate_data import GenerationData, read_generation_data

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.diffusion.evaluation import GeneratorEvaluation
    from holdfast.diffusion.model import DiffusionModel
    from holdfast.metrics import FeatureSpace

__all__ = ["app"]

app = typer.Typer(help="Train a diffusion model on your images, draw from it, and judge it.", no_args_is_help=True)

_DATA, _MODEL, _RUN = "Your data", "The model", "How it is run"
_JUDGE = "features.holdfast"

Data = Annotated[
    str, typer.Option(help="Folder of images, .npz or .npy file, or named data set.", rich_help_panel=_DATA)
]
Labels = Annotated[
    bool, typer.Option("--labels", help="Read labels: class folders, array y, or the set's own.", rich_help_panel=_DATA)
]
ImageSize = Annotated[int | None, typer.Option(help="Resize images to SIZE x SIZE.", rich_help_panel=_DATA)]
Limit = Annotated[int | None, typer.Option(help="Read so many samples, drawn at random.", rich_help_panel=_DATA)]
GuidanceScale = Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 is none.")]
SamplerSteps = Annotated[int, typer.Option(help="Steps of the sampler.")]
SamplerName = Annotated[str, typer.Option(help="heun, euler, ddim, euler_maruyama or ddpm.")]
Features = Annotated[
    str | None, typer.Option(help="Feature space of the distances: a model file, or a Hugging Face name.")
]
Seed = Annotated[int, typer.Option(help="Of everything that is random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


@app.command()
def train(
    data: Data,
    labels: Labels = False,
    image_size: ImageSize = None,
    limit: Limit = None,
    value_range: Annotated[
        str | None, typer.Option(help="Black and white of arrays, LOW,HIGH; else found.", rich_help_panel=_DATA)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default holdfast-runs/generate-NAME.", rich_help_panel=_RUN)
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.", rich_help_panel=_MODEL)] = 2000,
    network: Annotated[str, typer.Option(help="auto, unet, dit, or mlp for vectors.", rich_help_panel=_MODEL)] = "auto",
    size: Annotated[str, typer.Option(help="tiny, small (CPU), base, large (GPU).", rich_help_panel=_MODEL)] = "small",
    patch: Annotated[int | None, typer.Option(help="Side of a patch (dit).", rich_help_panel=_MODEL)] = None,
    align: Annotated[
        str | None, typer.Option(help="self, a model file, or a Hugging Face name.", rich_help_panel=_MODEL)
    ] = None,
    warmup: Annotated[
        int, typer.Option(help="Steps on the encoder's features alone, first.", rich_help_panel=_MODEL)
    ] = 0,
    batch_size: Annotated[int, typer.Option(help="Images of a step.", rich_help_panel=_MODEL)] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=_MODEL)] = 2e-3,
    guidance: GuidanceScale = 1.0,
    sampler: SamplerName = "heun",
    features: Features = None,
    samples: Annotated[
        int, typer.Option(help="Samples of the evaluation; fewer where fewer real ones are held out.")
    ] = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...", rich_help_panel=_RUN)] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, or bf16-mixed.", rich_help_panel=_RUN)] = "32-true",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train on images (or vectors), with sample grids on the way and a report at the end.

    Run it again with the same settings to go on where it stopped.
    """
    from holdfast.core.random import spawn_seed
    from holdfast.diffusion.model import DiffusionModel
    from holdfast.diffusion.scaling import DataScaling
    from holdfast.study.generation import Stages

    span = _span(value_range)
    if guidance != 1 and not labels:
        raise ValueError("--guidance needs --labels: only a model that knows classes can be guided towards one")
    space = None if features is None else _space(features)
    known = read_generation_data(data, labels=labels, size=image_size, limit=limit, seed=seed)
    DataScaling.fit(known.x, span)  # what cannot be learned is refused before anything is trained
    known, held = _hold_out(known, spawn_seed(seed, "reference"))
    folder = out or Path("holdfast-runs") / f"generate-{known.name}"
    model = DiffusionModel(
        network=network,
        size=size,
        patch=patch,
        value_range=span,
        align=align,
        warmup=warmup,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        device=device,
        precision=precision,
        random_state=seed,
        progress=True,
    )
    model.checkpoint = str(folder / "checkpoint" / _fingerprint(model, known))
    stages = Stages(folder / "samples", {"guidance": guidance, "steps": 10})
    with _notes():
        image = known.x.ndim > 2
        model.fit(known.x, known.y, watch=stages if image else None)
        path = model.save(folder / "model.holdfast")
        training, reference = (model.scaling_.encode(part.x) for part in (known, held))
        if space is None:
            space = _default_space(model, training, known.y, folder / _JUDGE, seed)
        done = _judge(
            model, reference, held.y, space, training=training, n=samples, guidance=guidance, sampler=sampler,
            seed=seed, folder=folder, stages=stages.chosen(), data=f"{data}", count=len(known.x), model_path=path,
        )  # fmt: skip
    _say(done, as_json, folder, model=path)


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(help="What `holdfast generate train` saved, or its folder.")],
    n: Annotated[int, typer.Option("--n", help="How many.")] = 64,
    label: Annotated[str | None, typer.Option(help="Class, or classes in turn, comma-separated.")] = None,
    guidance: GuidanceScale = 1.0,
    steps: SamplerSteps = 20,
    sampler: SamplerName = "heun",
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png grid, an .npz or .npy file, or a folder.")] = Path(
        "samples.png"
    ),
    seed: Annotated[int | None, typer.Option(help="Default: another one every time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw new samples: one picture of all, a file of arrays, or a folder of PNGs."""
    import numpy as np

    loaded = _load(model)
    wanted = None if label is None else [part.strip() for part in label.split(",") if part.strip()]
    y = None if wanted is None else np.array([wanted[i % len(wanted)] for i in range(n)])
    begin = time.perf_counter()
    seed = int(np.random.SeedSequence().generate_state(1)[0] % 2**31) if seed is None else seed
    if loaded.scaling_.kind == "vector" and out.suffix not in (".npz", ".npy"):
        raise ValueError(f"this model draws vectors; give --out as an .npz or .npy file, got {out}")
    if out.suffix and out.suffix not in (".png", ".npz", ".npy"):
        raise ValueError(f"--out must be a .png grid, an .npz or .npy file, or a folder, got {out}")
    drawn = loaded.sample(
        n, y, guidance=guidance, steps=steps, sampler=sampler, random_state=seed, progress=sys.stderr.isatty()
    )
    _write(loaded, drawn, y, out, columns=len(wanted) if wanted and 1 < len(wanted) <= 12 else None)
    seconds = time.perf_counter() - begin
    if as_json:
        typer.echo(json.dumps({"n": n, "out": str(out), "seed": seed, "seconds": seconds}))
    else:
        typer.echo(f"{n} samples in {seconds:.1f} s (seed {seed}) -> {out}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="What `holdfast generate train` saved, or its folder.")],
    data: Data,
    labels: Labels = False,
    limit: Limit = None,
    features: Features = None,
    samples: Annotated[int, typer.Option(help="Samples of everything; at most half of the data.")] = 1000,
    steps: Annotated[str, typer.Option(help="Numbers of sampler steps, comma-separated.")] = "2,5,10,20,40",
    guidance: GuidanceScale = 1.0,
    sampler: SamplerName = "heun",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; default: evaluation, beside the model.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Judge a model against real data that it was not trained on.

    The feature space is --features; else the classifier that training left beside the model; else one trained on half
    of the labels given; else random convolutions.
    """
    import numpy as np
    import torch

    loaded, where = _load(model), model if model.is_dir() else model.parent
    try:
        counts = sorted({int(part) for part in steps.split(",")})
    except ValueError:
        raise ValueError(f"--steps must be whole numbers, comma-separated, got {steps!r}") from None
    shape = loaded.scaling_.shape
    image = loaded.scaling_.kind == "image"
    source = Path(data)
    side = (shape[1], shape[2]) if image and (source.is_dir() or not source.exists()) else None
    read = read_generation_data(
        data, labels=labels, size=side, channels=shape[0] if image else None, limit=limit, part="test", seed=seed
    )
    x, y = loaded.scaling_.encode(read.x), read.y
    folder = out or where / "evaluation"
    judge = where / _JUDGE
    with _notes():
        if features is not None:
            space = _space(features)
        elif y is not None and not judge.is_file() and image:
            order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
            half, rest = order[: len(x) // 2], order[len(x) // 2 :]
            space = _default_space(loaded, x[half], y[half.numpy()], folder / _JUDGE, seed)
            x, y = x[rest], y[rest.numpy()]
        else:
            space = _default_space(loaded, None, None, judge, seed)
        done = _judge(
            loaded, x, y, space, n=samples, steps=counts, guidance=guidance, sampler=sampler, seed=seed,
            folder=folder, data=data, count=len(x), model_path=model,
        )  # fmt: skip
    _say(done, as_json, folder)


def _span(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--value-range must be two numbers, LOW,HIGH, got {text!r}") from None
    return low, high


def _hold_out(data: GenerationData, seed: int) -> tuple[GenerationData, GenerationData]:
    """Split off a fifth, at most 4,000 samples, for the evaluation."""
    import numpy as np

    n = len(data.x)
    if n < 60:
        raise ValueError(f"{data.name} holds {n} sample{'s' if n != 1 else ''}; a generator needs at least 60")
    held = min(4000, n // 5)
    order = np.random.default_rng(seed).permutation(n)
    return data.rows(np.sort(order[held:])), data.rows(np.sort(order[:held]))


def _fingerprint(model: DiffusionModel, data: GenerationData) -> str:
    """Name the checkpoint by what is trained, so that other data or settings never resume this run."""
    import zlib

    import numpy as np

    settings = {k: v for k, v in model.get_params(deep=False).items() if k not in ("progress", "device", "checkpoint")}
    digest = zlib.crc32(repr(sorted(settings.items())).encode())
    for part in (data.x[:: max(1, len(data.x) // 64)], data.y):
        if part is not None:
            raw = np.ascontiguousarray(part if part.dtype != object else part.astype(str))
            digest = zlib.crc32(f"{part.shape} {len(data.x)}".encode() + raw.tobytes(), digest)
    return f"{digest:08x}"


def _load(path: Path) -> DiffusionModel:
    from holdfast.core import load
    from holdfast.diffusion.model import DiffusionModel

    inside = path / "model.holdfast"
    loaded = load(inside if path.is_dir() and inside.is_file() else path)
    if not isinstance(loaded, DiffusionModel):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a generator")
    return loaded


def _space(features: str) -> FeatureSpace:
    from holdfast.diffusion.feature_spaces import model_space

    return model_space(features)


def _default_space(model: DiffusionModel, x: Tensor | None, y: Any, judge: Path, seed: int) -> FeatureSpace:
    from holdfast.core import load
    from holdfast.diffusion.feature_spaces import (
        classifier_space,
        random_convolution_space,
        standardised_space,
        train_judge,
    )

    if model.scaling_.kind == "vector":
        return standardised_space()
    if x is not None and y is not None:
        fitted = train_judge(x[:20000], y[:20000], seed=seed, progress=True)
        fitted.save(judge)
        return classifier_space(fitted)
    if x is None and judge.is_file():
        return classifier_space(load(judge))
    shape = model.scaling_.shape
    return random_convolution_space(shape[0], min(shape[1:]))


def _judge(
    model: DiffusionModel,
    reference: Tensor,
    reference_y: Any,
    space: FeatureSpace,
    *,
    n: int,
    guidance: float,
    sampler: str,
    seed: int,
    folder: Path,
    data: str,
    count: int,
    model_path: Path,
    training: Tensor | None = None,
    steps: list[int] | None = None,
    stages: list[tuple[int, str]] | None = None,
) -> dict[str, Any]:
    """Evaluate, write the page and the summary, and return the summary."""
    from holdfast.diffusion.evaluation import evaluate_generator
    from holdfast.study.generation import pictures, summarise_generator
    from holdfast.study.report.generation import write_generation_report

    evaluation: GeneratorEvaluation = evaluate_generator(
        model,
        reference,
        space,
        training=training,
        steps=steps or (2, 5, 10, 20, 40),
        n=min(n, len(reference) // 2),
        sampler=sampler,
        guidance=guidance,
        seed=seed,
        progress=True,
    )
    options = {"guidance": guidance, "sampler": sampler}
    shown = pictures(model, evaluation, reference, reference_y, training, stages or (), options, folder)
    command = " ".join(["holdfast", *(f"'{a}'" if " " in a else a for a in sys.argv[1:])])
    summary = summarise_generator(
        model, evaluation, name=Path(data).name, data=data, n=count, command=command, model_path=str(model_path)
    )
    summary["report"] = str(write_generation_report(summary, shown, folder / "report.html"))
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return summary


def _write(model: DiffusionModel, drawn: Any, y: Any, out: Path, columns: int | None) -> None:
    import numpy as np

    from holdfast.core.image_grid import image_grid, save_png
    from holdfast.study.generation import unit_images

    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npz":
        np.savez_compressed(out, x=drawn, **({} if y is None else {"y": y}))
        return
    if out.suffix == ".npy":
        np.save(out, drawn)
        return
    images = unit_images(model.scaling_.encode(drawn))
    if out.suffix == ".png":
        wide = columns or min(len(images), 8)
        save_png(image_grid(images, columns=wide, zoom=max(1, round(560 / (wide * images.shape[-1])))), out)
        return
    out.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        kind = "" if y is None else f"-{str(y[i]).replace('/', '_')}"
        save_png(image_grid(image[None]), out / f"{i:05d}{kind}.png")


def _say(summary: dict[str, Any], as_json: bool, folder: Path, model: Path | None = None) -> None:
    from rich.console import Console

    from holdfast.study.report.generation import verdict

    if as_json:
        typer.echo(json.dumps(summary, indent=1))
        return
    console = Console()
    for i, line in enumerate(verdict(summary["evaluation"])):
        console.print(line, style="bold" if i == 0 else None, highlight=False)
    console.print(f"[dim]in {summary['evaluation']['space']}[/dim]", highlight=False)
    console.print(f"\nreport  {summary['report']}", highlight=False)
    if summary["kind"] == "image":
        console.print(f"samples {folder / 'samples.png'}", highlight=False)
    if model is not None:
        console.print(f"model   {model}", highlight=False)
        console.print(f"[dim]holdfast generate sample {model} --n 64[/dim]", highlight=False)


@contextmanager
def _notes() -> Iterator[None]:
    """Show warnings as one line each on standard error, once."""
    seen: set[str] = set()

    def show(message: Any, *_: Any, **__: Any) -> None:
        text = str(message)
        if text not in seen:
            seen.add(text)
            typer.secho(f"note: {text}", fg="yellow", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield

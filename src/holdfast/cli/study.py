"""``holdfast study``, ``holdfast report`` and ``holdfast predict``: the main job."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

__all__ = ["predict", "report", "study"]

_DATA = "Your data"
_WHAT = "What is compared"
_RUN = "How it is run"


def study(
    spec: Annotated[Path | None, typer.Argument(help="A study's YAML file; without it, flags or the default.")] = None,
    data: Annotated[str | None, typer.Option(help="File, folder or named data set.", rich_help_panel=_DATA)] = None,
    label: Annotated[str | None, typer.Option(help="Column of the labels.", rich_help_panel=_DATA)] = None,
    environment: Annotated[
        str | None, typer.Option(help="Column that says where a sample comes from.", rich_help_panel=_DATA)
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the texts.", rich_help_panel=_DATA)] = None,
    attributes: Annotated[
        str | None, typer.Option(help="Columns never given to a model, comma-separated.", rich_help_panel=_DATA)
    ] = None,
    drop: Annotated[str | None, typer.Option(help="Columns to leave out.", rich_help_panel=_DATA)] = None,
    categorical: Annotated[
        str | None, typer.Option(help="Columns whose numbers are codes.", rich_help_panel=_DATA)
    ] = None,
    missing: Annotated[
        str | None, typer.Option(help="Texts that stand for a missing value.", rich_help_panel=_DATA)
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Resize images to SIZE x SIZE.", rich_help_panel=_DATA)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Read so many samples, drawn at random.", rich_help_panel=_DATA)
    ] = None,
    shift: Annotated[
        str | None, typer.Option(help="NAME or NAME:param=value,... of a shift to make.", rich_help_panel=_DATA)
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Names, comma-separated, or 'all'.", rich_help_panel=_WHAT)
    ] = None,
    hold_out: Annotated[
        str | None, typer.Option(help="'each', or environments, comma-separated.", rich_help_panel=_WHAT)
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="How many, or a comma-separated list.", rich_help_panel=_WHAT)
    ] = None,
    selection: Annotated[
        str | None, typer.Option(help="training, leave-one-out or oracle.", rich_help_panel=_WHAT)
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Random-search budget of every method.", rich_help_panel=_WHAT)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of a model.", rich_help_panel=_WHAT)] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a model.", rich_help_panel=_WHAT)] = None,
    executor: Annotated[str | None, typer.Option(help="local, ray, or a Ray address.", rich_help_panel=_RUN)] = None,
    workers: Annotated[int | None, typer.Option(help="Cells at a time.", rich_help_panel=_RUN)] = None,
    store: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL; SQLite in the folder by default.", rich_help_panel=_RUN)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default holdfast-runs/NAME.", rich_help_panel=_RUN)] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.", rich_help_panel=_RUN)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, few steps: a try.", rich_help_panel=_RUN)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Learn which method holds on environments never seen; run it again to go on where it stopped.

    Exit status 0: done; 3: done, but some cells failed; 1: an error.
    """
    from holdfast.study.default import default_study
    from holdfast.study.report import print_summary
    from holdfast.study.runner import run_study
    from holdfast.study.spec import SpecError, load_spec, parse_spec

    fields = _overrides(
        data=_data(
            data,
            _overrides(label=label, environment=environment, text=text, attributes=_maybe_names(attributes)),
            _overrides(
                drop=_maybe_names(drop),
                categorical=_maybe_names(categorical),
                missing=_maybe_names(missing),
                size=size,
            ),
            limit,
        ),
        shift=_shift(shift),
        methods=_methods(methods),
        hold_out=hold_out if hold_out in (None, "each") else _names(hold_out),
        seeds=_seeds(seeds),
        selection=selection,
        trials=trials,
        steps=steps,
        epochs=epochs,
        store=store,
        name=name,
    )
    if quick:
        fields = {"seeds": 1, "steps": None if epochs else 60} | fields
        fields = {k: v for k, v in fields.items() if v is not None}
    if spec is not None:
        base = load_spec(spec, fields)
    elif data is not None:
        fields.setdefault("name", _slug(Path(data).stem))
        fields.setdefault("methods", list(_default_methods()))
        base = parse_spec(fields)
    else:
        if "shift" in fields:
            raise SpecError("--shift: goes with --data")
        base = default_study(fields)
    base = _with_executor(base, executor, workers)
    folder = out or Path("holdfast-runs") / base.name
    console = Console(stderr=True)
    with _progress(console) as watch:
        finished = run_study(base, folder, watch=watch)
    if as_json:
        typer.echo(json.dumps(finished.summary, indent=1))
    else:
        screen = Console()
        print_summary(finished.summary, screen)
        screen.print(f"\nreport  {finished.report}", highlight=False)
        for setting, path in finished.models.items():
            screen.print(f"model   {path}" + (f"  ({setting})" if len(finished.models) > 1 else ""), highlight=False)
        if finished.models:
            screen.print(
                f"[dim]holdfast predict {next(iter(finished.models.values()))} NEW_DATA[/dim]", highlight=False
            )
    if any(s["verdict"] is None for s in finished.summary["settings"]):
        raise SystemExit(1)
    if finished.summary["cells"]["failed"]:
        raise SystemExit(3)


def report(
    where: Annotated[str, typer.Argument(metavar="STUDY", help="A study's folder, or the URL of its store.")],
    name: Annotated[str | None, typer.Option(help="Which study, where the store holds several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the page; in the study's folder by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and write no page.")] = False,
) -> None:
    """Write a study's report anew, finished or not, and print its table."""
    from holdfast.study.report import print_summary, write_report
    from holdfast.study.runner import open_study

    summary, folder = open_study(where, name)
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
        return
    print_summary(summary, Console())
    Console().print(f"\nreport  {write_report(summary, out or folder / 'report.html')}", highlight=False)


def predict(
    model: Annotated[Path, typer.Argument(help="A study's folder, or its model folder.")],
    data: Annotated[Path, typer.Argument(help="Table, image folder or manifest, .npy, .npz, graphs or texts.")],
    out: Annotated[str, typer.Option(help="A .csv or .parquet file, or - for standard output.")] = "predictions.csv",
    chunk_rows: Annotated[int | None, typer.Option(min=1, help="Samples held in memory at a time.")] = None,
    keep: Annotated[str | None, typer.Option(help="Columns of a table to hand through, comma-separated.")] = None,
    missing: Annotated[str | None, typer.Option(help="Texts that stand for a missing value, comma-separated.")] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Distrust from which a row is counted.")] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Predict new data with a distrust score; the data may be larger than memory."""
    from dataclasses import asdict

    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from holdfast.study.bundle import Bundle
    from holdfast.study.predict import predict_stream

    bundle = Bundle.load(model)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows"), TimeElapsedColumn())
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("", total=None)
        done = predict_stream(
            bundle,
            data,
            out,
            rows=chunk_rows,
            keep=_names(keep) if keep else (),
            missing=_names(missing) if missing else (),
            threshold=threshold,
            watch=lambda n: progress.update(task, completed=n),
        )
    if as_json:
        typer.echo(json.dumps(asdict(done)), err=out == "-")
        return
    console = Console(stderr=out == "-")
    where = "standard output" if out == "-" else done.out
    console.print(f"{done.rows:,} rows in {done.seconds:.1f} s -> {where}", highlight=False)
    console.print("predicted " + ", ".join(f"{c} {n:,}" for c, n in done.classes.items()), highlight=False)
    if done.distrusted is None:
        console.print(f"[yellow]no distrust score: {bundle.info.no_trust}[/yellow]")
        return
    console.print(
        f"distrust >= {threshold:g} on {done.distrusted:.1%} of the rows (about {1 - threshold:.0%} where the data are "
        "as in training)",
        highlight=False,
    )
    console.print("most like " + ", ".join(f"{e} {n:,}" for e, n in done.nearest.items()), highlight=False)


def _overrides(**given: Any) -> dict[str, Any]:
    return {k: v for k, v in given.items() if v is not None}


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _maybe_names(text: str | None) -> list[str] | None:
    return _names(text) if text else None


def _slug(text: str) -> str:
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in text).strip("._-")
    return kept or "study"


def _data(
    data: str | None, columns: dict[str, Any], options: dict[str, Any], limit: int | None
) -> dict[str, Any] | None:
    from holdfast.study.spec import SpecError

    if data is None:
        if given := columns | options | _overrides(limit=limit):
            raise SpecError(f"--{next(iter(given))}: goes with --data")
        return None
    looks_like_path = Path(data).exists() or "/" in data or bool(Path(data).suffix) or columns
    fields: dict[str, Any] = {"path" if looks_like_path else "named": data} | columns | _overrides(limit=limit)
    return fields | ({"options": options} if options else {})


def _shift(text: str | None) -> dict[str, Any] | None:
    from holdfast.study.spec import SpecError

    if text is None:
        return None
    name, _, rest = text.partition(":")
    try:
        params = yaml.safe_load("{" + rest.replace("=", ": ") + "}")
    except yaml.YAMLError:
        raise SpecError(f"--shift: cannot read {rest!r}; write NAME:param=value, lists as [0, 30]") from None
    return {"name": name.strip(), "params": params or {}}


def _methods(text: str | None) -> list[str] | None:
    if text is None:
        return None
    from holdfast.study.methods import METHODS

    return list(METHODS) if text.strip() == "all" else _names(text)


def _default_methods() -> tuple[str, ...]:
    from holdfast.study.default import DEFAULT_METHODS

    return DEFAULT_METHODS


def _seeds(text: str | None) -> Any:
    from holdfast.study.spec import SpecError

    if text is None:
        return None
    try:
        numbers = [int(part) for part in _names(text)]
    except ValueError:
        raise SpecError(f"--seeds: must be a number or a list of whole numbers, got {text!r}") from None
    return numbers if "," in text else numbers[0]


def _with_executor(spec: Any, executor: str | None, workers: int | None) -> Any:
    from holdfast.study.spec import parse_spec

    if executor is None and workers is None:
        return spec
    fields = spec.to_dict()
    own: dict[str, Any] = dict(fields["executor"])
    if executor is not None:
        own = {"kind": executor} if executor in ("local", "ray") else {"kind": "ray", "address": executor}
    if workers is not None:
        own["workers"] = workers
    return parse_spec(fields | {"executor": own})


@contextmanager
def _progress(console: Console) -> Iterator[Any]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from holdfast.study.verdict import shown

    columns = (
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    failed = 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def watch(state: Any) -> None:
            nonlocal failed
            text = ""
            if state.cell is not None and state.outcome.status == "failed":
                failed += 1
            elif state.cell is not None and len(state.cell.held_out) == 1:
                own = scores[state.cell.setting]
                own[state.cell.label].append(state.outcome.result["held_out"][state.cell.held_out[0]]["accuracy"])
                best = max(own, key=lambda m: sum(own[m]) / len(own[m]))
                text = f"best so far {shown(best)} {sum(own[best]) / len(own[best]):.3f}"
            text += f"  {failed} failed" if failed else ""
            changes: dict[str, Any] = {"description": text} if state.cell is not None else {}
            progress.update(task, completed=state.done, total=state.total, **changes)

        yield watch

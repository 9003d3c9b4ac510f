"""``holdfast papers`` and ``holdfast reproduce``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console, JustifyMethod
from rich.table import Table

if TYPE_CHECKING:
    from holdfast.papers.record import Scale
    from holdfast.papers.reproduce import Reproduction

__all__ = ["papers", "reproduce"]

_STYLE = {"held": "green", "not held": "red", "undecided": "yellow"}


def _paper_row(paper: Any, score: float | None) -> dict[str, Any]:
    from holdfast.papers.catalogue import BUILT, evidence

    record = evidence(paper.number)
    verdicts = [c["verdict"] for c in record["claims"]] if record else []
    return {
        "number": paper.number,
        "title": paper.title,
        "year": paper.year,
        "arxiv": paper.arxiv,
        "first_author": paper.first_author,
        "venue": paper.venue,
        "code": paper.code,
        "state": "built" if paper.number in BUILT else "planned",
        "claims": len(verdicts),
        "held": verdicts.count("held"),
        "summary": paper.summary,
        "keywords": list(paper.keywords),
    } | ({} if score is None else {"similarity": round(score, 3)})


def papers(
    words: Annotated[list[str] | None, typer.Argument(help="Search by meaning; leave out to list all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search the catalogue of papers."""
    from holdfast.papers import catalogue

    found: list[tuple[Any, float | None]]
    found = [*catalogue.search(" ".join(words))] if words else [(p, None) for p in catalogue.papers()]
    rows = [_paper_row(paper, score) for paper, score in found]
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    console = Console()
    if not rows:
        console.print("Nothing in the catalogue is near these words. [dim]holdfast papers[/] lists everything.")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns: dict[str, JustifyMethod] = {"no": "right", "title": "left", "first author": "left", "venue": "left"}
    for name, justify in columns.items():
        table.add_column(name, justify=justify, overflow="fold")
    table.add_column("arXiv")
    table.add_column("code", overflow="fold")
    table.add_column("state")
    for row in rows:
        state = "[dim]planned[/]"
        if row["state"] == "built":
            state = f"[green]built[/] {row['held']}/{row['claims']} held" if row["claims"] else "[green]built[/]"
        table.add_row(
            str(row["number"]), row["title"], row["first_author"], row["venue"], row["arxiv"], row["code"], state
        )
    console.print(table)
    if not words:
        kept = ", ".join(map(str, catalogue.UNDESCRIBED))
        console.print(f"\n[dim]{len(rows)} described; numbers kept for papers not described yet: {kept}[/]")


def _claims_table(run: Reproduction) -> Table:
    title = f"{run.paper.number}. {run.paper.title}"
    table = Table(title=title, title_justify="left", header_style="bold", expand=True)
    table.add_column("claim", overflow="fold", ratio=1)
    for name in ("measured [95% CI]", "threshold", "verdict", "s/seed"):
        table.add_column(name, no_wrap=True)
    seconds = sum(run.seconds.values()) / len(run.seconds)
    for i, c in enumerate(run.claims):
        interval = f"{c.interval.mean:.3f} [{c.interval.low:.3f}, {c.interval.high:.3f}]"
        statement = c.claim.statement + (f"\n[dim]{c.claim.note}[/]" if c.claim.note else "")
        verdict = f"[{_STYLE[c.verdict]}]{c.verdict}[/]" if c.verdict else "[dim]not judged[/]"
        table.add_row(statement, interval, c.claim.threshold, verdict, f"{seconds:.0f}" if i == 0 else "")
    return table


def _rows_tables(run: Reproduction, width: int) -> Iterator[Table]:
    """Everything measured, methods down and metrics across, cut into tables that fit the screen."""
    metrics = list(dict.fromkeys(name for values in run.rows.values() for name in values))
    name_width = max(len(method) for method in run.rows) + 2
    while metrics:
        shown, used = [metrics.pop(0)], name_width
        used += max(7, len(shown[0])) + 2
        while metrics and used + max(7, len(metrics[0])) + 2 <= width:
            used += max(7, len(metrics[0])) + 2
            shown.append(metrics.pop(0))
        table = Table(box=None, header_style="dim", pad_edge=False)
        table.add_column("", no_wrap=True)
        for name in shown:
            table.add_column(name, justify="right", no_wrap=True)
        for method, values in run.rows.items():
            if any(name in values for name in shown):
                table.add_row(method, *(f"{values[n].mean:.3f}" if n in values else "" for n in shown))
        yield table


def reproduce(
    numbers: Annotated[list[int] | None, typer.Argument(help="Paper numbers.")] = None,
    scale: Annotated[str, typer.Option(help="smoke (seconds), small (minutes on two cores) or gpu.")] = "small",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; the paper's own by default.")] = None,
    first_seed: Annotated[int, typer.Option(help="Seeds are first-seed, first-seed + 1, ...")] = 0,
    every: Annotated[bool, typer.Option("--all", help="Run every paper that is built.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes at once; the number of cores by default.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the evidence files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test the claims of papers. Exit 0: all held; 3: one is not held or undecided; 1: error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from holdfast.papers.catalogue import BUILT
    from holdfast.papers.reproduce import reproduce as run_papers
    from holdfast.papers.reproduce import seed_plan, write_evidence

    chosen = sorted(BUILT) if every else list(numbers or [])
    if not chosen:
        raise typer.BadParameter(f"give paper numbers or --all; built are {', '.join(map(str, sorted(BUILT)))}")
    # Running the papers refuses any other word.
    named = cast("Scale", scale)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=sum(len(seed_plan(n, named, seeds)) for n in set(chosen)))
        runs = run_papers(
            chosen,
            named,
            seeds=seeds,
            first_seed=first_seed,
            workers=workers,
            on_seed=lambda n, s: progress.update(task, advance=1, description=f"paper {n}, seed {s}"),
        )
    if record:
        written = [write_evidence(run) for run in runs]
    if as_json:
        typer.echo(json.dumps([run.to_dict() for run in runs], indent=1))
    else:
        console = Console()
        for run in runs:
            console.print(_claims_table(run))
            for table in _rows_tables(run, console.width):
                console.print(table)
                console.print()
        if record:
            console.print("\n".join(f"evidence written to {path}" for path in written))
    if not all(run.held for run in runs):
        raise typer.Exit(3)

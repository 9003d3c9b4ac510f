"""``holdfast data``: named data sets and what a file or folder of one's own looks like."""

from __future__ import annotations

from typing import Annotated, Any

import typer

__all__ = ["app"]

app = typer.Typer(help="Named data sets; a look at data of one's own.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_(
    json: Json = False,
    local: Annotated[bool, typer.Option("--local", help="Only those whose files are on this machine.")] = False,
) -> None:
    """List the named data sets."""
    from rich.console import Console
    from rich.table import Table

    from holdfast.data import describe_named, is_local, list_named

    rows = []
    for name in list_named():
        here = is_local(name)
        if local and not here:
            continue
        s = describe_named(name)
        how = "here" if here else "download" if all(f.url for f in s.files) else "HOLDFAST_DATA"
        rows.append(
            {
                "name": name,
                "title": s.title,
                "kind": s.kind,
                "environments": s.environments,
                "labels": s.labels,
                "licence": s.licence,
                "files": how,
            }
        )
    if json:
        _print_json(rows)
        return
    table = Table(caption="files: here, to download, or to be put into the folder that HOLDFAST_DATA names")
    table.add_column("name", style="cyan", no_wrap=True)
    for column in ("title", "kind", "environments", "labels"):
        table.add_column(column, overflow="fold")
    table.add_column("files", no_wrap=True)
    for row in rows:
        table.add_row(*(row[c] for c in ("name", "title", "kind", "environments", "labels", "files")))
    Console().print(table)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="Name of a data set (holdfast data list).")], json: Json = False
) -> None:
    """Find or download every file of a data set and check its SHA-256."""
    from rich.console import Console

    from holdfast.data import describe_named, named_file

    named = describe_named(name)
    found = [{"file": f.name, "path": str(named_file(name, f.name)), "sha256": f.sha256} for f in named.files]
    if json:
        _print_json({"name": name, "files": found})
        return
    console = Console(soft_wrap=True)
    for f in found:
        console.print(f"[green]ok[/green] {f['path']}", highlight=False)
    if not found:
        console.print(f"{name} {named.origin}: nothing to fetch")


@app.command()
def describe(
    source: Annotated[str, typer.Argument(metavar="NAME_OR_PATH", help="A named data set, a file or a folder.")],
    label: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    environment: Annotated[str | None, typer.Option(help="Column of the environments.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the texts.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="Column of protected or spurious facts.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Column to leave out.")] = None,
    categorical: Annotated[list[str] | None, typer.Option(help="Column whose numbers are codes.")] = None,
    missing: Annotated[list[str] | None, typer.Option(help="Text that stands for a missing value.")] = None,
    size: Annotated[int | None, typer.Option(help="Resize images to SIZE x SIZE.")] = None,
    task: Annotated[str | None, typer.Option(help="classification or regression.")] = None,
    json: Json = False,
) -> None:
    """Read data and count its samples by environment and class."""
    import warnings

    from rich.console import Console

    from holdfast.data import DataWarning, describe_named, list_named, load_named, named_options, read

    named = describe_named(source) if source in list_named() else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        if named is not None:
            data = load_named(source)
        else:
            _check_path(source)
            data = read(
                source,
                label=label,
                environment=environment,
                text=text,
                attributes=attribute or (),
                drop=drop or (),
                categorical=categorical or (),
                missing=missing or (),
                size=size,
                task=task,  # pyright: ignore[reportArgumentType]
            )
    notes = [str(w.message) for w in caught if issubclass(w.category, DataWarning)]
    if json:
        facts = {
            "source": source,
            "kind": data.kind,
            "task": data.task,
            "samples": len(data),
            "environments": data.counts,
            "attributes": list(data.attributes),
            "counts": data.describe().to_dict("index"),
            "notes": notes,
        }
        if named is not None:
            facts |= {"title": named.title, "origin": named.origin, "licence": named.licence}
            facts |= {"citation": named.citation, "options": named_options(source)}
        _print_json(facts)
        return
    console = Console()
    console.print(data)
    if named is not None:
        for key in ("title", "origin", "licence", "citation"):
            console.print(f"[bold]{key}[/bold]  {getattr(named, key)}", highlight=False)
        options = ", ".join(f"{k}={v!r}" for k, v in named_options(source).items())
        console.print(f"[bold]options[/bold]  {options or 'none'}", highlight=False)
    for note in notes:
        console.print(f"[yellow]note[/yellow]  {note}", highlight=False)


def _check_path(source: str) -> None:
    """A word that is neither a path nor a name was probably meant as a name."""
    from pathlib import Path

    from holdfast.data import describe_named

    if not Path(source).expanduser().exists() and "/" not in source and "." not in source:
        describe_named(source)


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)

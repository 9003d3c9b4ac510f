"""The root command: one table of subcommands, each imported when it is needed."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from holdfast.cli import compat, data, embed, generate, ood, papers, relative, retrieve, rich_representations, study

__all__ = ["app", "main", "run"]

app = typer.Typer(
    name="holdfast",
    help="Learn which method holds on an environment never seen, and when to distrust the model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from holdfast import __version__

        typer.echo(__version__)
        raise typer.Exit


app.command()(study.study)
app.command()(study.report)
app.command()(study.predict)
app.command()(papers.papers)
app.command()(papers.reproduce)
app.command()(embed.embed)
app.add_typer(data.app, name="data")
app.add_typer(generate.app, name="generate")
app.add_typer(compat.app, name="compat")
app.add_typer(relative.app, name="relative")
app.add_typer(ood.app, name="ood")
app.add_typer(rich_representations.app, name="rich")
app.add_typer(retrieve.app, name="retrieve")


def main() -> None:
    """Run the command line; a wrong input ends in one line on standard error and exit status 1."""
    try:
        app()
    except (ValueError, TypeError, FileNotFoundError, ImportError, FloatingPointError) as error:
        if os.environ.get("HOLDFAST_DEBUG"):
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        raise SystemExit(1) from error


def run() -> None:
    """Be the installed command: :func:`main`, and an end that nothing can spoil."""
    try:
        main()
    except SystemExit as end:
        if end.code != 1:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        # After a refused file, Arrow's reader threads now and then abort an interpreter that ends while they wind
        # down (status 134 instead of 1). Nothing is left to do, so the process ends without that.
        os._exit(1)

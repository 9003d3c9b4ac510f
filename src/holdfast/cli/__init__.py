"""The command line: ``holdfast --help`` lists what there is."""

from holdfast.cli.main import app, main, run

__all__ = ["app", "main", "run"]

"""The command line: ``holdfast --help`` lists what there is."""

from holdfast.cli.main import app, main

__all__ = ["app", "main"]

"""The command line; a thin skin over the library."""

from hepcal.cli.commands import app, main

__all__ = ["app", "main"]

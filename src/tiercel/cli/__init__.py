"""The command line: `tiercel`."""

from tiercel.cli.main import main

__all__ = ["main"]

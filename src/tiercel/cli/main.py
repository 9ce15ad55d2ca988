"""The program's entry: commands put together, errors turned into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 the user's mistake, 3 done but nothing could be certified or a
budget ended, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tiercel._version import __version__
from tiercel.cli import (
    augment_command,
    certify_command,
    key_commands,
    ops_commands,
    plan_command,
    recogniser_command,
    replay_command,
    route_commands,
    serve_command,
    store_commands,
    watch_command,
)
from tiercel.cli.commands import answer, import_, label, pilot, workloads
from tiercel.errors import TiercelError

__all__ = ["app", "main"]

# The base of typer's errors of usage has no public name, and comes from click or from typer's own copy of it.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="tiercel",
    help="Move language-model traffic from a frontier model to small models of your own, with proof of what it costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("import")(import_)
app.command()(workloads)
app.command()(label)
augment_command.register(app)
app.command()(pilot)
app.command()(answer)
serve_command.register(app)
replay_command.register(app)
key_commands.register(app)
store_commands.register(app)
route_commands.register(app)
watch_command.register(app)
ops_commands.register(app)
plan_command.register(app)
recogniser_command.register(app)
certify_command.register(app)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of the program as a whole; their callbacks do the work."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code.

    Args:
        arguments: of the command line; None for those of the process.
    """
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        if code == 130:
            # typer has caught the interrupt itself.
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except _UsageError as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except TiercelError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        print("error: the machine's memory is full; use fewer rows or a smaller student", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1

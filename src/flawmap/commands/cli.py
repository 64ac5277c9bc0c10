"""The entry of the command line: calls a command, prints its errors, and returns an exit code.

Exit codes: 0 done; 1 our fault; 2 wrong use or bad input; 3 flaws found (only with --fail-on-flaw); 4 some images
could not be read or some trainings failed, the rest is done (wins over 3); 130 interrupted. A disk without room or
rights counts as 2.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from itertools import pairwise

import typer
from rich.console import Console

from flawmap.commands.arguments import app
from flawmap.commands.console import end_log
from flawmap.core.errors import FlawmapError

OUR_FAULT, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    errors = Console(stderr=True, markup=False, highlight=False, emoji=False)
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(given, prog_name="flawmap", standalone_mode=False)
    except typer.TyperException as error:
        _complain(errors, _usage(error, given))
        return BAD_INPUT
    except FlawmapError as error:
        _complain(errors, str(error))
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        _log_traceback(given)
        reason = error.strerror or str(error)
        said = f"the disk refuses: {reason}" if error.filename is None else f"{error.filename} cannot be used: {reason}"
        _complain(errors, f"{said}; check the path, its rights and the disk")
        return BAD_INPUT
    except Exception as error:
        _log_traceback(given)
        _complain(
            errors, f"flawmap failed, and should not have: {type(error).__name__}: {error}; -v shows the traceback"
        )
        return OUR_FAULT
    finally:
        end_log()
    if code == INTERRUPTED:  # also typer's own answer to Ctrl-C
        errors.print("interrupted; what was finished is kept")
    return int(code or 0)


def _complain(errors: Console, text: str) -> None:
    errors.print(f"error: {text}", style="red", soft_wrap=True)


def _log_traceback(given: Sequence[str]) -> None:
    if {"-v", "--verbose"} & set(given):
        logging.getLogger("flawmap").exception("unexpected")


def _usage(error: typer.TyperException, given: Sequence[str]) -> str:
    """What is wrong with the arguments, what came, and where to read on."""
    said = error.format_message().rstrip(".").replace("Value error, ", "")
    for name in getattr(getattr(error, "param", None), "opts", ()):
        values = [value for option, value in pairwise(given) if option == name]
        values += [text.removeprefix(f"{name}=") for text in given if text.startswith(f"{name}=")]
        if values and values[-1] not in said:
            said += f", got {values[-1]}"
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback is not None}
    return f"{said}; see `{' '.join(['flawmap', *commands.intersection(given[:1])])} --help`"


if __name__ == "__main__":
    sys.exit(main())

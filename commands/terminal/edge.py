"""The edge of the program: whatever a command ends with becomes one sentence and an exit code."""

from __future__ import annotations

import io
import os
import sys

import typer
from typer.exceptions import TyperException

from commands.terminal.output import complain, discard_output
from engine.errors import EngineError, Exit, of_os_error
from engine.supervision.signals import Terminated, leave_undisturbed, raise_when_terminated


def run_app(app: typer.Typer) -> int:
    """Run the command of `sys.argv` and return its exit code: one sentence for an error, a traceback with --debug."""
    debug = "--debug" in sys.argv[1:] or os.environ.get("ENGINE_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    _open_missing_streams()
    _print_whatever_comes()
    raise_when_terminated()
    try:
        return _call(app, arguments)
    except Terminated as signal:
        complain(f"stopped by {signal}")
        return Exit.SIGTERM
    except EngineError as error:
        if debug:
            raise
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("stopped by SIGINT")
        return Exit.SIGINT
    except BrokenPipeError:  # nobody reads what a demo says on its way: end quietly, as filters do
        discard_output()
        return Exit.UNEXPECTED
    except OSError as error:
        if debug:
            raise
        known = of_os_error(error)
        complain(str(known))
        return known.exit_code
    except UnicodeError as error:  # a file's name, an argument: whatever is printed cannot fail like that
        if debug:
            raise
        complain(
            f"a text cannot be written in this environment's encoding ({_without_text(error)}): set LC_ALL=C.UTF-8, "
            "or PYTHONUTF8=1, and run the same command again"
        )
        return Exit.USAGE
    except MemoryError:
        if debug:
            raise
        complain("this process may not have more memory: free some or raise its limit, and run the same command again")
        return Exit.UNEXPECTED
    except Exception as error:
        if debug:
            raise
        complain(f"unexpected error: {type(error).__name__}: {error}; run again with --debug and report it")
        return Exit.UNEXPECTED
    finally:
        leave_undisturbed()


def _call(app: typer.Typer, arguments: list[str]) -> int:
    """The exit code of a command; what typer finds wrong with the arguments is a sentence, too."""
    try:
        outcome = app(args=arguments or ["--help"], prog_name="engine", standalone_mode=False)
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # not exported; its message is the whole help text
            print(error.format_message())
            return Exit.USAGE
        context = getattr(error, "ctx", None)
        where = f" (see `{context.command_path} --help`)" if context is not None else ""
        complain(f"{error.format_message()}{where}")
        return Exit.USAGE
    except typer.Abort:
        complain("stopped by SIGINT")
        return Exit.SIGINT
    return outcome if isinstance(outcome, int) else Exit.DONE


def _without_text(error: UnicodeError) -> str:
    """What a UnicodeError says, without the text that it is about."""
    if isinstance(error, UnicodeEncodeError):
        return f"{error.encoding} has no U+{ord(error.object[error.start]):04X}"
    return str(error.encoding) if isinstance(error, UnicodeDecodeError) else type(error).__name__


def _print_whatever_comes() -> None:
    """Escape the characters that standard output's encoding does not have, as standard error does by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _open_missing_streams() -> None:
    """Put /dev/null where a starter closed a standard stream, or the lock would get the number that prints go to."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w"))

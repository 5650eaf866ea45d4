"""The command line: parsing and printing, one file per command.

A command's module is imported when that command is used, and what it needs when it does its work, so that help is quick.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from icf_deploy.errors import INTERRUPTED_EXIT_STATUS, IcfError

REPORT_TO = "https://github.com/icf-deploy/icf-deploy/issues"
FAILED_EXIT_STATUS = 1

# Every command and its line in the help; the module of this name in this package holds it.
COMMANDS = {
    "export": "Turn a checkpoint into a bundle; compile engines into it.",
    "colorize": "Colour photos.",
    "bench": "Measure latency, memory, cost and drift of engines.",
    "compare": "Compare two results of bench.",
    "check": "Measure how far an engine's colours drift from PyTorch's.",
    "tune": "Find the fastest engine inside a colour budget, and keep it.",
    "inspect": "Show what a bundle holds, and verify it.",
    "verify": "Check every byte of a bundle.",
    "pack": "Write a bundle as one file, or back as a folder.",
    "doctor": "Show what can run on this machine, and what to install.",
    "cache": "Show, explain or clear the engines that this device keeps.",
    "train": "Train a network on a folder of photos.",
    "evaluate": "Score a checkpoint or bundle on colour photos.",
}


class LazyGroup(click.Group):
    """Knows its commands by name, and imports one when it is used."""

    def list_commands(self, _: click.Context) -> list[str]:
        """All names, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        """The command, or None for a name that is none."""
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"{__name__}.{name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="icf-deploy", message="%(prog)s %(version)s")
def cli() -> None:
    """Deploy photo colorization networks on edge devices.

    `icf-deploy colorize PHOTO -o RESULT.jpg` works right after installation, with the network that is shipped.
    """


def main() -> None:
    """Run the command line and end the process with its exit status."""
    status = run()
    try:
        sys.stdout.flush()
    except OSError:  # it was reported already; what is still in the buffer would make Python complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or FAILED_EXIT_STATUS
    sys.exit(status)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (None: the process's own) and return its exit status.

    0 done; 1 the work failed; 2 usage; 3 budget not met; 4 artefact does not fit; 5 engine not available; 6 integrity;
    130 interrupted. What went wrong is one line on standard error.
    """
    try:
        status = cli.main(args=arguments, prog_name="icf-deploy", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except BrokenPipeError:  # whoever read our output has seen enough
        return FAILED_EXIT_STATUS
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:  # click puts the one inside the other
        text = str(error.__cause__ or error)
        click.echo(f"interrupted{': ' + text if text else ''}", err=True)
        return INTERRUPTED_EXIT_STATUS
    except Exception as error:
        message, status = _explained(error)
        click.echo("error: " + " ".join(message.split()), err=True)
        return status


def _explained(error: Exception) -> tuple[str, int]:
    """What the person is told about an error, and the exit status that it gives."""
    if isinstance(error, IcfError):
        return str(error), error.exit_status
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx is not None else "icf-deploy"
        return f"{error.format_message()} (see `{command} --help`)", error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, MemoryError):
        return "not enough memory", FAILED_EXIT_STATUS
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return place + error.strerror, FAILED_EXIT_STATUS
    import traceback

    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    return f"this is a fault of icf-deploy; please report it with the lines above at {REPORT_TO}", FAILED_EXIT_STATUS

"""`icf-deploy train`: a network from a folder of photos. Its options are the fields of TrainConfig."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import click

from icf_deploy.cli.options import PATH
from icf_deploy.cli.terminal import progress_bar, say, show_lines
from icf_deploy.errors import EngineUnavailableError
from icf_deploy.training.config import TrainConfig

if TYPE_CHECKING:
    from icf_deploy.training.loop import Progress

OWN_NAMES = {"output": ("-o", "--output"), "from_checkpoint": ("--from",)}  # where the flag is not the field's name
TRAINING_PACKAGES = ("torch", "safetensors")


def options_of_config() -> list[click.Parameter]:
    """One option per field of TrainConfig: its type, its default, its help."""
    kinds = get_type_hints(TrainConfig)
    return [_option(field, kinds[field.name]) for field in fields(TrainConfig)]


def _option(field: Field[Any], kind: Any) -> click.Option:
    flag = f"--{field.name.replace('_', '-')}"
    names = [field.name, *OWN_NAMES.get(field.name, (flag,))]
    help_text = field.metadata["help"]
    if kind is bool:
        names[1:] = [f"{flag}/--no-{flag[2:]}"] if field.default else [flag]
        return click.Option(names, is_flag=True, default=field.default, help=help_text)
    multiple = get_origin(kind) is tuple
    if multiple:
        kind = get_args(kind)[0]
    elif get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    given: dict[str, Any] = {"type": PATH if kind is Path else kind, "multiple": multiple, "help": help_text}
    if field.default is MISSING:
        given["required"] = True
    elif not multiple and field.default is not None:
        given |= {"default": field.default, "show_default": True}
    return click.Option(names, **given)


def _run(**given: Any) -> None:
    """Turn the options into a configuration and train."""
    import importlib.util

    missing = [name for name in TRAINING_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineUnavailableError(
            f"training needs {', '.join(missing)}, which this machine does not have: pip install 'icf-deploy[train]'"
        )
    config = TrainConfig(**given)
    config.check()
    from icf_deploy.training.loop import train

    with _shown() as progress:
        path = train(config, progress=progress, notice=say)
    show_lines([str(path)])


@contextmanager
def _shown() -> Iterator[Callable[[Progress], None] | None]:
    """A progress bar on a terminal; elsewhere a line on standard error at every validation."""
    with progress_bar() as update:
        latest: list[Any] = [None]

        def show(now: Progress) -> None:
            if update is not None:
                update(now.step, now.total, progress_line(now))
            elif now.validation is not latest[0]:
                latest[0] = now.validation
                say(f"step {now.step} of {now.total}: {progress_line(now)}")

        yield show


def progress_line(now: Progress) -> str:
    """Loss, crops a second, and once there was a validation: dB over gray and the share of the true colourfulness."""
    line = f"loss {now.loss:.3g}, {now.crops_per_second:.0f} crops/s"
    if now.validation is not None:
        line += f", {now.validation.db_over_gray:+.2f} dB over gray"
    return line


command = click.Command(
    "train",
    callback=_run,
    params=options_of_config(),
    short_help="Train a network on a folder of photos.",
    help="""Train a network on a folder of photos.

    Colour photos become pairs of gray and colour. Held-out sources are scored on the way, and the averaged weights are what is
    written. A run that is interrupted goes on exactly where it was with --resume.""",
)

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
from icf_deploy.training.config import QAT_DEFAULTS, TrainConfig

if TYPE_CHECKING:
    from icf_deploy.training.loop import Progress

OWN_NAMES = {"output": ("-o", "--output"), "from_checkpoint": ("--from",)}  # where the flag is not the field's name
TRAINING_PACKAGES = ("torch", "safetensors")
BASELINE_PACKAGES = ("sklearn",)
QAT_PACKAGES = ("onnx", "onnxscript", "onnx_ir", "onnxruntime")  # --qat asks the graph where int8 rounds


def options_of_config() -> list[click.Parameter]:
    """One option per field of TrainConfig: its type, its default, its help."""
    kinds = get_type_hints(TrainConfig)
    return [_option(field, kinds[field.name]) for field in fields(TrainConfig)]


def _option(field: Field[Any], kind: Any) -> click.Option:
    flag = f"--{field.name.replace('_', '-')}"
    names = [field.name, *OWN_NAMES.get(field.name, (flag,))]
    help_text = field.metadata["help"]
    if field.name == "qat":
        return click.Option(names, is_flag=True, is_eager=True, callback=_qat_defaults, help=help_text)
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


def _qat_defaults(context: click.Context, _: click.Parameter, asked: bool) -> bool:
    """Other options that are not given take the defaults of --qat."""
    if asked:
        context.default_map = {**(context.default_map or {}), **QAT_DEFAULTS}
    return asked


def _run(**given: Any) -> None:
    """Turn the options into a configuration and train."""
    config = TrainConfig(**given)
    _require_packages(BASELINE_PACKAGES if config.baseline else TRAINING_PACKAGES)
    if config.qat:
        _require_packages(QAT_PACKAGES, extra="train,export")
    config.check()
    if config.baseline:
        from icf_deploy.training.baselines import train_baseline

        show_lines([str(train_baseline(config, notice=say))])
        return
    from icf_deploy.training.loop import train

    with _shown() as progress:
        path = train(config, progress=progress, notice=say)
    show_lines([str(path)])


def _require_packages(names: tuple[str, ...], extra: str = "train") -> None:
    import importlib.util

    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineUnavailableError(
            f"training needs {', '.join(missing)}, which this machine does not have: pip install 'icf-deploy[{extra}]'"
        )


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
    written. A run that is interrupted goes on exactly where it was with --resume.

    With --teacher the colours are those that another checkpoint gives to the same photos. With --baseline, one of the
    predictors on local features that the ICF paper compares with is trained, for `evaluate --baselines`.""",
)

"""A command as a shell takes it: what repeats a measurement, and stands in its result."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click


def command_line(context: click.Context, values: Mapping[str, Any], without: tuple[str, ...] = ()) -> str:
    """The command of `context` with these values of its parameters; what stands at its default, and `without`, is left out."""
    words = ["icf-deploy", context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        value = values.get(name)
        if name in without or value is None or value == () or value == parameter.get_default(context):
            continue
        option = max(parameter.opts, key=len) if isinstance(parameter, click.Option) else None
        for one in value if isinstance(value, tuple) else (value,):
            words += [option] if option is not None else []
            words += [] if value is True else [f"{one:g}" if isinstance(one, float) else str(one)]
    return shlex.join(words)

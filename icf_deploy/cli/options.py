"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)

bundle_argument = click.argument("bundle", type=PATH, required=False)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output, nothing else.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what stands at the output's place.")
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads that work on one photo; by default one per physical core."
)
digest_option = click.option(
    "--expect-digest", metavar="SHA256", help="Digest that the bundle must have, from somebody you trust; else exit status 6."
)
digests_option = click.option(
    "--expect-digest", "expect_digests", multiple=True, metavar="SHA256",
    help="Digest that the bundle must have, from somebody you trust; else exit status 6. Once per bundle, in their order.",
)  # fmt: skip
trust_option = click.option(
    "--trust-engines",
    is_flag=True,
    help="Also use engines that lie in the bundle: machine code of whoever made it, which runs with your rights.",
)

graphs_option = click.option(
    "--graph", "graphs", multiple=True, metavar="G", help="Graph of the bundle; repeatable, by default all of its default size."
)


def engines_option(purpose: str) -> Callable[[Function], Function]:
    """`--engine`, repeatable; `purpose` ends its help."""
    return click.option(
        "--engine", "engines", multiple=True, metavar="E", help=f"Engine, such as ort or openvino:cpu-bf16; {purpose}."
    )


class Size(click.ParamType[tuple[int, int]]):
    """`N` for a square or `HxW`, in pixels; gives (H, W)."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read the text; what sizes a network takes is for the export to say."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", value)
        if match is None:
            self.fail(f"{value!r} is not a size: write one side, as 256, or height x width, as 256x384", param, ctx)
        return int(match[1]), int(match[2] or match[1])

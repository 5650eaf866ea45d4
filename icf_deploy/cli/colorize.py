"""`icf-deploy colorize`: photos in, photos out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icf_deploy.cli.options import PATH, digest_option, json_option, overwrite_option, threads_option, trust_option
from icf_deploy.cli.terminal import progress_bar, say, show_json, show_lines
from icf_deploy.errors import PhotoError, UsageError, WorkError

if TYPE_CHECKING:
    from icf_deploy.colorizer import Colorizer

# What a folder is searched for. A file that is named on the command line may have any name.
PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"}
)
FALLBACK_SUFFIX = ".png"  # of the result of a photo whose own format cannot be written: nothing is lost in it
SHOWN_PATHS = 3  # of existing outputs in a message


@dataclass(frozen=True)
class Task:
    """One photo and where its result goes."""

    photo: Path
    output: Path


@dataclass(frozen=True)
class Plan:
    """What is to be done. folder: where the results go, to be made if it is not there; None for one file."""

    tasks: list[Task]
    folder: Path | None


@click.command("colorize", short_help="Colour photos.")
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="IN...")
@click.option("-o", "--output", type=PATH, required=True, metavar="OUT", help="File for one photo; folder for many.")
@click.option("--bundle", type=PATH, metavar="B", help="Bundle to use; by default the shipped icf-edge.")
@click.option("--engine", metavar="E", help="Engine, such as ort; by default the tuned one, else the first that is installed.")
@click.option(
    "--saturation", type=float, default=1.0, show_default=True, metavar="X", help="Factor for the colours; 0 is gray."
)
@click.option("--parity", is_flag=True, help="Do exactly what the original DDColor does before and after the network.")
@threads_option
@digest_option
@trust_option
@overwrite_option
@json_option
def command(
    *,
    inputs: tuple[Path, ...],
    output: Path,
    bundle: Path | None,
    engine: str | None,
    saturation: float,
    parity: bool,
    threads: int | None,
    expect_digest: str | None,
    trust_engines: bool,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Colour photos.

    One photo gives one file. Several, or a folder, give a folder of results that keep their names. A photo that cannot be
    read is reported and the others are done; the exit status is then 1.
    """
    plan = plan_of(inputs, output)
    require_outputs(plan, overwrite=overwrite)
    import icf_deploy

    opened = icf_deploy.load(bundle, engine, threads=threads, expect_digest=expect_digest, trust_engines=trust_engines)
    with opened as colorizer:
        photos = _colour_all(colorizer, plan.tasks, saturation, parity=parity, overwrite=overwrite, echo=not as_json)
        facts = {"engine": colorizer.engine, "size": list(colorizer.size)}
        if colorizer.bundle is not None:
            facts |= {"bundle": str(colorizer.bundle.path), "digest": colorizer.bundle.digest}
    failed = sum("error" in photo for photo in photos)
    if as_json:
        show_json({**facts, "photos": photos, "done": len(photos) - failed, "failed": failed})
    if failed and len(photos) > 1:
        say(f"{failed} of {len(photos)} photos failed")
    return 1 if failed else 0


def plan_of(inputs: tuple[Path, ...], output: Path) -> Plan:
    """Which photo goes where. Raises PhotoError for a folder without photos, UsageError for a file where a folder is needed."""
    photos: dict[Path, Path] = {}  # by where they really are: named twice, coloured once
    for path in inputs:
        for photo in _photos_in(path) if path.is_dir() else [path]:
            photos.setdefault(photo.resolve(), photo)
    many = len(photos) > 1 or any(path.is_dir() for path in inputs)
    if not many and not output.is_dir():
        return Plan([Task(inputs[0], output)], None)
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file, and the results of {' '.join(map(str, inputs))} need a folder: name one with -o")
    return Plan(_named(list(photos.values()), output), output)


def require_outputs(plan: Plan, *, overwrite: bool) -> None:
    """Refuse outputs before any work is done, and make the folder. Raises WorkError or UsageError."""
    from icf_deploy.imaging.output import check_output

    for task in plan.tasks:
        if task.output.exists() and task.photo.exists() and task.output.samefile(task.photo):
            raise UsageError(f"{task.output} would replace the photo itself: name another output")
    if plan.folder is None:
        check_output(plan.tasks[0].output, overwrite=overwrite)
        return
    existing = [str(task.output) for task in plan.tasks if os.path.lexists(task.output)]
    if existing and not overwrite:
        shown = ", ".join(existing[:SHOWN_PATHS]) + (" and more" if len(existing) > SHOWN_PATHS else "")
        count = f"{len(existing)} of {len(plan.tasks)} results exist"
        raise WorkError(f"{count} already: {shown}; name another folder, or give --overwrite")
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(f"the folder {plan.folder} cannot be made: {error.strerror}") from error
    for task in plan.tasks:
        check_output(task.output, overwrite=overwrite)


def _photos_in(folder: Path) -> list[Path]:
    """The photos of a folder, by name; what is hidden is left alone, and folders in it, too."""
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise PhotoError(f"{folder} holds no photos ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return found


def _named(photos: list[Path], folder: Path) -> list[Task]:
    """Every result keeps its photo's name; one that is taken gets -2, -3, ... Upper and lower case count as the same."""
    from icf_deploy.imaging.output import FORMATS

    taken: set[str] = set()
    tasks = []
    for photo in photos:
        suffix = photo.suffix if photo.suffix.lower() in FORMATS else FALLBACK_SUFFIX
        name, number = photo.stem + suffix, 1
        while name.lower() in taken:
            number += 1
            name = f"{photo.stem}-{number}{suffix}"
        taken.add(name.lower())
        tasks.append(Task(photo, folder / name))
    return tasks


def _colour_all(
    colorizer: Colorizer, tasks: list[Task], saturation: float, *, parity: bool, overwrite: bool, echo: bool
) -> list[dict[str, Any]]:
    """Colour every photo; what fails is reported on standard error and does not stop the others."""
    from icf_deploy.imaging.output import write_photo

    done: list[dict[str, Any]] = []
    with progress_bar() as update:
        for number, task in enumerate(tasks):
            if update is not None and len(tasks) > 1:
                update(number, len(tasks), task.photo.name)
            facts: dict[str, Any] = {"input": str(task.photo)}
            try:
                picture = colorizer.colorize(task.photo, parity=parity, saturation=saturation)
                write_photo(picture, task.output, overwrite=overwrite)
            except (WorkError, MemoryError) as error:
                facts["error"] = str(error) or f"{task.photo}: not enough memory"
                say(f"error: {facts['error']}")
            else:
                facts |= {"output": str(task.output), "width": picture.width, "height": picture.height}
                if echo:
                    show_lines([str(task.output)])
            done.append(facts)
    return done

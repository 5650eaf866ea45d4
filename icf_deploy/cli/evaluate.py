"""`icf-deploy evaluate`: scores on colour photos, beside what doing nothing scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icf_deploy.cli.options import PATH, Size, json_option, overwrite_option, threads_option
from icf_deploy.cli.terminal import progress_bar, say, show_json, show_lines, show_table
from icf_deploy.errors import EngineUnavailableError, IntegrityError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from icf_deploy.training.evaluate import Evaluation
    from icf_deploy.training.protocols import PhotoFolder, Predict

PROTOCOLS = ("256", "full")
SHEETS = ("all", "best", "median", "worst")
HEADER = ("", "PSNR\ndB", "over gray\ndB", "SSIM", "ab-PSNR\ndB", "ΔE 2000", "colour-\nfulness", "of the\ntrue one")
COLUMNS = ("psnr", "db_over_gray", "ssim", "psnr_ab", "ciede2000", "colourfulness")
CURVE_HEADER = ("gain", "dB over gray", "colourfulness")
SKIPPED_SHOWN = 5  # photos that were left out, by name


@click.command("evaluate", short_help="Score a checkpoint or bundle on colour photos.")
@click.argument("source", type=PATH, required=False, metavar="[CHECKPOINT|BUNDLE]")
@click.option("--photos", type=PATH, multiple=True, required=True, metavar="DIR", help="Folder of colour photos; repeatable.")
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="256", show_default=True,
              help="Scored at the network's size, as tables in papers are, or at the photo's own.")  # fmt: skip
@click.option("--gain", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Factor on the predicted chroma.")
@click.option("--size", type=Size(), default="256", show_default=True, help="For a checkpoint: what the network sees.")
@click.option("--engine", metavar="E", help="For a bundle: the engine; by default the first that is installed.")
@click.option("--contact-sheet", type=PATH, metavar="OUT.jpg", help="Also draw gray, coloured and original side by side.")
@click.option("--sheet", type=click.Choice(SHEETS), default="all", show_default=True, help="Which photos the sheet shows.")
@threads_option
@overwrite_option
@json_option
def command(
    *,
    source: Path | None,
    photos: tuple[Path, ...],
    protocol: str,
    gain: float,
    size: tuple[int, int],
    engine: str | None,
    contact_sheet: Path | None,
    sheet: str,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Score a checkpoint or bundle on colour photos.

    The network sees only their L; without CHECKPOINT or BUNDLE the shipped bundle is scored. Every score stands beside those of
    adding no colour and of the photo's own mean colour, with 95 % intervals over photos.
    """
    from icf_deploy.imaging.output import check_output, write_photo

    if contact_sheet is not None:
        check_output(contact_sheet, overwrite=overwrite)
    for folder in photos:
        if not folder.is_dir():
            raise UsageError(f"--photos {folder}: there is no such folder")
    from icf_deploy.training.evaluate import evaluate
    from icf_deploy.training.protocols import PhotoFolder

    folder_photos = PhotoFolder(photos)
    with _predictor(source, size, engine, threads) as predictor, progress_bar() as update:
        done = 0

        def tell(name: str) -> None:
            nonlocal done
            done += 1
            if update is not None:
                update(done, len(folder_photos), name)

        found = evaluate(
            predictor.predict,
            folder_photos,
            size=predictor.size,
            stride=predictor.stride,
            protocol=protocol,
            gain=gain,
            progress=tell,
        )
        if contact_sheet is not None:
            write_photo(_sheet(found, folder_photos, predictor, protocol, sheet), contact_sheet, overwrite=overwrite)
    if as_json:
        show_json({"schema": "icf-evaluation 1", **found.to_json(), "skipped": folder_photos.skipped})
    else:
        _show(found)
    for name, reason in list(folder_photos.skipped.items())[:SKIPPED_SHOWN]:
        say(f"left out: {name}: {reason}")
    if len(folder_photos.skipped) > SKIPPED_SHOWN:
        say(f"left out: {len(folder_photos.skipped) - SKIPPED_SHOWN} more")


@dataclass(frozen=True)
class Predictor:
    """gray float32 [N,1,H,W] -> ab float32 [N,2,h,w], with (H, W) and the stride H / h."""

    predict: Predict
    size: tuple[int, int]
    stride: int


@contextmanager
def _predictor(source: Path | None, size: tuple[int, int], engine: str | None, threads: int | None) -> Iterator[Predictor]:
    """That of a bundle's engine, or of a checkpoint in PyTorch."""
    if source is not None and not source.exists():
        raise IntegrityError(f"there is no checkpoint or bundle {source}: name one, or leave it out for the shipped bundle")
    if source is None or source.is_dir():
        import icf_deploy

        with icf_deploy.load(source, engine, threads=threads) as colorizer:
            yield Predictor(colorizer.predict_ab, colorizer.size, colorizer.stride)
        return
    if engine is not None:
        raise UsageError(f"--engine is for bundles: the checkpoint {source} runs in PyTorch")
    try:
        import torch
    except ImportError as error:
        raise EngineUnavailableError("a checkpoint runs in PyTorch: pip install 'icf-deploy[export]'") from error
    from icf_deploy.network.checkpoint import load_checkpoint
    from icf_deploy.network.network import SIZE_MULTIPLE
    from icf_deploy.runtimes.cores import thread_count

    torch.set_num_threads(thread_count(threads))
    network = load_checkpoint(source)
    if size[0] % SIZE_MULTIPLE or size[1] % SIZE_MULTIPLE or min(size) < SIZE_MULTIPLE:
        raise UsageError(f"--size: sides must be multiples of {SIZE_MULTIPLE}, not {size[0]}x{size[1]}")

    def predict(gray: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        with torch.inference_mode():
            ab: np.ndarray[Any, np.dtype[np.float32]] = network(torch.from_numpy(gray)).contiguous().numpy()
        return ab

    yield Predictor(predict, size, network.stride)


def _sheet(found: Evaluation, photos: PhotoFolder, predictor: Predictor, protocol: str, which: str) -> Image.Image:
    """The contact sheet of the chosen photos."""
    from icf_deploy.training.contact_sheet import Triple, chosen, contact_sheet, note_of
    from icf_deploy.training.protocols import prepare

    rows = {row.name: row for row in chosen(found, which)}
    triples: dict[str, Triple] = {}
    for photo in photos:
        if photo.name in rows:
            ready = prepare(photo, predictor.predict, predictor.size, predictor.stride, protocol)
            note = note_of(rows[photo.name])
            triples[photo.name] = Triple(photo.name, ready.picture(0), ready.picture(found.gain), ready.rgb, note)
    title = f"{len(rows)} photos, gain {found.gain:g}, protocol {protocol}"
    return contact_sheet([triples[name] for name in rows], title=title)


def _show(found: Evaluation) -> None:
    import textwrap

    from icf_deploy.benchmarks.columns import WIDTH

    lines: list[tuple[str, ...]] = [HEADER]
    for name, scores in found.summary.items():
        cells = [f"{scores[column].mean:.{3 if column == 'ssim' else 2}f}" for column in COLUMNS]
        lines.append((name, *cells, f"{scores['colourfulness_share'].mean:.0%}"))
    show_table(lines)
    over, share = found.summary["prediction"]["db_over_gray"], found.summary["prediction"]["colourfulness_share"]
    show_lines(
        [
            f"prediction: {over.mean:+.2f} dB over no colour ({over.low:+.2f} .. {over.high:+.2f}) at {share.mean:.0%} "
            f"({share.low:.0%} .. {share.high:.0%}) of the true colourfulness, gain {found.gain:g}",
            *textwrap.wrap(found.protocol, WIDTH),
            "",
        ]
    )
    curve = [(f"{point.gain:g}", f"{point.db_over_gray:+.2f}", f"{point.colourfulness:.0%}") for point in found.curve]
    show_table([CURVE_HEADER, *curve])

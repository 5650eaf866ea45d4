"""`icf-deploy evaluate`: scores on colour photos, beside what doing nothing scores."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from icf_deploy.cli.evaluation_tables import show_evaluation, show_robustness, tell_skipped
from icf_deploy.cli.options import PATH, Size, json_option, overwrite_option, threads_option
from icf_deploy.cli.terminal import progress_bar, show_json
from icf_deploy.errors import EngineUnavailableError, IntegrityError, UsageError

if TYPE_CHECKING:
    from icf_deploy.training.protocols import Candidate

PROTOCOLS = ("256", "full")
SHEET_TITLES = {
    "all": "From the best to the worst by dB over no colour",
    "best": "The best by dB over no colour",
    "median": "In the middle by dB over no colour",
    "worst": "The worst by dB over no colour",
    "ranks": "The best, the middle, the worst by dB over no colour",
}
BASELINE_SUFFIX = ".npz"
SHIPPED = "icf-edge"  # as for export: the name of the shipped network stands for it


@click.command("evaluate", short_help="Score a checkpoint or bundle on colour photos.")
@click.argument("source", type=PATH, required=False, metavar="[CHECKPOINT|BUNDLE]")
@click.option("--photos", type=PATH, multiple=True, required=True, metavar="DIR", help="Folder of colour photos; repeatable.")
@click.option("--baselines", type=PATH, multiple=True, metavar="X.npz",
              help="Also score this baseline, which `train --baseline` wrote; repeatable.")  # fmt: skip
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="256", show_default=True,
              help="Scored at the network's size, as tables in papers are, or at the photo's own.")  # fmt: skip
@click.option("--gain", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Factor on the predicted chroma.")
@click.option("--robustness", is_flag=True,
              help="Instead: the table under bad exposure, noise, blur, JPEG, fading, scratches, occlusion.")  # fmt: skip
@click.option("--definitions", is_flag=True, help="Also PSNR and SSIM as others define them, beside the ICF paper's claim.")
@click.option("--size", type=Size(), default="256", show_default=True, help="For a checkpoint: what the network sees.")
@click.option("--engine", metavar="E", help="For a bundle: the engine; by default the first that is installed.")
@click.option("--contact-sheet", type=PATH, metavar="OUT.jpg", help="Also draw gray, coloured and original side by side.")
@click.option("--sheet", type=click.Choice(list(SHEET_TITLES)), default="all", show_default=True,
              help="Which photos the sheet shows; ranks: some of the best, the median and the worst.")  # fmt: skip
@threads_option
@overwrite_option
@json_option
def command(
    *,
    source: Path | None,
    photos: tuple[Path, ...],
    baselines: tuple[Path, ...],
    protocol: str,
    gain: float,
    robustness: bool,
    definitions: bool,
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
    adding no colour and of the photo's own mean colour, with 95 % intervals over photos. A baseline's .npz is scored as well.
    """
    from icf_deploy.imaging.output import check_output, write_photo

    if robustness and (baselines or definitions or contact_sheet):
        raise UsageError("--robustness prints a table of its own: leave out --baselines, --definitions and --contact-sheet")
    if contact_sheet is not None:
        check_output(contact_sheet, overwrite=overwrite)
    for folder in photos:
        if not folder.is_dir():
            raise UsageError(f"--photos {folder}: there is no such folder")
    from icf_deploy.training.protocols import PhotoFolder

    folder_photos = PhotoFolder(photos)
    with (
        _candidate(source, size, engine, threads) as candidate,
        _limited(threads, (source, *baselines)),
        _progress(len(folder_photos)) as progress,
    ):
        if robustness:
            from icf_deploy.training.robustness import evaluate_robustness

            found = evaluate_robustness(
                candidate.predict,
                folder_photos,
                size=candidate.size,
                stride=candidate.stride,
                protocol=protocol,
                gain=gain,
                progress=progress,
            )
            document = {"schema": "icf-robustness 1", **found.to_json()}
        else:
            from icf_deploy.training.evaluate import evaluate
            from icf_deploy.training.perceptual import perceptual

            lpips = perceptual()
            scored = evaluate(
                candidate.predict,
                folder_photos,
                size=candidate.size,
                stride=candidate.stride,
                beside=_beside(baselines),
                protocol=protocol,
                gain=gain,
                distance=lpips.distance,
                definitions=definitions,
                progress=progress,
            )
            document = {"schema": "icf-evaluation 1", **scored.to_json(), "lpips_missing": lpips.reason or None}
            if contact_sheet is not None:
                from icf_deploy.training.contact_sheet import evaluation_sheet

                drawn = evaluation_sheet(
                    scored,
                    candidate.predict,
                    folder_photos,
                    which=sheet,
                    size=candidate.size,
                    stride=candidate.stride,
                    title=f"{SHEET_TITLES[sheet]}, gain {gain:g}",
                )
                write_photo(drawn, contact_sheet, overwrite=overwrite)
    if as_json:
        show_json(document | {"skipped": folder_photos.skipped})
    elif robustness:
        show_robustness(found)
    else:
        show_evaluation(scored, lpips.reason)
    tell_skipped(folder_photos.skipped, len(folder_photos))


@contextmanager
def _progress(count: int) -> Iterator[Callable[[str], None]]:
    """Gives what is called with the name of each photo that is done."""
    with progress_bar() as update:
        done = 0

        def tell(name: str) -> None:
            nonlocal done
            done += 1
            if update is not None:
                update(done, count, name)

        yield tell


@contextmanager
def _candidate(source: Path | None, size: tuple[int, int], engine: str | None, threads: int | None) -> Iterator[Candidate]:
    """That of a bundle's engine, of a baseline, or of a checkpoint in PyTorch."""
    from icf_deploy.training.protocols import Candidate

    if source is not None and str(source) == SHIPPED and not source.exists():
        source = None
    if source is not None and not source.exists():
        raise IntegrityError(f"there is no checkpoint or bundle {source}: name one, or leave it out for the shipped bundle")
    if source is None or source.is_dir():
        import icf_deploy

        with icf_deploy.load(source, engine, threads=threads) as colorizer:
            yield Candidate(colorizer.predict_ab, colorizer.size, colorizer.stride)
        return
    if engine is not None:
        raise UsageError(f"--engine is for bundles: {source} runs without one")
    if source.suffix == BASELINE_SUFFIX:
        yield _baseline(source)
        return
    try:
        import torch
    except ImportError as error:
        raise EngineUnavailableError("a checkpoint runs in PyTorch: pip install 'icf-deploy[export]'") from error
    from icf_deploy.network.checkpoint import load_checkpoint
    from icf_deploy.network.network import SIZE_MULTIPLE
    from icf_deploy.runtimes.cores import thread_count
    from icf_deploy.training.predictor import predictor_of

    torch.set_num_threads(thread_count(threads))
    network = load_checkpoint(source)
    if size[0] % SIZE_MULTIPLE or size[1] % SIZE_MULTIPLE or min(size) < SIZE_MULTIPLE:
        raise UsageError(f"--size: sides must be multiples of {SIZE_MULTIPLE}, not {size[0]}x{size[1]}")
    yield Candidate(predictor_of(network), size, network.stride)


@contextmanager
def _limited(threads: int | None, sources: tuple[Path | None, ...]) -> Iterator[None]:
    """Hold baselines, which compute in OpenMP and BLAS, to the threads that networks get: their times stand side by side."""
    if not any(source is not None and source.suffix == BASELINE_SUFFIX for source in sources):
        yield
        return
    from icf_deploy.runtimes.cores import thread_count

    try:
        control = importlib.import_module("threadpoolctl")
    except ImportError as error:
        raise EngineUnavailableError("baselines need scikit-learn: pip install 'icf-deploy[train]'") from error
    with control.threadpool_limits(thread_count(threads)):
        yield


def _beside(baselines: tuple[Path, ...]) -> dict[str, Candidate]:
    """The baselines by the name of their file."""
    named = {path.stem: path for path in baselines}
    if len(named) < len(baselines):
        raise UsageError("--baselines: two files of the same name; their rows could not be told apart: rename one")
    return {name: _baseline(path) for name, path in named.items()}


def _baseline(path: Path) -> Candidate:
    from icf_deploy.training.baseline_file import load_baseline
    from icf_deploy.training.protocols import Candidate

    baseline = load_baseline(path)
    return Candidate(baseline.predict_ab, baseline.size, baseline.stride)

"""The photo on which an engine drifts most: as it should be, as the engine makes it, and the difference."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from icf_deploy.benchmarks.candidate import REGISTERED, Candidate
from icf_deploy.errors import ArtefactError, IcfError

if TYPE_CHECKING:
    from icf_deploy.benchmarks.result_file import Result, Row
    from icf_deploy.runtimes.base import FloatArray

JPEG_QUALITY = 90
SIDE = 256  # pixels; photos are shown no larger
SHOWN_DIFFERENCE = 40.0  # CIELAB units that the 99th percentile of the amplified difference aims at: vivid, seldom clipped
FACTORS = (1, 2, 5, 10, 20, 50, 100)  # more would show rounding, which is in every engine
MIDDLE_L = 60.0  # of the difference picture: gray where the colours agree


@dataclass(frozen=True)
class WorstPhoto:
    """Pictures as files. reference, engine: JPEG. difference: PNG, the difference in ab times `factor` on gray.

    truth: JPEG of the photo's own colours, where they are known.
    """

    photo: str
    reference: bytes
    engine: bytes
    difference: bytes
    factor: int
    truth: bytes | None = None


def worst_photo(row: Row, result: Result) -> WorstPhoto | None:
    """Open the row's engine once more, in a process of its own, and draw the photo that drifts most.

    None for a row without drift. Raises ArtefactError where the bundle is no longer the one that was measured, or the row
    has an opener of its own (a result file must not choose what code runs); IcfError where the engine cannot be opened.
    """
    from icf_deploy.benchmarks.inputs import inputs_of
    from icf_deploy.benchmarks.remote import WorkerProcess
    from icf_deploy.bundle.opening import open_bundle

    if row.get("drift") is None:
        return None
    candidate = Candidate.from_json(row["candidate"])
    if candidate.opener != REGISTERED:
        raise ArtefactError(f"{candidate.label}: only engines of the registry are opened for pictures")
    bundle = open_bundle(candidate.bundle)
    entry = result["bundles"][row["bundle_index"]]
    if bundle.digest != entry["digest"]:
        raise ArtefactError(f"{entry['name']} is no longer the bundle that was measured: run `icf-deploy bench` again")
    reference = bundle.reference()
    name = (row["drift"].get("worst") or {})["photo"]
    number = reference.names.index(name)
    gray = reference.gray[number : number + 1]
    with WorkerProcess(candidate, "engine", inputs_of("engine", gray)) as worker:
        ab = worker.run(gray)
    return drawn(name, gray[0, 0], reference.ab[number], ab[0])


def pictures_of(row: Row, result: Result) -> WorstPhoto | str:
    """As `worst_photo`, with the reason in words where there is none."""
    try:
        return worst_photo(row, result) or "drift was not measured"
    except (IcfError, KeyError, ValueError) as error:
        return str(error) if isinstance(error, IcfError) else "the result does not say which photo is the worst"


def drawn(name: str, gray: FloatArray, ab_reference: FloatArray, ab: FloatArray, truth: FloatArray | None = None) -> WorstPhoto:
    """The pictures. gray: float32 [H,W] in 0..1; ab_reference, ab, truth: float32 [2,h,w]; what is no colour becomes 0."""
    from icf_deploy.imaging.color import l_of_pixels
    from icf_deploy.imaging.merge import merge

    small = cv2.resize(gray, _within(gray.shape), interpolation=cv2.INTER_AREA) if max(gray.shape) > SIDE else gray
    codes = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)
    lightness = l_of_pixels(codes)
    shown, expected = (_on(lightness.shape, np.nan_to_num(values, posinf=0, neginf=0)) for values in (ab, ab_reference))
    difference = shown - expected
    factor = amplification(difference)
    flat = np.full_like(lightness, MIDDLE_L)
    return WorstPhoto(
        name,
        _jpeg(merge(lightness, expected)),
        _jpeg(merge(lightness, shown)),
        _png(merge(flat, difference * np.float32(factor))),
        factor,
        None if truth is None else _jpeg(merge(lightness, _on(lightness.shape, truth))),
    )


def amplification(difference: FloatArray) -> int:
    """The largest of FACTORS that keeps the 99th percentile of |difference| [2,h,w] at SHOWN_DIFFERENCE or below."""
    size = float(np.percentile(np.hypot(*difference), 99))
    fitting = [factor for factor in FACTORS if factor * size <= SHOWN_DIFFERENCE]
    return max(fitting, default=FACTORS[0])


def _within(shape: tuple[int, ...]) -> tuple[int, int]:
    """(width, height) for OpenCV with the longer side at SIDE."""
    scale = SIDE / max(shape)
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def _on(shape: tuple[int, ...], ab: FloatArray) -> FloatArray:
    """ab [2,h,w] at the size [H,W] of the picture."""
    planes = [cv2.resize(plane, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC) for plane in ab.astype(np.float32)]
    return np.stack(planes).astype(np.float32)


def _jpeg(picture: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def _png(picture: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", optimize=True)
    return stream.getvalue()

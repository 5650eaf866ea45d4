"""Calibrations in the device's cache, under all that they depend on: network, photos with preprocessing, method, code."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from icf_deploy.errors import UsageError
from icf_deploy.export.precision.calibration import DEFAULT_METHOD, Calibration, calibrate
from icf_deploy.export.precision.clipping import METHODS
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.weights import WEIGHT_BITS, RoundedWeight
from icf_deploy.runtimes.cache import EngineCache, default_cache
from icf_deploy.runtimes.cache_entry import EngineKey

KIND = "calibration"
CODE = 3  # raised when the same photos would give other scales

_log = logging.getLogger(__name__)


def calibrated(
    model: onnx.ModelProto,
    photos: CalibrationPhotos,
    *,
    method: str = DEFAULT_METHOD,
    weight_bits: int = WEIGHT_BITS,
    say: Callable[[str], None] | None = None,
    folder: Path | None = None,
) -> Calibration:
    """As `calibrate`, from the cache where it is kept. folder: of the cache; None: this device's. Raises as `calibrate`."""
    if method not in METHODS:
        raise UsageError(f"there is no calibration method {method!r}: choose one of {', '.join(METHODS)}")
    cache = default_cache() if folder is None else EngineCache(folder)
    asked = key(network_digest(model), photos.digest, method, weight_bits)

    def build() -> bytes:
        return encode(calibrate(model, photos, method=method, weight_bits=weight_bits, say=say))

    content = cache.get_or_build(asked, build)
    try:
        return decode(content)
    except (ValueError, KeyError) as error:  # its hash is right, so it was written so
        _log.warning("the kept calibration cannot be read, so it is made again: %s", error)
        content = build()
        cache.put(asked, content, why="the entry could not be read")
        return decode(content)


def key(network: str, photos: str, method: str, weight_bits: int = WEIGHT_BITS) -> EngineKey:
    """Everything that a calibration depends on; the photos' digest includes their preprocessing."""
    fields = {"runtime": "export", "graph": network, "photos": photos, "method": method, "code": str(CODE)}
    return EngineKey(KIND, fields | {"weight_bits": str(weight_bits)})


def encode(found: Calibration) -> bytes:
    """A calibration as the bytes of an .npz without pickles."""
    arrays: dict[str, Any] = {}
    for number, weight in enumerate(found.weights.values()):
        arrays |= {f"codes{number}": weight.codes, f"scales{number}": weight.scales, f"bias{number}": weight.bias}
    head = {
        "network": found.network,
        "method": found.method,
        "photos": found.photos,
        "largest": dict(found.largest),
        "saturation": dict(found.saturation),
        "noise": dict(found.noise),
        "weight_bits": found.weight_bits,
        "axes": {name: weight.axis for name, weight in found.weights.items()},
    }
    stream = io.BytesIO()
    np.savez(stream, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)
    return stream.getvalue()


def decode(data: bytes) -> Calibration:
    """What `encode` wrote. ValueError or KeyError for anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            weights = {
                name: RoundedWeight(arrays[f"codes{i}"], arrays[f"scales{i}"], axis, arrays[f"bias{i}"])
                for i, (name, axis) in enumerate(head["axes"].items())
            }
    except (OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(str(error)) from error
    fields = {name: head[name] for name in ("network", "method", "photos", "largest", "saturation", "noise", "weight_bits")}
    return Calibration(weights=weights, **fields)

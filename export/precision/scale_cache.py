"""Calibrations on disk, under a digest of what they depend on: network, photos, their preprocessing, method, and this code."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import secrets
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from icf_deploy.errors import UsageError
from icf_deploy.export.precision.calibration import DEFAULT_METHOD, Calibration, Progress, calibrate
from icf_deploy.export.precision.clipping import METHODS
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.weights import RoundedWeight
from icf_deploy.runtimes.cache_folder import default_folder, refusal

CODE = 1  # raised when the same photos would give other scales
FOLDER = "calibration"

_log = logging.getLogger(__name__)


def calibrated(
    model: onnx.ModelProto,
    photos: CalibrationPhotos,
    *,
    method: str = DEFAULT_METHOD,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Calibration:
    """As `calibrate`, from the cache where it is kept. folder: of the cache; None: this device's. Raises as `calibrate`."""
    if method not in METHODS:
        raise UsageError(f"there is no calibration method {method!r}: choose one of {', '.join(METHODS)}")
    folder = _folder() if folder is None else folder
    if folder is None:
        return calibrate(model, photos, method=method, progress=progress)
    path = folder / f"{key(network_digest(model), photos.digest, method)}.npz"
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        pass  # not made yet
    except (OSError, ValueError, KeyError) as error:
        _log.warning("the kept calibration %s is damaged, so it is made again: %s", path.name, error)
    found = calibrate(model, photos, method=method, progress=progress)
    _write(path, encode(found))
    return found


def key(network: str, photos: str, method: str) -> str:
    """Hex SHA-256 of everything that a calibration depends on; the photos' digest includes their preprocessing."""
    return hashlib.sha256(json.dumps([CODE, network, photos, method]).encode()).hexdigest()


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
    fields = {name: head[name] for name in ("network", "method", "photos", "largest", "saturation", "noise")}
    return Calibration(weights=weights, **fields)


def _folder() -> Path | None:
    """Where calibrations are kept on this machine; None where nothing is to be kept."""
    root = default_folder()
    if root is None:
        return None
    why = refusal(root)
    if why:
        _log.warning("the calibration is not kept: %s", why)
    return None if why else root / FOLDER


def _write(path: Path, data: bytes) -> None:
    """Atomically; a cache that cannot be written costs time and nothing else."""
    unfinished = path.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        _log.warning("the calibration is not kept: %s", error)
        unfinished.unlink(missing_ok=True)

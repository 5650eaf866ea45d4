"""Reading what `icf-deploy bench -o` wrote, and the figures of a row that are not written out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icf_deploy.benchmarks.bench_result import SCHEMA
from icf_deploy.benchmarks.measured import Turn, ratio_of
from icf_deploy.benchmarks.ratio import PairedRatio
from icf_deploy.errors import ArtefactError, WorkError

Result = Mapping[str, Any]
Row = Mapping[str, Any]

SCHEMA_NAME = SCHEMA.split()[0]
SCHEMA_VERSION = int(SCHEMA.split()[1])
PARTS = {"bundles": list, "created": str, "interrupted": bool, "machine": dict, "rows": list, "scope": str, "settings": dict}
DRIFT_FLOOR = 0.01  # CIEDE2000; below it two engines are alike: it is a hundredth of what an eye may see


@dataclass(frozen=True)
class Latency:
    """A median latency in nanoseconds and its 95 % interval; None where the samples give none."""

    value: float
    low: float | None
    high: float | None


def read_result(path: Path) -> Result:
    """The result in a file. Raises WorkError where it cannot be read or is none, ArtefactError for another schema."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise WorkError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise WorkError(f"{path} is not a result of `icf-deploy bench -o`: it is not JSON ({error})") from error
    name, _, version = str(found.get("schema", "") if isinstance(found, dict) else "").partition(" ")
    if name != SCHEMA_NAME or not version.isdecimal():
        raise WorkError(
            f"{path} is not a result of `icf-deploy bench -o`: its schema should be {SCHEMA!r}, "
            f"found {f'{name} {version}'.strip() or 'none'!r}"
        )
    if int(version) > SCHEMA_VERSION:
        raise ArtefactError(
            f"{path} has schema {name} {version}, and this icf-deploy reads {SCHEMA}: "
            "it was written by a newer one; pip install --upgrade icf-deploy"
        )
    if int(version) < SCHEMA_VERSION:
        raise ArtefactError(f"{path} has schema {name} {version}, and this icf-deploy reads {SCHEMA}: measure it again")
    missing = sorted(name for name, kind in PARTS.items() if not isinstance(found.get(name), kind))
    if missing:
        raise WorkError(f"{path} is a damaged result: it has no {', '.join(missing)}; measure it again")
    return dict(found)


def turns_of(row: Row) -> list[Turn]:
    """The turns of a row, with all raw samples."""
    return [Turn(turn["round"], turn["process"], np.array(turn["ns"], np.int64)) for turn in row["turns"]]


def latency_of(row: Row, percent: float = 50) -> Latency | None:
    """A percentile of latency: back to back, else what LoadGen says; None where there is neither."""
    for found in row.get("percentiles_ns") or ():
        if found["percent"] == percent and found["value"] is not None:
            interval = found["interval"] or {"low": None, "high": None}
            return Latency(found["value"], interval["low"], interval["high"])
    value = ((row.get("loadgen") or {}).get("percentiles_ns") or {}).get(f"{percent:g}")
    return None if value is None else Latency(value, None, None)


def drift_of(row: Row, metric: str = "de2000_p95") -> float | None:
    """A drift metric; infinite where the engine gave no colour, None where drift was not measured."""
    if row.get("drift") is None:
        return None
    value = row["drift"]["metrics"][metric]
    return math.inf if value is None else float(value)


def drift_text(value: float) -> str:
    """CIEDE2000; what is below a hundredth cannot be seen by anyone."""
    return "no colour" if not math.isfinite(value) else f"<{DRIFT_FLOOR:g}" if value < DRIFT_FLOOR else f"{value:.2f}"


def ratio_between(row: Row, baseline: Row) -> PairedRatio | None:
    """Latency of one row over that of another of the same run, paired by round; None for fewer than two pairs."""
    return ratio_of(turns_of(row), turns_of(baseline))

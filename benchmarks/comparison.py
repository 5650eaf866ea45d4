"""Two result files side by side: what makes them incomparable, and what the rows that both have say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from icf_deploy.benchmarks.result_file import Result, Row, drift_of, latency_of, turns_of
from icf_deploy.benchmarks.unpaired import UnpairedRatio, unpaired_ratio
from icf_deploy.errors import ArtefactError, UsageError

SCHEMA = "icf-compare 1"
# Of the machine: what must be alike for latencies to be comparable, in the words of a message.
MACHINE = {
    "cpu": "device",
    "flags": "instruction sets",
    "logical_cpus": "logical CPUs",
    "cores": "cores",
    "affinity": "CPU affinity",
    "governor": "CPU governor",
    "virtual": "virtual machine",
}
NOTED = {"system": "system", "python": "Python", "load_average": "load average before the run", "variables": "variables"}
# Settings that change no latency, or only measurements that are not compared here.
FREE_SETTINGS = frozenset(
    {"seed", "photo_names", "price_per_core_hour", "price_per_gpu_hour", "pace", "cold_starts", "threads"}
)  # threads: None or a number may be the same; the rows say how many there were
WEAKER = (
    "two separate runs are weaker evidence than one paired run: whatever changed on the machine between them is in the ratio, "
    "and not in its interval; measure both in one `icf-deploy bench` to be sure"
)

Key = tuple[str, str]
"""Bundle and engine; the bundle is empty where both results have a single one."""


@dataclass(frozen=True)
class ComparedRow:
    """One engine in both results: median latencies in ns and drift of A and B; ratio: of B over A, None without samples."""

    label: str
    a_ns: float
    b_ns: float
    a_drift: float | None
    b_drift: float | None
    ratio: UnpairedRatio | None


@dataclass(frozen=True)
class ResultComparison:
    """What `compare` shows. differences: why A and B are not comparable. notes: what else is not the same."""

    rows: tuple[ComparedRow, ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values with their schema's version."""
        return {
            "schema": SCHEMA,
            "comparable": not self.differences,
            "differences": list(self.differences),
            "notes": list(self.notes),
            "rows": [
                {
                    **asdict(row),
                    "ratio": None if row.ratio is None else {**asdict(row.ratio), "verdict": row.ratio.verdict},
                }
                for row in self.rows
            ],
        }


def compare_results(a: Result, b: Result, *, force: bool = False) -> ResultComparison:
    """Compare the rows that both results have, by bundle and engine; a single bundle may have another name in each.

    Raises ArtefactError where they have no latency in common, and without `force` where device, driver, versions, scope or
    settings differ: it names every difference.
    """
    pairs = _pairs(a, b)
    differences = tuple(_differences(a, b, list(pairs.values())))
    if differences and not force:
        raise ArtefactError(f"A and B are not comparable: {'; '.join(differences)}. Measure them alike, or give --force")
    rows, notes = [], list(_notes(a, b, pairs))
    for (bundle, engine), (mine, theirs) in pairs.items():
        label = " ".join(filter(None, (bundle, engine)))
        first, second = latency_of(mine), latency_of(theirs)
        if first is None or second is None:
            notes.append(f"{label}: no latency in {'A' if first is None else 'B'}{_reason(mine if first is None else theirs)}")
            continue
        ratio = unpaired_ratio(turns_of(theirs), turns_of(mine))
        if ratio is None:
            notes.append(f"{label}: no interval, because there are too few raw samples")
        rows.append(ComparedRow(label, first.value, second.value, drift_of(mine), drift_of(theirs), ratio))
    if not rows:
        raise ArtefactError(f"nothing to compare: {'; '.join(notes)}")
    return ResultComparison(tuple(rows), differences, (*notes, WEAKER))


def _pairs(a: Result, b: Result) -> dict[Key, tuple[Row, Row]]:
    """Rows of both by their key, in the order of A. Raises ArtefactError for none."""
    single = len(a["bundles"]) == 1 and len(b["bundles"]) == 1
    mine, theirs = ({_key(row, single): row for row in result["rows"]} for result in (a, b))
    for name, keys, result in (("A", mine, a), ("B", theirs, b)):
        if len(keys) < len(result["rows"]):
            raise ArtefactError(
                f"{name} has several bundles of one name, which cannot be told apart: rename them, measure again"
            )
    common = {key: (row, theirs[key]) for key, row in mine.items() if key in theirs}
    if not common:
        names = (", ".join(" ".join(filter(None, key)) for key in keys) or "nothing" for keys in (mine, theirs))
        raise ArtefactError("A and B have no engine in common: A has {}, B has {}".format(*names))
    return common


def _key(row: Row, single: bool) -> Key:
    return "" if single else row["bundle"], row["engine"]


def _differences(a: Result, b: Result, pairs: list[tuple[Row, Row]]) -> Iterator[str]:
    """Everything for which the latencies are not those of the same work on the same device."""
    machines = a["machine"], b["machine"]
    for name, words in MACHINE.items():
        yield from _unlike(words, *(machine.get(name) for machine in machines))
    gpus = [[(gpu["name"], gpu["driver"]) for gpu in machine.get("gpus") or ()] for machine in machines]
    yield from _unlike("GPU", *([name for name, _ in found] for found in gpus))
    yield from _unlike("GPU driver", *([driver for _, driver in found] for found in gpus))
    for package in _packages([mine["engine"] for mine, _ in pairs], *machines):
        yield from _unlike(f"version of {package}", *(machine["versions"].get(package) for machine in machines))
    yield from _unlike("scope", a["scope"], b["scope"])
    yield from _unlike("scenario", a.get("scenario"), b.get("scenario"))
    for name in {**a["settings"], **b["settings"]}:
        if name not in FREE_SETTINGS:
            yield from _unlike(name.replace("_", " "), a["settings"].get(name), b["settings"].get(name))
    for mine, theirs in pairs:
        label = mine["engine"]
        yield from _unlike(f"threads of {label}", mine["threads"], theirs["threads"])
        yield from _unlike(f"size of {label}", *(_size(result, row) for result, row in ((a, mine), (b, theirs))))


def _packages(engines: list[str], *machines: dict[str, Any]) -> list[str]:
    """Packages, by their names on PyPI, whose version makes the engine: `onnxruntime-gpu` for `ort`."""
    from icf_deploy.runtimes import registry

    modules: set[str] = set()
    for engine in engines:
        try:
            modules.update(registry.line(engine).packages)
        except UsageError:  # an engine that only the other side knows
            continue
    known = dict.fromkeys(package for machine in machines for package in machine["versions"])
    return [package for package in known if any(package.replace("-", "_").startswith(module) for module in modules)]


def _notes(a: Result, b: Result, pairs: dict[Key, tuple[Row, Row]]) -> Iterator[str]:
    """What may explain a difference, or is what was meant to be compared."""
    for name, words in NOTED.items():
        yield from _unlike(words, a["machine"].get(name), b["machine"].get(name))
    yield from _unlike("icf-deploy", *(result["machine"]["versions"].get("icf-deploy") for result in (a, b)))
    for (bundle, engine), (mine, theirs) in pairs.items():
        digests = [row["artefact"]["sha256"] for row in (mine, theirs)]
        if digests[0] != digests[1]:
            yield f"{' '.join(filter(None, (bundle, engine)))}: A and B ran different files: that is part of what is compared"
    for name, result in (("A", a), ("B", b)):
        if result["interrupted"]:
            yield f"{name} was interrupted"
        yield from (f"warning of {name}: {line}" for line in result["warnings"])
        single = len(a["bundles"]) == 1 and len(b["bundles"]) == 1
        alone = [row["label"] for row in result["rows"] if _key(row, single) not in pairs]
        if alone:
            yield f"only in {name}: {', '.join(alone)}"


def _unlike(what: str, a: Any, b: Any) -> Iterator[str]:
    if a != b:
        yield f"{what}: {_shown(a)} in A, {_shown(b)} in B"


def _shown(value: Any) -> str:
    if value is None or value in ([], (), {}):
        return "none"
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _size(result: Result, row: Row) -> str:
    return "x".join(map(str, result["bundles"][row["bundle_index"]]["size"]))


def _reason(row: Row) -> str:
    return f": {row['error']['message']}" if row["error"] else ""

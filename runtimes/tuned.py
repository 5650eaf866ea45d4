"""What tuning has found to be the fastest inside a budget on this device, kept in its cache and read when a bundle is opened.

The entry stands under the bundle's digest, the device and the number of threads: another bundle, processor, system or GPU
driver, or another number of threads, has not been tuned. What was tuned with is in its content, and an entry that does not
hold any more (the engine is gone or has another version, the graph is another one) is not used, and that is said.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.cache import default_cache
from icf_deploy.runtimes.cache_entry import DamagedEntryError, EngineKey, Entry, read_content
from icf_deploy.runtimes.cores import thread_count
from icf_deploy.runtimes.fingerprint import processor_fields, system_fields

if TYPE_CHECKING:
    from icf_deploy.bundle.opening import Bundle

_log = logging.getLogger(__name__)

KIND = "tuned"
FORMAT = 1
NVIDIA = "driver/nvidia"  # below /proc: what the driver says about itself and its GPUs
ENTRY_LIMIT = 64 * 1024  # bytes; a choice has a dozen short fields
RETUNE = "run `icf-deploy tune` again"


@dataclass(frozen=True)
class TunedChoice:
    """The fastest engine inside a budget, and what was measured of it.

    graph: its name in the bundle, None for an engine that runs the checkpoint. sha256: of the graph (or the checkpoint).
    version: the engine's package and version. milliseconds: median latency of one photo, scope `engine`. drift: the values of
    the budget's metrics and of de2000_p95. photos: on what drift was measured, in words. created: ISO 8601.
    """

    engine: str
    graph: str | None
    sha256: str
    version: str
    budget: str
    milliseconds: float
    drift: dict[str, float]
    photos: str
    created: str

    def __str__(self) -> str:
        what = "the checkpoint" if self.graph is None else f"graph {self.graph}"
        return f"{self.engine} with {what}: {self.measured}"

    @property
    def measured(self) -> str:
        """Latency, drift and budget in words."""
        drift = ", ".join(f"{name} {value:.3g}" for name, value in self.drift.items())
        return f"{self.milliseconds:.3g} ms, {drift}; budget {self.budget}"

    def to_json(self) -> bytes:
        """The entry's content."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=True, allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TunedChoice:
        """What `to_json` wrote. ValueError for anything else."""
        try:
            found = json.loads(data)
            if found.pop("format") != FORMAT:
                raise ValueError("it was written by another version of icf-deploy")
            choice = cls(**found)
            texts = (choice.engine, choice.sha256, choice.version, choice.budget, choice.photos, choice.created)
            if not all(isinstance(text, str) for text in texts) or not isinstance(choice.graph, str | None):
                raise ValueError("a field is of the wrong type")
            if not math.isfinite(choice.milliseconds) or not all(map(math.isfinite, choice.drift.values())):
                raise ValueError("a number is not finite")
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("it is not a choice of tune") from error
        return choice


def tuned_key(bundle: Bundle, threads: int | None, proc_root: Path = Path("/proc")) -> EngineKey:
    """Under what the choice for `bundle` on this device is kept. threads: as in `Target`."""
    return EngineKey(
        KIND,
        {
            "bundle": bundle.digest,
            "preset": bundle.manifest.preset,
            "threads": str(thread_count(threads)),
            **processor_fields(proc_root),
            **system_fields(),
            **_gpu_fields(proc_root),
        },
    )


def remember(bundle: Bundle, threads: int | None, choice: TunedChoice, *, seconds: float = 0.0) -> Path:
    """Keep a choice, in place of an earlier one; the cache's folder. WorkError where it cannot be kept."""
    cache, key = default_cache(), tuned_key(bundle, threads)
    cache.put(key, choice.to_json(), why=str(choice), seconds=seconds)
    if cache.get(key) != choice.to_json() or cache.folder is None:
        raise WorkError(
            f"the choice could not be kept in {cache.folder or 'the cache'}: see the warning above, or set ICF_DEPLOY_CACHE to "
            "a folder of your own"
        )
    return cache.folder


def recall(bundle: Bundle, threads: int | None) -> TunedChoice | None:
    """What was tuned for `bundle` on this device; None where nothing was, or where it does not hold any more (logged why)."""
    try:
        cache = default_cache()
        if cache.folder is None or not cache.folder.is_dir():  # opening a bundle makes no folder
            return None
        content = cache.get(tuned_key(bundle, threads))
    except UsageError as error:
        _log.warning("what was tuned is not used: %s", error)
        return None
    if content is None:
        return None
    try:
        choice = TunedChoice.from_json(content)
        reason = _why_stale(choice, bundle)
    except ValueError as error:
        reason = str(error)
    if reason:
        _log.warning("what was tuned for %s is not used: %s; %s", bundle.path, reason, RETUNE)
        return None
    return choice


def choice_of(entry: Entry) -> TunedChoice | None:
    """The choice in an entry of KIND, for who lists the cache; None where it is damaged."""
    try:
        with entry.path.open("rb") as file:
            return TunedChoice.from_json(read_content(file, entry.header.key))
    except (DamagedEntryError, OSError, ValueError):
        return None


def engine_version(engine: str) -> str | None:
    """Package and version of an engine, such as "onnxruntime 1.30.0"; None where none of its packages imports.

    It imports the engine: who asks is about to open it.
    """
    for package in registry.line(engine).packages:
        try:
            return f"{package} {importlib.import_module(package).__version__}"
        except (ImportError, AttributeError, OSError):  # missing, half removed, or without its libraries
            continue
    return None


def _why_stale(choice: TunedChoice, bundle: Bundle) -> str:
    """Why a choice does not hold any more; "" where it does."""
    try:
        registry.get(choice.engine)
        version = engine_version(choice.engine)
        if version is None:
            return f"its engine {choice.engine} is not installed any more"
        if version != choice.version:
            return f"it was tuned with {choice.version}, and here is {version}"
        if choice.graph is None:
            return ""
        entry = bundle.manifest.graph(choice.graph)
        if entry is None or entry.sha256 != choice.sha256:
            return f"the bundle has no such graph {choice.graph} any more"
    except UsageError as error:
        return str(error)
    return ""


def _gpu_fields(proc_root: Path) -> dict[str, str]:
    """NVIDIA's driver and GPUs as the driver lists them, where it does; loads nothing."""
    driver = proc_root / NVIDIA
    try:
        version = (driver / "version").read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(driver.glob("gpus/*/information"))]
    except OSError:
        return {}
    models = [line.partition(":")[2].strip() for text in texts for line in text.splitlines() if line.startswith("Model:")]
    return {"gpu": f"{', '.join(models)}; {version.partition(':')[2].strip()}"}

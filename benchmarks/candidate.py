"""What is measured: one engine, described by plain values, so that a worker process can open it by itself."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from icf_deploy.errors import UsageError

if TYPE_CHECKING:
    from icf_deploy.runtimes.base import Session

Scope = Literal["engine", "image", "file"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

REGISTERED = "icf_deploy.benchmarks.openers:open_registered"


@dataclass(frozen=True)
class Candidate:
    """One engine to measure.

    label: its name in tables, unique in a run.
    runtime: a name of the registry, with its device where it matters: `ort`, `ort:cpu`, `pytorch`.
    threads: worker threads inside one call; None: the runtime's default, one per physical core.
    bundle: where the graph comes from; None is the shipped one. graph: the name of a graph in it; None is the default one.
    file: an ONNX file instead of a bundle (for the runtime `pytorch`: a checkpoint).
    opener: `module:function` or `path/file.py:function` that takes the candidate and returns an open session; the default
        asks the registry. What stands outside the registry (a user's alternatives, a fake engine) has an opener of its own.
    options: what that opener wants to know; plain JSON values.
    expect_digest: the bundle must have this digest when the worker opens it: what was checked is what is measured.
    trust_engines: use engines that lie in the bundle, as `open_bundle`.
    """

    label: str
    runtime: str = "ort"
    threads: int | None = None
    bundle: Path | None = None
    graph: str | None = None
    file: Path | None = None
    opener: str = REGISTERED
    options: Mapping[str, Any] = field(default_factory=dict)
    expect_digest: str | None = None
    trust_engines: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values, paths made absolute: the worker may run elsewhere."""
        plain = {key: str(value.resolve()) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        return {**plain, "options": dict(self.options)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Candidate:
        """What `to_json` wrote."""
        paths = {name: None if plain[name] is None else Path(plain[name]) for name in ("bundle", "file")}
        return cls(**{item.name: plain[item.name] for item in fields(cls) if item.name in plain} | paths)

    def open(self) -> Session:
        """Open the engine in this process. Raises what its opener raises."""
        module_name, _, function = self.opener.rpartition(":")
        if not module_name:
            raise UsageError(f"the opener of {self.label} is `module:function` or `file.py:function`, got {self.opener!r}")
        found: Callable[[Candidate], Session] = getattr(_module(module_name), function)
        return found(self)


def check_labels(candidates: list[Candidate]) -> None:
    """Raises UsageError unless there are candidates and every label is its own."""
    labels = [candidate.label for candidate in candidates]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice or not labels:
        raise UsageError(
            f"each candidate needs a label of its own; {'used twice: ' + ', '.join(twice) if twice else 'got none'}"
        )


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None:
        raise UsageError(f"{name} is not a Python file that could be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

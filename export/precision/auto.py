"""What `export --precision auto` does: measure the parts of a network on this machine's engines, search, keep the front."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from icf_deploy.benchmarks.machine import read_machine
from icf_deploy.bundle.fields import Json
from icf_deploy.bundle.sensitivity import Ratio, Run, Sensitivity
from icf_deploy.errors import EngineUnavailableError, UsageError
from icf_deploy.export.precision.apply import apply_recipe
from icf_deploy.export.precision.calibrating import Calibrating
from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.front import BF16_EVERYWHERE, Chosen, Extra, Searched, block_parts, choose, points
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.int8 import METRIC, choose_int8
from icf_deploy.export.precision.ledger import Ledger, ledger_for
from icf_deploy.export.precision.measuring import PROOF, EngineOracle, Measuring
from icf_deploy.export.precision.narrow import NarrowGraph, facts_of
from icf_deploy.export.precision.probe import DriftProbe
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.search import search
from icf_deploy.export.precision.sensitivity import node_sensitivity, noisy_products
from icf_deploy.export.precision.space import BF16, FLOAT32, INT8, WIDE, Parts
from icf_deploy.export.precision.weights import WEIGHT_BITS
from icf_deploy.runtimes import registry

BUDGETS = (0.5, 1.0, 2.0)  # of METRIC: careful, the eye's, for small screens
STEPS = 8  # of a search after the single blocks and the uniform recipes; each times at most one recipe per budget
SEARCHED = (BF16, INT8)  # formats that are tried; fp16 has no engine on a CPU that would mix it with float32

Say = Callable[[str], None]


@dataclass(frozen=True)
class Front:
    """graphs: {name: graph} beside the float32 one. sensitivity: everything that was measured."""

    graphs: dict[str, NarrowGraph]
    sensitivity: Sensitivity


def require_engines(asked: Sequence[str]) -> tuple[str, ...]:
    """The engines to search on; none asked: all of this machine that compute a graph in bf16 or int8.

    Raises UsageError for an engine that runs no graphs, EngineUnavailableError for one that is not here, or where none is.
    """
    if asked:
        for engine in asked:
            runtime = registry.get(engine)
            if registry.line(engine).runs_checkpoint:
                raise UsageError(f"--engine {engine} runs checkpoints, and recipes are for graphs: choose ort or openvino")
            found = runtime.available()
            if not found.ok:
                install = f". Install it: {found.install}" if found.install else ""
                raise EngineUnavailableError(f"engine {engine}: {found.reason}{install}")
        return tuple(dict.fromkeys(":".join(registry.split(engine)) for engine in asked))
    here = tuple(_here())
    if not here:
        raise EngineUnavailableError("--precision auto measures engines, and none is installed: pip install 'icf-deploy[cpu]'")
    return here


def _here() -> Iterator[str]:
    for name in registry.names():
        runtime = registry.get(name)
        if registry.line(name).runs_checkpoint or not runtime.available().ok:
            continue
        for device in runtime.devices():
            engine = f"{name}:{device}"
            computes_wide = BF16 in runtime.formats(device) or not device.endswith(BF16_EVERYWHERE)
            if computes_wide and formats_of(engine):
                yield engine


def formats_of(engine: str) -> tuple[str, ...]:
    """The formats that a search may ask of an engine."""
    _, device = registry.split(engine)
    executed = registry.get(engine).formats(device)
    searched = [form for form in SEARCHED if form in executed]
    return tuple(form for form in searched if form != BF16 or not engine.endswith(BF16_EVERYWHERE))


def find_front(
    model: onnx.ModelProto,
    *,
    preset: str,
    size: tuple[int, int],
    stride: int,
    calibrating: Calibrating | None = None,
    weight_bits: int = WEIGHT_BITS,
    engines: Sequence[str] = (),
    say: Say | None = None,
    ledger: Ledger | None = None,
) -> Front:
    """Search the front of a float32 graph. calibrating, weight_bits: as `narrow.narrow`. engines: none: all that are here.

    ledger: what was measured already; None: this device's. Raises as `narrow` and `require_engines`. An interruption leaves
    what was measured in the ledger.
    """
    tell = say or (lambda _: None)
    names = require_engines(engines)
    calibrating = calibrating or Calibrating(model, size, say=say)
    calibration, views = calibrating.calibration(weight_bits), calibrating.photos
    noisy = noisy_products(calibration) | calibrating.left_wide
    digest = network_digest(model)
    if ledger is None:
        depends_on = (digest, views.digest, calibration.method, calibrating.trained_as, str(weight_bits))
        ledger = ledger_for(*depends_on, *_machine(names))
    if len(ledger):
        tell(f"{len(ledger)} measurements are kept from before: going on from there.")
    probe = DriftProbe(model, calibration, views, stride=stride)
    measuring = Measuring(model, calibration, probe, metric=METRIC, ledger=ledger, say=tell)
    base = Recipe(preset, size, digest, FLOAT32, weight_bits=weight_bits)
    parts = Parts.of(base, ir.from_proto(model).graph, noisy)
    try:
        return _searched_front(parts, calibration, measuring, calibrating, engines=names, tell=tell, all_must_run=bool(engines))
    except KeyboardInterrupt:
        tell("what was measured is kept: the same command goes on from here.")
        raise


def _searched_front(
    parts: Parts,
    calibration: Calibration,
    measuring: Measuring,
    calibrating: Calibrating,
    *,
    engines: Sequence[str],
    tell: Say,
    all_must_run: bool,
) -> Front:
    tell("what each part does to colours in int8")
    nodes = node_sensitivity(parts, calibration, measuring)
    parts = replace(parts, careful=nodes.careful)
    searched = list(_searches(engines, parts, measuring, tell, all_must_run=all_must_run))
    tell("which products int8 leaves in float32")
    int8 = _int8(calibration, measuring, parts, [one.engine for one in searched])
    chosen = choose(searched, parts, [int8])
    recipes = {"int8": int8.recipe, **{name: found.recipe for name, found in chosen.items()}}
    graphs = {}
    for name, recipe in recipes.items():
        applied = apply_recipe(measuring.model, recipe, calibration)
        facts = facts_of(applied, recipe) | calibrating.facts()
        graphs[name] = NarrowGraph(applied, recipe, facts | (_why(chosen[name]) if name in chosen else {}))
    wide = parts.recipe(searched[0].space.blocks, searched[0].space.base)
    table = Sensitivity(
        preset=parts.base.preset,
        size=parts.base.size,
        network=parts.base.digest,
        photos=calibrating.photos.source,
        views=len(measuring.probe.gray),
        machine=read_machine().cpu,
        parts=(*block_parts(searched), *nodes.parts),
        points=points(searched, parts, [int8], {FLOAT32: wide, **recipes}),
    )
    return Front(graphs, table)


def _searches(
    engines: Sequence[str], parts: Parts, measuring: Measuring, tell: Say, *, all_must_run: bool
) -> Iterator[Searched]:
    """The search on every engine. all_must_run: whether one that does not start is an error."""
    missing: list[str] = []
    for engine in engines:
        try:
            yield _searched(engine, parts, measuring, tell)
        except EngineUnavailableError as error:
            if all_must_run:
                raise
            missing.append(str(error))
            tell(f"{engine} is left out: {error}.")
    if len(missing) == len(engines):
        raise EngineUnavailableError("; ".join(missing))


def _searched(engine: str, parts: Parts, measuring: Measuring, tell: Say) -> Searched:
    space = parts.space(formats_of(engine))
    tell(f"searching on {engine}: {math.prod(map(len, space.options))} recipes")
    oracle = EngineOracle(measuring, engine, parts, space)
    found = search(space, oracle, BUDGETS, steps=STEPS, progress=tell)
    one = Searched(engine, space, found)
    for budget, best in found.best.items():
        if best is not None:
            tell(f"{engine}, {METRIC} <= {budget:g}: {one.milliseconds(best):.2f} ms, {space.words(best.choice)}.")
    return one


def _int8(calibration: Calibration, measuring: Measuring, parts: Parts, engines: Sequence[str]) -> Extra:
    """The recipe of `--precision int8`, measured on the engines that execute it."""
    recipe = choose_int8(parts.base, calibration, measuring.remembering(), given=parts.noisy).recipe
    wide = parts.recipe(tuple(parts.nodes), (WIDE,) * len(parts.nodes))
    runs = []
    for engine in engines:
        if INT8 not in formats_of(engine):
            continue
        drift = measuring.drift(engine, recipe, INT8)
        (timed,) = measuring.time(engine, [(recipe, INT8)], wide, PROOF) if math.isfinite(drift.value) else (None,)
        time = None if timed is None else Ratio(round(timed.ratio, 4), round(timed.low, 4), round(timed.high, 4))
        runs.append(Run(engine, drift.value, drift.mean, None, None if timed is None else round(timed.milliseconds, 4), time))
    return Extra(INT8, recipe, tuple(runs))


def _why(chosen: Chosen) -> dict[str, Json]:
    """For what a graph was chosen, as its measurements say it."""
    return {
        "chosen_for": {
            "engine": chosen.engine,
            "budget": f"{METRIC}<={chosen.budget:g}",
            METRIC: round(chosen.drift, 4),
            "milliseconds": round(chosen.milliseconds, 4),
            "time_of_fp32": [chosen.ratio.ratio, chosen.ratio.low, chosen.ratio.high],
        }
    }


def _machine(engines: Sequence[str]) -> tuple[str, ...]:
    """Everything of this machine on which measurements depend."""
    versions = [f"{engine} {registry.get(engine).available().version}" for engine in engines]
    machine = read_machine()
    return (machine.cpu, str(machine.cores), *sorted(versions))

"""`icf-deploy doctor`: what can run on this machine, and the command that brings the rest."""

from __future__ import annotations

from typing import Any

import click

from icf_deploy.cli.options import json_option
from icf_deploy.cli.terminal import show_json, show_lines, show_table
from icf_deploy.errors import EngineUnavailableError, IcfError

# What the host side and the training need besides the core, and the extra that brings it.
TOOLS = {
    "export": (("torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "onnxruntime"), "pip install 'icf-deploy[export]'"),
    "train": (("torch", "safetensors"), "pip install 'icf-deploy[train]'"),
}


@click.command("doctor", short_help="Show what can run on this machine, and what to install.")
@json_option
def command(as_json: bool) -> int:
    """Show what can run on this machine, and what to install.

    Every engine that is here runs a tiny graph in each number format on each device: `executes` lists the formats in which it
    really computed, with the right result. Exit status 5 where no engine can run at all, 6 where the shipped bundle is damaged.
    """
    from icf_deploy.benchmarks.machine import read_machine
    from icf_deploy.diagnosis import diagnose

    engines = [finding.to_json() for finding in diagnose()]
    tools = [_tool(name) for name in TOOLS]
    bundle = _shipped_bundle()
    machine = read_machine()
    if as_json:
        show_json({"machine": machine.to_json(), "engines": engines, "tools": tools, "shipped_bundle": bundle})
    else:
        memory = "" if machine.memory is None else f", {machine.memory / 2**30:.0f} GiB"
        show_lines(
            [
                f"{machine.cpu}: {machine.cores} core{'s' if machine.cores != 1 else ''} usable{memory}; {machine.system}",
                f"instruction sets: {' '.join(machine.flags) or 'none that matter'}",
                f"{machine.python}; " + ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
                "",
            ]
        )
        header = ("engine", "here", "version", "executes")
        show_table([header, *(line for engine in engines for line in _lines(engine))])
        show_lines(["", *(_advice(item["name"], item) for item in (*engines, *tools) if item["reason"] or not item["ok"])])
        idle = [_idle(f"{item['name']}:{device}", reason) for item in engines for device, reason in item["idle"].items()]
        show_lines([*idle, *(f"{tool['name']}: ready" for tool in tools if tool["ok"])])
        tuned = f"; tuned: {bundle['tuned']}" if bundle["tuned"] else "; not tuned on this device: icf-deploy tune"
        show_lines([f"shipped bundle: {bundle['reason'] or 'verified, ' + bundle['preset'] + tuned}"])
    if not any(engine["ok"] for engine in engines):
        return EngineUnavailableError.exit_status
    return 0 if bundle["ok"] else int(bundle["exit_status"])


def _tool(name: str) -> dict[str, Any]:
    """Whether the packages of a part of the library are installed; none of them is imported."""
    import importlib.util

    packages, install = TOOLS[name]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    reason = f"{', '.join(missing)} not installed" if missing else ""
    return {"name": name, "ok": not missing, "reason": reason, "install": install if missing else ""}


def _shipped_bundle() -> dict[str, Any]:
    """Whether the bundle in the package is what was built."""
    from icf_deploy.bundle.opening import open_bundle
    from icf_deploy.runtimes.tuned import recall

    try:
        bundle = open_bundle()
        bundle.verify()
    except IcfError as error:
        return {
            "ok": False,
            "preset": None,
            "digest": None,
            "reason": str(error),
            "exit_status": error.exit_status,
            "tuned": None,
        }
    choice = recall(bundle, None)
    return {
        "ok": True,
        "preset": bundle.manifest.preset,
        "digest": bundle.digest,
        "reason": "",
        "exit_status": 0,
        "tuned": None if choice is None else str(choice),
    }


def _lines(engine: dict[str, Any]) -> list[tuple[str, ...]]:
    """One line per device of an engine; one for an engine that is not here."""
    version = engine["version"] or "-"
    if not engine["devices"]:
        return [(engine["name"], "yes" if engine["ok"] else "no", version, "-")]
    lines: list[tuple[str, ...]] = []
    for device, formats in engine["devices"].items():
        measured = "" if engine["probes"][device] else " (not measured)"
        executes = f"{' '.join(formats)}{measured}" if formats else "nothing"
        lines.append((f"{engine['name']}:{device}", "yes" if formats else "no", version, executes))
    return lines


def _idle(name: str, reason: str) -> str:
    """Why nothing runs on a device; what the engine says begins with its name already."""
    return f"{name}: {reason.removeprefix(f'engine {name}: ')}"


def _advice(name: str, item: dict[str, Any]) -> str:
    return f"{name}: {item['reason']}{'; ' + item['install'] if item['install'] else ''}"

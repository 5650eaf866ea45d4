"""`icf-deploy cache`: what this device keeps of the engines that it built and the choices that it tuned, and why."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icf_deploy.cli.options import bundle_argument, json_option, threads_option
from icf_deploy.cli.terminal import show_json, show_lines, show_table

if TYPE_CHECKING:
    from icf_deploy.runtimes.cache_entry import EngineKey, Entry

SHOWN_DIGITS = 12  # of a digest in a table
MEGABYTE = 1_000_000
KIND_OF_CHOICES = "tuned"  # entries of `icf-deploy tune`; the others hold engines


@click.group("cache", short_help="Show, explain or clear the engines that this device keeps.")
def command() -> None:
    """Show, explain or clear the engines that this device keeps.

    ICF_DEPLOY_CACHE names the folder ("off" keeps nothing), ICF_DEPLOY_CACHE_LIMIT its size in MiB.
    """


@command.command("list")
@json_option
def list_entries(as_json: bool) -> None:
    """Show what is kept, what was used last first."""
    from icf_deploy.runtimes.cache import MIB, default_cache

    cache = default_cache()
    entries = cache.entries()
    if as_json:
        show_json({"folder": str(cache.folder), "limit": cache.limit, "entries": [_entry_json(entry) for entry in entries]})
        return
    total = sum(entry.size for entry in entries)
    show_lines([f"{cache.folder}: {len(entries)} kept, {total / MIB:.0f} of {cache.limit / MIB:.0f} MiB"])
    if entries:
        show_table([("kind", "engine", "device", "recipe", "graph", "MB", "used"), *(_cells(entry) for entry in entries)])


@command.command("explain")
@bundle_argument
@click.option("--engine", metavar="E", help="Say whether this engine of BUNDLE is kept, and if not, what has changed.")
@click.option("--graph", metavar="NAME", help="Which graph of BUNDLE; by default its default one.")
@threads_option
@json_option
def explain(bundle: Path | None, engine: str | None, graph: str | None, threads: int | None, as_json: bool) -> None:
    """Say why engines were built.

    Without --engine: of everything that is kept, what made building it necessary. With --engine: whether the engine of
    BUNDLE (default: the shipped one) is kept, and if it is not, which fields of its key differ from the nearest one that is.
    """
    if engine is None:
        _explain_all(as_json)
    else:
        _explain_one(bundle, engine, graph, threads, as_json)


@command.command("clear")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only this kind, as `list` shows it; repeatable.")
@json_option
def clear(kinds: tuple[str, ...], as_json: bool) -> None:
    """Remove what is kept: engines are built again when they are needed, and what was tuned is forgotten."""
    from icf_deploy.runtimes.cache import default_cache

    cache = default_cache()
    count, size = cache.clear(frozenset(kinds) or None)
    if as_json:
        show_json({"folder": str(cache.folder), "removed": count, "bytes": size})
    else:
        show_lines([f"{cache.folder}: {count} removed, {size / MEGABYTE:.1f} MB"])


def _explain_all(as_json: bool) -> None:
    from icf_deploy.runtimes.cache import default_cache

    cache = default_cache()
    entries = sorted(cache.entries(), key=lambda entry: entry.header.created)
    if as_json:
        show_json({"folder": str(cache.folder), "entries": [_entry_json(entry) for entry in entries]})
        return
    if not entries:
        show_lines([f"{cache.folder}: nothing is kept"])
    for entry in entries:
        header = entry.header
        found = "found" if header.key.kind == KIND_OF_CHOICES else "built"
        show_lines(
            [
                f"{_moment(header.created)}  {_name(header.key)}, {found} in {header.seconds:.1f} s",
                f"  because: {header.why or 'it was new'}",
            ]
        )


def _explain_one(bundle: Path | None, engine: str, graph: str | None, threads: int | None, as_json: bool) -> None:
    from icf_deploy.bundle.opening import open_bundle
    from icf_deploy.runtimes import registry
    from icf_deploy.runtimes.base import KeepsEngines, Target
    from icf_deploy.runtimes.cache import default_cache

    name, device = registry.split(engine)
    runtime, opened = registry.get(engine), open_bundle(bundle)
    target = Target(device, threads)
    key = None
    if isinstance(runtime, KeepsEngines):
        key = runtime.cache_key(registry.graph_for(opened, engine, graph), target)
    if key is None:
        if as_json:
            show_json({"engine": f"{name}:{device}", "kept": None, "why": "", "fields": {}, "changes": []})
        else:
            show_lines([f"{name}:{device} keeps no engines: it loads the graph itself, every time"])
        return
    cache = default_cache()
    why = cache.explain(key)
    changes = cache.changes(key) or []
    if as_json:
        found = [{"field": change.name, "before": change.before, "after": change.after} for change in changes]
        show_json({"engine": f"{name}:{device}", "kept": not why, "why": why, "fields": dict(key.fields), "changes": found})
        return
    show_lines([f"{name}:{device} of {opened.path.name}: " + (f"would be built, because {why}" if why else "kept")])
    show_table([("field", "value"), *key.fields.items()])


def _entry_json(entry: Entry) -> dict[str, Any]:
    header = entry.header
    return {
        "kind": header.key.kind,
        "fields": dict(header.key.fields),
        "bytes": entry.size,
        "created": header.created,
        "used": entry.used,
        "build_seconds": header.seconds,
        "why": header.why,
        **({} if header.key.kind != KIND_OF_CHOICES else {"choice": _choice_json(entry)}),
    }


def _cells(entry: Entry) -> tuple[str, ...]:
    fields = entry.header.key.fields
    if entry.header.key.kind == KIND_OF_CHOICES:
        return _choice_cells(entry)
    return (
        entry.header.key.kind,
        fields.get("engine", fields.get("runtime", "-")),
        fields.get("device", "-"),
        fields.get("recipe", "-"),
        fields.get("graph", "-")[:SHOWN_DIGITS],
        f"{entry.size / MEGABYTE:.1f}",
        _moment(entry.used),
    )


def _choice_cells(entry: Entry) -> tuple[str, ...]:
    from icf_deploy.runtimes.tuned import choice_of

    choice, fields = choice_of(entry), entry.header.key.fields
    what = (
        ("damaged", "-", "-") if choice is None else (choice.engine, choice.graph or "checkpoint", choice.sha256[:SHOWN_DIGITS])
    )
    device = fields.get("processor", "-").partition(", instructions")[0]
    return KIND_OF_CHOICES, what[0], device, what[1], what[2], f"{entry.size / MEGABYTE:.1f}", _moment(entry.used)


def _choice_json(entry: Entry) -> dict[str, Any] | None:
    from icf_deploy.runtimes.tuned import choice_of

    choice = choice_of(entry)
    return None if choice is None else asdict(choice)


def _name(key: EngineKey) -> str:
    fields = key.fields
    if key.kind == KIND_OF_CHOICES:
        bundle, threads = fields.get("bundle", "")[:SHOWN_DIGITS], fields.get("threads", "?")
        return f"choice for {fields.get('preset', '?')}, bundle {bundle}, {threads} thread{'' if threads == '1' else 's'}"
    parts = [fields.get("engine", fields.get("runtime", "?")), fields.get("device", ""), fields.get("recipe", "")]
    graph = fields.get("graph", "")[:SHOWN_DIGITS]
    return f"{key.kind} of " + ", ".join(part for part in (*parts, f"graph {graph}" if graph else "") if part)


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")

"""The fields of an engine's key that every runtime shares: what it computes, on which system, built by which code."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from types import ModuleType

from icf_deploy.runtimes.base import Graph

SHOWN_DIGITS = 16  # of a source digest: nobody attacks their own cache with a collision


def graph_fields(graph: Graph) -> dict[str, str]:
    """The graph's bytes and what is asked of them."""
    return {"graph": graph.sha256, "recipe": graph.recipe, "size": f"{graph.size[0]}x{graph.size[1]}"}


def system_fields() -> dict[str, str]:
    """Operating system with its version, and the processor's architecture. Not the kernel's patch level: no engine sees it."""
    return {"os": _system(), "machine": platform.machine()}


def processor_fields(proc_root: Path = Path("/proc")) -> dict[str, str]:
    """The processor's name and a digest of its instruction sets, where Linux states them.

    A virtual machine moves between processors that go by one name, such as "Intel(R) Xeon(R) Processor".
    """
    try:
        text = (proc_root / "cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", maxsplit=1)[0]
    except OSError:
        return {"processor": platform.processor() or platform.machine()}
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    name = facts.get("model name") or " ".join(facts.get(key, "") for key in ("CPU implementer", "CPU part"))
    flags = facts.get("flags") or facts.get("Features", "")
    digest = hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:SHOWN_DIGITS]
    return {"processor": f"{name.strip()}, instructions {digest}"}


def code_field(*modules: ModuleType | str) -> dict[str, str]:
    """Digest of our own build code: an engine that an older one built is not taken for one of ours.

    modules: those that decide what is built, or their names (they must have been imported).
    """
    digest = hashlib.sha256()
    for module in modules:
        found = sys.modules[module] if isinstance(module, str) else module
        digest.update(_source(found))
    return {"code": digest.hexdigest()[:SHOWN_DIGITS]}


def _source(module: ModuleType) -> bytes:
    """The module's source, or its byte code where a frozen application carries only that."""
    loader, path = module.__loader__, module.__file__
    read = getattr(loader, "get_data", None)
    assert read is not None and path is not None  # every module of ours comes from a file or an archive
    content: bytes = read(path)
    return content


def _system() -> str:
    if sys.platform == "linux":
        try:
            release = platform.freedesktop_os_release()
        except OSError:
            return "Linux"
        return f"{release.get('ID', 'linux')} {release.get('VERSION_ID', '')}".strip()
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return f"{platform.system()} {platform.version()}"

"""Which TensorRT there is: the full one where it imports, else TensorRT for RTX. Both have the same Python API."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from icf_deploy.errors import ArtefactError, EngineUnavailableError, UsageError

FULL, RTX = "tensorrt", "tensorrt_rtx"
INSTALL = (
    "pip install 'icf-deploy[trt-rtx]' for a GeForce RTX, 'icf-deploy[trt]' for another NVIDIA GPU; "
    "on a Jetson JetPack brings it"
)
RTX_INSTALL = "pip install 'icf-deploy[trt-rtx]'"

# What people call a GPU, and the compute capability that TensorRT for RTX compiles for.
CONSUMER_NAMES = {"rtx20": "sm75", "rtx30": "sm86", "rtx40": "sm89", "rtx50": "sm120"}
TF32_SUFFIX = "-tf32"


@dataclass(frozen=True)
class Library:
    """One of the two modules, imported."""

    name: str
    module: Any

    @property
    def version(self) -> str:
        """Its own version, such as 10.3.0 or 1.7.1.116."""
        return str(self.module.__version__)

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX, which compiles for GPUs that are not here."""
        return self.name == RTX


def find_library(name: str | None = None) -> Library:
    """The library of this name; None: the one that is here.

    EngineUnavailableError where it isn't, with what importing it says; ArtefactError for a name that is neither of the two.
    """
    if name not in (None, FULL, RTX):  # it may come from a file, and nothing else is imported at its word
        raise ArtefactError(f"this engine was built by {name!r}, and trt opens those of {FULL} and {RTX}: build it again")
    reasons = []
    for candidate in (FULL, RTX) if name is None else (name,):
        try:
            module: ModuleType = importlib.import_module(candidate)
            if hasattr(module, "Builder"):  # the leftovers of an uninstalled package import, too
                return Library(candidate, module)
            reasons.append(f"{candidate} is installed but has no Builder")
        except ModuleNotFoundError as error:
            reasons.append(
                f"{candidate} is not installed" if error.name == candidate else f"{candidate} does not import: {error}"
            )
        except Exception as error:
            reasons.append(f"{candidate} does not import: {error}")
    install = INSTALL if name is None else RTX_INSTALL if name == RTX else "pip install 'icf-deploy[trt]'"
    raise EngineUnavailableError(f"engine trt: {'; '.join(reasons)}. Install it with: {install}")


@dataclass(frozen=True)
class AheadTarget:
    """A GPU that an engine is compiled for while it is elsewhere. name: as it was asked for, `rtx40` or `sm89-tf32`."""

    name: str
    sm: str
    tf32: bool


def ahead_target(name: str) -> AheadTarget | None:
    """What `name` stands for; None where it is no name of an absent GPU. `require_ahead_target` asks the library, too."""
    base = name.removesuffix(TF32_SUFFIX)
    sm = CONSUMER_NAMES.get(base, base)
    if not (sm.startswith("sm") and sm[2:].isdigit()):
        return None
    return AheadTarget(name, sm, tf32=name.endswith(TF32_SUFFIX))


def require_ahead_target(name: str, library: Library) -> AheadTarget:
    """As `ahead_target`. UsageError for a name that is none, or a GPU that this library does not compile for."""
    target = ahead_target(name)
    compiled = compiled_sms(library)
    if target is None or target.sm not in compiled:
        names = [short for short, sm in CONSUMER_NAMES.items() if sm in compiled]
        raise UsageError(
            f"{library.name} {library.version} compiles for no GPU {name!r}: choose of {', '.join((*names, *compiled))}, "
            f"each also with {TF32_SUFFIX}"
        )
    return target


def compiled_sms(library: Library) -> tuple[str, ...]:
    """Compute capabilities that TensorRT for RTX compiles for, as `sm86`; none for the full one, which needs the GPU itself."""
    if not library.is_rtx:
        return ()
    members = library.module.ComputeCapability.__members__
    return tuple(name.lower() for name in members if name.startswith("SM"))

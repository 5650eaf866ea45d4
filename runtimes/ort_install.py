"""Whether ONNX Runtime is installed as it should be: several distributions share one module, and two at once break it."""

from __future__ import annotations

from icf_deploy.runtimes.base import Availability
from icf_deploy.runtimes.ort_providers import PROVIDERS

INSTALL = PROVIDERS["cpu"].install
# Every distribution that installs the module `onnxruntime`; two at once overwrite each other's files.
DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-migraphx",
)


def availability() -> Availability:
    """Whether it imports; `reason` also says when two distributions of it overwrite each other."""
    try:
        import onnxruntime

        version = str(onnxruntime.__version__)
        onnxruntime.InferenceSession  # noqa: B018  # the leftovers of an uninstalled distribution import as an empty package
    except ModuleNotFoundError as error:
        if error.name == "onnxruntime":
            return Availability(False, reason="onnxruntime is not installed", install=INSTALL)
        return _broken(error)
    except Exception as error:
        return _broken(error)
    installed = _installed_distributions()
    if len(installed) > 1:
        reason = (
            f"{' and '.join(installed)} are both installed: they overwrite each other's files, and removing one breaks the "
            f"other. Repair it with: {_repair(installed)}"
        )
        return Availability(True, version, reason)
    return Availability(True, version)


def first_line(error: Exception) -> str:
    """The first line of ONNX Runtime's message: the rest are source positions."""
    return str(error).strip().splitlines()[0].rstrip(". ") if str(error).strip() else type(error).__name__


def _installed_distributions() -> list[str]:
    from importlib.metadata import PackageNotFoundError, distribution

    found = []
    for name in DISTRIBUTIONS:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


def _repair(installed: list[str]) -> str:
    return f"pip uninstall -y {' '.join(installed)} && {INSTALL} (or [gpu] for the CUDA provider)"


def _broken(error: Exception) -> Availability:
    installed = _installed_distributions()
    reason = f"onnxruntime is installed but does not work: {first_line(error)}"
    return Availability(False, reason=reason, install=_repair(installed) if installed else INSTALL)

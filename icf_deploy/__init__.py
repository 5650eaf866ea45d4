"""icf-deploy: photo colorization networks on edge devices.

    import icf_deploy
    with icf_deploy.load() as colorizer:
        colorizer.colorize("grandmother.jpg").save("grandmother.png")

Importing the package loads neither NumPy nor an engine; `load` does.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from icf_deploy.errors import (
    ArtefactError,
    BudgetError,
    CheckpointError,
    EngineUnavailableError,
    IcfError,
    IntegrityError,
    ParityError,
    PhotoError,
    UsageError,
    WorkError,
)

if TYPE_CHECKING:
    from icf_deploy.colorizer import Colorizer

__all__ = [
    "ArtefactError",
    "BudgetError",
    "CheckpointError",
    "Colorizer",
    "EngineUnavailableError",
    "IcfError",
    "IntegrityError",
    "ParityError",
    "PhotoError",
    "UsageError",
    "WorkError",
    "__version__",
    "load",
]

_log = logging.getLogger(__name__)


def load(
    bundle: str | os.PathLike[str] | None = None,
    engine: str | None = None,
    *,
    threads: int | None = None,
    expect_digest: str | None = None,
) -> Colorizer:
    """Open a bundle and an engine for it.

    bundle: path of the bundle; None takes the shipped `icf-edge`.
    engine: its name, such as "ort"; None takes the first that can run here. A named engine never becomes another one.
    threads: how many work on one photo, in the engine and around it; None is one per physical core.
    expect_digest: the SHA-256 of the bundle's manifest, where the bundle may come from somebody else.
    Returns a Colorizer, to be used in a `with` block or closed. Raises IntegrityError (no readable bundle), UsageError
    (unknown engine), EngineUnavailableError (its package is missing here), ArtefactError (bundle and engine do not fit).
    """
    from icf_deploy.bundle.store import open_bundle
    from icf_deploy.colorizer import BundleInfo, Colorizer
    from icf_deploy.runtimes import registry

    opened = open_bundle(bundle, expect_digest=expect_digest)
    chosen = engine if engine is not None else registry.default_engine(opened)
    why = "as asked" if engine is not None else f"the first that can run it of {', '.join(registry.preferred())}"
    _log.info("engine %s for %s: %s", chosen, opened.path, why)
    session = registry.open_session(opened, chosen, threads=threads)
    try:
        info = BundleInfo(opened.path, opened.manifest.preset, opened.digest)
        stride = session.size[0] // session.output_size[0]
        return Colorizer(session, size=session.size, stride=stride, threads=threads, engine=chosen, bundle=info)
    except BaseException:
        session.close()
        raise


def __getattr__(name: str) -> Any:
    if name == "Colorizer":
        from icf_deploy.colorizer import Colorizer

        return Colorizer
    if name == "__version__":
        from importlib.metadata import version

        return version("icf-deploy")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""icf-deploy: photo colorization networks on edge devices.

    import icf_deploy
    with icf_deploy.load() as colorizer:
        colorizer.colorize("grandmother.jpg").save("grandmother.png")

Importing the package loads neither NumPy nor an engine; `load` does.
"""

from __future__ import annotations

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


def load(
    bundle: str | os.PathLike[str] | None = None,
    engine: str | None = None,
    *,
    threads: int | None = None,
    expect_digest: str | None = None,
    trust_engines: bool = False,
) -> Colorizer:
    """Open a bundle and an engine for it.

    bundle: path of the bundle, a folder or one file; None takes the shipped `icf-edge`.
    engine: its name, such as "ort"; None takes what `icf-deploy tune` has found for this bundle on this device with so many
    threads, else the first that can run it here, and logs which one and why. A named engine never becomes another one.
    threads: how many work on one photo, in the engine and around it; None is one per physical core.
    expect_digest: the SHA-256 of the bundle's manifest, where the bundle may come from somebody else.
    trust_engines: also use engines that lie in the bundle. They are machine code of whoever made it.
    Returns a Colorizer, to be used in a `with` block or closed. Raises IntegrityError (no readable bundle), UsageError
    (unknown engine), EngineUnavailableError (its package is missing here), ArtefactError (bundle and engine do not fit).
    """
    from icf_deploy.bundle.opening import open_bundle
    from icf_deploy.choice import open_best, open_named, remembered
    from icf_deploy.colorizer import BundleInfo, Colorizer

    opened = open_bundle(bundle, expect_digest=expect_digest, trust_engines=trust_engines)
    if engine is not None:
        chosen, session = open_named(opened, engine, threads=threads)
    else:
        chosen, session = open_best(opened, threads=threads, tuned=remembered(opened, threads=threads))
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

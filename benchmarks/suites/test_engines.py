"""Every engine that this machine runs, on the shipped icf-edge: one call, a photo, opening.

    pytest benchmarks/suites/test_engines.py --benchmark-only

For watching one engine over time. For comparing engines there is `icf-deploy bench`: here they are measured one after the
other in a single process, so a difference of a few per cent between two of them means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

from icf_deploy.bundle.opening import open_bundle
from icf_deploy.colorizer import Colorizer
from icf_deploy.errors import IcfError
from icf_deploy.quality.drift import measure_drift
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import Session

PHOTO = "astronaut"
SIDE = 1024  # pixels of the photo
WRONG = 2.3  # CIEDE2000; an engine that drifts further is not worth timing
WARM_CALLS = 10

Bench = Callable[..., Any]


def engines() -> list[str]:
    """`RUNTIME:DEVICE` of everything that is installed and finds its device."""
    names = {engine.partition(":")[0] for engine in registry.preferred()}
    return [f"{name}:{device}" for name in registry.names() if name in names for device in registry.get(name).devices()]


@pytest.fixture(scope="module", params=engines())
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    bundle = open_bundle()
    try:
        opened = registry.open_session(bundle, request.param)
    except IcfError as error:
        pytest.skip(str(error))
    with opened:
        assert measure_drift(opened, bundle.reference()).value("de2000_p95") < WRONG
        yield opened


def test_engine(benchmark: Bench, session: Session) -> None:
    gray = open_bundle().reference().gray[:1]
    assert benchmark.pedantic(session.run, (gray,), rounds=100, warmup_rounds=WARM_CALLS).shape[1] == 2  # type: ignore[attr-defined]


def test_photo_of_one_megapixel(benchmark: Bench, session: Session) -> None:
    photo = cv2.resize(getattr(skimage.data, PHOTO)(), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    stride = session.size[0] // session.output_size[0]
    colorizer = Colorizer(session, size=session.size, stride=stride, owns_session=False)
    found = benchmark.pedantic(colorizer.colorize_array, (photo,), rounds=30, warmup_rounds=3)  # type: ignore[attr-defined]
    assert found.shape == (SIDE, SIDE, 3) and np.ptp(found) > 200


@pytest.mark.parametrize("engine", engines())
def test_open(benchmark: Bench, engine: str) -> None:
    """Built and opened once more in a process that has loaded the engine's library."""

    def opened() -> None:
        registry.open_session(open_bundle(), engine).close()

    try:
        opened()
    except IcfError as error:
        pytest.skip(str(error))
    benchmark.pedantic(opened, rounds=5)  # type: ignore[attr-defined]

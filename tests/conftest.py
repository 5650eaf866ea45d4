"""For every test: a cache of engines of its own, and real photos, taken from inside scikit-image and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

Photo = npt.NDArray[np.uint8]

# They start processes and time them.
TIMED = ("benchmarks/", "cli/test_bench.py", "cli/test_compare.py", "cli/test_tune.py", "tuning/")
PHOTO_NAMES = ("astronaut", "coffee", "chelsea", "rocket", "china", "flower")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what must have the machine for itself: `make unit` runs everything else side by side."""
    root = Path(__file__).parent
    for item in items:
        if item.path.relative_to(root).as_posix().startswith(TIMED):
            item.add_marker(pytest.mark.timing)


def _load(name: str) -> Photo:
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return np.ascontiguousarray(load_sample_image(f"{name}.jpg"))
    import skimage.data

    return np.ascontiguousarray(getattr(skimage.data, name)())


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test, and no process that one starts, reads or fills the engine cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ICF_DEPLOY_CACHE", str(tmp_path_factory.mktemp("engine-cache")))
        yield


@pytest.fixture(scope="session")
def photo() -> Callable[[str], Photo]:
    """photo(name) -> uint8 RGB [H,W,3]."""
    cache: dict[str, Photo] = {}

    def of(name: str) -> Photo:
        if name not in cache:
            cache[name] = _load(name)
        return cache[name].copy()

    return of


@pytest.fixture(scope="session")
def photos_dir(tmp_path_factory: pytest.TempPathFactory, photo: Callable[[str], Photo]) -> Path:
    """A folder that holds all of them as PNG."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for name in PHOTO_NAMES:
        Image.fromarray(photo(name)).save(folder / f"{name}.png")
    return folder

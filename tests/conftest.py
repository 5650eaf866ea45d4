"""Real photos for every test, taken from inside scikit-image and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

Photo = npt.NDArray[np.uint8]
PHOTO_NAMES = ("astronaut", "coffee", "chelsea", "rocket", "china", "flower")


def _load(name: str) -> Photo:
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return np.ascontiguousarray(load_sample_image(f"{name}.jpg"))
    import skimage.data

    return np.ascontiguousarray(getattr(skimage.data, name)())


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

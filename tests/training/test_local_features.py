from __future__ import annotations

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from icf_deploy.training.local_features import EDGE_SCALES, FEATURES, GROUPS, PATCH_RINGS, STRIDE, local_features

Floats = npt.NDArray[np.float32]
SIDE = 128


def group(features: Floats, name: str) -> Floats:
    """The planes [h,w,n] of one group."""
    start = sum(size for known, size in GROUPS.items() if list(GROUPS).index(known) < list(GROUPS).index(name))
    return features[..., start : start + GROUPS[name]]


def waves(down: float, across: float, swing: float = 0.25) -> Floats:
    """A plane wave around mid gray: `down` and `across` whole periods over the side."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    return np.asarray(0.5 + swing * np.sin(2 * np.pi * (down * rows + across * columns)), np.float32)


def test_a_flat_gray_has_its_level_and_no_texture_edges_or_surroundings() -> None:
    features = local_features(np.full((SIDE, SIDE), 0.3, np.float32))
    assert features.shape == (SIDE // STRIDE, SIDE // STRIDE, FEATURES)
    assert group(features, "level") == pytest.approx(0.3, abs=1e-5)
    for name in ("texture", "edges", "patch"):
        assert float(np.abs(group(features, name)).max()) < 2e-3
    assert group(features, "photo")[0, 0] == pytest.approx([0.3, 0.0], abs=1e-5)


def test_texture_is_the_standard_deviation() -> None:
    """Of a sine it is its swing over the square root of 2, where the window is wider than the wave."""
    textures = group(local_features(waves(0, 16)), "texture")
    assert textures[8:-8, 8:-8, 1] == pytest.approx(0.25 / np.sqrt(2), rel=0.03)


@pytest.mark.parametrize(("down", "across", "direction"), [(0, 8, (1, 0)), (8, 0, (-1, 0)), (6, 6, (0, 1)), (6, -6, (0, -1))])
def test_edges_know_their_direction(down: float, across: float, direction: tuple[int, int]) -> None:
    edges = group(local_features(waves(down, across)), "edges")[8:-8, 8:-8]
    for scale in range(len(EDGE_SCALES)):
        assert float(edges[..., 3 * scale].min()) > 0.001
        assert edges[..., 3 * scale + 1].mean() == pytest.approx(direction[0], abs=0.1)
        assert edges[..., 3 * scale + 2].mean() == pytest.approx(direction[1], abs=0.1)


def test_the_patch_is_what_lies_around_less_what_is_here() -> None:
    slope = 1 / 256
    ramp = np.broadcast_to(np.arange(SIDE, dtype=np.float32) * slope, (SIDE, SIDE)).astype(np.float32)
    patch = group(local_features(ramp), "patch")[SIDE // STRIDE // 2, SIDE // STRIDE // 2]
    expected = [dx * distance * slope for _, distance in PATCH_RINGS for dx in (-1, 0, 1, -1, 1, -1, 0, 1)]
    assert patch == pytest.approx(expected, abs=2e-3)


def test_the_place_is_the_row_and_the_distance_from_the_middle() -> None:
    place = group(local_features(np.zeros((SIDE, SIDE), np.float32)), "place")
    assert place[0, 0] == pytest.approx([1 / 64, 31 / 32])
    assert place[-1, -1] == pytest.approx([63 / 64, 31 / 32])


def test_baselines_need_no_torch() -> None:
    code = "import sys, icf_deploy.training.baselines; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Out-of-gamut colours keep L and hue: measured with scikit-image, before anything is rounded to 8 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from skimage.color import rgb2lab

from icf_deploy.imaging.color import srgb_of_light
from icf_deploy.imaging.gamut import (
    LIGHT_ABOVE,
    LIGHT_BELOW,
    bisected_scale,
    chroma_table,
    light_in_gamut,
    light_of_offsets,
    room_in_gamut,
)

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
HUE_BOUND = 1.0  # degrees, where chroma is above VISIBLE_CHROMA
VISIBLE_CHROMA = 2.0
GRIDS = {
    "everywhere": (np.arange(0.5, 100, 1.1), np.arange(-180, 180, 1.7), np.array([3, 10, 25, 45, 70, 100, 130, 160, 190])),
    "blue": (np.arange(1, 70, 0.7), np.arange(270, 320, 0.5), np.array([30, 60, 90, 110, 130, 134, 150])),
    "yellow, where lines of constant hue leave the gamut twice": (
        np.arange(92, 99.95, 0.1),
        np.arange(98, 110, 0.1),
        np.array([25, 40, 55, 70, 85, 100, 140]),
    ),
    "nearly black": (np.arange(0.2, 8, 0.1), np.arange(0, 360, 3), np.array([3, 6, 12, 30, 90])),
}


def colours(lightness: Doubles, hue: Doubles, chroma: Doubles) -> tuple[Floats, Floats, Doubles, Doubles, Doubles]:
    """(fy, offsets, L, hue in degrees, chroma) of all combinations."""
    grid = np.meshgrid(lightness, hue, chroma, indexing="ij")
    lightness, hue, chroma = (axis.ravel() for axis in grid)
    a, b = chroma * np.cos(np.deg2rad(hue)), chroma * np.sin(np.deg2rad(hue))
    return ((lightness + 16) / 116).astype(np.float32), np.stack([a / 500, b / -200]).astype(np.float32), lightness, hue, chroma


def measured(light: Floats) -> tuple[Doubles, Doubles, Doubles]:
    """(L, hue in degrees, chroma) of linear RGB [3,n], by scikit-image."""
    lab = rgb2lab(srgb_of_light(np.clip(light, 0, 1).astype(np.float64)).T[None])[0]
    return lab[:, 0], np.rad2deg(np.arctan2(lab[:, 2], lab[:, 1])), np.hypot(lab[:, 1], lab[:, 2])


def hue_error(found: Doubles, expected: Doubles) -> Doubles:
    return np.abs((found - expected + 180) % 360 - 180)


@pytest.mark.parametrize("grid", GRIDS)
def test_hue_and_l_stay_where_chroma_has_to_go(grid: str) -> None:
    fy, offsets, lightness, hue, _ = colours(*GRIDS[grid])
    outside = room_in_gamut(light_of_offsets(fy, offsets)) < 0
    assert outside.sum() > 1000
    found_l, found_hue, found_chroma = measured(light_in_gamut(fy[outside], offsets[:, outside]))
    seen = found_chroma > VISIBLE_CHROMA
    assert hue_error(found_hue, hue[outside])[seen].max() < HUE_BOUND
    assert np.abs(found_l - lightness[outside]).max() < 0.25


@pytest.mark.parametrize("grid", GRIDS)
def test_clipping_each_channel_would_not_pass_that_test(grid: str) -> None:
    fy, offsets, _, hue, _ = colours(*GRIDS[grid])
    _, found_hue, found_chroma = measured(light_of_offsets(fy, offsets))
    assert hue_error(found_hue, hue)[found_chroma > VISIBLE_CHROMA].max() > 5 * HUE_BOUND


def test_as_much_chroma_stays_as_the_gamut_holds() -> None:
    fy, offsets, _, _, chroma = colours(*GRIDS["everywhere"])
    outside = room_in_gamut(light_of_offsets(fy, offsets)) < 0
    fy, offsets = fy[outside], offsets[:, outside]
    largest = bisected_scale(fy, offsets, 18) * chroma[outside]
    _, _, found = measured(light_in_gamut(fy, offsets))
    lost = largest - found
    assert lost.mean() < 0.05
    assert np.quantile(lost, 0.999) < 2
    assert found.mean() > 20  # it isn't gray


def test_a_colour_inside_is_outside_once_its_chroma_passes_what_the_table_says() -> None:
    table = chroma_table()
    rows, columns = np.meshgrid(np.arange(8, 120, 7), np.arange(0, 512, 11), indexing="ij")
    fy = (16 / 116 + rows.ravel() / 128 * 100 / 116).astype(np.float32)
    hue = columns.ravel() / 512 * 2 * np.pi - np.pi
    chroma = table[rows.ravel(), columns.ravel()]

    def room(factor: float) -> Floats:
        a, b = chroma * factor * np.cos(hue), chroma * factor * np.sin(hue)
        return room_in_gamut(light_of_offsets(fy, np.stack([a / 500, b / -200]).astype(np.float32)))

    assert (room(0.999) >= 0).all()
    assert (room(1.01) < 0).all()


def test_the_largest_chroma_of_all_is_that_of_the_blue_primary() -> None:
    blue = rgb2lab(np.array([[[0.0, 0.0, 1.0]]]))[0, 0]
    assert chroma_table().max() == pytest.approx(np.hypot(blue[1], blue[2]), abs=1.0)


def test_bisection_never_ends_outside_the_gamut() -> None:
    fy, offsets, *_ = colours(*GRIDS["everywhere"])
    light = light_of_offsets(fy, offsets * bisected_scale(fy, offsets, 10))
    assert light.min() >= LIGHT_BELOW
    assert light.max() <= LIGHT_ABOVE


def test_colours_at_the_ends_of_l_become_black_and_white() -> None:
    fy = np.array([16 / 116, 1.0], np.float32)
    light = light_in_gamut(fy, np.array([[0.1, 0.1], [-0.2, 0.2]], np.float32))
    np.testing.assert_allclose(light, [[0, 1]] * 3, atol=1e-3)


def test_no_pixels_is_no_problem() -> None:
    assert light_in_gamut(np.empty(0, np.float32), np.empty((2, 0), np.float32)).shape == (3, 0)

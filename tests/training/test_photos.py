from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.training.photos import (
    CACHE_SHORT_SIDE,
    CHROMA_MAP_SIDE,
    Photo,
    PhotoSet,
    left_out,
    load_photos,
    recoloured,
    source_of,
    split_by_source,
    spread,
)

Pixels = npt.NDArray[np.uint8]


def tiny(name: str) -> Photo:
    chroma = np.zeros((CHROMA_MAP_SIDE, CHROMA_MAP_SIDE), np.float32)
    return Photo(name, source_of(name), np.zeros((32, 32, 3), np.uint8), chroma)


def test_the_source_is_the_name_before_its_last_number_and_keeps_its_folder() -> None:
    assert source_of("bsds500_0012.jpg") == "bsds500"
    assert source_of("material-kit_0003_0004.png") == "material-kit_0003"
    assert source_of("a/b/food_7.webp") == "a/b/food"
    assert source_of("holiday.jpg") == "holiday"


def test_photos_of_all_subfolders_are_found_and_shrunk_to_the_cached_size(
    tmp_path: Path, photo: Callable[[str], Pixels]
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    Image.fromarray(photo("china")).save(tmp_path / "deep" / "er" / "china_1.PNG")
    Image.fromarray(photo("chelsea")).save(tmp_path / "chelsea.jpg")
    found = load_photos([tmp_path])
    assert {p.name for p in found.photos} == {"deep/er/china_1.PNG", "chelsea.jpg"}
    by_name = {p.name: p for p in found.photos}
    assert min(by_name["deep/er/china_1.PNG"].rgb.shape[:2]) == CACHE_SHORT_SIDE
    assert by_name["chelsea.jpg"].rgb.shape == photo("chelsea").shape  # 300 high: small enough as it is


def test_a_cached_photo_has_red_first(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 40, 10)).save(tmp_path / "red.png")
    assert load_photos([tmp_path]).photos[0].rgb[0, 0].tolist() == [200, 40, 10]


def test_unreadable_and_colourless_photos_are_left_out_and_named(tmp_path: Path, photo: Callable[[str], Pixels]) -> None:
    Image.fromarray(photo("coffee")).save(tmp_path / "good.jpg")
    Image.fromarray(photo("coffee")).convert("L").save(tmp_path / "gray.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not a photo")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "headless.jpg").write_bytes(whole[len(whole) // 2 :])
    found = load_photos([tmp_path])
    assert [p.name for p in found.photos] == ["good.jpg"]
    assert found.unreadable == ("empty.jpg", "headless.jpg", "text.png")
    assert found.colourless == ("gray.jpg",)


def test_a_folder_without_photos_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="no photos in it"):
        load_photos([tmp_path])
    with pytest.raises(WorkError, match="found nothing"):
        load_photos([tmp_path / "nowhere"])


def test_a_folder_of_gray_photos_alone_is_an_error_that_says_so(tmp_path: Path) -> None:
    Image.new("L", (64, 64), 90).save(tmp_path / "gray.png")
    with pytest.raises(WorkError, match="1 without colour"):
        load_photos([tmp_path])


def test_by_default_whole_sources_of_5_to_8_percent_are_held_out_and_always_the_same() -> None:
    photos = [tiny(f"big_{i}.png") for i in range(500)] + [tiny(f"s{k}_{i}.png") for k in range(25) for i in range(20)]
    split = split_by_source(photos)
    assert not {p.source for p in split.train} & {p.source for p in split.validation}
    assert 0.05 * len(photos) <= len(split.validation) <= 0.08 * len(photos)
    assert len(split.train) + len(split.validation) == len(photos)
    assert split_by_source(photos[::-1]).holdout == split.holdout
    assert split.notice is None


def test_named_sources_are_held_out_and_patterns_count() -> None:
    photos = [tiny(f"{source}_{i}.png") for source in ("food", "kit-a", "kit-b") for i in range(4)]
    split = split_by_source(photos, ["kit-*"])
    assert split.holdout == ("kit-a", "kit-b")
    assert {p.source for p in split.train} == {"food"}


def test_a_holdout_that_is_no_source_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(UsageError, match=r"no such source.*food \(1\)"):
        split_by_source([tiny("food_1.png")], ["foot"])


def test_holding_out_everything_is_refused() -> None:
    with pytest.raises(UsageError, match="leaves no photo to train on"):
        split_by_source([tiny("food_1.png"), tiny("food_2.png")], ["food"])


def test_photos_of_a_single_source_are_held_out_by_name_with_a_notice() -> None:
    photos = [tiny(f"IMG_{i}.jpg") for i in range(40)]
    split = split_by_source(photos)
    assert len(split.validation) == 2
    assert not {p.name for p in split.train} & {p.name for p in split.validation}
    assert split.notice is not None
    assert "will look too good" in split.notice


def test_a_single_photo_cannot_be_split() -> None:
    with pytest.raises(WorkError, match="one photo is not enough"):
        split_by_source([tiny("only.jpg")])


def test_spread_takes_photos_from_all_over_the_sequence() -> None:
    photos = [tiny(f"p_{i}.png") for i in range(101)]
    assert [p.name for p in spread(photos, 3)] == ["p_0.png", "p_50.png", "p_100.png"]
    assert len(spread(photos, 500)) == 101


def test_the_digest_changes_with_a_single_pixel() -> None:
    first, second = tiny("a.png"), tiny("a.png")
    second.rgb[3, 4, 1] = 1
    assert PhotoSet((first,)).digest() != PhotoSet((second,)).digest()
    assert PhotoSet((first,)).digest() == PhotoSet((tiny("a.png"),)).digest()


def test_what_was_left_out_is_counted_and_named_but_not_without_end() -> None:
    found = PhotoSet((), unreadable=("a.jpg",), colourless=tuple(f"{i}.png" for i in range(12)))
    assert left_out(found) == [
        "1 photo could not be read and is left out: a.jpg",
        "12 photos have no colour and are left out: " + ", ".join(f"{i}.png" for i in range(10)) + " and 2 more",
    ]
    assert left_out(PhotoSet(())) == []


def test_gray_photos_are_kept_where_they_are_wanted(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40), 90, np.uint8)).save(tmp_path / "gray.png")
    with pytest.raises(WorkError, match="1 without colour"):
        load_photos([tmp_path])
    assert [photo.name for photo in load_photos([tmp_path], gray_too=True).photos] == ["gray.png"]


def test_a_recoloured_photo_knows_where_its_new_colours_are() -> None:
    gray = tiny("a.png")
    rgb = np.full(gray.rgb.shape, 128, np.uint8)
    rgb[:, : rgb.shape[1] // 2] = (220, 40, 40)
    found = recoloured(gray, rgb)
    assert (found.name, found.source) == (gray.name, gray.source)
    assert found.chroma_map[:, :7].min() > 50
    assert found.chroma_map[:, 9:].max() < 5

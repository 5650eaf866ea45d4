"""Every kind of photo is read right, and everything else is one line that names it."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from icf_deploy.errors import PhotoError, UsageError
from icf_deploy.imaging import codec
from icf_deploy.imaging.codec import Photo, read_photo

Bytes = npt.NDArray[np.uint8]
# What a camera held in each of these ways writes, so that showing it upright gives the scene: EXIF 2.32, 4.6.4.
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.swapaxes(0, 1),
    6: lambda scene: scene.swapaxes(0, 1)[::-1],
    7: lambda scene: scene.swapaxes(0, 1)[::-1, ::-1],
    8: lambda scene: scene.swapaxes(0, 1)[:, ::-1],
}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def scene(photo: Callable[[str], Bytes]) -> Bytes:
    """No symmetry, not square."""
    return np.ascontiguousarray(photo("astronaut")[:60, :84])


def same(found: Photo, expected: Bytes) -> None:
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.flags.c_contiguous
    assert found.size == expected.shape[:2]


class TestSources:
    def test_a_path_a_string_bytes_an_open_file_an_image_and_an_array_are_the_same_photo(
        self, tmp_path: Path, scene: Bytes
    ) -> None:
        path = tmp_path / "scene.png"
        Image.fromarray(scene).save(path)
        with path.open("rb") as stream, Image.open(path) as image:
            for source in (path, str(path), path.read_bytes(), stream, image, Image.fromarray(scene), scene):
                same(read_photo(source), scene)

    def test_a_pipe_that_cannot_seek_is_read(self, scene: Bytes) -> None:
        class Pipe(io.BytesIO):
            def seekable(self) -> bool:
                return False

            def seek(self, *_: int) -> int:
                raise io.UnsupportedOperation("seek")

        same(read_photo(Pipe(encoded(Image.fromarray(scene), "PNG"))), scene)

    def test_the_content_counts_and_not_the_name(self, tmp_path: Path, scene: Bytes) -> None:
        path = tmp_path / "really_a_png.jpg"
        path.write_bytes(encoded(Image.fromarray(scene), "PNG"))
        same(read_photo(path), scene)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
    def test_lossless_formats_give_their_pixels(self, scene: Bytes, kind: str) -> None:
        same(read_photo(encoded(Image.fromarray(scene), kind)), scene)

    @pytest.mark.parametrize(
        ("kind", "options"),
        [("WEBP", {"lossless": True}), ("JPEG2000", {"irreversible": False}), ("TIFF", {"compression": "tiff_lzw"})],
    )
    def test_other_formats_with_lossless_options_do_too(self, scene: Bytes, kind: str, options: dict[str, Any]) -> None:
        same(read_photo(encoded(Image.fromarray(scene), kind, **options)), scene)

    def test_jpeg_gives_what_pillow_decodes(self, scene: Bytes) -> None:
        data = encoded(Image.fromarray(scene), "JPEG", quality=90)
        same(read_photo(data), np.asarray(Image.open(io.BytesIO(data))))

    def test_blocks_of_a_big_image_give_the_whole(self, scene: Bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(codec, "_BLOCK_PIXELS", 84 * 7)
        same(read_photo(Image.fromarray(scene)), scene)

    @pytest.mark.parametrize("source", [None, 3, ["a.jpg"], object()])
    def test_anything_else_is_a_usage_error(self, source: Any) -> None:
        with pytest.raises(UsageError, match=f"not {type(source).__name__}"):
            read_photo(source)

    def test_a_file_opened_as_text_is_a_usage_error_that_says_rb(self, tmp_path: Path) -> None:
        (tmp_path / "scene.txt").write_text("x" * 100)
        with (tmp_path / "scene.txt").open() as stream, pytest.raises(UsageError, match='"rb"'):
            read_photo(stream)  # type: ignore[arg-type]


class TestOrientation:
    @pytest.mark.parametrize("orientation", STORED)
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    def test_each_of_the_eight_is_shown_upright(self, scene: Bytes, orientation: int, kind: str) -> None:
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](scene)))
        exif = Image.Exif()
        exif[codec.ORIENTATION_TAG] = orientation
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(stored, kind, exif=exif, **options)
        same(read_photo(data), scene)
        same(read_photo(Image.open(io.BytesIO(data))), scene)

    @pytest.mark.parametrize("orientation", STORED)
    def test_a_jpeg_from_a_turned_camera_is_upright(self, scene: Bytes, orientation: int) -> None:
        exif = Image.Exif()
        exif[codec.ORIENTATION_TAG] = orientation
        data = encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation](scene))), "JPEG", quality=98, exif=exif)
        found = read_photo(data).pixels
        assert found.shape == scene.shape
        assert np.abs(found.astype(int) - scene).mean() < 6

    def test_transparency_turns_with_the_picture(self, scene: Bytes) -> None:
        alpha = np.arange(60 * 84, dtype=np.uint32).reshape(60, 84).astype(np.uint8)
        stored = STORED[6](np.dstack([scene, alpha]))
        exif = Image.Exif()
        exif[codec.ORIENTATION_TAG] = 6
        found = read_photo(encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif))
        same(found, scene)
        np.testing.assert_array_equal(found.alpha, alpha)

    @pytest.mark.parametrize("value", [0, 9, 77])
    def test_an_orientation_that_does_not_exist_is_no_orientation(self, scene: Bytes, value: int) -> None:
        exif = Image.Exif()
        exif[codec.ORIENTATION_TAG] = value
        same(read_photo(encoded(Image.fromarray(scene), "PNG", exif=exif)), scene)


class TestModes:
    def test_gray_stays_one_plane(self, scene: Bytes) -> None:
        gray = np.ascontiguousarray(scene[..., 0])
        same(read_photo(encoded(Image.fromarray(gray), "PNG")), gray)

    def test_one_bit_is_black_and_white(self, scene: Bytes) -> None:
        bits = scene[..., 0] > 128
        same(read_photo(encoded(Image.fromarray(bits), "PNG")), bits * np.uint8(255))

    def test_a_palette_gives_its_colours(self, scene: Bytes) -> None:
        image = Image.fromarray(scene).quantize(40)
        same(read_photo(encoded(image, "PNG")), np.asarray(image.convert("RGB")))

    def test_a_palette_with_transparency_gives_colours_and_alpha(self, scene: Bytes) -> None:
        image = Image.fromarray(scene).quantize(8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = read_photo(encoded(image, "PNG", transparency=bytes([0, 40, 255, 255, 90, 255, 255, 255])))
        same(found, np.asarray(image.convert("RGB")))
        np.testing.assert_array_equal(found.alpha, np.array([0, 40, 255, 255, 90, 255, 255, 255], np.uint8)[np.asarray(image)])

    def test_gray_with_alpha_gives_both(self, scene: Bytes) -> None:
        image = Image.fromarray(np.ascontiguousarray(scene[..., :2]), "LA")
        found = read_photo(encoded(image, "PNG"))
        same(found, scene[..., 0])
        np.testing.assert_array_equal(found.alpha, scene[..., 1])

    def test_rgba_gives_both(self, scene: Bytes) -> None:
        rgba = np.dstack([scene, scene[..., 1]])
        for source in (rgba, Image.fromarray(rgba), encoded(Image.fromarray(rgba), "PNG")):
            found = read_photo(source)
            same(found, scene)
            np.testing.assert_array_equal(found.alpha, scene[..., 1])

    def test_a_gray_png_may_name_one_transparent_value(self, scene: Bytes) -> None:
        gray = np.ascontiguousarray(scene[..., 0])
        key = int(gray[3, 4])
        found = read_photo(encoded(Image.fromarray(gray), "PNG", transparency=key))
        same(found, gray)
        np.testing.assert_array_equal(found.alpha, np.where(gray == key, 0, 255))

    def test_cmyk_is_converted_as_pillow_does(self, scene: Bytes) -> None:
        image = Image.fromarray(scene).convert("CMYK")
        data = encoded(image, "JPEG", quality=100, subsampling=0)
        found = read_photo(data)
        same(found, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        assert np.abs(found.pixels.astype(int) - scene).mean() < 3

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_16_bit_gray_is_scaled_and_rounded(self, kind: str) -> None:
        values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        expected = np.rint(values / 257).astype(np.uint8)
        same(read_photo(encoded(Image.fromarray(values), kind)), expected)
        same(read_photo(values), expected)
        same(read_photo(values.astype(">u2")), expected)

    def test_16_bit_gray_tiff_of_the_other_byte_order_is_read(self) -> None:
        values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
        tags = [
            (256, 3, 64),
            (257, 3, 64),
            (258, 3, 16),
            (259, 3, 1),
            (262, 3, 1),
            (273, 4, 8),
            (277, 3, 1),
            (278, 3, 64),
            (279, 4, 8192),
        ]
        entries = b"".join(
            struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
            for tag, kind, value in tags
        )
        data = b"MM\0*" + struct.pack(">I", 8 + 8192) + values.astype(">u2").tobytes()
        data += struct.pack(">H", len(tags)) + entries + struct.pack(">I", 0)
        same(read_photo(data), np.rint(values / 257).astype(np.uint8))

    def test_32_bit_integers_are_16_bit_values(self) -> None:
        values = np.arange(65536, dtype=np.int32).reshape(256, 256)
        same(read_photo(Image.fromarray(values)), np.rint(values / 257).astype(np.uint8))

    def test_a_deep_png_may_name_one_transparent_value(self) -> None:
        values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
        key = struct.pack(">H", 160)
        plain = encoded(Image.fromarray(values), "PNG")
        chunk = struct.pack(">I", 2) + b"tRNS" + key + struct.pack(">I", zlib.crc32(b"tRNS" + key))
        found = read_photo(plain[:33] + chunk + plain[33:])
        same(found, np.rint(values / 257).astype(np.uint8))
        np.testing.assert_array_equal(found.alpha, np.where(values == 160, 0, 255))

    def test_integers_beyond_16_bits_are_refused(self) -> None:
        with pytest.raises(PhotoError, match="integers from 0 to 70000: expected 0 to 65535"):
            read_photo(Image.fromarray(np.array([[0, 70000]], np.int32)))

    @pytest.mark.parametrize("scale", [1, 255])
    def test_floats_are_0_to_1_or_0_to_255(self, scale: int) -> None:
        values = (np.arange(256, dtype=np.float32) / 255 * scale).reshape(16, 16)
        expected = np.arange(256, dtype=np.uint8).reshape(16, 16)
        same(read_photo(Image.fromarray(values)), expected)
        same(read_photo(encoded(Image.fromarray(values), "TIFF")), expected)

    @pytest.mark.parametrize("wrong", [-0.5, 256.0, float("nan"), float("inf")])
    def test_other_floats_are_refused(self, wrong: float) -> None:
        with pytest.raises(PhotoError, match="expected 0 to 1, or 0 to 255"):
            read_photo(Image.fromarray(np.array([[0.5, wrong]], np.float32)))

    def test_of_an_animation_the_first_picture_counts(self, scene: Bytes) -> None:
        first, second = Image.fromarray(scene).quantize(16), Image.fromarray(scene[::-1].copy()).quantize(16)
        same(read_photo(encoded(first, "GIF", save_all=True, append_images=[second])), np.asarray(first.convert("RGB")))
        data = encoded(Image.fromarray(scene), "WEBP", save_all=True, append_images=[second.convert("RGB")], lossless=True)
        same(read_photo(data), scene)

    def test_of_a_lab_tiff_only_l_counts(self) -> None:
        lightness = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)
        image = Image.merge("LAB", [Image.fromarray(lightness), Image.new("L", (16, 16), 90), Image.new("L", (16, 16), 200)])
        found = read_photo(encoded(image, "TIFF")).pixels
        assert found.shape == (16, 16)
        from skimage.color import rgb2lab

        l_of_gray = rgb2lab(np.repeat(found[..., None], 3, axis=2))[..., 0]
        assert np.abs(l_of_gray - lightness / 2.55).max() < 0.25

    @pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "RGBa", "La", "PA"])
    def test_every_other_mode_of_pillow_becomes_gray_or_rgb(self, scene: Bytes, mode: str) -> None:
        base = Image.fromarray(scene)
        via = {"RGBa": "RGBA", "La": "LA", "PA": "P"}.get(mode)
        image = (base.convert(via) if via else base).convert(mode)
        found = read_photo(image)
        expected = np.asarray(
            image.convert("LA").convert("L") if mode == "La" else image.convert("RGB" if mode != "RGBa" else "RGBA")
        )
        same(found, np.ascontiguousarray(expected[..., :3]) if expected.ndim == 3 else expected)


class TestArrays:
    def test_bool_is_black_and_white(self) -> None:
        same(read_photo(np.array([[True, False]])), np.array([[255, 0]], np.uint8))

    def test_16_bit_colour_is_scaled(self) -> None:
        values = np.array([[[0, 128, 129], [257 * 7, 65535, 32768]]], np.uint16)
        same(read_photo(values), np.array([[[0, 0, 1], [7, 255, 128]]], np.uint8))

    def test_views_are_read_in_their_own_order(self, scene: Bytes) -> None:
        same(read_photo(scene[::-2, 5:, ::-1]), np.ascontiguousarray(scene[::-2, 5:, ::-1]))

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 4), np.float32),
            np.zeros((4, 4), np.int64),
            np.zeros((4, 4, 3), bool),
            np.zeros((4, 4, 2), np.uint8),
            np.zeros((4, 4, 5), np.uint8),
            np.zeros((1, 3, 4, 4), np.uint8),
            np.zeros(16, np.uint8),
        ],
    )
    def test_arrays_of_another_type_or_shape_are_usage_errors(self, array: npt.NDArray[Any]) -> None:
        with pytest.raises(UsageError, match=re.escape(f"found {array.dtype} {list(array.shape)}")):
            read_photo(array)

    @pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0, 3)])
    def test_arrays_without_pixels_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(PhotoError, match="no pixels"):
            read_photo(np.zeros(shape, np.uint8))


class TestBadFiles:
    def refused(self, path: Path, reason: str) -> None:
        with pytest.raises(PhotoError) as caught:
            read_photo(path)
        assert str(path) in str(caught.value)
        assert re.search(reason, str(caught.value))
        assert "\n" not in str(caught.value)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "nowhere.jpg", "no such file")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "is a folder")

    def test_a_file_where_a_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x")
        self.refused(tmp_path / "file" / "photo.jpg", "Not a directory|no such file")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty.jpg").touch()
        self.refused(tmp_path / "empty.jpg", "is empty")

    @pytest.mark.parametrize("size", [1, 5, 1000])
    def test_a_text_file_named_jpg(self, tmp_path: Path, size: int) -> None:
        (tmp_path / "letter.jpg").write_text(("Dear grandmother, " * 100)[:size])
        self.refused(tmp_path / "letter.jpg", "is not a photo: expected a JPEG, PNG, .* found one that begins with b'D")

    def test_a_heic_file_is_named_as_such(self, tmp_path: Path) -> None:
        (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
        self.refused(tmp_path / "phone.heic", "HEIC")

    def test_a_format_that_starts_another_program_is_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "script.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
        self.refused(tmp_path / "script.eps", "is not a photo")

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"])
    @pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
    def test_a_truncated_file_of_every_format(self, tmp_path: Path, scene: Bytes, kind: str, share: float) -> None:
        data = encoded(Image.fromarray(scene), kind)
        path = tmp_path / f"cut.{kind}"
        path.write_bytes(data[: max(4, int(len(data) * share))])
        self.refused(path, "is damaged|is not a .* file|is not a photo")

    def test_a_jpeg_without_its_last_kilobyte(self, tmp_path: Path, photo: Callable[[str], Bytes]) -> None:
        data = encoded(Image.fromarray(photo("coffee")), "JPEG")
        (tmp_path / "cut.jpg").write_bytes(data[:-1000])
        self.refused(tmp_path / "cut.jpg", r"cut\.jpg is damaged: .*truncated")

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "JPEG2000"])
    def test_bytes_changed_at_random_give_a_photo_or_a_photo_error(self, scene: Bytes, kind: str) -> None:
        data = encoded(Image.fromarray(scene), kind)
        rng = np.random.default_rng(7)
        refused = 0
        for _ in range(40):
            broken = bytearray(data)
            for place in rng.integers(8, len(data), 12):
                broken[place] = rng.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert read_photo(bytes(broken)).pixels.size
                except PhotoError as error:
                    refused += 1
                    assert "\n" not in str(error)
        assert refused or kind in ("JPEG", "TIFF")

    def test_bytes_and_open_files_have_a_name_in_the_message_too(self, tmp_path: Path) -> None:
        with pytest.raises(PhotoError, match="photo of 4 bytes"):
            read_photo(b"text")
        with pytest.raises(PhotoError, match="the open file is empty"):
            read_photo(io.BytesIO())
        (tmp_path / "letter.jpg").write_text("hello")
        with (tmp_path / "letter.jpg").open("rb") as stream, pytest.raises(PhotoError, match=r"letter\.jpg"):
            read_photo(stream)


def _png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many gray pixels and holds hardly any."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


class TestSize:
    def test_a_single_pixel_is_a_photo(self) -> None:
        same(read_photo(encoded(Image.new("RGB", (1, 1), (3, 2, 1)), "PNG")), np.array([[[3, 2, 1]]], np.uint8))

    def test_50_megapixels_are_read_without_a_warning(self, tmp_path: Path) -> None:
        path = tmp_path / "big.jpg"
        Image.new("L", (8660, 5774), 77).save(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_photo(path).pixels.shape == (5774, 8660)

    def test_more_than_pillow_allows_is_read_and_its_limit_stays_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_photo(encoded(Image.new("L", (50, 50)), "PNG")).size == (50, 50)
        assert Image.MAX_IMAGE_PIXELS == 100

    def test_a_bomb_is_refused_by_its_header_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.png"
        path.write_bytes(_png_header(60_000, 60_000))
        with pytest.raises(PhotoError, match=r"bomb\.png has 3600 megapixels \(60000 x 60000\); at most 300"):
            read_photo(path)

    def test_the_stated_maximum_holds_for_arrays_and_images_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(codec, "MAX_PIXELS", 99)
        for source in (np.zeros((10, 10), np.uint8), Image.new("L", (10, 10))):
            with pytest.raises(PhotoError, match="megapixels"):
                read_photo(source)

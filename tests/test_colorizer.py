"""Image in, image out, with an engine whose answer is known."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from skimage.color import rgb2lab

import icf_deploy
from icf_deploy.colorizer import KEPT_PIXELS, Colorizer
from icf_deploy.errors import ArtefactError, EngineUnavailableError, PhotoError, UsageError, WorkError
from icf_deploy.imaging.color import gray_of_l, lab_of_pixels
from icf_deploy.imaging.parity import original_input, original_output

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Answer = Callable[[Floats], Floats]
SIZE = (64, 96)
STRIDE = 2


class FakeSession:
    """An engine that computes `answer`, and remembers what it was asked."""

    formats: Mapping[str, int] = {"fp32": 1}

    def __init__(self, answer: Answer, size: tuple[int, int] = SIZE, stride: int = STRIDE) -> None:
        self.size = size
        self.output_size = (size[0] // stride, size[1] // stride)
        self.asked: list[Floats] = []
        self.closed = 0
        self._answer = answer

    def run(self, gray: Floats) -> Floats:
        self.asked.append(gray.copy())
        return self._answer(gray)

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def painted(gray: Floats) -> Floats:
    """ab that follows gray and place, and leaves the gamut here and there."""
    small = gray[:, :, ::STRIDE, ::STRIDE]
    slope = np.linspace(-60, 60, small.shape[3], dtype=np.float32)
    return np.concatenate([80 * small - 20 + 0 * slope, slope + 0 * small], axis=1)


def constant(a: float, b: float) -> Answer:
    def answer(gray: Floats) -> Floats:
        return np.broadcast_to(
            np.array([a, b], np.float32)[None, :, None, None], (gray.shape[0], 2, SIZE[0] // STRIDE, SIZE[1] // STRIDE)
        )

    return answer


def colorizer(answer: Answer = painted, **options: Any) -> Colorizer:
    return Colorizer(FakeSession(answer), size=SIZE, stride=STRIDE, **options)


def l_of(pixels: Bytes) -> npt.NDArray[np.float64]:
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return np.asarray(rgb2lab(rgb)[..., 0])


class TestPhotos:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 500), (300, 1), (33, 7), (64, 96), (700, 901)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_result_has_the_photos_size_and_l(
        self, photo: Callable[[str], Bytes], shape: tuple[int, int], channels: int
    ) -> None:
        pixels = cv2.resize(photo("coffee"), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
        pixels = pixels if channels == 3 else np.ascontiguousarray(pixels[..., 1])
        result = colorizer().colorize(pixels)
        assert (result.mode, result.size) == ("RGB", (shape[1], shape[0]))
        assert np.abs(l_of(np.asarray(result)) - l_of(pixels)).max() <= 0.5

    @pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "china"])
    def test_the_right_ab_brings_back_the_colours_of_the_photo(self, photo: Callable[[str], Bytes], name: str) -> None:
        pixels = photo(name)
        ab = [cv2.resize(plane, (48, 32), interpolation=cv2.INTER_AREA) for plane in lab_of_pixels(pixels)[1]]
        result = colorizer(lambda _: np.stack(ab)[None]).colorize_array(pixels)
        gray = colorizer(constant(0, 0)).colorize_array(pixels)

        def decibels(picture: Bytes) -> float:
            return float(10 * np.log10(255**2 / np.mean((picture.astype(float) - pixels) ** 2)))

        assert decibels(result) > decibels(gray) + 6

    def test_the_network_is_given_the_area_average_of_l(self, photo: Callable[[str], Bytes]) -> None:
        pixels = np.ascontiguousarray(photo("astronaut")[: 64 * 5, : 96 * 5])
        one = colorizer()
        one.colorize(pixels)
        averaged = l_of(pixels).reshape(64, 5, 96, 5).mean(axis=(1, 3))
        asked = one._session.asked[0]  # type: ignore[attr-defined]
        assert (asked.shape, asked.dtype) == ((1, 1, *SIZE), np.float32)
        np.testing.assert_allclose(asked[0, 0], gray_of_l(averaged.astype(np.float32)), atol=1e-4)

    def test_a_colour_photo_gives_what_its_black_and_white_print_gives(self, photo: Callable[[str], Bytes]) -> None:
        pixels = photo("astronaut")
        printed = np.rint(gray_of_l(lab_of_pixels(pixels)[0]) * 255).astype(np.uint8)
        one = colorizer()
        coloured, from_print = one.colorize_array(pixels), one.colorize_array(printed)
        asked = one._session.asked  # type: ignore[attr-defined]
        assert np.abs(asked[0] - asked[1]).max() < 0.5 / 255
        difference = np.abs(coloured.astype(int) - from_print)
        assert difference.mean() < 0.5
        assert difference.max() <= 10  # the print is rounded to 8 bits, which moves the edge of the gamut

    @pytest.mark.parametrize("field", [(60, 30), (-50, 40), (25, -65)])
    def test_channels_are_red_green_blue_in_arrays_and_images(self, field: tuple[float, float]) -> None:
        pixels = np.full((20, 30, 3), 120, np.uint8)
        array = colorizer(constant(*field)).colorize_array(pixels)
        found = rgb2lab(array)[10, 10]
        np.testing.assert_allclose(found[1:], field, atol=1)
        np.testing.assert_array_equal(np.asarray(colorizer(constant(*field)).colorize(pixels)), array)

    def test_red_and_blue_of_the_photo_are_not_exchanged(self) -> None:
        red, blue = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
        red[..., 0], blue[..., 2] = 255, 255
        gray_red, gray_blue = (colorizer(constant(0, 0)).colorize_array(pixels)[0, 0, 0] for pixels in (red, blue))
        assert (gray_red, gray_blue) == (127, 76)  # sRGB codes of L = 53.24 and 32.30

    @pytest.mark.parametrize("parity", [False, True])
    def test_transparency_is_kept(self, photo: Callable[[str], Bytes], parity: bool) -> None:
        pixels = photo("chelsea")[::2, ::2]
        alpha = np.arange(pixels.shape[0] * pixels.shape[1]).reshape(pixels.shape[:2]).astype(np.uint8)
        result = colorizer().colorize(np.dstack([pixels, alpha]), parity=parity)
        assert result.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(result)[..., 3], alpha)
        opaque = colorizer().colorize_array(np.ascontiguousarray(pixels), parity=parity)
        np.testing.assert_array_equal(np.asarray(result)[..., :3], opaque)

    @pytest.mark.parametrize("orientation", [1, 3, 6, 8])
    def test_the_result_is_upright(self, photo: Callable[[str], Bytes], orientation: int) -> None:
        pixels = photo("chelsea")[:120, :200]
        turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns))).save(buffer, "PNG", exif=exif)
        result = colorizer().colorize(buffer.getvalue())
        np.testing.assert_array_equal(np.asarray(result), colorizer().colorize_array(np.ascontiguousarray(pixels)))

    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_several_threads_on_one_photo_give_what_one_gives(self, photo: Callable[[str], Bytes], threads: int) -> None:
        pixels = np.tile(photo("rocket"), (2, 2, 1))
        expected = colorizer(threads=1).colorize_array(pixels).astype(int)
        difference = np.abs(colorizer(threads=threads).colorize_array(pixels) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-4

    def test_l_that_is_computed_twice_gives_what_kept_l_gives(
        self, photo: Callable[[str], Bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pixels = photo("china")
        kept = colorizer().colorize_array(pixels)
        monkeypatch.setattr("icf_deploy.colorizer.KEPT_PIXELS", 1)
        np.testing.assert_array_equal(colorizer().colorize_array(pixels), kept)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_50_megapixels_need_little_memory_beside_the_photo_and_its_result(self, channels: int) -> None:
        height, width = 5774, 8660
        assert height * width > max(50_000_000, KEPT_PIXELS) - 10_000
        column = (
            np.arange(height, dtype=np.uint8)[:, None] if channels == 1 else np.arange(height, dtype=np.uint8)[:, None, None]
        )
        pixels = np.broadcast_to(column, (height, width) if channels == 1 else (height, width, 3)).copy()
        one = colorizer(threads=2)
        one.colorize_array(pixels[:100])  # builds tables
        tracemalloc.start()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = one.colorize_array(pixels)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - result.nbytes < 64e6
        rows = np.array([0, 1, 2887, 5773])
        assert np.abs(l_of(result[rows][:, ::997]) - l_of(pixels[rows][:, ::997])).max() <= 0.5

    @pytest.mark.parametrize("content", [b"", b"Dear grandmother", b"\xff\xd8\xff\xe0broken"])
    def test_a_bad_photo_is_one_clear_line_and_no_work_for_the_engine(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "bad.jpg"
        path.write_bytes(content)
        one = colorizer()
        with pytest.raises(PhotoError, match=r"bad\.jpg"):
            one.colorize(path)
        assert not one._session.asked  # type: ignore[attr-defined]


class TestOptions:
    def test_parity_is_the_originals_way_with_this_engine(self, photo: Callable[[str], Bytes]) -> None:
        pixels = photo("coffee")
        lightness, gray = original_input(pixels, SIZE)
        expected = original_output(lightness, painted(gray[None, None])[0])
        np.testing.assert_array_equal(colorizer().colorize_array(pixels, parity=True), expected)
        assert np.abs(colorizer().colorize_array(pixels).astype(int) - expected).max() > 10

    def test_no_saturation_gives_gray_and_half_of_it_half_the_chroma(self) -> None:
        pixels = np.full((20, 30), 120, np.uint8)
        one = colorizer(constant(40, 20))
        np.testing.assert_array_equal(one.colorize_array(pixels, saturation=0), np.full((20, 30, 3), 120))
        np.testing.assert_allclose(rgb2lab(one.colorize_array(pixels, saturation=0.5))[5, 5, 1:], [20, 10], atol=0.6)
        np.testing.assert_allclose(rgb2lab(one.colorize_array(pixels))[5, 5, 1:], [40, 20], atol=0.6)

    @pytest.mark.parametrize("saturation", [-0.1, 10.5, float("nan"), float("inf"), "1", None])
    def test_a_saturation_that_makes_no_sense_is_a_usage_error(self, saturation: Any) -> None:
        with pytest.raises(UsageError, match="saturation is a number from 0 to 10"):
            colorizer().colorize(np.zeros((4, 4), np.uint8), saturation=saturation)


class TestPredictAb:
    def test_it_gives_the_engines_ab_for_every_gray_of_a_batch(self) -> None:
        gray = np.random.default_rng(0).random((3, 1, *SIZE), np.float32)
        found = colorizer().predict_ab(gray)
        assert (found.shape, found.dtype) == ((3, 2, 32, 48), np.float32)
        np.testing.assert_array_equal(found, painted(gray))

    @pytest.mark.parametrize(
        ("gray", "reason"),
        [
            (np.zeros((1, 1, *SIZE), np.float64), "float32 array, found float64"),
            (np.zeros((1, 1, *SIZE), np.uint8), "float32 array, found uint8"),
            ([[0.0]], "float32 array, found list"),
            (np.zeros(SIZE, np.float32), r"shape \[N, 1, 64, 96\], found \[64, 96\]"),
            (np.zeros((1, 3, *SIZE), np.float32), r"found \[1, 3, 64, 96\]"),
            (np.zeros((1, 1, 96, 64), np.float32), r"found \[1, 1, 96, 64\]"),
            (np.zeros((0, 1, *SIZE), np.float32), r"found \[0, 1, 64, 96\]"),
            (np.full((1, 1, *SIZE), 255, np.float32), "0..1, found 255 to 255: divide"),
            (np.full((1, 1, *SIZE), -0.1, np.float32), "found -0.1 to -0.1"),
            (np.full((1, 1, *SIZE), np.nan, np.float32), "found nan to nan"),
        ],
    )
    def test_wrong_input_is_a_usage_error_that_says_what_was_found(self, gray: Any, reason: str) -> None:
        one = colorizer()
        with pytest.raises(UsageError, match=reason):
            one.predict_ab(gray)
        assert not one._session.asked  # type: ignore[attr-defined]

    def test_a_strided_view_reaches_the_engine_as_plain_memory(self) -> None:
        given: list[bool] = []

        def answer(gray: Floats) -> Floats:
            given.append(gray.flags.c_contiguous)
            return painted(gray)

        gray = np.random.default_rng(0).random((2, 1, SIZE[0], SIZE[1] * 2), np.float32)[..., ::2]
        np.testing.assert_array_equal(colorizer(answer).predict_ab(gray), painted(gray))
        assert given == [True]


class TestEngines:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("parity", [False, True])
    def test_a_value_that_is_no_number_is_an_error_and_no_black_pixel(self, bad: float, parity: bool) -> None:
        def answer(gray: Floats) -> Floats:
            ab = painted(gray).copy()
            ab[0, 1, 3, 4] = bad
            return ab

        with pytest.raises(WorkError, match="engine fake gave values that are no numbers"):
            colorizer(answer, engine="fake").colorize(np.zeros((9, 9), np.uint8), parity=parity)

    def test_ab_of_another_shape_is_an_error(self) -> None:
        with pytest.raises(ArtefactError, match=r"\(1, 2, 31, 48\), expected \(1, 2, 32, 48\)"):
            colorizer(lambda gray: painted(gray)[:, :, 1:]).colorize(np.zeros((9, 9), np.uint8))

    @pytest.mark.parametrize(("size", "stride"), [((64, 64), 2), (SIZE, 1), (SIZE, 4)])
    def test_a_session_of_another_size_or_stride_is_refused(self, size: tuple[int, int], stride: int) -> None:
        with pytest.raises(ArtefactError, match="does not fit"):
            Colorizer(FakeSession(painted), size=size, stride=stride)

    def test_an_engine_that_fails_leaves_a_colorizer_that_works_and_closes(self) -> None:
        fail = [True]

        def answer(gray: Floats) -> Floats:
            if fail.pop():
                raise RuntimeError("out of memory")
            return painted(gray)

        one = colorizer(answer)
        with pytest.raises(RuntimeError, match="out of memory"):
            one.colorize(np.zeros((9, 9), np.uint8))
        fail.append(False)
        assert one.colorize(np.zeros((9, 9), np.uint8)).size == (9, 9)
        one.close()


class TestLife:
    def test_it_closes_its_session_once(self) -> None:
        session = FakeSession(painted)
        with Colorizer(session, size=SIZE, stride=STRIDE) as one:
            assert "open" in repr(one)
        one.close()
        assert session.closed == 1
        assert "closed" in repr(one)

    def test_it_closes_its_session_when_the_block_raises(self) -> None:
        session = FakeSession(painted)
        with pytest.raises(ZeroDivisionError), Colorizer(session, size=SIZE, stride=STRIDE):
            raise ZeroDivisionError
        assert session.closed == 1

    def test_a_session_that_it_does_not_own_stays_open(self) -> None:
        session = FakeSession(painted)
        with Colorizer(session, size=SIZE, stride=STRIDE, owns_session=False):
            pass
        assert session.closed == 0

    def test_after_close_every_use_says_that_it_is_closed(self) -> None:
        one = colorizer()
        one.close()
        for use in (
            lambda: one.colorize(np.zeros((4, 4), np.uint8)),
            lambda: one.colorize_array(np.zeros((4, 4), np.uint8), parity=True),
            lambda: one.predict_ab(np.zeros((1, 1, *SIZE), np.float32)),
        ):
            with pytest.raises(UsageError, match=r"closed: open another one with icf_deploy\.load"):
                use()

    def test_close_waits_for_a_call_that_is_under_way(self) -> None:
        entered, proceed = threading.Event(), threading.Event()
        session = FakeSession(painted)
        order: list[str] = []

        def answer(gray: Floats) -> Floats:
            entered.set()
            assert proceed.wait(30)
            order.append("computed")
            return painted(gray)

        session._answer = answer
        session.close = lambda: order.append("closed")  # type: ignore[method-assign]
        one = Colorizer(session, size=SIZE, stride=STRIDE)
        with ThreadPoolExecutor(2) as pool:
            result = pool.submit(one.colorize_array, np.full((5, 5), 99, np.uint8))
            assert entered.wait(30)
            closing = pool.submit(one.close)
            while not one._closed:
                time.sleep(0.001)
            with pytest.raises(UsageError, match="closed"):
                one.predict_ab(np.zeros((1, 1, *SIZE), np.float32))
            assert not closing.done()
            proceed.set()
            assert result.result(30).shape == (5, 5, 3)
            closing.result(30)
        assert order == ["computed", "closed"]

    def test_several_threads_give_what_one_gives(self, photo: Callable[[str], Bytes]) -> None:
        photos = [photo(name)[::2, ::2].copy() for name in ("astronaut", "coffee", "chelsea", "rocket")] * 4
        with colorizer(threads=1) as one, ThreadPoolExecutor(8) as pool:
            expected = [one.colorize_array(pixels) for pixels in photos]
            for found, right in zip(pool.map(one.colorize_array, photos), expected, strict=True):
                np.testing.assert_array_equal(found, right)


class TestPackage:
    def test_importing_it_loads_no_numpy_no_opencv_and_no_engine(self) -> None:
        heavy = ["numpy", "cv2", "PIL", "torch", "onnx", "onnxruntime", "openvino", "importlib.metadata"]
        code = f"import icf_deploy, sys; print([m for m in {heavy} if m in sys.modules]); icf_deploy.Colorizer, icf_deploy.load"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_using_it_loads_no_engine_before_one_is_opened(self) -> None:
        code = (
            "import icf_deploy, sys; icf_deploy.Colorizer; "
            "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'skimage') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_it_has_its_version_and_its_names(self) -> None:
        from importlib.metadata import version

        assert icf_deploy.__version__ == version("icf-deploy")
        assert icf_deploy.Colorizer is Colorizer
        assert set(icf_deploy.__all__) <= set(dir(icf_deploy))
        for name in icf_deploy.__all__:
            assert getattr(icf_deploy, name) is not None
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            icf_deploy.nonsense  # noqa: B018


def _tiny_bundle(path: Path) -> Path:
    """A bundle whose graph is a known formula: ab = (40 * gray - 10, 25 - 50 * gray), averaged over 2 x 2."""
    onnx = pytest.importorskip("onnx")
    from icf_deploy.bundle import manifest, store
    from icf_deploy.bundle.reference import ReferenceSet

    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weight = np.zeros((2, 1, 2, 2), np.float32)
    weight[0], weight[1] = 10, -12.5
    graph = helper.make_graph(
        [helper.make_node("Conv", ["gray", "w", "c"], ["ab"], strides=[2, 2])],
        "tiny",
        [helper.make_tensor_value_info("gray", onnx.TensorProto.FLOAT, ["N", 1, *SIZE])],
        [helper.make_tensor_value_info("ab", onnx.TensorProto.FLOAT, ["N", 2, 32, 48])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([-10, 25], np.float32), "c")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    gray = (np.arange(SIZE[0] * SIZE[1]) % 256).reshape(1, 1, *SIZE).astype(np.float32) / 255
    mean = gray.reshape(1, 1, 32, 2, 48, 2).mean(axis=(3, 5))
    ab = np.concatenate([40 * mean - 10, 25 - 50 * mean], axis=1).astype(np.float32)
    store.write_bundle(
        path,
        preset="icf-edge",
        stride=STRIDE,
        size=SIZE,
        graphs=[store.NewGraph("fp32", model.SerializeToString(), "fp32", SIZE)],
        reference=ReferenceSet(("ramp",), gray, ab),
        parity=manifest.Parity(max_abs_ab=0.0, bound=1e-3, photos=1),
        provenance=manifest.Provenance(
            icf_deploy="0", torch="0", onnx="0", python="0", created="2026-01-01T00:00:00Z", source=None, command="test"
        ),
    )
    return path


class TestLoad:
    def test_a_bundle_and_an_engine_become_a_colorizer(
        self, tmp_path: Path, photo: Callable[[str], Bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        pytest.importorskip("onnxruntime")
        path = _tiny_bundle(tmp_path / "tiny.icf")
        pixels = photo("coffee")
        with caplog.at_level(logging.INFO, "icf_deploy"), icf_deploy.load(path, "ort", threads=1) as one:
            assert (one.engine, one.size, one.stride) == ("ort", SIZE, STRIDE)
            assert one.bundle is not None
            assert (one.bundle.preset, one.bundle.path) == ("icf-edge", path)
            assert len(one.bundle.digest) == 64
            result = one.colorize(pixels)
            gray = np.full((2, 1, *SIZE), 0.5, np.float32)
            np.testing.assert_allclose(one.predict_ab(gray)[1, :, 4, 4], [10, 0], atol=1e-5)
        assert np.abs(l_of(np.asarray(result)) - l_of(pixels)).max() <= 0.5
        assert "engine ort" in caplog.text
        assert "as asked" in caplog.text

    def test_without_a_name_it_takes_the_first_that_is_preferred_and_logs_why(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        pytest.importorskip("onnxruntime")
        with caplog.at_level(logging.INFO, "icf_deploy"), icf_deploy.load(str(_tiny_bundle(tmp_path / "tiny.icf"))) as one:
            assert one.engine == "ort"
        assert "the first that can run it of ort" in caplog.text

    def test_without_any_engine_it_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from icf_deploy.runtimes import registry

        path = _tiny_bundle(tmp_path / "tiny.icf")
        monkeypatch.setattr(registry, "preferred", tuple)
        with pytest.raises(EngineUnavailableError, match=r"pip install 'icf-deploy\[cpu\]'"):
            icf_deploy.load(path)

    def test_a_named_engine_never_becomes_another_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = _tiny_bundle(tmp_path / "tiny.icf")
        with pytest.raises(EngineUnavailableError, match="checkpoint"):
            icf_deploy.load(path, "pytorch")
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(EngineUnavailableError, match=r"icf-deploy\[cpu\]"):
            icf_deploy.load(path, "ort")

    def test_an_unknown_engine_is_a_usage_error_that_lists_what_there_is(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"ort.*pytorch"):
            icf_deploy.load(_tiny_bundle(tmp_path / "tiny.icf"), "quantum")

    def test_a_bundle_that_is_not_there_or_was_altered_is_an_integrity_error(self, tmp_path: Path) -> None:
        with pytest.raises(icf_deploy.IntegrityError, match=r"nowhere\.icf"):
            icf_deploy.load(tmp_path / "nowhere.icf")
        path = _tiny_bundle(tmp_path / "tiny.icf")
        graph = next(path.rglob("*.onnx"))
        graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
        with pytest.raises(icf_deploy.IntegrityError, match=r"\.onnx"):
            icf_deploy.load(path, "ort")

    def test_another_bundle_than_the_expected_one_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(icf_deploy.IntegrityError, match="digest"):
            icf_deploy.load(_tiny_bundle(tmp_path / "tiny.icf"), "ort", expect_digest="0" * 64)

    def test_a_session_is_closed_where_no_colorizer_comes_of_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from icf_deploy.runtimes import registry

        session = FakeSession(painted)
        session.output_size = (32, 47)
        monkeypatch.setattr(registry, "open_session", lambda *_, **__: session)
        with pytest.raises(ArtefactError):
            icf_deploy.load(_tiny_bundle(tmp_path / "tiny.icf"), "ort")
        assert session.closed == 1

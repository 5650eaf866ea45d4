"""Ranges from streamed photos: what other tools find, in memory that does not grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from icf_deploy.errors import UsageError
from icf_deploy.export.precision.calibration import Calibration, ranges
from icf_deploy.export.precision.clipping import PERCENTILE, saturation
from icf_deploy.export.precision.observers import BINS, Observer
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.ranges import Activations

WIDE = np.random.default_rng(5).standard_t(3, 200_000).astype(np.float32)  # a distribution with outliers: a known answer


def _observer(x: np.ndarray, pieces: int = 10) -> Observer:
    observer = Observer()
    for piece in np.array_split(x, pieces):
        observer.add(piece)
    return observer


def _error(x: np.ndarray, top: float) -> float:
    scale = top / 127
    return float(((np.clip(np.rint(x / scale), -127, 127) * scale - x) ** 2).mean())


def test_minmax_finds_what_onnx_runtimes_calibrator_finds(
    model: onnx.ModelProto, photos: CalibrationPhotos, calibration: Calibration, tmp_path: Path
) -> None:
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(photos.gray)

        def get_next(self) -> dict[str, np.ndarray] | None:
            photo = next(self.left, None)
            return None if photo is None else {"gray": photo[None]}

    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    theirs = create_calibrator(
        str(path), calibrate_method=CalibrationMethod.MinMax, augmented_model_path=str(tmp_path / "a.onnx")
    )
    theirs.collect_data(Reader())
    ranges = theirs.compute_data().data
    names = {node.output[0]: node.name for node in model.graph.node}
    compared = 0
    for key, top in calibration.saturation.items():
        name = "gray" if key == "gray" else next(n for n in names if _key_of(model, n) == key)
        low, high = (float(np.asarray(end).max()) for end in ranges[name].range_value)
        assert top == pytest.approx(max(abs(low), abs(high)), rel=1e-5)
        compared += 1
    assert compared == len(calibration.saturation) == 5


@pytest.mark.parametrize(("method", "agree"), [("percentile", 0.03), ("entropy", 0.2)])
def test_histograms_find_nearly_what_onnx_runtimes_find(
    method: str, agree: float, model: onnx.ModelProto, photos: CalibrationPhotos
) -> None:
    """On the same values. Entropy is compared where its optimum is no plateau: on distributions with a tail."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    random = np.random.default_rng(5)
    pieces = {"student": np.array_split(WIDE, 10)}
    pieces |= {
        name: [getattr(random, name)(size=20_000).astype(np.float32) for _ in range(10)] for name in ("normal", "laplace")
    }
    if method == "percentile":
        names = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Relu", "Clip")]
        seen = [dict(Activations(model, names).of(photo[None])) for photo in photos.gray]
        pieces |= {name: [one[name] for one in seen] for name in names}
    for name, values in pieces.items():
        mine = Observer()
        theirs = HistogramCollector(
            method=method, symmetric=True, num_bins=BINS, num_quantized_bins=128, percentile=100 * PERCENTILE, scenario="same"
        )
        for value in values:
            mine.add(value)
            theirs.collect({name: [value]})
        top = max(abs(float(end)) for end in theirs.compute_collection_result()[name][:2])
        assert saturation(mine, method) == pytest.approx(top, rel=agree), name


def _key_of(model: onnx.ModelProto, name: str) -> str:
    import onnx_ir as ir

    from icf_deploy.export.precision.calibration import tensor_keys

    return {value.name: key for value, key in tensor_keys(ir.from_proto(model).graph).items()}.get(name, "")


def test_ranges_alone_are_those_of_a_whole_calibration(
    model: onnx.ModelProto, photos: CalibrationPhotos, calibration: Calibration
) -> None:
    assert ranges(model, photos, method="minmax") == calibration.saturation


def test_a_histogram_of_many_pieces_is_that_of_the_whole() -> None:
    parts, whole = _observer(WIDE, 50).histogram, _observer(WIDE, 1).histogram
    assert parts.top == whole.top
    assert np.abs(parts.counts.cumsum() - whole.counts.cumsum()).max() <= 50  # values that sat on the edge of a finer bin
    assert len(parts.counts) == BINS and parts.counts.sum() == len(WIDE)


def test_the_percentile_is_that_of_the_values() -> None:
    observer = _observer(WIDE)
    exact = np.quantile(np.abs(WIDE), PERCENTILE)
    assert abs(saturation(observer, "percentile") - exact) <= 2 * observer.histogram.width


def test_least_squares_is_as_good_as_trying_every_magnitude() -> None:
    found = saturation(_observer(WIDE), "mse")
    best = min(_error(WIDE, top) for top in np.linspace(0.5, np.abs(WIDE).max(), 400))
    assert _error(WIDE, found) <= 1.02 * best
    assert _error(WIDE, found) < 0.8 * _error(WIDE, float(np.abs(WIDE).max()))  # the outliers are worth clipping


def test_entropy_clips_outliers_and_keeps_a_uniform_range() -> None:
    assert saturation(_observer(WIDE), "entropy") < 0.8 * np.abs(WIDE).max()
    uniform = np.linspace(-3, 3, 100_000, dtype=np.float32)
    assert saturation(_observer(uniform), "entropy") == pytest.approx(3, rel=0.02)


def test_a_tensor_of_zeros_has_a_scale_and_a_nan_has_none() -> None:
    assert saturation(_observer(np.zeros(100, np.float32)), "mse") > 0
    broken = _observer(np.array([1, np.nan], np.float32), 1)
    assert broken.largest == np.inf


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no calibration method 'max'.*minmax, percentile, mse, entropy"):
        saturation(_observer(WIDE), "max")

"""A changed graph run from the first block that differs gives what the whole graph gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime import InferenceSession

from icf_deploy.errors import ArtefactError
from icf_deploy.export.precision import tail
from icf_deploy.export.precision.apply import apply_recipe
from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.probe import DriftProbe
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.tail import Tails, entries, tail_of

SIZE = (32, 32)


def _recipe(model: onnx.ModelProto, *narrow: str) -> Recipe:
    return Recipe("small", SIZE, network_digest(model), "fp32", nodes=dict.fromkeys(narrow, "int8"))


def _whole(model: onnx.ModelProto, photos: CalibrationPhotos) -> np.ndarray:
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"gray": photo[None]})[0] for photo in photos.gray])


@pytest.mark.parametrize("key", ["image_decoder.bottleneck/Conv", "color_decoder.1/MatMul", "fusion/Conv"])
def test_a_tail_gives_what_the_whole_graph_gives(
    key: str, model: onnx.ModelProto, calibration: Calibration, photos: CalibrationPhotos
) -> None:
    applied = apply_recipe(model, _recipe(model, key), calibration)
    found = Tails(model, photos.gray).run(applied)
    assert found is not None
    expected = _whole(applied.model, photos)
    assert np.abs(expected - _whole(model, photos)).max() > 1e-3  # the recipe changes something
    # A value on the boundary between two codes may go either way, and moves one pixel by less than a step.
    assert np.abs(found - expected).mean() < 1e-5


def test_what_is_cut_off_is_not_computed_again(model: onnx.ModelProto) -> None:
    entry = entries(ir.from_proto(model).graph)[-1]
    rest = tail_of(model, {name: np.zeros((1, 8, 32, 32), np.float32) for name in entry.names})
    left = [node.op_type for node in rest.graph.node]
    assert left.count("Conv") == 1 and "MatMul" not in left  # the fusion alone
    assert len(rest.graph.initializer) < len(model.graph.initializer)


def test_a_recipe_that_begins_with_the_graph_or_changes_nothing_is_run_whole(
    model: onnx.ModelProto, calibration: Calibration, photos: CalibrationPhotos
) -> None:
    tails = Tails(model, photos.gray[:2])
    assert tails.run(apply_recipe(model, _recipe(model, "backbone.stem/Conv"), calibration)) is None
    assert tails.run(apply_recipe(model, _recipe(model), calibration)) is None


def test_what_does_not_fit_is_not_kept_and_the_later_blocks_are_kept_longest(
    model: onnx.ModelProto, calibration: Calibration, photos: CalibrationPhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    fusion = apply_recipe(model, _recipe(model, "fusion/Conv"), calibration)
    early = apply_recipe(model, _recipe(model, "image_decoder.bottleneck/Conv"), calibration)
    one = 2 * 8 * 32 * 32 * 4  # bytes of eight channels on two photos
    monkeypatch.setattr(tail, "KEPT_BYTES", one)
    tails = Tails(model, photos.gray[:2])
    assert tails.run(fusion) is not None and tails.run(early) is None
    monkeypatch.setattr(tail, "KEPT_BYTES", one - 1)
    assert Tails(model, photos.gray[:2]).run(fusion) is None


def test_a_probe_measures_the_same_drift_from_a_tail(
    model: onnx.ModelProto, calibration: Calibration, photos: CalibrationPhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = DriftProbe(model, calibration, photos, stride=1)
    recipe = _recipe(model, "color_decoder.1/MatMul")
    found, _ = probe.measure(recipe)
    monkeypatch.setattr(Tails, "run", lambda *_: None)
    whole, _ = probe.measure(recipe)
    assert found.value("de2000_p95") == pytest.approx(whole.value("de2000_p95"), rel=1e-3) != 0


def test_a_probe_refuses_a_recipe_for_another_network(
    model: onnx.ModelProto, calibration: Calibration, photos: CalibrationPhotos
) -> None:
    probe = DriftProbe(model, calibration, photos, stride=1)
    with pytest.raises(ArtefactError, match="recipe is for another network"):
        probe.measure(Recipe("small", SIZE, "b" * 64, "int8"))

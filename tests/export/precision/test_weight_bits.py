"""Weights of 7 bits: products that no 16-bit sum of two saturates, recorded in the recipe, and not much further off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from icf_deploy.errors import ArtefactError, UsageError
from icf_deploy.export.precision.apply import apply_recipe
from icf_deploy.export.precision.calibrating import Calibrating
from icf_deploy.export.precision.calibration import Calibration, calibrate
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.narrow import narrow
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.probe import DriftProbe
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.scale_cache import calibrated
from icf_deploy.export.precision.trained import TrainedInt8

SIZE = (32, 32)
LARGEST_INT16 = 2**15 - 1
LARGEST_UINT8 = 255  # of an activation, as processors without VNNI multiply it


@pytest.fixture(scope="module")
def seven(model: onnx.ModelProto, photos: CalibrationPhotos) -> Calibration:
    return calibrate(model, photos, method="minmax", weight_bits=7)


def _codes(model: onnx.ModelProto) -> list[np.ndarray]:
    """The weights of an int8 graph, as it stores them."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = [node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    return [numpy_helper.to_array(constants[name]).astype(np.int64) for name in weights]


def test_no_pair_of_products_leaves_16_bits_with_7_and_some_do_with_8(
    model: onnx.ModelProto, calibration: Calibration, seven: Calibration
) -> None:
    recipe = Recipe("small", SIZE, network_digest(model), "int8")
    narrow_codes = _codes(apply_recipe(model, replace(recipe, weight_bits=7), seven).model)
    assert len(narrow_codes) == len(seven.weights) > 0
    for codes in narrow_codes:
        assert codes.min() >= -63 and codes.max() <= 63 and np.abs(codes).max() == 63
        assert 2 * LARGEST_UINT8 * np.abs(codes).max() <= LARGEST_INT16
    for codes in _codes(apply_recipe(model, recipe, calibration).model):
        assert 2 * LARGEST_UINT8 * np.abs(codes).max() > LARGEST_INT16


def test_steps_of_7_bits_are_twice_as_wide_and_colours_drift_little_further(
    model: onnx.ModelProto, calibration: Calibration, seven: Calibration, photos: CalibrationPhotos
) -> None:
    for key, weight in seven.weights.items():
        assert np.allclose(weight.scales / calibration.weights[key].scales, 127 / 63)
    recipe = Recipe("small", SIZE, network_digest(model), "int8")
    drifts = {}
    for bits, found in ((8, calibration), (7, seven)):
        table, _ = DriftProbe(model, found, photos, stride=1).measure(replace(recipe, weight_bits=bits))
        drifts[bits] = table.value("de2000_mean")
    assert 0 < drifts[7] < 1.5 * drifts[8]  # activations, which are rounded as before, make most of it


def test_the_recipe_says_7_bits_survives_its_file_and_asks_for_a_calibration_of_as_many(
    model: onnx.ModelProto, calibration: Calibration, seven: Calibration
) -> None:
    recipe = Recipe("small", SIZE, network_digest(model), "int8", weight_bits=7)
    assert json.loads(recipe.to_json())["weight_bits"] == 7
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert b"weight_bits" not in replace(recipe, weight_bits=8).to_json()
    with pytest.raises(ArtefactError, match="int8 weights of 7 bits, and this calibration has 8"):
        apply_recipe(model, recipe, calibration)
    with pytest.raises(ArtefactError, match="int8 weights of 8 bits, and this calibration has 7"):
        apply_recipe(model, replace(recipe, weight_bits=8), seven)


def test_a_recipe_in_a_file_brings_its_bits_and_an_option_overrules_them(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(tmp_path / "cache"))
    recipe = Recipe("small", SIZE, network_digest(model), "int8", weight_bits=7)
    (tmp_path / "recipe.json").write_bytes(recipe.to_json())
    calibrating = Calibrating(model, SIZE)
    for asked, bits in ((None, 7), (8, 8)):
        found = narrow(
            model, tmp_path / "recipe.json", preset="small", size=SIZE, stride=1, calibrating=calibrating, weight_bits=asked
        )
        assert max(np.abs(codes).max() for codes in _codes(found.applied.model)) == 2 ** (bits - 1) - 1
        assert found.facts["recipe"] == replace(recipe, weight_bits=bits).document()


def test_calibrations_of_7_and_8_bits_are_kept_apart(model: onnx.ModelProto, photos: CalibrationPhotos, tmp_path: Path) -> None:
    for bits in (8, 7, 8, 7):
        found = calibrated(model, photos, method="minmax", weight_bits=bits, folder=tmp_path)
        assert found.weight_bits == bits
        assert max(np.abs(weight.codes).max() for weight in found.weights.values()) == 2 ** (bits - 1) - 1
    assert len(list(tmp_path.glob("*.entry"))) == 2


def test_trained_weights_have_8_bits_and_7_are_refused(model: onnx.ModelProto) -> None:
    trained = TrainedInt8(SIZE, {}, {})
    with pytest.raises(UsageError, match="holds int8 weights of 8 bits, made by train --qat"):
        Calibrating(model, SIZE, trained=trained).calibration(7)

"""The int8 recipe: culprits are named, what drifts most becomes wide first, and nothing more than the target needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from icf_deploy.errors import ArtefactError, BudgetError, IntegrityError
from icf_deploy.export.graph import to_onnx
from icf_deploy.export.precision import int8
from icf_deploy.export.precision.apply import AppliedGraph
from icf_deploy.export.precision.blocks import BLOCKS, block_of
from icf_deploy.export.precision.calibration import Calibration, calibrate
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.int8 import NOISE_LIMIT, Int8Choice, choose_int8
from icf_deploy.export.precision.narrow import narrow
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.probe import DriftProbe
from icf_deploy.export.precision.recipe import Recipe

SIZE = (32, 32)
DIGEST = "a" * 64
PRODUCTS = ("backbone.stem", "image_decoder.bottleneck", "color_decoder.0", "color_decoder.1", "fusion")  # of conftest.Small
KEYS = ("backbone.stem.0/Conv", "backbone.blocks.0.layers.0/Conv", "backbone.blocks.4.layers.0/Conv", "fusion.expand/MatMul")


@dataclass
class _Table:
    drift: float

    def value(self, metric: str) -> float:
        assert metric == "de2000_p95"
        return self.drift


class _Probe:
    """Drift of independent products: their squares add."""

    def __init__(self, drifts: Mapping[str, float]) -> None:
        self.drifts, self.asked = drifts, 0

    def measure(self, recipe: Recipe) -> tuple[_Table, AppliedGraph]:
        self.asked += 1
        total = sum(drift**2 for key, drift in self.drifts.items() if recipe.format_of(key) == "int8")
        return _Table(total**0.5), AppliedGraph(onnx.ModelProto(), {}, {})


def _choose(drifts: Mapping[str, float], noise: Mapping[str, float] | None = None) -> tuple[Recipe, int]:
    choice, asked, _ = _chosen(drifts, noise)
    return choice.recipe, asked


def _chosen(drifts: Mapping[str, float], noise: Mapping[str, float] | None = None) -> tuple[Int8Choice, int, list[str]]:
    """The choice, how many recipes were measured for it, and what was said."""
    found = dict.fromkeys(drifts, 0.01) | dict(noise or {})
    calibration = Calibration(DIGEST, "mse", "", {}, {}, dict.fromkeys(drifts), found)  # type: ignore[arg-type]
    probe, said = _Probe(drifts), list[str]()
    base = Recipe("icf-edge", SIZE, DIGEST, "fp32")
    choice = choose_int8(base, calibration, cast("DriftProbe", probe), target=1.0, say=said.append)
    assert choice.drift <= 1
    return choice, probe.asked, said


def test_int8_everywhere_where_that_keeps_the_target() -> None:
    recipe, asked = _choose(dict.fromkeys(KEYS, 0.2))
    assert recipe.default == "int8" and not recipe.nodes and asked == 1


def test_the_worst_products_become_wide_and_no_more_of_them_than_needed() -> None:
    recipe, _ = _choose(dict(zip(KEYS, (2.0, 0.5, 1.5, 0.3), strict=True)))
    assert dict(recipe.nodes) == {KEYS[0]: "fp32", KEYS[2]: "fp32"}
    assert recipe.reasons[KEYS[0]] == "alone in int8 it drifts by de2000_p95 2.00"


def test_a_product_that_int8_drowns_in_noise_is_wide_though_the_drift_is_small() -> None:
    recipe, _ = _choose(dict.fromkeys(KEYS, 0.1), {KEYS[1]: 2 * NOISE_LIMIT})
    assert dict(recipe.nodes) == {KEYS[1]: "fp32"}
    assert "int8 noise is 0.6 of its signal" in recipe.reasons[KEYS[1]]


def _many(count: int, **drifts: float) -> dict[str, float]:
    """Products of one block, in the order of the graph, which drift by 0.01 but those named: p3=2.0."""
    quiet = {f"color_decoder.{number}/MatMul": 0.01 for number in range(count)}
    return quiet | {f"color_decoder.{name[1:]}/MatMul": drift for name, drift in drifts.items()}


def test_few_culprits_among_many_products_are_found_with_few_measurements() -> None:
    choice, asked, said = _chosen(_many(100, p97=2.0, p98=1.5, p12=3.0))
    assert dict(choice.recipe.nodes) == {f"color_decoder.{number}/MatMul": "fp32" for number in (12, 97, 98)}
    assert choice.recipe.reasons["color_decoder.12/MatMul"] == "alone in int8 it drifts by de2000_p95 3.00"
    assert asked < 50
    assert said[0] == "100 products in int8: de2000_p95 3.91."
    assert "color_decoder.75/MatMul to color_decoder.99/MatMul alone in int8: de2000_p95 2.50." in said
    assert len(said) == asked


def test_where_everything_drifts_measuring_ends_and_whole_parts_become_wide() -> None:
    drifts = dict.fromkeys(_many(400), 0.6) | {"fusion/MatMul": 0.1}
    choice, asked, said = _chosen(drifts)
    assert asked < 2 * int8.MOST_PROBES  # and not a product at a time
    assert "fusion/MatMul" not in choice.recipe.nodes
    assert any("parts are measured: what drifts still is left in fp32 as it is" in line for line in said)
    groups = {reason for reason in choice.recipe.reasons.values() if " to " in reason}
    assert groups and all("alone in int8 drift by de2000_p95" in reason for reason in groups)


class Uneven(nn.Module):
    """One layer whose channels differ in range by 10,000, and one that undoes it: float32 does not notice, int8 does."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.image_decoder = nn.Conv2d(8, 8, 1)
        self.fusion = nn.Conv2d(8, 2, 1)
        factor = torch.logspace(0, 4, 8)
        with torch.no_grad():
            self.backbone[2].weight.mul_(factor[:, None, None, None])
            self.backbone[2].bias.mul_(factor)
            self.image_decoder.weight.div_(factor[:, None, None])

    def forward(self, gray: Tensor) -> Tensor:
        ab: Tensor = 30 * self.fusion(torch.relu(self.image_decoder(self.backbone(gray))))
        return ab


def test_a_layer_whose_channel_ranges_differ_by_10000_is_named_and_kept_wide(photos: CalibrationPhotos) -> None:
    torch.manual_seed(3)
    graph = to_onnx(Uneven().eval(), (torch.zeros(2, 1, *SIZE),))
    calibration = calibrate(graph, photos)
    assert calibration.noise["image_decoder/Conv"] > NOISE_LIMIT
    assert max(noise for key, noise in calibration.noise.items() if key != "image_decoder/Conv") < NOISE_LIMIT
    probe = DriftProbe(graph, calibration, photos, stride=1)
    base = Recipe("small", SIZE, network_digest(graph), "fp32")
    choice = choose_int8(base, calibration, probe)
    assert choice.recipe.nodes["image_decoder/Conv"] == "fp32" and "noise" in choice.recipe.reasons["image_decoder/Conv"]
    careless, _ = probe.measure(Recipe("small", SIZE, network_digest(graph), "int8"))
    assert careless.value("de2000_p95") > 3 * choice.drift


def test_narrow_gives_a_graph_its_recipe_and_says_what_it_did(
    model: onnx.ModelProto, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(tmp_path))
    lines: list[str] = []
    found = narrow(model, "int8", preset="small", size=SIZE, stride=1, say=lines.append)
    assert any(line.startswith(f"{len(PRODUCTS)} products in int8: de2000_p95") for line in lines)
    assert lines[0] == "calibrating on the packaged photos: 16 views"
    assert found.applied.label == "int8+fp32"
    assert Recipe.from_json(found.recipe.to_json()) == found.recipe
    assert found.facts["recipe"] == found.recipe.document()


def test_a_recipe_reads_what_it_wrote_and_refuses_what_it_did_not() -> None:
    recipe = Recipe("icf-edge", (256, 256), DIGEST, "int8", {"fusion": "bf16"}, {KEYS[0]: "fp32"}, {KEYS[0]: "because"})
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert [recipe.format_of(key) for key in (KEYS[0], KEYS[1], KEYS[3])] == ["fp32", "int8", "bf16"]
    text = recipe.to_json().decode()
    with pytest.raises(ArtefactError, match="recipe format 2, and this icf-deploy reads up to 1"):
        Recipe.from_json(text.replace('"format": 1', '"format": 2').encode())
    with pytest.raises(IntegrityError, match="there is no block 'fusions'"):
        Recipe.from_json(text.replace('"fusion"', '"fusions"').encode())
    with pytest.raises(IntegrityError, match="fp32, fp16, bf16, int8, fp8"):
        Recipe.from_json(text.replace('"int8"', '"int4"').encode())
    with pytest.raises(IntegrityError, match="weight_bits: 6: choose one of 8, 7"):
        Recipe.from_json(text.replace('"default"', '"weight_bits": 6, "default"').encode())


def test_an_impossible_target_is_a_missed_budget_that_names_the_worst_block() -> None:
    class Stuck(_Probe):
        def measure(self, recipe: Recipe) -> tuple[_Table, AppliedGraph]:
            table, applied = super().measure(recipe)
            return _Table(table.drift + 2), applied

    calibration = Calibration(DIGEST, "mse", "", {}, {}, dict.fromkeys(KEYS), dict.fromkeys(KEYS, 0.0))  # type: ignore[arg-type]
    probe = Stuck(dict(zip(KEYS, (2.0, 0.5, 1.5, 0.3), strict=True)))
    with pytest.raises(BudgetError, match=r"misses de2000_p95 1.*worst blocks: backbone\.0"):
        choose_int8(Recipe("icf-edge", SIZE, DIGEST, "fp32"), calibration, cast("DriftProbe", probe))


@pytest.mark.parametrize("preset", ["icf-edge", "ddcolor-tiny"])
def test_the_blocks_of_both_families_are_all_there_and_hold_every_module(preset: str) -> None:
    from icf_deploy.network.presets import build

    with torch.device("meta"):
        network = build(preset)
    paths = [name for name, module in network.named_modules() if name and not list(module.children())]
    assert {block_of(f"{path}/Conv") for path in paths} == set(BLOCKS)
    with pytest.raises(ArtefactError, match="no block of a known network"):
        block_of("head/Conv")
    assert np.unique(BLOCKS).size == len(BLOCKS) == 8

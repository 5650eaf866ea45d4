"""Checkpoints are loaded whole or not at all, and never run code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from icf_deploy.errors import CheckpointError, WorkError
from icf_deploy.network.checkpoint import load_checkpoint, save_checkpoint
from icf_deploy.network.presets import DDColorConfig, build, build_ddcolor

SMALL = DDColorConfig((1, 1, 2, 1), (16, 32, 64, 96), channels=64, queries=12, blocks=3, color_channels=64, hidden=96, heads=2)
PREFIXES = (
    ("backbone.", "encoder.arch."),
    ("image_decoder.layers.", "decoder.layers."),
    ("color_decoder.", "decoder.color_decoder."),
    ("fusion.last_shuf.", "decoder.last_shuf."),
    ("fusion.refine_net.", "refine_net."),
)
State = dict[str, Tensor]


@pytest.fixture
def official() -> State:
    """A small network's tensors under the official names, with nothing left at its initial value."""
    torch.manual_seed(3)
    state: State = {}
    for key, value in build_ddcolor(SMALL).state_dict().items():
        if key.endswith((".mean", ".std")):
            state[key.rsplit(".", 1)[1]] = value
            continue
        ours, theirs = next(pair for pair in PREFIXES if key.startswith(pair[0]))
        noisy = value + 0.05 * torch.rand_like(value) if value.is_floating_point() else value
        state[theirs + key.removeprefix(ours)] = noisy
    return state


def _ab(source: Any) -> Tensor:
    gray = torch.linspace(0, 1, 2 * 64 * 32).reshape(2, 1, 64, 32)
    with torch.inference_mode():
        ab: Tensor = load_checkpoint(source)(gray)
    return ab


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "params": lambda s: {"params": s},
    "params_ema": lambda s: {"params_ema": s, "params": {k: torch.zeros_like(v) for k, v in s.items()}},
    "state_dict": lambda s: {"state_dict": s},
    "bare": lambda s: s,
    "data parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "with the old classifier": lambda s: {
        **s,
        "encoder.arch.head_cls.weight": torch.zeros(4, 96),
        "encoder.arch.head_cls.bias": torch.zeros(4),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_gives_the_same_network(layout: str, official: State, tmp_path: Path) -> None:
    torch.save(official, tmp_path / "bare.pth")
    torch.save(LAYOUTS[layout](official), tmp_path / "file.pth")
    assert torch.equal(_ab(tmp_path / "file.pth"), _ab(tmp_path / "bare.pth"))


def test_hub_safetensors_with_config_json_loads(official: State, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in official.items()}, tmp_path / "model.safetensors")
    torch.save(official, tmp_path / "bare.pth")
    (tmp_path / "config.json").write_text(json.dumps({"num_queries": 12, "dec_layers": 3, "last_norm": "Spectral"}))
    assert torch.equal(_ab(tmp_path / "model.safetensors"), _ab(tmp_path / "bare.pth"))
    (tmp_path / "config.json").write_text(json.dumps({"num_queries": 100}))
    with pytest.raises(CheckpointError, match=r"num_queries = 100.*12"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_the_official_tiny_file_is_recognized(ddcolor_tiny_file: Path) -> None:
    network = load_checkpoint(ddcolor_tiny_file)
    assert network.preset == "ddcolor-tiny"
    assert not network.training


def test_a_missing_tensor_is_named(official: State, tmp_path: Path) -> None:
    del official["decoder.layers.1.conv.0.weight_u"]
    torch.save(official, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: image_decoder\.layers\.1\.conv\.0\.weight_u"):
        load_checkpoint(tmp_path / "file.pth")


def test_extra_tensors_are_counted_and_the_first_few_named(official: State, tmp_path: Path) -> None:
    torch.save({**official, **{f"ghost.{i}": torch.zeros(1) for i in range(7)}}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"7 unexpected: ghost\.0, .*ghost\.4, \.\.\."):
        load_checkpoint(tmp_path / "file.pth")


def test_a_misshaped_tensor_is_named_with_both_shapes(official: State, tmp_path: Path) -> None:
    key = "decoder.color_decoder.color_embed.layers.0.weight"
    torch.save({**official, key: torch.zeros(64, 65)}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"color_embed\.layers\.0\.weight \(expected 64x64, found 64x65\)"):
        load_checkpoint(tmp_path / "file.pth")


def test_another_networks_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of a known network.*conv1\.weight"):
        load_checkpoint(tmp_path / "file.pth")


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("writer", [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj, protocol=2))])
def test_code_in_a_checkpoint_is_never_run(writer: Callable[[Any, Path], None], tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    writer({"params": {"mean": _Bomb(marker)}}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "file.pth")
    assert not marker.exists()


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text", b"PK\x03\x04 cut", b'\x10\x00\x00\x00\x00\x00\x00\x00{"a": 1, "b": 2}']
)
def test_a_file_that_is_no_checkpoint_gives_one_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        load_checkpoint(tmp_path / "file.pth")


def test_a_truncated_file_gives_one_clear_error(official: State, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save(official, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"nothing\.pth"):
        load_checkpoint(tmp_path / "nothing.pth")


def test_our_own_file_round_trips_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("icf-edge").eval()
    path = save_checkpoint(network, tmp_path / "edge.safetensors", metadata={"note": "x"})
    again = load_checkpoint(path.read_bytes())
    assert again.preset == "icf-edge"
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_equal_networks_give_equal_files(tmp_path: Path) -> None:
    network = build("icf-edge")
    notes = {f"note {i}": str(i) for i in range(12)}
    files = [save_checkpoint(network, tmp_path / f"{i}.safetensors", metadata=notes).read_bytes() for i in range(4)]
    assert len(set(files)) == 1


def test_half_precision_rounds_to_fp16_and_loads_as_float32(tmp_path: Path) -> None:
    network = build("icf-edge").eval()
    full = save_checkpoint(network, tmp_path / "full.safetensors")
    half = save_checkpoint(network, tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < 0.51 * full.stat().st_size
    again = load_checkpoint(half)
    key = "backbone.stem.0.weight"
    assert again.state_dict()[key].dtype == torch.float32
    assert torch.equal(again.state_dict()[key], network.state_dict()[key].half().float())


def test_a_fine_tuned_ddcolor_is_saved_and_loaded_in_our_format(official: State, tmp_path: Path) -> None:
    torch.save(official, tmp_path / "official.pth")
    path = save_checkpoint(load_checkpoint(tmp_path / "official.pth"), tmp_path / "ours.safetensors")
    assert torch.equal(_ab(path), _ab(tmp_path / "official.pth"))


def test_an_existing_checkpoint_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    network = build("icf-edge")
    path = save_checkpoint(network, tmp_path / "edge.safetensors")
    before = path.read_bytes()
    with pytest.raises(WorkError, match="--overwrite"):
        save_checkpoint(build("icf-edge"), path)
    assert path.read_bytes() == before
    save_checkpoint(network, path, overwrite=True)


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "new.safetensors", metadata={"format": "icf-checkpoint 2"})
    with pytest.raises(CheckpointError, match="upgrade"):
        load_checkpoint(tmp_path / "new.safetensors")

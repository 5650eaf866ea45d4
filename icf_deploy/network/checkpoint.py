"""Checkpoints: official DDColor files and our own safetensors, loaded with strict keys and without running code.

| file | layout |
|---|---|
| DDColor `.pth` / `.pt` | pickle `{"params": state_dict}` (training runs also have `params_ema`) |
| DDColor `.bin`, `.safetensors` from the hub | bare state dict, `config.json` beside it |
| ICF `.safetensors` | keys of `ColorizationNetwork`, metadata `format` = `icf-checkpoint 1` and `preset`; `extra:` tensors |

The variant is read off the tensors; a `config.json` beside the file must agree with it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icf_deploy.errors import CheckpointError, WorkError
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import EDGE_PRESET, DDColorConfig, build, build_ddcolor

FORMAT_KEY = "format"
FORMAT = "icf-checkpoint 1"
PRESET_KEY = "preset"
EXTRA_PREFIX = "extra:"  # of tensors that stand beside the network's, such as its trained int8 form
NAMED_TENSORS = 5  # how many tensors an error names
WRAPPERS = ("params_ema", "params", "state_dict")
SAFETENSORS_MIN_HEADER = 2  # bytes of the smallest JSON object
SAFETENSORS_MAX_HEADER = 100 << 20  # bytes; the format's own limit

# The official files' names for our four parts. `mean` and `std` stand in two of ours.
DDCOLOR_PREFIXES = (
    ("encoder.arch.", "backbone."),
    ("decoder.layers.", "image_decoder.layers."),
    ("decoder.color_decoder.", "color_decoder."),
    ("decoder.last_shuf.", "fusion.last_shuf."),
    ("refine_net.", "fusion.refine_net."),
)
DDCOLOR_SHARED = {"mean": ("backbone.mean", "fusion.mean"), "std": ("backbone.std", "fusion.std")}
# A classifier that files from before DDColor's commit 1a190e2 still carry.
DDCOLOR_DROPPED = ("encoder.arch.head_cls.weight", "encoder.arch.head_cls.bias")
DDCOLOR_HEAD_CHANNELS = 32
CONFIG_FIELDS = {"num_queries": "queries", "dec_layers": "blocks"}
CONFIG_FIXED = {"decoder_name": "MultiScaleColorDecoder", "last_norm": "Spectral", "num_output_channels": 2, "num_scales": 3}
ENCODER_DEPTHS = {"convnext-t": (3, 3, 9, 3), "convnext-l": (3, 3, 27, 3)}


def load_checkpoint(source: str | os.PathLike[str] | bytes) -> ColorizationNetwork:
    """The network of a checkpoint, in evaluation mode and float32.

    source: a file, or the bytes of one. Raises WorkError for a file that is not there, CheckpointError for one that is not
    a checkpoint of a known network; tensors that are missing, left over or of another shape are named, and nothing is
    half loaded.
    """
    if isinstance(source, bytes):
        name, data, config = "checkpoint", source, None
    else:
        path = Path(source)
        name = str(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WorkError(f"{path}: cannot read the checkpoint: {error.strerror or error}") from error
        config = _config_beside(path)
    state, metadata = _tensors(name, data)
    if metadata.get(FORMAT_KEY) == FORMAT:
        state = {key: value for key, value in state.items() if not key.startswith(EXTRA_PREFIX)}
        network = _build_from_metadata(name, metadata, state)
        target = state
    elif metadata.get(FORMAT_KEY, "").startswith("icf-checkpoint"):
        raise CheckpointError(
            f"{name}: written in format {metadata[FORMAT_KEY]!r}, this version reads {FORMAT!r}: upgrade icf-deploy"
        )
    else:
        state = {key.removeprefix("module."): value for key, value in state.items()}
        state = {key: value for key, value in state.items() if key not in DDCOLOR_DROPPED}
        ddcolor = detect_ddcolor(name, state)
        if config is not None:
            _require_config(name, config, ddcolor)
        with torch.device("meta"):
            network = build_ddcolor(ddcolor)
        target = _rename_ddcolor(state)
    _require_equal(name, network, target)
    network.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in target.items()}, assign=True
    )
    return network.requires_grad_(True).eval()


def checkpoint_metadata(data: bytes) -> dict[str, str]:
    """What an ICF checkpoint says about itself, by name; nothing for a file of another kind. data: one that loads."""
    end = 8 + int.from_bytes(data[:8], "little")
    if end > len(data):
        return {}
    try:
        found = json.loads(data[8:end]).get("__metadata__", {})
    except (ValueError, AttributeError):
        return {}
    return found if found.get(FORMAT_KEY) == FORMAT else {}


def save_checkpoint(
    network: ColorizationNetwork,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    extra: Mapping[str, Tensor] | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the network as ICF safetensors, atomically; `half` stores its floating-point tensors as fp16.

    extra: what stands beside the network, by names that begin with EXTRA_PREFIX; stored as it is.

    Raises WorkError where the file exists and `overwrite` is not given, or where fp16 cannot hold a value.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.exists() and not overwrite:
        raise WorkError(f"{path} exists; type --overwrite to replace it")
    state = {key: value.detach().contiguous() for key, value in network.state_dict().items()}
    if half:
        state = {key: _to_half(key, value) for key, value in state.items()}
    header = {FORMAT_KEY: FORMAT, PRESET_KEY: network.preset, **(metadata or {})}
    if network.preset.startswith("ddcolor"):
        header["ddcolor"] = json.dumps(vars(detect_ddcolor(str(path), _official_names(state))))
    state |= extra or {}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(_in_order(save(state, metadata=header)))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def detect_ddcolor(name: str, state: Mapping[str, Tensor]) -> DDColorConfig:
    """Read the variant off the tensors of an official state dict. Raises CheckpointError if it is none."""

    def tensor(key: str) -> Tensor:
        if key not in state:
            raise CheckpointError(
                f"{name}: not a checkpoint of a known network: no tensor {key!r} among its {len(state)} "
                f"(first: {', '.join(sorted(state)[:NAMED_TENSORS]) or 'none'})"
            )
        return state[key]

    def count(pattern: str) -> int:
        found = {int(m.group(1)) for key in state if (m := re.match(pattern, key))}
        return max(found, default=-1) + 1

    try:
        color_channels = tensor("decoder.color_decoder.query_feat.weight").shape[1]
        return DDColorConfig(
            depths=tuple(count(rf"encoder\.arch\.stages\.{i}\.(\d+)\.") for i in range(4)),
            dims=tuple(tensor(f"encoder.arch.stages.{i}.0.norm.weight").shape[0] for i in range(4)),
            channels=tensor("decoder.last_shuf.conv.0.weight_orig").shape[0] // 8,
            queries=tensor("refine_net.0.0.weight_orig").shape[1] - 3,
            blocks=count(r"decoder\.color_decoder\.transformer_ffn_layers\.(\d+)\."),
            color_channels=color_channels,
            hidden=tensor("decoder.color_decoder.transformer_ffn_layers.0.linear1.weight").shape[0],
            heads=color_channels // DDCOLOR_HEAD_CHANNELS,
        )
    except IndexError:
        raise CheckpointError(f"{name}: a tensor that tells DDColor's variant has too few dimensions") from None


def _in_order(data: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library writes it in random order, and hashes would differ."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors to 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]


def _tensors(name: str, data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, and its metadata; pickles only through torch's weights-only reader."""
    if not data:
        raise CheckpointError(f"{name}: the file is empty")
    if data[:4] == b"PK\x03\x04" or data[:2] == b"\x80\x02":
        loaded = _unpickle_weights(name, data)
        for wrapper in WRAPPERS:
            if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
                loaded = loaded[wrapper]
                break
        if not isinstance(loaded, dict) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
            raise CheckpointError(f"{name}: expected a state dict of tensors, bare or under {', '.join(WRAPPERS)}")
        return {str(key): value for key, value in loaded.items()}, {}
    header_bytes = int.from_bytes(data[:8], "little")
    if not SAFETENSORS_MIN_HEADER <= header_bytes <= min(SAFETENSORS_MAX_HEADER, len(data)):
        raise CheckpointError(f"{name}: neither a PyTorch file nor safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(data)
        metadata = json.loads(data[8 : 8 + header_bytes]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{name}: damaged safetensors: {error}") from error
    return state, metadata


def _unpickle_weights(name: str, data: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{name}: holds more than tensors, and code in a checkpoint is never run; save its state_dict alone"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{name}: damaged PyTorch file: {str(error).splitlines()[0]}") from error


def _build_from_metadata(name: str, metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> ColorizationNetwork:
    preset = metadata.get(PRESET_KEY, "")
    with torch.device("meta"):
        if preset == EDGE_PRESET:
            return build(preset)
        if preset.startswith("ddcolor"):
            return build_ddcolor(detect_ddcolor(name, _official_names(state)))
    raise CheckpointError(f"{name}: preset {preset!r} is not known to this version of icf-deploy")


def _rename_ddcolor(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for shared in DDCOLOR_SHARED.get(key, ()):
            renamed[shared] = value.clone()
        if key in DDCOLOR_SHARED:
            continue
        for theirs, ours in DDCOLOR_PREFIXES:
            if key.startswith(theirs):
                renamed[ours + key[len(theirs) :]] = value
                break
        else:
            renamed[key] = value
    return renamed


def _official_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `_rename_ddcolor`, for reading the variant off our own files."""
    official: dict[str, Tensor] = {}
    for key, value in state.items():
        for theirs, ours in DDCOLOR_PREFIXES:
            if key.startswith(ours):
                official[theirs + key[len(ours) :]] = value
    return official


def _require_equal(name: str, network: ColorizationNetwork, state: Mapping[str, Tensor]) -> None:
    expected = network.state_dict()
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    shapes = [
        f"{key} (expected {_shape(expected[key])}, found {_shape(state[key])})"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    kinds = [key for key in expected if key in state and state[key].is_floating_point() != expected[key].is_floating_point()]
    problems = [
        f"{len(found)} {what}: {', '.join(found[:NAMED_TENSORS])}{', ...' if len(found) > NAMED_TENSORS else ''}"
        for what, found in (
            ("missing", missing),
            ("unexpected", extra),
            ("of another shape", shapes),
            ("of another type", kinds),
        )
        if found
    ]
    if problems:
        raise CheckpointError(f"{name}: the tensors are not those of {network.preset}; " + "; ".join(problems))


def _shape(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "scalar"


def _to_half(key: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    if not bool(torch.isfinite(half).all()):
        raise WorkError(f"{key} holds values beyond fp16 (largest {value.abs().max():.3g}); save it in float32")
    return half


def _config_beside(path: Path) -> dict[str, Any] | None:
    """The hub's config.json, where the file is one of the hub's names."""
    config = path.with_name("config.json")
    if path.name not in ("pytorch_model.bin", "model.safetensors") or not config.is_file():
        return None
    try:
        loaded = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{config}: not readable as JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{config}: expected a JSON object")
    return loaded


def _require_config(name: str, config: Mapping[str, Any], found: DDColorConfig) -> None:
    expected = {key: getattr(found, ours) for key, ours in CONFIG_FIELDS.items()} | CONFIG_FIXED
    encoder = config.get("encoder_name")
    if encoder is not None and ENCODER_DEPTHS.get(encoder) != found.depths:
        raise CheckpointError(f"{name}: config.json says encoder {encoder!r}, the tensors have depths {found.depths}")
    for key, value in expected.items():
        if key in config and config[key] != value:
            raise CheckpointError(f"{name}: config.json says {key} = {config[key]!r}, the tensors are those of {value!r}")

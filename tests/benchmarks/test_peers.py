from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from icf_deploy.benchmarks.candidate import Candidate
from icf_deploy.errors import UsageError

PEERS = "icf_deploy.benchmarks.peers"


@pytest.mark.parametrize(
    ("opener", "options"),
    [("ort_defaults", {}), ("openvino_defaults", {"precision": "f32"}), ("openvino_defaults", {})],
)
def test_an_engine_with_its_own_defaults_computes_the_same_graph(
    opener: str, options: dict[str, str], tiny_onnx: Path, gray: np.ndarray
) -> None:
    peer = Candidate("peer", file=tiny_onnx, threads=1, opener=f"{PEERS}:{opener}", options=options)
    with peer.open() as theirs, Candidate("ours", file=tiny_onnx, threads=1).open() as ours:
        assert (theirs.size, theirs.output_size) == (ours.size, ours.output_size)
        tolerance = 1e-3 if options or opener == "ort_defaults" else 0.5  # OpenVINO's default may be bf16
        np.testing.assert_allclose(theirs.run(gray[:1]), ours.run(gray[:1]), atol=tolerance)
        first = theirs.run(gray[:1])
        theirs.run(gray[1:])
        np.testing.assert_array_equal(first, theirs.run(gray[:1]))  # the caller owns what it got


def test_openvinos_own_files_run_as_the_graph_that_they_came_from(tiny_onnx: Path, gray: np.ndarray, tmp_path: Path) -> None:
    import openvino

    openvino.save_model(openvino.Core().read_model(tiny_onnx), tmp_path / "tiny.xml", compress_to_fp16=False)
    options, opener = {"precision": "f32"}, f"{PEERS}:openvino_defaults"
    with (
        Candidate("xml", file=tmp_path / "tiny.xml", threads=1, opener=opener, options=options).open() as theirs,
        Candidate("onnx", file=tiny_onnx, threads=1, opener=opener, options=options).open() as ours,
    ):
        assert (theirs.size, theirs.output_size) == (ours.size, ours.output_size) == ((64, 64), (32, 32))
        np.testing.assert_allclose(theirs.run(gray), ours.run(gray), atol=1e-4)


@pytest.mark.parametrize(("tool", "suffix", "opener"), [("static", "onnx", "ort"), ("nncf", "xml", "openvino")])
def test_what_is_quantized_with_defaults_runs_and_is_near_the_graph_that_it_came_from(
    *, tool: str, suffix: str, opener: str, tiny_onnx: Path, gray: np.ndarray, tmp_path: Path
) -> None:
    if tool == "nncf":
        pytest.importorskip("nncf")
    from icf_deploy.benchmarks import peers

    target = tmp_path / f"int8.{suffix}"
    {"static": peers.quantize_static, "nncf": peers.quantize_nncf}[tool](tiny_onnx, target, gray)
    assert {path.suffix for path in tmp_path.iterdir()} == {f".{suffix}"} | ({".bin"} if tool == "nncf" else set())
    candidate = Candidate("int8", file=target, threads=1, opener=f"{PEERS}:{opener}_defaults")
    with candidate.open() as int8, Candidate("fp32", file=tiny_onnx, threads=1).open() as fp32:
        difference = np.abs(int8.run(gray) - fp32.run(gray))
    assert 0 < difference.mean() < 3  # of ab that spans -60 to 60


@pytest.mark.parametrize("channels_last", [False, True])
def test_eager_pytorch_runs_the_preset_with_seeded_weights(channels_last: bool, gray: np.ndarray) -> None:
    import torch

    from icf_deploy.network import presets

    options = {"preset": "icf-edge", "size": [64, 64], "seed": 3, "channels_last": channels_last}
    torch.manual_seed(3)
    network = presets.build("icf-edge").eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(gray)).numpy()
    with Candidate("eager", opener=f"{PEERS}:torch_eager", options=options).open() as session:
        np.testing.assert_allclose(session.run(gray), expected, atol=1e-3)
        assert session.output_size == expected.shape[2:]


def test_eager_pytorch_needs_weights_from_somewhere() -> None:
    with pytest.raises(UsageError, match="checkpoint file or the option preset"):
        Candidate("eager", opener=f"{PEERS}:torch_eager").open()


def test_a_candidate_survives_the_way_to_its_worker(tiny_onnx: Path) -> None:
    candidate = Candidate("x", "ort:cpu", 2, None, "fp32", tiny_onnx, "a:b", {"size": [1, 2]})
    assert Candidate.from_json(candidate.to_json()) == candidate
    assert Candidate.from_json(Candidate("x").to_json()) == Candidate("x")


def test_an_opener_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="module:function"):
        Candidate("x", opener="nonsense").open()

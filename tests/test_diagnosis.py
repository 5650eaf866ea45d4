"""What engines really compute in: real ones that are known, and fake ones that lie."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx.version_converter
import pytest

import icf_deploy.data
from icf_deploy import diagnosis
from icf_deploy.bundle.graph_check import check_graph
from icf_deploy.diagnosis import TOLERANCE, diagnose, diagnose_engine, expected_ab, probe, probe_gray
from icf_deploy.errors import ArtefactError
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import Availability

ROOT = Path(__file__).resolve().parents[1]
PROBES = Path(str(icf_deploy.data.__file__)).parent / "probes"


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", "off")


def test_the_probes_are_what_the_script_makes() -> None:
    spec = importlib.util.spec_from_file_location("probes_script", ROOT / "scripts" / "probes.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert {path.name: path.read_bytes() for path in PROBES.iterdir()} == script.probes()
    assert {path.stem for path in PROBES.iterdir()} == set(TOLERANCE)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8"])
def test_onnxs_own_evaluation_gives_the_expected_result_within_the_tolerance(name: str) -> None:
    model = onnx.load(PROBES / f"{name}.onnx")
    check_graph(model.SerializeToString(), name)
    gray = probe_gray()
    newer = onnx.version_converter.convert_version(model, 21)  # the evaluator knows no older DequantizeLinear
    ab = onnx.reference.ReferenceEvaluator(newer).run(None, {"gray": gray})[0]
    distance = np.abs(np.asarray(ab, np.float32) - expected_ab(gray)).max()
    assert distance <= TOLERANCE[name]
    assert name == "fp32" or distance > TOLERANCE["fp32"]  # so that a format taken for another one shows
    assert np.ptp(expected_ab(gray)) > 10


def test_onnx_runtime_executes_fp32_and_int8_and_says_why_not_the_others() -> None:
    pytest.importorskip("onnxruntime")
    found = diagnose_engine("ort")
    assert found.ok
    device = found.devices["cpu"]
    assert device.executes == ("fp32", "int8")
    assert device.probes["int8"].nodes["int8"] >= 1
    assert "would not execute fp16" in device.probes["fp16"].refusal
    assert found.to_json()["devices"]["cpu"] == ["fp32", "int8"]


def test_openvinos_bf16_device_does_not_execute_fp32() -> None:
    pytest.importorskip("openvino")
    if "bf16" not in registry.get("openvino").formats("cpu"):
        pytest.skip("this CPU has no bf16")
    devices = diagnose_engine("openvino").devices
    assert {"fp32", "bf16", "int8"} <= set(devices["cpu"].executes)
    assert "fp32" not in devices["cpu-bf16"].executes
    assert "run otherwise: 2 nodes in bf16" in devices["cpu-bf16"].probes["fp32"].refusal


def test_a_runtime_that_runs_no_graphs_is_shown_with_what_it_declares() -> None:
    pytest.importorskip("torch")
    device = diagnose_engine("pytorch").devices["cpu"]
    assert not device.probes
    assert device.executes == ("fp32",)


def test_what_is_not_installed_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = diagnose_engine("openvino")
    assert not found.ok
    assert found.install == "pip install 'icf-deploy[openvino]'"
    assert not found.devices


def test_two_distributions_of_onnx_runtime_at_once_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    import importlib.metadata

    distribution = importlib.metadata.distribution
    monkeypatch.setattr(
        importlib.metadata, "distribution", lambda name: object() if name == "onnxruntime-gpu" else distribution(name)
    )
    found = diagnose_engine("ort")
    assert found.ok
    assert "onnxruntime and onnxruntime-gpu are both installed" in found.reason
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in found.reason


class Session:
    """Gives the right result, moved by `shift`, and reports `formats`."""

    def __init__(self, formats: Mapping[str, int], shift: float) -> None:
        self.formats, self.shift = formats, shift

    def run(self, gray: np.ndarray) -> np.ndarray:
        return expected_ab(gray) + np.float32(self.shift)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None: ...


def runtime(formats: Mapping[str, int], shift: float = 0.0) -> Any:
    return SimpleNamespace(build=lambda graph, target: graph, open=lambda engine: Session(formats, shift))


def test_a_format_that_the_engine_replaces_by_another_one_is_not_executed() -> None:
    found = probe(runtime({"fp32": 2}), "cpu", "fp16")
    assert found.refusal == "a graph in fp16 is taken, and run otherwise: 2 nodes in fp32"


@pytest.mark.parametrize("name", TOLERANCE)
def test_a_result_beyond_rounding_is_wrong_whatever_the_engine_reports(name: str) -> None:
    assert probe(runtime({name: 2}, TOLERANCE[name] * 0.9), "cpu", name).refusal == ""
    assert "its result is wrong" in probe(runtime({name: 2}, TOLERANCE[name] * 1.1), "cpu", name).refusal
    assert "its result is wrong" in probe(runtime({name: 2}, float("nan")), "cpu", name).refusal


def test_a_device_on_which_nothing_runs_says_why() -> None:
    refused = diagnosis.Probe(refusal="there is no driver")
    assert diagnosis.Device(("fp32",), {"fp32": refused, "int8": refused}).reason == "there is no driver"
    assert diagnosis.Device(("fp32",), {"fp32": diagnosis.Probe({"fp32": 2}, 0.0), "int8": refused}).reason == ""
    assert diagnosis.Device(("fp32",), {}).reason == ""


def test_an_engine_that_breaks_is_a_finding_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the driver\nhas gone")

    def refusing(*_: object) -> None:
        raise ArtefactError("not on this device")

    for build, words in ((broken, "RuntimeError: the driver has gone"), (refusing, "not on this device")):
        fake: Any = SimpleNamespace(build=build, open=None)
        assert probe(fake, "gpu", "fp32").refusal == words
    fake = SimpleNamespace(available=lambda: Availability(True, "1"), devices=broken)
    monkeypatch.setattr(diagnosis.registry, "get", lambda _: fake)
    findings = diagnose()
    assert [finding.name for finding in findings] == list(registry.names())
    assert {finding.reason for finding in findings} == {"RuntimeError: the driver has gone"}

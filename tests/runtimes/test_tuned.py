from __future__ import annotations

import json
import logging
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import icf_deploy
from icf_deploy.errors import WorkError
from icf_deploy.runtimes.cache import default_cache
from icf_deploy.runtimes.tuned import KIND, TunedChoice, choice_of, engine_version, recall, remember, tuned_key


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def bundle() -> Any:
    """The shipped bundle: what it is does not matter here."""
    from icf_deploy.bundle.opening import open_bundle

    return open_bundle()


@pytest.fixture
def choice(bundle: Any) -> TunedChoice:
    entry = bundle.manifest.graph(bundle.manifest.default_graph)
    version = engine_version("ort")
    assert version is not None
    return TunedChoice("ort", entry.name, entry.sha256, version, "de2000_p95<=1", 5.25, {"de2000_p95": 0.4}, "8 photos", "2026")


def test_a_choice_is_remembered_for_its_bundle_and_number_of_threads(bundle: Any, choice: TunedChoice, folder: Path) -> None:
    assert recall(bundle, 1) is None
    assert not folder.exists()  # looking makes nothing
    assert remember(bundle, 1, choice, seconds=48.0) == folder
    assert recall(bundle, 1) == choice
    assert recall(bundle, 2) is None
    other = SimpleNamespace(digest="0" * 64, manifest=bundle.manifest, path=bundle.path)
    assert recall(other, 1) is None  # type: ignore[arg-type]
    (entry,) = default_cache().entries()
    assert entry.header.key.kind == KIND and entry.header.seconds == 48 and "ort with graph fp32: 5.25 ms" in entry.header.why
    assert choice_of(entry) == choice


def test_a_later_choice_takes_the_place_of_an_earlier_one(bundle: Any, choice: TunedChoice, folder: Path) -> None:
    remember(bundle, 1, choice)
    remember(bundle, 1, replace(choice, milliseconds=4.0))
    found = recall(bundle, 1)
    assert found is not None and found.milliseconds == 4
    assert len(list(folder.glob("tuned-*.entry"))) == 1


def test_load_takes_it_and_says_what_was_measured(
    bundle: Any, choice: TunedChoice, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    version = engine_version("openvino")
    assert version is not None
    remember(bundle, 1, replace(choice, engine="openvino:cpu", version=version))
    monkeypatch.setattr("icf_deploy.runtimes.registry.preferred", lambda: ("ort",))
    with caplog.at_level(logging.INFO, "icf_deploy.choice"), icf_deploy.load(threads=1) as colorizer:
        assert colorizer.engine == "openvino:cpu"
    (line,) = [record.getMessage() for record in caplog.records if record.name == "icf_deploy.choice"]
    assert line.endswith("tuned for this device, with graph fp32 (5.25 ms, de2000_p95 0.4; budget de2000_p95<=1)")
    with icf_deploy.load(threads=1, engine="ort") as colorizer:
        assert colorizer.engine == "ort"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"version": "onnxruntime 0.1"}, r"tuned with onnxruntime 0\.1, and here is onnxruntime "),
        ({"engine": "onnxruntime"}, "there is no engine 'onnxruntime'"),
        ({"engine": "ort:tpu"}, "ort has no device 'tpu'"),
        ({"graph": "int8"}, "no such graph int8 any more"),
        ({"sha256": "0" * 64}, "no such graph fp32 any more"),
    ],
)
def test_what_does_not_hold_any_more_is_not_used_and_that_is_said(
    bundle: Any, choice: TunedChoice, caplog: pytest.LogCaptureFixture, change: dict[str, str], words: str
) -> None:
    remember(bundle, 1, replace(choice, **change))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert recall(bundle, 1) is None
    assert re.search(words, caplog.text), caplog.text
    assert "run `icf-deploy tune` again" in caplog.text


def test_an_engine_that_is_gone_is_not_used_and_load_goes_on(
    bundle: Any, choice: TunedChoice, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(bundle, 1, replace(choice, engine="openvino", version="openvino 2026.1"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with caplog.at_level(logging.WARNING), icf_deploy.load(threads=1) as colorizer:
        assert colorizer.engine == "ort"
    assert "its engine openvino is not installed any more" in caplog.text


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b'{"format": 2}', b'{"format": 1, "engine": 3}', b"\xff", b"[" * 100_000],
)
def test_content_that_is_no_choice_is_refused_aloud(
    bundle: Any, caplog: pytest.LogCaptureFixture, folder: Path, content: bytes
) -> None:
    default_cache().put(tuned_key(bundle, 1), content)
    with caplog.at_level(logging.WARNING):
        assert recall(bundle, 1) is None
    assert "is not used" in caplog.text
    (entry,) = default_cache().entries()
    assert choice_of(entry) is None


@pytest.mark.parametrize(
    "field, value", [("milliseconds", "fast"), ("drift", [1]), ("graph", 7), ("budget", None), ("more", 1)]
)
def test_a_field_of_the_wrong_kind_is_no_choice(choice: TunedChoice, field: str, value: object) -> None:
    plain = json.loads(choice.to_json()) | {field: value}
    with pytest.raises(ValueError, match=r"wrong type|not finite|not a choice"):
        TunedChoice.from_json(json.dumps(plain).encode())


def test_a_half_written_entry_is_as_none(bundle: Any, choice: TunedChoice, folder: Path) -> None:
    remember(bundle, 1, choice)
    (path,) = folder.glob("tuned-*.entry")
    path.write_bytes(path.read_bytes()[:-20])
    assert recall(bundle, 1) is None


def test_a_choice_that_cannot_be_kept_is_an_error(bundle: Any, choice: TunedChoice, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(WorkError, match="could not be kept"):
        remember(bundle, 1, choice)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777
    assert list(folder.iterdir()) == []


def test_another_processor_or_gpu_driver_is_another_device(bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: Chip A\nflags\t\t: avx2\n\nmodel name\t: Chip A\n")
    plain = tuned_key(bundle, 1, tmp_path)
    assert "gpu" not in plain.fields
    driver = tmp_path / "driver/nvidia"
    (driver / "gpus/0000:01").mkdir(parents=True)
    (driver / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05\nGCC version: 13\n")
    (driver / "gpus/0000:01/information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 16\n")
    with_gpu = tuned_key(bundle, 1, tmp_path)
    assert with_gpu.fields["gpu"] == "NVIDIA H100 80GB HBM3; NVIDIA UNIX x86_64 Kernel Module  580.95.05"
    (tmp_path / "cpuinfo").write_text("model name\t: Chip B\nflags\t\t: avx2\n")
    assert len({plain.digest, with_gpu.digest, tuned_key(bundle, 1, tmp_path).digest}) == 3

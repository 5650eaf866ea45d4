from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from icf_deploy import cli, errors

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "cv2", "numpy", "PIL", "rich")


def loaded_by(code: str) -> list[str]:
    """Which heavy modules a fresh Python has loaded after `code`."""
    script = f"import sys\n{code}\nsys.stderr.write(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return found.stderr.split()


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import icf_deploy") == []


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_loads_nothing_heavy_and_works(command: str) -> None:
    arguments = [part for part in (command, "--help") if part]
    assert loaded_by(f"from icf_deploy.cli import run\nassert run({arguments!r}) == 0") == []


def test_colouring_a_photo_loads_one_engine_and_nothing_of_the_host(
    tiny_bundle: Path, photos_dir: Path, tmp_path: Path
) -> None:
    arguments = ["colorize", str(photos_dir / "coffee.png"), "-o", str(tmp_path / "x.png"), "--bundle", str(tiny_bundle)]
    loaded = loaded_by(f"from icf_deploy.cli import run\nassert run({[*arguments, '--engine', 'ort']!r}) == 0")
    assert loaded == ["onnxruntime", "cv2", "numpy", "PIL"]


def test_a_heavy_module_would_be_noticed() -> None:
    assert loaded_by("import numpy") == ["numpy"]


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_list_of_commands_says_of_each_what_its_own_help_says(name: str, icf: Callable[..., Any]) -> None:
    command = cli.cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None and command.name == name
    assert command.short_help == cli.COMMANDS[name]
    assert name in icf("--help").out and cli.COMMANDS[name] in icf("--help").out
    found = icf(name, "-h")
    assert found.status == 0 and found.out.startswith(f"Usage: icf-deploy {name} ")
    assert max(map(len, found.out.splitlines())) <= 80


def test_the_version_is_that_of_the_installed_package(icf: Callable[..., Any]) -> None:
    assert icf("--version").out == f"icf-deploy {version('icf-deploy')}\n"


def test_nothing_at_all_shows_the_help_and_is_a_usage_error(icf: Callable[..., Any]) -> None:
    found = icf()
    assert (found.status, found.out) == (2, "")
    assert "Commands:" in found.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["colourise"], "colourise"),
        (["--nonsense"], "--nonsense"),
        (["colorize", "a.jpg"], "--output"),
        (["colorize", "-o", "x.png"], "IN..."),
        (["bench", "--calls", "many"], "--calls"),
        (["bench", "--threads", "0"], "--threads"),
        (["bench", "--seconds", "0"], "--seconds"),
        (["export", "--size", "big"], "'big' is not a size"),
        (["inspect", "one", "two"], "unexpected extra argument"),
        (["train", "--photos", "x"], "--output"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments: list[str], message: str, icf: Callable[..., Any]) -> None:
    found = icf(*arguments)
    assert (found.status, found.out) == (2, "")
    assert message in found.error and "--help`" in found.error


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (errors.WorkError("a\nb"), 1, "error: a b"),
        (errors.PhotoError("x"), 1, "error: x"),
        (errors.UsageError("x"), 2, "error: x"),
        (errors.BudgetError("x"), 3, "error: x"),
        (errors.CheckpointError("x"), 4, "error: x"),
        (errors.EngineUnavailableError("x"), 5, "error: x"),
        (errors.IntegrityError("x"), 6, "error: x"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "error: /x/y: No space left on device"),
        (MemoryError(), 1, "error: not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("saved; go on with --resume"), 130, "interrupted: saved; go on with --resume"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_every_error_has_its_line_and_its_exit_status(
    raised: BaseException, status: int, line: str, icf: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("icf_deploy.bundle.opening.open_bundle", fail)
    found = icf("inspect")
    assert (found.status, found.out, found.err.strip()) == (status, "", line)


def test_a_fault_of_our_own_shows_where_it_is_and_where_to_report_it(
    icf: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icf_deploy.bundle.opening.open_bundle", lambda *_, **__: 1 / 0)
    found = icf("inspect")
    assert (found.status, found.out) == (1, "")
    assert "ZeroDivisionError" in found.err and "test_main.py" in found.err
    assert found.err.splitlines()[-1].endswith(f"report it with the lines above at {cli.REPORT_TO}")


def test_a_full_disk_behind_standard_output_is_one_line(process: Callable[..., Any], tiny_bundle: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with full.open("w") as stream:
        found = process("inspect", tiny_bundle, "--json", stdout=stream)
    assert found.status == 1
    assert "No space left on device" in found.error


def test_a_reader_that_has_seen_enough_is_no_error_to_tell_about(tiny_bundle: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "icf_deploy.cli", "inspect", str(tiny_bundle), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait() == 1

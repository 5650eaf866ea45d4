from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from icf_deploy.cli.terminal import progress_bar, show_json, show_table, write_json
from icf_deploy.errors import WorkError
from icf_deploy.text_output import require_writable

LINES = [("engine", "p50\nms"), ("ort", "11.3"), ("openvino:cpu-bf16", "6.12*")]


def test_what_json_cannot_say_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"a": [float("inf"), (1.5, float("nan"))], "ü": True})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": [None, [1.5, None]], "ü": True}
    assert "ü" in text


def test_a_table_in_a_pipe_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(LINES, "a title")
    assert capsys.readouterr().out.splitlines() == [
        "a title",
        "                     p50",
        "engine                ms",
        "ort                 11.3",
        "openvino:cpu-bf16  6.12*",
    ]


def test_a_table_on_a_terminal_has_every_cell_whole() -> None:
    code = f"from icf_deploy.cli.terminal import show_table; show_table({LINES!r}, 'a title')"
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True, env={**os.environ, "COLUMNS": "80"})
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    for cell in ("a title", "engine", "p50", "openvino:cpu-bf16", "6.12*", "─"):
        assert cell in text
    assert "\x1b[" in text  # a header that stands out


def test_a_table_that_is_too_wide_for_the_terminal_becomes_a_block_per_line_and_no_cell_is_cut() -> None:
    header, line = (
        ["engine", *(f"column\n{i}" for i in range(9))],
        ["openvino:cpu-bf16", *(f"value {i} of 9" for i in range(9))],
    )
    code = f"from icf_deploy.cli.terminal import show_table; show_table({[header, line]!r}, 'a title')"
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True, env={**os.environ, "COLUMNS": "80"})
    os.close(theirs)
    text = os.read(ours, 65536).decode().splitlines()
    os.close(ours)
    assert text[:4] == ["a title", "openvino:cpu-bf16", "  column 0  value 0 of 9", "  column 1  value 1 of 9"]
    assert len(text) == 11


def test_a_progress_bar_on_a_terminal_moves_without_a_thread_of_its_own() -> None:
    code = (
        "import threading\nfrom icf_deploy.cli.terminal import progress_bar\n"
        "with progress_bar() as update:\n"
        "    update(2, 7, 'round 1 [of] 3')\n"
        "    print(threading.active_count())"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    found = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, check=True, env=environment)
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert "2/7" in text and "round 1 [of] 3" in text
    assert found.stdout.split() == [b"1"]


def test_where_nobody_looks_there_is_no_progress_bar() -> None:
    with progress_bar() as update:
        assert update is None


def test_a_json_file_is_complete_or_not_there(tmp_path: Path) -> None:
    write_json({"a": 1}, tmp_path / "x.json", overwrite=False)
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    with pytest.raises(WorkError, match="--overwrite"):
        write_json({"a": 2}, tmp_path / "x.json", overwrite=False)
    with pytest.raises(TypeError):
        write_json({"a": object()}, tmp_path / "y.json", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_outputs_that_could_not_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "link", "exists"),
        (tmp_path / "none/x.json", "there is no folder"),
    ):
        with pytest.raises(WorkError, match=message):
            require_writable(path, overwrite=False)
    require_writable(tmp_path / "x.json", overwrite=False)

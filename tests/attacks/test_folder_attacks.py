from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import icf_deploy
from icf_deploy.bundle import folder as folder_module
from icf_deploy.bundle.store import open_bundle
from icf_deploy.errors import IntegrityError

Refused = Callable[..., None]
Restate = Callable[..., None]
FILES = ["manifest.json", "graphs/fp32.onnx", "reference.npz", "checkpoint.safetensors"]
OPENED = FILES[:2]  # what a command that only colours photos reads
posix = pytest.mark.skipif(os.name == "nt", reason="needs what only POSIX has")


@posix
@pytest.mark.parametrize("file", FILES)
def test_a_link_to_a_file_outside(file: str, victim: Path, refused: Refused) -> None:
    outside = victim.parent / "outside"
    (victim / file).rename(outside)  # the very bytes that are expected: only the link is wrong
    (victim / file).symlink_to(outside)
    refused(victim, "not a plain file; a bundle holds no links", opens=file not in OPENED)


@posix
@pytest.mark.parametrize("name", ["graphs", "engines"])
def test_a_link_to_a_folder_outside(name: str, victim: Path, refused: Refused) -> None:
    (victim / name).rename(victim.parent / "outside")
    (victim / name).symlink_to(victim.parent / "outside")
    refused(victim, f"{name} is not a plain folder; a bundle holds no links", opens=name == "engines")


@posix
@pytest.mark.parametrize("file", FILES)
def test_a_pipe_does_not_make_it_wait(file: str, victim: Path, refused: Refused) -> None:
    (victim / file).unlink()
    os.mkfifo(victim / file)
    refused(victim, "not a plain file", opens=file not in OPENED)


@posix
def test_a_device_is_not_even_opened(victim: Path, refused: Refused) -> None:
    (victim / "graphs/fp32.onnx").unlink()
    try:
        os.mknod(victim / "graphs/fp32.onnx", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("only root can make a device")
    refused(victim, "not a plain file")


@posix
def test_a_socket(victim: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    (victim / "graphs/fp32.onnx").unlink()
    monkeypatch.chdir(victim / "graphs")  # a socket's path has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("fp32.onnx")
        refused(victim, "not a plain file")


def test_a_folder_in_place_of_a_file(victim: Path, refused: Refused) -> None:
    (victim / "graphs/fp32.onnx").unlink()
    (victim / "graphs/fp32.onnx").mkdir()
    refused(victim, "not a plain file")


@pytest.mark.skipif(not hasattr(os, "link"), reason="no hard links here")
def test_a_hard_link_is_a_plain_file(victim: Path) -> None:
    outside = victim.parent / "outside"
    (victim / "graphs/fp32.onnx").rename(outside)
    os.link(outside, victim / "graphs/fp32.onnx")
    assert open_bundle(victim).verify()


@pytest.mark.parametrize("file", ["graphs/evil.onnx", "engines/evil.engine", "evil.py", ".hidden", "graphs/deep/evil.onnx"])
def test_a_file_for_which_nobody_vouches(file: str, victim: Path, refused: Refused) -> None:
    (victim / file).parent.mkdir(exist_ok=True)
    (victim / file).write_bytes(b"evil")
    refused(victim, "is in it, and not in its manifest", opens=True)


def test_a_name_that_is_another_one_where_case_does_not_count(victim: Path, refused: Refused) -> None:
    (victim / "graphs/FP32.ONNX").write_bytes(b"evil")
    if len(list((victim / "graphs").iterdir())) == 1:
        pytest.skip("case does not count here")
    refused(victim, r"'graphs/FP32\.ONNX' is in it, and not in its manifest", opens=True)


def test_a_folder_with_more_files_than_any_bundle(victim: Path, refused: Refused) -> None:
    for i in range(1000):
        (victim / "graphs" / f"{i}.onnx").touch()
    refused(victim, "holds more than", opens=True)


def test_a_swapped_graph(victim: Path, refused: Refused, restate: Restate, models: Callable[[float], onnx.ModelProto]) -> None:
    digest = open_bundle(victim).digest
    evil = models(-100).SerializeToString()
    (victim / "graphs/fp32.onnx").write_bytes(evil)
    refused(victim, r"graphs/fp32\.onnx is not what was written: expected .* found")
    restate(victim, {"graphs/fp32.onnx": evil})  # with a manifest that fits: now only the digest tells
    with pytest.raises(IntegrityError, match="is not the bundle that was asked for"):
        icf_deploy.load(victim, expect_digest=digest)


def test_two_graphs_that_changed_places(victim: Path, refused: Refused, restate: Restate) -> None:
    second = (victim / "graphs/fp32.onnx").read_bytes() + b"\x12\x01x"  # another producer
    restate(victim, change=lambda m: m["graphs"].append({**m["graphs"][0], "name": "b", "file": "graphs/b.onnx"}))
    (victim / "graphs/b.onnx").write_bytes((victim / "graphs/fp32.onnx").read_bytes())
    restate(victim, {"graphs/b.onnx": second})
    open_bundle(victim).verify()
    (victim / "graphs/fp32.onnx").rename(victim / "graphs/x")
    (victim / "graphs/b.onnx").rename(victim / "graphs/fp32.onnx")
    (victim / "graphs/x").rename(victim / "graphs/b.onnx")
    refused(victim, r"graphs/fp32\.onnx (is not what was written|has \d+ bytes)")


def test_a_graph_that_is_longer_than_it_says_is_not_read(victim: Path, refused: Refused) -> None:
    os.truncate(victim / "graphs/fp32.onnx", 2**31 - 1)  # sparse
    refused(victim, r"graphs/fp32\.onnx has 2147483647 bytes, and at most \d+ were expected")


@posix
@pytest.mark.parametrize("what", ["link", "pipe", "folder link"])
def test_a_swap_between_check_and_opening(what: str, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was plain when it was looked at, and is something else when it is opened."""
    path, outside = victim / "graphs/fp32.onnx", victim.parent / "outside"
    real = os.open
    swapped = []

    def swapping(name: object, flags: int, *arguments: object, dir_fd: int | None = None) -> int:
        if str(name).endswith("graphs" if what == "folder link" else "fp32.onnx") and not swapped:
            swapped.append(name)
            moved = victim / "graphs" if what == "folder link" else path
            moved.rename(outside)
            os.mkfifo(path) if what == "pipe" else moved.symlink_to(outside)
        return real(name, flags, *arguments, dir_fd=dir_fd)  # type: ignore[arg-type]

    bundle = open_bundle(victim)
    monkeypatch.setattr(folder_module.os, "open", swapping)
    monkeypatch.setattr(folder_module.os, "supports_dir_fd", {*os.supports_dir_fd, swapping})
    with pytest.raises(IntegrityError, match=r"cannot be read|not a plain file"):
        bundle.graph()
    assert swapped


def test_a_swap_after_the_check_changes_nothing(victim: Path, models: Callable[[float], onnx.ModelProto]) -> None:
    """What was hashed is what is run: the file is not looked at again."""
    bundle = open_bundle(victim)
    bundle.graph()
    (victim / "graphs/fp32.onnx").write_bytes(models(-100).SerializeToString())
    from icf_deploy.runtimes import registry

    with registry.open_session(bundle, "ort", threads=1) as session:
        assert float(session.run(np.ones((1, 1, *session.size), np.float32))[0, 0, 0, 0]) == pytest.approx(100, abs=1e-3)


def test_a_file_that_is_swapped_all_the_time_is_right_or_refused(
    victim: Path, models: Callable[[float], onnx.ModelProto]
) -> None:
    path, good = victim / "graphs/fp32.onnx", (victim / "graphs/fp32.onnx").read_bytes()
    evil = models(-100).SerializeToString()
    assert len(evil) == len(good)
    done = threading.Event()

    def swap() -> None:
        temporary = victim.parent / "temporary"
        i = 0
        while not done.is_set():
            i += 1
            temporary.write_bytes(evil if i % 2 else good)
            if i % 5:
                temporary.replace(path)
            else:
                path.write_bytes(evil[: len(evil) // 2])  # in place, cut off

    thread = threading.Thread(target=swap)
    thread.start()
    right = refused = 0
    try:
        while (right < 20 or refused < 20) and right + refused < 20_000:
            try:
                assert open_bundle(victim).graph().data == good
                right += 1
            except IntegrityError:
                refused += 1
    finally:
        done.set()
        thread.join()
    assert right >= 20
    assert refused >= 20

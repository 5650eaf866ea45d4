from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GIB = 2**30


def test_the_bundle_that_the_attacks_start_from_works(victim: Path, gray_photo: Path, tmp_path: Path) -> None:
    from icf_deploy.cli import run

    assert run(["verify", str(victim)]) == 0
    assert run(["colorize", str(gray_photo), "-o", str(tmp_path / "coloured.png"), "--bundle", str(victim)]) == 0


@pytest.mark.parametrize(
    "file",
    [
        "../../outside.onnx",
        "/etc/passwd",
        "C:\\Windows\\win.ini",
        "\\\\server\\share\\x.onnx",
        "graphs\\fp32.onnx",
        "graphs/../../outside.onnx",
        "graphs/fp32.onnx\0.txt",
        "file:///etc/passwd",
        "~/x.onnx",
        "graphs/./fp32.onnx",
        "graphs//fp32.onnx",
        "GRAPHS/fp32.onnx",
    ],
)
def test_a_path_that_leads_elsewhere(
    file: str, victim: Path, refused: Callable[..., None], restate: Callable[..., None]
) -> None:
    (victim.parent / "outside.onnx").write_bytes((victim / "graphs/fp32.onnx").read_bytes())
    restate(victim, change=lambda manifest: manifest["graphs"][0].update(file=file))
    refused(victim, r"file: expected 'graphs/fp32\.onnx'|unprintable character")


@pytest.mark.parametrize(
    "name", ["../../outside", "..", "fp32/../../outside", "a\\b", "c:x", "nul", "FP32", "fp32 ", "", "a\0b"]
)
def test_a_name_that_would_make_such_a_path(
    name: str, victim: Path, refused: Callable[..., None], restate: Callable[..., None]
) -> None:
    restate(victim, change=lambda manifest: manifest["graphs"][0].update(name=name, file=f"graphs/{name}.onnx"))
    refused(victim, "name: expected a name of lower-case letters|unprintable character")


def test_a_huge_manifest_is_not_read(victim: Path, refused: Callable[..., None]) -> None:
    os.truncate(victim / "manifest.json", 50 * GIB)  # sparse
    refused(victim, rf"manifest\.json has {50 * GIB} bytes, and at most \d+ were expected")


@pytest.mark.parametrize(
    "text, message",
    {
        "nested without end": ("[" * 3_000_000, "nested deeper than 32"),
        "nested objects": ('{"a":' * 500_000, "nested deeper than 32"),
        "a list of millions": ("[" + "[]," * 1_000_000 + "[]]", "expected an object"),
        "NaN": ('{"format": 1, "stride": NaN}', "NaN is no JSON number"),
        "infinity": ('{"format": 1, "stride": Infinity}', "Infinity is no JSON number"),
        "a number beyond all floats": ('{"format": 1e999}', "too large"),
        "a number of a million digits": ('{"format": ' + "9" * 1_000_000 + "}", "1000000 digits"),
        "a field twice": ('{"format": 2, "format": 1}', "field 'format' is there twice"),
        "empty": ("", "not readable JSON"),
        "not JSON": ("import os; os.system('id')", "not readable JSON"),
        "no object": ('"icf"', "expected an object"),
        "a byte order mark": ("\ufeff{}", "not readable JSON"),
        "UTF-16": ('{"format": 1}\0', "not readable JSON"),
    }.values(),
)
def test_a_manifest_that_is_no_plain_json(text: str, message: str, victim: Path, refused: Callable[..., None]) -> None:
    (victim / "manifest.json").write_text(text, encoding="utf-8")
    refused(victim, message)


def test_a_manifest_that_is_no_text(victim: Path, refused: Callable[..., None]) -> None:
    (victim / "manifest.json").write_bytes(b'{"format": 1, "preset": "\xc0\xaf\xff"}')
    refused(victim, "not readable JSON")


def test_a_text_that_a_terminal_would_obey(victim: Path, refused: Callable[..., None], restate: Callable[..., None]) -> None:
    for hostile in ("\x1b]0;owned\x07", "\x9b2J", "a\rb", "\u202egnp.exe", "\ud800"):
        restate(victim, change=lambda manifest, text=hostile: manifest["provenance"].update(command=text))
        refused(victim, "unprintable character")


def test_a_newer_format_has_a_status_of_its_own(
    victim: Path, refused: Callable[..., None], restate: Callable[..., None]
) -> None:
    restate(victim, change=lambda manifest: manifest.update(format=2))
    refused(victim, r"bundle format 2, and this icf-deploy reads up to 1: pip install --upgrade", status=4)


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a graph of two gigabytes and more": (lambda m: m["graphs"][0].update(bytes=2**31), "whole number"),
    "more graphs than there can be": (lambda m: m.update(graphs=m["graphs"] * 300), "at most 256"),
    "a picture of terabytes": (lambda m: m.update(size=[2**20, 2**20]), "multiples of 32 up to"),
    "a reference set that would fill the memory": (lambda m: m["reference"].update(bytes=2 * GIB - 1), "take .* bytes, found"),
    "more photos than are there": (lambda m: m["reference"].update(photos=["a"] * 1000), "reference set"),
}


@pytest.mark.parametrize("change, message", LIES.values(), ids=LIES.keys())
def test_a_manifest_that_promises_too_much(
    change: Callable[[dict[str, Any]], object],
    message: str,
    victim: Path,
    refused: Callable[..., None],
    restate: Callable[..., None],
) -> None:
    restate(victim, change=change)
    refused(victim, message, opens="reference set" in message)


def test_every_byte_of_the_manifest_counts_for_the_digest(victim: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import icf_deploy
    from icf_deploy.bundle.store import open_bundle
    from icf_deploy.cli import run

    digest = open_bundle(victim).digest
    manifest = json.loads((victim / "manifest.json").read_bytes())
    (victim / "manifest.json").write_text(json.dumps(manifest))  # the same values, written otherwise
    with pytest.raises(icf_deploy.IntegrityError, match=f"expected digest {digest}, found"):
        icf_deploy.load(victim, expect_digest=digest)
    capsys.readouterr()
    assert run(["verify", str(victim), "--expect-digest", digest]) == 6
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from icf_deploy.bundle.manifest import Manifest
from icf_deploy.bundle.store import Bundle
from icf_deploy.errors import ArtefactError, IntegrityError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def content(bundle: Bundle) -> dict[str, Any]:
    """The manifest as plain JSON values."""
    values: dict[str, Any] = json.loads((bundle.path / "manifest.json").read_bytes())
    return values


def read(content: object) -> Manifest:
    return Manifest.from_json(json.dumps(content).encode())


def test_a_manifest_survives_the_way_through_json(bundle: Bundle) -> None:
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest


def test_the_manifest_says_its_format_and_every_documented_field(content: dict[str, Any]) -> None:
    assert content["format"] == 1
    assert set(content) == {
        "format",
        "preset",
        "stride",
        "size",
        "graphs",
        "default_graph",
        "reference",
        "checkpoint",
        "parity",
        "provenance",
    }
    assert set(content["graphs"][0]) == {
        "name",
        "file",
        "sha256",
        "bytes",
        "recipe",
        "size",
        "part",
        "lowering",
        "measurements",
    }


def test_a_newer_format_is_an_artefact_error_whatever_else_it_holds() -> None:
    with pytest.raises(ArtefactError, match=r"bundle format 2.*reads up to 1.*pip install --upgrade"):
        Manifest.from_json(b'{"format": 2, "all": "different"}')


def test_a_field_that_is_not_known_yet_is_ignored(content: dict[str, Any], bundle: Bundle) -> None:
    assert read({**content, "of_the_future": [1, 2]}) == bundle.manifest


def test_a_fields_absence_is_said_by_name(content: dict[str, Any]) -> None:
    for name in content:
        with pytest.raises(IntegrityError, match=f"field '{name}' is missing"):
            read({key: value for key, value in content.items() if key != name})


ENGINE = {
    "name": "fp32-sm86",
    "file": "engines/fp32-sm86.engine",
    "sha256": "0" * 64,
    "bytes": 1,
    "runtime": "trt",
    "target": "sm86",
    "version": "tensorrt_rtx 1.7.1",
    "graph": "fp32",
}


def test_engines_are_read_where_they_are_listed_and_say_nothing_where_there_are_none(content: dict[str, Any]) -> None:
    manifest = read({**content, "engines": [ENGINE]})
    assert [(engine.runtime, engine.target, engine.graph) for engine in manifest.engines] == [("trt", "sm86", "fp32")]
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.files()[-1].file == "engines/fp32-sm86.engine"
    assert "engines" not in content
    assert read(content).engines == ()


WRONG: dict[str, tuple[Change, str]] = {
    "absolute path": (lambda m: m["graphs"][0].update(file="/etc/passwd"), r"graphs\[0\]: file: expected 'graphs/fp32\.onnx'"),
    "parent path": (lambda m: m["graphs"][0].update(file="graphs/../../x.onnx"), "file: expected"),
    "backslashes": (lambda m: m["graphs"][0].update(file="graphs\\fp32.onnx"), "file: expected"),
    "a file that is another's": (lambda m: m["graphs"][0].update(file="reference.npz"), "file: expected"),
    "reference elsewhere": (lambda m: m["reference"].update(file="../reference.npz"), "reference: file: expected"),
    "name with a slash": (lambda m: m["graphs"][0].update(name="../../x", file="graphs/../../x.onnx"), "lower-case"),
    "name with a newline": (lambda m: m["graphs"][0].update(name="fp32\n", file="graphs/fp32\n.onnx"), "unprintable"),
    "name of a Windows device": (lambda m: m["graphs"][0].update(name="nul", file="graphs/nul.onnx"), "not a device"),
    "name of a Windows device with an ending": (lambda m: m["graphs"][0].update(name="com1.x"), "not a device"),
    "upper-case name": (lambda m: m["graphs"][0].update(name="FP32", file="graphs/FP32.onnx"), "lower-case"),
    "empty name": (lambda m: m["graphs"][0].update(name="", file="graphs/.onnx"), "lower-case"),
    "endless name": (lambda m: m["graphs"][0].update(name="a" * 65, file=f"graphs/{'a' * 65}.onnx"), "lower-case"),
    "short digest": (lambda m: m["graphs"][0].update(sha256="abc"), "64 hexadecimal digits, found 'abc'"),
    "digest that is a number": (lambda m: m["graphs"][0].update(sha256=12), "64 hexadecimal digits, found 12"),
    "negative length": (lambda m: m["graphs"][0].update(bytes=-1), "bytes: expected a whole number"),
    "length beyond 2 GiB": (lambda m: m["graphs"][0].update(bytes=2**31), "bytes: expected a whole number"),
    "length that is a float": (lambda m: m["graphs"][0].update(bytes=1.0), "bytes: expected a whole number"),
    "length that is a truth value": (lambda m: m["graphs"][0].update(bytes=True), "bytes: expected a whole number"),
    "recipe with a space": (lambda m: m["graphs"][0].update(recipe="fp32 fp16"), "number formats"),
    "unknown part": (lambda m: m["graphs"][0].update(part="half"), "one of whole"),
    "size not of 32": (lambda m: m.update(size=[64, 97]), r"\[H, W\], multiples of 32"),
    "size of one side": (lambda m: m.update(size=[64]), r"\[H, W\]"),
    "size of truth values": (lambda m: m.update(size=[True, True]), r"\[H, W\]"),
    "giant size": (lambda m: m.update(size=[2**20, 2**20]), r"\[H, W\]"),
    "size that is a text": (lambda m: m.update(size="64x96"), r"\[H, W\]"),
    "stride 3": (lambda m: m.update(stride=3), "stride 3 does not divide"),
    "stride 0": (lambda m: m.update(stride=0), "stride: expected"),
    "graphs as an object": (lambda m: m.update(graphs={}), "graphs: expected a list"),
    "graph as a text": (lambda m: m.update(graphs=["fp32"]), r"graphs\[0\]: expected an object"),
    "too many graphs": (lambda m: m.update(graphs=m["graphs"] * 200), "list of at most 256"),
    "two graphs of one name": (lambda m: m["graphs"].append(m["graphs"][0]), "two graphs have the same name"),
    "no graphs": (lambda m: m.update(graphs=[]), "no whole graph"),
    "unknown default graph": (lambda m: m.update(default_graph="fp16"), "no whole graph"),
    "default graph of another size": (lambda m: m.update(default_graph="int8-bf16"), "no whole graph"),
    "default graph that is a part": (lambda m: m["graphs"][0].update(part="paint"), "no whole graph"),
    "no photos": (lambda m: m["reference"].update(photos=[]), "at least one"),
    "photos that are numbers": (lambda m: m["reference"].update(photos=[1]), "a text of one line"),
    "photo with an escape sequence": (lambda m: m["reference"].update(photos=["\x1b[31m"]), r"unprintable character '\\x1b'"),
    "half a surrogate pair": (lambda m: m["provenance"].update(torch="\ud800"), r"unprintable character '\\ud800'"),
    "text that reads backwards": (
        lambda m: m["provenance"].update(command="\u202egpj.exe"),
        r"unprintable character '\\u202e'",
    ),
    "key with an escape sequence": (lambda m: m["graphs"][0].update(measurements={"a": [{"\x9b31m": 1}]}), "unprintable"),
    "engines as an object": (lambda m: m.update(engines={}), "engines: expected a list"),
    "engine elsewhere": (
        lambda m: m.update(engines=[{**ENGINE, "file": "/usr/lib/libc.so.6"}]),
        r"engines\[0\]: file: expected",
    ),
    "engine of a graph that is not there": (lambda m: m.update(engines=[{**ENGINE, "graph": "fp64"}]), "no graph 'fp64'"),
    "two engines of one name": (lambda m: m.update(engines=[ENGINE, ENGINE]), "two engines have the same name"),
    "engine without target": (
        lambda m: m.update(engines=[{key: value for key, value in ENGINE.items() if key != "target"}]),
        "field 'target' is missing",
    ),
    "checkpoint elsewhere": (
        lambda m: m.update(checkpoint={"file": "x", "sha256": "0" * 64, "bytes": 1}),
        "checkpoint: file: expected",
    ),
    "checkpoint that is a text": (lambda m: m.update(checkpoint="yes"), "checkpoint: expected an object"),
    "negative parity": (lambda m: m["parity"].update(max_abs_ab=-1), "0 or more"),
    "parity that is a text": (lambda m: m["parity"].update(bound="1e-3"), "0 or more"),
    "endless command": (lambda m: m["provenance"].update(command="x" * 5000), r"a text of one line, found 'x+\.\.\."),
    "source without digest": (lambda m: m["provenance"].update(source={"file": "x"}), "'sha256' is missing"),
    "measurements as a list": (lambda m: m["graphs"][0].update(measurements=[1]), "measurements: expected an object"),
    "skipped rewrite without reason": (lambda m: m["graphs"][0]["lowering"].update(skipped=[{"name": "x"}]), "'reason'"),
    "format 0": (lambda m: m.update(format=0), "format: expected"),
    "format that is a text": (lambda m: m.update(format="1"), "format: expected"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG.keys())
def test_a_malformed_manifest_is_an_integrity_error_that_says_where(
    change: Change, message: str, content: dict[str, Any]
) -> None:
    read(content)
    change(content)
    with pytest.raises(IntegrityError, match=message):
        read(content)


UNREADABLE = {
    "empty": b"",
    "no JSON": b"hello",
    "a list": b"[]",
    "cut off": b'{"format": 1, "preset": "icf',
    "not UTF-8": b'{"format": 1, "preset": "\xff\xfe"}',
    "a field twice": b'{"format": 1, "format": 1}',
    "NaN": b'{"format": NaN}',
    "infinity": b'{"format": -Infinity}',
    "a number beyond all floats": b'{"format": 1, "measurements": 1e999}',
    "a field twice, deep inside": b'{"a": [{"b": {"c": 1, "c": 2}}]}',
    "nested out of sight, behind a quote": b'{"a": "\\"", "b": ' + b"[" * 40 + b"]" * 40 + b"}",
    "an endless text": b'{"a": "' + b'\\"' * 1_000_000,
    "nested without end": b"[" * 200_000,
    "a number of a million digits": b'{"format": ' + b"1" * 1_000_000 + b"}",
}


def test_brackets_inside_texts_do_not_count_as_nesting(content: dict[str, Any], bundle: Bundle) -> None:
    assert read({**content, "note": '[{"' * 1000 + "\\"}) == bundle.manifest


def test_nesting_is_limited_even_where_the_application_lets_python_recurse_without_end() -> None:
    script = (
        "import sys; sys.setrecursionlimit(10**8)\n"
        "from icf_deploy.bundle.manifest import Manifest\n"
        "try: Manifest.from_json(b'[' * 2_000_000)\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "manifest.json is not readable JSON (nested deeper than 32)\n"


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_no_json_object_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^manifest\.json"):
        Manifest.from_json(data)


def test_a_manifest_larger_than_any_real_one_is_not_even_parsed(bundle: Bundle) -> None:
    from icf_deploy.bundle.store import open_bundle

    with (bundle.path / "manifest.json").open("ab") as stream:
        stream.write(b" " * (9 * 2**20))
    with pytest.raises(IntegrityError, match="at most"):
        open_bundle(bundle.path)

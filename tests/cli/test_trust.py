"""Whom a command believes: bundles with a digest, engines that lie in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icf_deploy.benchmarks import Candidate, benchmark
from icf_deploy.bundle.store import NewEngine, add_engines, open_bundle
from icf_deploy.errors import IntegrityError
from icf_deploy.runtimes import registry

FAKE = """
from icf_deploy.runtimes.base import Availability, Engine, Target
from icf_deploy.runtimes.ort import OrtRuntime

opened = []

class FakeRuntime:
    name = "fake"
    def available(self): return Availability(True, "1.0")
    def devices(self): return ("abacus",)
    def formats(self, device): return ("fp32",)
    def build(self, graph, target): return Engine("fake", target, graph, b"built here")
    def fits(self, built_for, version, target): return built_for == target.device and version == "fake 1.0"
    def open(self, engine):
        opened.append(engine.data)
        return OrtRuntime().open(Engine("ort", Target("cpu", 1), engine.graph, engine.graph.data))
"""


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What the runtime `fake` was given to open."""
    import importlib

    (tmp_path / "fake_engine.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.RUNTIMES, "fake", registry.Line("fake_engine", "FakeRuntime", ("fake_engine",)))
    found: Any = importlib.import_module("fake_engine")
    yield found.opened
    sys.modules.pop("fake_engine", None)


@pytest.fixture
def with_engines(tiny_bundle: Path, tmp_path: Path) -> Path:
    engines = [
        NewEngine("other-device", b"for another device", "fake", "slide-rule", "fake 1.0", "fp32"),
        NewEngine("other-version", b"of another version", "fake", "abacus", "fake 0.9", "fp32"),
        NewEngine("fits", b"it came along", "fake", "abacus", "fake 1.0", "fp32"),
    ]
    return add_engines(open_bundle(tiny_bundle), tmp_path / "with.icf", engines).path


def test_an_engine_in_the_bundle_is_used_only_where_it_is_trusted_and_fits(
    icf, with_engines: Path, opened: list[bytes], photos_dir: Path, tmp_path: Path
) -> None:
    colorize = ["colorize", photos_dir / "coffee.png", "-o", tmp_path / "out.png", "--overwrite", "--bundle", with_engines]
    for command in (["check", with_engines], colorize):
        for trust, expected in (([], b"built here"), (["--trust-engines"], b"it came along")):
            found = icf(*command, "--engine", "fake", *trust)
            assert (found.status, found.err) == (0, "")
            assert opened.pop() == expected
    assert opened == []


def test_where_none_of_a_trusted_bundle_fits_one_is_built(icf, with_engines: Path, opened: list[bytes]) -> None:
    bundle = open_bundle(with_engines)
    fits = NewEngine("fits", b"now for another one", "fake", "slide-rule", "fake 1.0", "fp32")
    add_engines(bundle, with_engines, [fits], overwrite=True)
    assert icf("check", with_engines, "--engine", "fake", "--trust-engines").status == 0
    assert opened == [b"built here"]


@pytest.mark.parametrize(("trust", "expected"), [(False, b"built here"), (True, b"it came along")])
def test_the_process_that_measures_believes_what_the_run_believes(
    with_engines: Path, opened: list[bytes], *, trust: bool, expected: bytes
) -> None:
    found = benchmark(with_engines, ["fake"], trust_engines=trust)  # no worker process knows this runtime: it costs its row
    candidate = found.rows[0].measured.candidate
    assert (candidate.trust_engines, candidate.expect_digest) == (trust, open_bundle(with_engines).digest)
    with Candidate.from_json(candidate.to_json()).open():
        assert opened == [expected]


def test_a_bundle_that_was_replaced_after_the_check_is_not_measured(tiny_bundle: Path) -> None:
    with pytest.raises(IntegrityError, match="not the bundle that was asked for"):
        Candidate("ort", bundle=tiny_bundle, expect_digest="0" * 64).open()


def test_an_altered_engine_of_a_trusted_bundle_is_not_opened(icf, with_engines: Path, opened: list[bytes]) -> None:
    (with_engines / "engines/fits.engine").write_bytes(b"it came amiss")
    found = icf("check", with_engines, "--engine", "fake", "--trust-engines")
    assert found.status == 6 and "engines/fits.engine is not what was written" in found.error
    assert opened == []
    assert icf("check", with_engines, "--engine", "fake").status == 0  # nobody reads it


def test_every_command_that_opens_a_bundle_compares_the_digest_that_is_expected(
    icf, tiny_bundle: Path, photos_dir: Path, tmp_path: Path
) -> None:
    digest = open_bundle(tiny_bundle).digest
    commands = (
        ["bench", tiny_bundle, "--engine", "ort", "--seconds", "0.1", "--processes", "1"],
        ["check", tiny_bundle, "--engine", "ort"],
        ["colorize", photos_dir / "coffee.png", "-o", tmp_path / "out.png", "--bundle", tiny_bundle],
        ["inspect", tiny_bundle],
        ["pack", tiny_bundle, "-o", tmp_path / "packed.icf"],
        ["verify", tiny_bundle],
    )
    for command in commands:
        found = icf(*command, "--expect-digest", "0" * 64)
        assert (found.status, found.out) == (6, "")
        assert f"found {digest}" in found.error
        assert icf(*command, "--expect-digest", "12").status == 2
        assert list(tmp_path.iterdir()) == []
    for command in commands:
        assert icf(*command, "--expect-digest", digest).status == 0, command

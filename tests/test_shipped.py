"""The weights and the bundle in the package belong together, and are what this code makes of them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import icf_deploy
import icf_deploy.data
from icf_deploy.bundle.store import SHIPPED_CHECKPOINT, Bundle, open_bundle
from icf_deploy.export import export_bundle
from icf_deploy.quality.drift import measure_drift
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import Target

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(str(icf_deploy.data.__file__)).parent
CHECKPOINT_LIMIT = 12_000_000  # bytes
PINNED = ("torch", "onnx", "onnxscript", "onnx-ir")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(output=tmp_path_factory.mktemp("fresh") / "fresh.icf")


def _installed_as_pinned() -> bool:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    return all(importlib.metadata.version(name).split("+")[0] == pins[name] for name in PINNED)


def test_a_fresh_export_gives_the_shipped_graph(fresh: Bundle) -> None:
    if not _installed_as_pinned():
        pytest.skip(
            "graph bytes are compared only under constraints.txt: another exporter may write the same graph differently"
        )
    assert fresh.graph().sha256 == open_bundle().graph().sha256


def test_a_fresh_export_gives_the_shipped_reference(fresh: Bundle) -> None:
    shipped = open_bundle().reference()
    again = fresh.reference()
    assert again.names == shipped.names
    assert np.array_equal(again.gray, shipped.gray)
    assert np.abs(again.ab - shipped.ab).max() < 1e-3


def test_the_shipped_bundle_verifies_and_names_the_shipped_checkpoint() -> None:
    bundle = open_bundle()
    bundle.verify()
    data = (DATA / SHIPPED_CHECKPOINT).read_bytes()
    assert len(data) <= CHECKPOINT_LIMIT
    assert bundle.manifest.provenance.source is not None
    assert bundle.manifest.provenance.source.sha256 == hashlib.sha256(data).hexdigest()
    assert bundle.manifest.preset == "icf-edge"


def test_pytorch_runs_the_shipped_bundle_from_the_packaged_checkpoint() -> None:
    bundle = open_bundle()
    graph = registry.graph_for(bundle, "pytorch")
    runtime = registry.get("pytorch")
    with runtime.open(runtime.build(graph, Target(threads=1))) as session:
        assert measure_drift(session, bundle.reference()).value("de2000_p95") < 0.01


def test_the_shipped_network_puts_real_colour_on_real_photos(photo: Callable[[str], npt.NDArray[np.uint8]]) -> None:
    """Sky above the rocket is bluer than the ground; a flower's bed and a cat are not gray: weights that were trained."""
    with icf_deploy.load(engine="ort", threads=1) as colorizer:
        pictures = {name: np.asarray(colorizer.colorize(photo(name)), np.float32) for name in ("china", "chelsea", "flower")}
    chroma = {name: float((p.max(axis=2) - p.min(axis=2)).mean()) for name, p in pictures.items()}
    assert min(chroma.values()) > 10, chroma


def test_the_model_card_states_data_protocol_results_and_limits() -> None:
    card = (DATA / "MODEL_CARD.md").read_text(encoding="utf-8")
    for heading in ("## Data", "## Protocol", "## Results", "## Limits"):
        assert heading in card


def test_every_packaged_photo_is_attributed() -> None:
    text = (DATA / "photos" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines() if ".jpg" in line}
    assert set(rows) == {path.name for path in (DATA / "photos").glob("*.jpg")}
    assert all(licence == "public-domain" or licence.startswith(("CC0", "CC-BY-")) for licence in rows.values())
    assert not any("SA" in licence or "NC" in licence for licence in rows.values())


def test_the_manifest_is_readable_json() -> None:
    assert json.loads((DATA / "icf-edge.icf" / "manifest.json").read_text(encoding="utf-8"))["format"] == 1

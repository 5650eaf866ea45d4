"""docs/bundle.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from icf_deploy.bundle import archive, fields, graph_check, manifest, reference

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "bundle.md").read_text(encoding="utf-8")


def test_every_limit_on_the_page_is_the_one_in_the_code() -> None:
    rows = [
        f"| manifest | {manifest.MANIFEST_LIMIT // 2**20} MiB |",
        "| one file | 2^31 - 1 bytes",
        f"| graphs, engines | {manifest.GRAPH_LIMIT} each |",
        f"| photos | {manifest.PHOTO_LIMIT}; `reference.npz` takes its arrays' bytes and {reference.OVERHEAD_LIMIT} more |",
        "| the one-file form | 2^32 - 1 bytes",
        f"| fields, nesting of an ONNX file | {graph_check.FIELD_LIMIT:,}; {graph_check.DEPTH_LIMIT} |",
        f"nothing nested beyond {fields.DEPTH_LIMIT}, numbers of at most {fields.DIGIT_LIMIT} characters, "
        f"texts of at most {fields.TEXT_LIMIT}\ncharacters",
        f"multiples of {manifest.SIZE_MULTIPLE} up to {manifest.SIZE_LIMIT} |",
    ]
    for row in rows:
        assert row in PAGE
    assert (manifest.FILE_LIMIT, archive.ARCHIVE_LIMIT) == (2**31 - 1, 2**32 - 1)
    assert manifest.GRAPH_LIMIT == manifest.ENGINE_LIMIT


def test_every_field_of_the_manifest_is_on_the_page() -> None:
    kinds = (manifest.Manifest, manifest.GraphEntry, manifest.EngineEntry, manifest.ReferenceEntry, manifest.Parity)
    for kind in (*kinds, manifest.Provenance, manifest.Source, manifest.Lowering, manifest.SkippedRewrite):
        for name in kind.__dataclass_fields__:
            assert f"`{name}`" in PAGE, name

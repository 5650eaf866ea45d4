from __future__ import annotations

from pathlib import Path


def test_there_and_back(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    found = icf("pack", tiny_bundle, "-o", tmp_path / "packed.icf", "--json")
    assert found.status == 0
    assert (found.document["form"], found.document["path"]) == ("file", str(tmp_path / "packed.icf"))
    back = icf("pack", tmp_path / "packed.icf", "--unpack", "-o", tmp_path / "back.icf")
    assert back.status == 0
    assert found.document["digest"] in back.out
    for path in tiny_bundle.rglob("*"):
        if path.is_file():
            assert (tmp_path / "back.icf" / path.relative_to(tiny_bundle)).read_bytes() == path.read_bytes()


def test_the_same_bundle_makes_the_same_file(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("a.icf", "b.icf"):
        assert icf("pack", tiny_bundle, "-o", tmp_path / name).status == 0
    assert (tmp_path / "a.icf").read_bytes() == (tmp_path / "b.icf").read_bytes()


def test_an_existing_output_needs_overwrite_and_no_output_is_a_usage_error(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.icf").write_bytes(b"pixels")
    assert icf("pack", tiny_bundle, "-o", tmp_path / "photo.icf").status == 1
    assert icf("pack", tiny_bundle, "-o", tmp_path / "photo.icf", "--overwrite").status == 1  # it is no bundle
    assert (tmp_path / "photo.icf").read_bytes() == b"pixels"
    assert icf("pack", tiny_bundle, "-o", tmp_path / "x.icf").status == 0
    assert icf("pack", tiny_bundle, "-o", tmp_path / "x.icf").status == 1
    assert icf("pack", tiny_bundle, "-o", tmp_path / "x.icf", "--overwrite").status == 0
    assert icf("pack", tiny_bundle).status == 2


def test_a_packed_bundle_colours_photos_and_is_checked(icf, tiny_bundle: Path, tmp_path: Path, photos_dir: Path) -> None:
    assert icf("pack", tiny_bundle, "-o", tmp_path / "packed.icf").status == 0
    done = icf("colorize", photos_dir / "coffee.png", "-o", tmp_path / "out.png", "--bundle", tmp_path / "packed.icf")
    assert done.status == 0, done.err
    assert (tmp_path / "out.png").is_file()
    assert icf("check", tmp_path / "packed.icf", "--engine", "ort").status == 0

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icf_deploy.benchmarks.html_report import report_html, write_report
from icf_deploy.benchmarks.worst_photo import WorstPhoto
from icf_deploy.errors import WorkError

Make = Callable[..., dict[str, Any]]
ENGINES = {"pytorch": (40.0, 0.0), "ort": (10.0, 0.001), "ort:int8": (11.0, 3.0), "openvino:cpu-bf16": (5.0, 0.6)}
FETCHING = {"script", "link", "iframe", "object", "embed", "audio", "video", "source", "base", "form"}
VOID = {"meta", "img"}


def pictures(row: dict[str, Any], result: dict[str, Any]) -> WorstPhoto | str:
    """Three files that are none, for all but the last row."""
    return "engine is gone" if row is result["rows"][-1] else WorstPhoto("b", b"reference", b"engine", b"difference", 20)


class Page(HTMLParser):
    """Elements with their attributes, the texts between them, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str, kind: str) -> list[dict[str, str | None]]:
        return [
            attributes for name, attributes in self.elements if name == tag and kind in (attributes.get("class") or "").split()
        ]


@pytest.fixture(scope="module")
def page(make_result: Make) -> Page:
    return Page(report_html(make_result(ENGINES), pictures))


def test_the_page_is_whole_and_fetches_nothing(page: Page, make_result: Make) -> None:
    assert page.open == []
    assert not FETCHING & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "href", "srcset", "action", "data") or (value or "").startswith("data:image/"), value
    text = report_html(make_result(ENGINES), pictures)
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"@import|url\(|https?:", style)
    policy = next(attributes["content"] for _, attributes in page.elements if attributes.get("http-equiv"))
    assert policy is not None and "default-src 'none'" in policy


def test_the_headline_answers_what_a_thousand_photos_cost(page: Page, make_result: Make) -> None:
    result = make_result(ENGINES)
    assert result["headline"] in page.texts
    assert "openvino:cpu-bf16" in result["headline"]


def test_hostile_names_are_text(make_result: Make) -> None:
    name = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>"
    result = make_result({name: (10.0, 0.5), "ort": (8.0, 0.5), "dead": f"it {name} died"}, bundle=f"{name}.icf")
    result["machine"]["cpu"] = result["machine"]["system"] = name
    result["warnings"].append(name)
    result["rows"][0]["formats"] = {name: 3}
    result["headline"] = result["rows"][0]["command"] = name
    found = Page(report_html(result, lambda row, _: f"no {name}" if row["label"] == "ort" else pictures(row, result)))
    assert "script" not in {tag for tag, _ in found.elements}
    assert not [attributes for _, attributes in found.elements if "onerror" in attributes]
    assert sum(name in text for text in found.texts) > 8
    assert found.open == []


def test_engines_that_are_beaten_are_gray_and_the_line_joins_the_others(page: Page) -> None:
    markers = page.of("circle", "marker")
    assert len(markers) == 2 * len(ENGINES)  # for a desk and for a phone
    gray = page.of("text", "dominated")
    assert len(gray) == 4 and len(page.of("circle", "dominated")) == 4
    labels = [text for text in page.texts if text in ENGINES]
    assert set(labels) == set(ENGINES)
    wide, narrow = page.of("polyline", "front")
    for line in (wide, narrow):
        corners = [tuple(map(float, corner.split(","))) for corner in str(line["points"]).split()]
        assert len(corners) == 3  # from openvino:cpu-bf16 along its drift to the latency of ort, and down
        assert corners[0][0] < corners[1][0] == corners[2][0] and corners[0][1] == corners[1][1] < corners[2][1]


def test_two_engines_of_which_none_was_shown_to_be_faster_are_both_on_the_front(make_result: Make) -> None:
    found = Page(report_html(make_result({"ort": (10.0, 0.001), "openvino": (10.001, 0.002)}), pictures))
    assert not found.of("circle", "dominated")


def test_the_area_of_a_marker_grows_with_its_file(make_result: Make) -> None:
    small, large = (
        Page(report_html(make_result(ENGINES, bytes=size), pictures)).of("circle", "marker")[0]["r"]
        for size in (1_000_000, 100_000_000)
    )
    assert float(str(small)) < float(str(large))


def test_an_engine_without_colour_is_at_the_edge_of_the_picture_and_named_in_the_table(make_result: Make) -> None:
    result = make_result(ENGINES)
    metrics = result["rows"][1]["drift"]["metrics"]
    metrics["de2000_p95"] = metrics["de2000_p95_worst"] = None
    found = Page(report_html(result, pictures))
    assert "no colour" in found.texts
    assert len(found.of("circle", "marker")) == 2 * len(ENGINES)


def test_every_row_has_its_photo_or_the_reason_and_the_factor_of_its_difference(page: Page) -> None:
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 3 * (len(ENGINES) - 1)
    assert page.texts.count("difference × 20") == len(ENGINES) - 1
    assert "openvino:cpu-bf16: no picture: engine is gone" in page.texts


def test_the_distributions_hold_every_sample(page: Page) -> None:
    counted = [re.match(r"(\d+) of (\d+) calls", text) for text in page.texts]
    found = [(int(match[1]), int(match[2])) for match in counted if match]
    assert sum(count for count, _ in found) == 120 * len(ENGINES)
    assert {whole for _, whole in found} == {120}
    assert len(page.of("line", "p50")) == len(page.of("line", "p90")) == len(ENGINES)


def test_the_table_has_words_intervals_commands_and_says_what_failed(make_result: Make) -> None:
    result = make_result({**ENGINES, "trt": "no GPU"})
    found = Page(report_html(result, pictures))
    text = " ".join(found.texts)
    assert "faster" in found.texts and "failed" in found.texts and "Not in the picture: trt." in text
    ratio = result["rows"][1]["ratio"]
    assert f"{ratio['low']:.3f} .. {ratio['high']:.3f}" in found.texts
    assert "icf-deploy bench --engine ort:int8" in found.texts


def test_parts_that_were_not_measured_are_left_out(make_result: Make) -> None:
    result = make_result({"ort": (10.0, None)})
    text = report_html(result, lambda *_: "drift was not measured")
    assert "Latency against drift" not in text and "At a pace" not in text and "LoadGen" not in text
    nothing = make_result({"ort": "it died"})
    assert "Nothing was measured." in report_html(nothing, pictures) and "Distributions" not in report_html(nothing, pictures)


def test_a_scenario_of_loadgen_is_shown_without_raw_samples(make_result: Make) -> None:
    result = make_result(ENGINES)
    result["scenario"] = "single-stream"
    for row in result["rows"]:
        row["turns"], row["percentiles_ns"], row["ratio"] = [], [], None
        row["loadgen"] = {
            "scenario": "single-stream", "valid": row["label"] == "ort", "metric": "90.0th percentile latency", "value": 11e6,
            "unit": "ns", "percentiles_ns": {"50": 10e6, "90": 11e6}, "samples": 640, "seconds": 60.1,
            "invalid_because": [] if row["label"] == "ort" else ["too short <b>"],
        }  # fmt: skip
    found = Page(report_html(result, pictures))
    assert "VALID" in found.texts and "INVALID" in found.texts and "too short <b>" in found.texts
    assert len(found.of("circle", "marker")) == 2 * len(ENGINES)


def test_the_pictures_are_svg_that_another_reader_understands(make_result: Make) -> None:
    text = report_html(make_result(ENGINES), pictures)
    drawn = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawn) == 2 + len(ENGINES)
    for picture in drawn:
        assert ET.fromstring(picture).get("viewBox")


def test_a_number_that_is_not_finite_breaks_nothing(make_result: Make) -> None:
    result = make_result(ENGINES)
    result["rows"][0]["ratio"] = None
    result["rows"][0]["cost"]["price_per_1000"] = float("inf")
    result["machine"]["load_average"] = float("nan")
    assert Page(report_html(result, pictures)).open == []


@pytest.mark.parametrize("kind", ["existing", "folder", "nowhere"])
def test_a_place_that_could_not_be_written_is_refused_before_an_engine_is_opened(
    kind: str, make_result: Make, tmp_path: Path
) -> None:
    (tmp_path / "r.html").write_text("mine")
    path = {"existing": tmp_path / "r.html", "folder": tmp_path, "nowhere": tmp_path / "none/r.html"}[kind]

    def opened(*_: Any) -> str:
        raise AssertionError("it was opened")

    with pytest.raises(WorkError, match=re.escape(str(path))):
        write_report(make_result(ENGINES), path, pictures=opened)
    assert list(tmp_path.iterdir()) == [tmp_path / "r.html"] and (tmp_path / "r.html").read_text() == "mine"


def test_a_disk_that_fails_leaves_nothing_half_written(
    make_result: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: Any, **__: Any) -> None:
        with self.open("w") as stream:
            stream.write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WorkError, match="No space left"):
        write_report(make_result(ENGINES), tmp_path / "r.html", pictures=pictures)
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_what_stands_there(make_result: Make, tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("mine")
    write_report(make_result(ENGINES), tmp_path / "r.html", overwrite=True, pictures=pictures)
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_report_does_not_change_its_result(make_result: Make) -> None:
    result = make_result(ENGINES)
    before = copy.deepcopy(result)
    report_html(result, pictures)
    assert result == before
    assert np.isfinite(result["rows"][0]["percentiles_ns"][0]["value"])

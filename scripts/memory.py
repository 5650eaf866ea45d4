"""Draws resident memory over 10,000 calls of one colorizer, for each engine: docs/images/memory.svg.

    python scripts/memory.py --write docs/images/memory.svg [--size 64] [--calls 10000] [--engine E ...]

Each engine lives in a process of its own, opens the bundle of icf-edge that is exported for this (with its checkpoint, so that
pytorch runs it, too) and colours the photos of its reference set in turn, on one thread. Memory is what the system says that
the process holds. It tells nothing about time, so the machine need not be quiet.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from icf_deploy.benchmarks.memory import MEGABYTE, read_memory

ENGINES = ("ort:cpu", "openvino:cpu", "pytorch:cpu")
COLOURS = ("#0b6e99", "#b3541e", "#4a7c2c", "#7a4a9e", "#555555")
SAMPLES = 200  # readings over all calls
WIDTH, HEIGHT = 720, 300  # of the picture, in pixels
LEFT, RIGHT, TOP, BOTTOM = 56, 190, 34, 44  # margins
GRID_STEP = 100  # MB between two lines

Readings = list[tuple[int, float]]
"""(calls so far, resident MB)."""


def read(bundle: Path, engine: str, calls: int) -> Readings:
    """Readings of one engine, in this process; the first one after the first call."""
    import icf_deploy

    with icf_deploy.load(bundle, engine, threads=1) as colorizer:
        from icf_deploy.bundle.opening import open_bundle

        photos = open_bundle(bundle).reference().gray
        every = max(1, calls // SAMPLES)
        readings: Readings = []
        for number in range(1, calls + 1):
            colorizer.predict_ab(photos[number % len(photos)][None])
            if number == 1 or number % every == 0:
                held = read_memory().now
                if held is None:
                    raise click.ClickException("this system does not tell how much memory a process holds")
                readings.append((number, held / MEGABYTE))
    return readings


def draw(found: dict[str, Readings], title: str) -> str:
    """The picture, as SVG."""
    calls = max(readings[-1][0] for readings in found.values())
    top = GRID_STEP * (int(max(value for readings in found.values() for _, value in readings)) // GRID_STEP + 1)

    def x(number: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * number / calls

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-size="13">{title}</text>',
    ]
    for value in range(0, top + 1, GRID_STEP):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{value}</text>')
    for number in range(0, calls + 1, max(1, calls // 5)):
        parts.append(f'<text x="{x(number):.1f}" y="{HEIGHT - 24}" text-anchor="middle" fill="#555">{number:,}</text>')
    parts.append(f'<text x="{x(calls / 2):.1f}" y="{HEIGHT - 6}" text-anchor="middle" fill="#555">calls</text>')
    label_at = HEIGHT - BOTTOM
    order = sorted(zip(found.items(), COLOURS, strict=False), key=lambda item: item[0][1][-1][1])
    for (engine, readings), colour in order:
        points = " ".join(f"{x(number):.1f},{y(value):.1f}" for number, value in readings)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        label_at = min(y(readings[-1][1]) + 4, label_at - 15)  # labels do not overlap
        text = f"{engine}  {growth(readings):+.1f} MB"
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{label_at:.1f}" fill="{colour}">{text}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def growth(readings: Readings) -> float:
    """MB from the end of the first tenth of the calls to the last call."""
    calls = readings[-1][0]
    return readings[-1][1] - next(value for number, value in readings if number >= calls / 10)


@click.command()
@click.option("--write", type=click.Path(path_type=Path), default=Path("docs/images/memory.svg"), show_default=True)
@click.option("--size", default=64, show_default=True, help="Side that icf-edge is exported at, in pixels.")
@click.option("--calls", default=10_000, show_default=True)
@click.option("--engine", "engines", multiple=True, default=ENGINES, show_default=True)
@click.option("--child", type=click.Path(path_type=Path), hidden=True)
def main(write: Path, size: int, calls: int, engines: tuple[str, ...], child: Path | None) -> None:
    """Measure each engine in a process of its own, and draw."""
    if child is not None:
        print(json.dumps(read(child, engines[0], calls)))
        return
    from icf_deploy.export import export_bundle

    found: dict[str, Readings] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_bundle(output=Path(folder) / "edge.icf", size=(size, size), with_checkpoint=True).path
        for engine in engines:
            command = [sys.executable, __file__, "--child", str(bundle), "--engine", engine, "--calls", str(calls)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[engine] = [(number, value) for number, value in json.loads(done.stdout)]
            first, last = found[engine][0][1], found[engine][-1][1]
            print(f"{engine}: {first:.1f} MB after the first call, {last:.1f} after {calls:,}, "
                  f"{growth(found[engine]):+.1f} MB since the first tenth", flush=True)  # fmt: skip
    write.parent.mkdir(parents=True, exist_ok=True)
    write.write_text(draw(found, f"Resident memory, MB: one colorizer, icf-edge at {size}x{size}"), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The main job on real photos, by the commands that a user would type: `make demo` runs this.

Takes photos that scikit-image and scikit-learn ship, turns them gray, exports the shipped checkpoint, colours the photos,
checks drift, measures latency, and writes everything into demo/.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "china", "flower")
ENGINES = ("ort", "openvino", "openvino:cpu-bf16", "pytorch")
CELL = (300, 220)  # pixels of a picture on the contact sheet
MARGIN = 12
CAPTION = 26


def main() -> int:
    """Run the demo into ./demo and return the exit status of the first command that failed, or 0."""
    folder = Path("demo")
    shutil.rmtree(folder, ignore_errors=True)
    gray, original = folder / "gray", folder / "original"
    for place in (gray, original):
        place.mkdir(parents=True)
    for name in PHOTOS:
        photo = Image.fromarray(_photo(name))
        photo.save(original / f"{name}.png")
        photo.convert("L").save(gray / f"{name}.png")

    bundle = str(folder / "icf-edge.icf")
    commands: list[Sequence[str]] = [
        ("export", "icf-edge", "-o", bundle, "--with-checkpoint"),
        ("inspect", bundle),
        ("colorize", str(gray), "-o", str(folder / "coloured"), "--bundle", bundle),
        ("check", bundle, *_engines()),
        ("bench", bundle, *_engines(), "-o", str(folder / "bench.json")),
    ]
    for command in commands:
        print(f"\n$ icf-deploy {' '.join(command)}", flush=True)
        done = subprocess.run([str(Path(sys.executable).with_name("icf-deploy")), *command], check=False)
        if done.returncode:
            return done.returncode
    sheet = contact_sheet(folder)
    print(f"\nLook at {sheet} (gray, coloured, original); the coloured photos are in {folder / 'coloured'}")
    return 0


def contact_sheet(folder: Path) -> Path:
    """Gray, coloured and original side by side, a row per photo."""
    columns = ("gray", "coloured", "original")
    width = MARGIN + len(columns) * (CELL[0] + MARGIN)
    sheet = Image.new("RGB", (width, CAPTION + MARGIN + len(PHOTOS) * (CELL[1] + MARGIN)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for column, name in enumerate(columns):
        pen.text((MARGIN + column * (CELL[0] + MARGIN), MARGIN // 2), name, fill="black", font=font)
        for row, photo in enumerate(PHOTOS):
            picture = Image.open(folder / name / f"{photo}.png").convert("RGB")
            picture.thumbnail(CELL, Image.Resampling.LANCZOS)
            left = MARGIN + column * (CELL[0] + MARGIN) + (CELL[0] - picture.width) // 2
            sheet.paste(picture, (left, CAPTION + MARGIN + row * (CELL[1] + MARGIN) + (CELL[1] - picture.height) // 2))
    path = folder / "contact-sheet.jpg"
    sheet.save(path, quality=92, subsampling=0)
    return path


def _photo(name: str) -> np.ndarray:
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image(f"{name}.jpg"))
    import skimage.data

    return np.asarray(getattr(skimage.data, name)())


def _engines() -> list[str]:
    return [word for engine in ENGINES for word in ("--engine", engine)]


if __name__ == "__main__":
    sys.exit(main())

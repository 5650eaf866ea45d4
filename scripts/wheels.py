"""Asks pip for which platforms and Pythons the packages of each extra have wheels, and writes the table of docs/platforms.md.

    python scripts/wheels.py --write docs/platforms.md        # some minutes: pip is asked once per package, platform, Python

What the extras need is read from the installed icf-deploy; what there is, from PyPI alone, by `pip index versions` with
`--only-binary :all:`. Nothing is downloaded but PyPI's lists of files, and nothing is remembered.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
GLIBC = range(5, 36)  # up to 2.35, that of Ubuntu 22.04 and of JetPack 6
PLATFORMS = {
    "Linux x86-64": ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in GLIBC)),
    "Linux aarch64": ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in GLIBC)),
    "Windows x86-64": ("win_amd64",),
    "macOS 14 arm64": ("macosx_14_0_arm64",),
}
ANYWHERE = ("any",)
CORE = "(core)"
# Source packages without code of their own: what counts is whether those that they require have wheels.
FRONTS = {
    "tensorrt": ("tensorrt-cu13-bindings", "tensorrt-cu13-libs"),
    "tensorrt-rtx-cu13": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"),
}
EXTRAS = (CORE, "cpu", "gpu", "openvino", "trt", "trt-rtx", "export", "train")
BEGIN, END = "<!-- wheels: begin -->", "<!-- wheels: end -->"

Found = dict[str, dict[str, "str | None"]]  # platform -> Python -> newest version with a wheel


def main() -> int:
    """Ask, then print the page's table, or put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="Markdown page whose table is to be replaced")
    arguments = parser.parse_args()
    extras = {extra: requirements(extra) for extra in EXTRAS}
    packages = {name: wheels(name) for name in sorted({need.name for needs in extras.values() for need in needs})}
    text = report(extras, packages)
    if arguments.write is None:
        print(text)
        return 0
    before, _, rest = arguments.write.read_text(encoding="utf-8").partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise SystemExit(f"{arguments.write} has no {BEGIN} ... {END}")
    arguments.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return 0


def requirements(extra: str) -> list[Requirement]:
    """What an extra of icf-deploy needs beyond the core; for CORE, what icf-deploy itself needs."""
    needs = [Requirement(line) for line in requires("icf-deploy") or []]
    if extra == CORE:
        return [need for need in needs if need.marker is None]
    asked = [need for need in needs if need.marker is not None and need.marker.evaluate({"extra": extra})]
    return [Requirement(f"{name}{need.specifier}") for need in asked for name in FRONTS.get(need.name, (need.name,))]


def wheels(package: str) -> Found:
    """The newest version of a package that has a wheel, per platform and Python; None where no version has one."""
    print(package, end=" ", file=sys.stderr, flush=True)
    pure = newest(package, ANYWHERE, PYTHONS[0]) is not None  # one wheel for all platforms
    found: Found = {}
    for platform, tags in PLATFORMS.items():
        if pure and found:
            found[platform] = next(iter(found.values()))
        else:
            found[platform] = {python: newest(package, ANYWHERE if pure else tags, python) for python in PYTHONS}
    print("done", file=sys.stderr, flush=True)
    return found


def newest(package: str, platforms: Iterable[str], python: str) -> str | None:
    """The newest version with a wheel, by pip; None where there is none. CalledProcessError where PyPI cannot be asked."""
    command = [sys.executable, "-m", "pip", "index", "versions", package, "--json", "--isolated"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    command += [word for platform in platforms for word in ("--platform", platform)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    if done.returncode == 0:
        return str(json.loads(done.stdout)["latest"])
    if "No matching distribution found" in done.stderr:
        return None
    raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)


def _environment() -> dict[str, str]:
    """This process's, without what points pip at other indexes; where its certificates are stays."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIP_") or key == "PIP_CERT"}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def report(extras: Mapping[str, list[Requirement]], packages: Mapping[str, Found]) -> str:
    """Both tables, in Markdown."""
    lines = [
        f"Checked on {datetime.date.today().isoformat()} with pip {_pip_version()} against PyPI; "
        f"Linux: glibc 2.{GLIBC[-1]} and older.",
        "",
        "| extra | " + " | ".join(PLATFORMS) + " |",
        "|---|" + "---|" * len(PLATFORMS),
    ]
    for extra, needs in extras.items():
        cells = [_span([python for python in PYTHONS if _fits(needs, packages, platform, python)]) for platform in PLATFORMS]
        lines.append(f"| `{extra}` | " + " | ".join(cells) + " |")
    lines += ["", "| package | " + " | ".join(PLATFORMS) + " |", "|---|" + "---|" * len(PLATFORMS)]
    for package, found in packages.items():
        lines.append(f"| {package} | " + " | ".join(_versions(found[platform]) for platform in PLATFORMS) + " |")
    return "\n".join(lines)


def _fits(needs: Iterable[Requirement], packages: Mapping[str, Found], platform: str, python: str) -> bool:
    """Whether every package has a wheel that is new enough."""
    found = [(need, packages[need.name][platform][python]) for need in needs]
    return all(version is not None and need.specifier.contains(version) for need, version in found)


def _versions(found: Mapping[str, str | None]) -> str:
    """`1.32.0 (3.11-3.14), 1.23.2 (3.10)`: newest version first, and for which Pythons."""
    versions = sorted({version for version in found.values() if version is not None}, key=Version, reverse=True)
    texts = [f"{version} ({_span([p for p in PYTHONS if found[p] == version])})" for version in versions]
    return ", ".join(texts) or "none"


def _span(pythons: list[str]) -> str:
    """`3.10-3.14` for Pythons in a row, else a list."""
    if not pythons:
        return "none"
    places = [PYTHONS.index(python) for python in pythons]
    if len(places) > 1 and places == list(range(places[0], places[-1] + 1)):
        return f"{pythons[0]}-{pythons[-1]}"
    return ", ".join(pythons)


def _pip_version() -> str:
    done = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


if __name__ == "__main__":
    sys.exit(main())

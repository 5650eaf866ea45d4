"""All benchmark suites, and their tables as Markdown: `make bench` runs this. Takes about half an hour on a quiet machine.

    python scripts/bench.py [--only kernels] [--only engines] [--only peers] [--only ddcolor] [--out build/bench]

Writes kernels.md, engines.md, peers-icf-edge.md and peers-ddcolor-tiny.md. What the peers' suite has measured already stays:
delete OUT/peers-NAME/latency.json to measure it anew. The DDColor checkpoint is a seeded one, so its latency is that of the
real one and its colours mean nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
SUITES = ROOT / "benchmarks" / "suites"
PARTS = ("kernels", "engines", "peers", "ddcolor")
MILLISECONDS = 1e3  # in a second
# A call of DDColor-tiny takes a second in eager PyTorch on two cores, so its turns are shorter and its rounds fewer.
EDGE, DDCOLOR = (), ("--rounds", "8", "--processes", "3", "--calls", "2", "--turn", "0.2", "--together", "2")


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(PARTS))
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "build" / "bench")
def main(only: tuple[str, ...], out: Path) -> None:
    """Run the parts and write their tables."""
    out.mkdir(parents=True, exist_ok=True)
    for part in only or PARTS:
        if part in ("kernels", "engines"):
            table = pytest_table(part, out)
        elif part == "peers":
            table = peers_table("icf-edge", out / "peers-icf-edge", EDGE)
        else:
            table = peers_table(str(ddcolor_checkpoint(out)), out / "peers-ddcolor-tiny", DDCOLOR)
        name = {"peers": "peers-icf-edge", "ddcolor": "peers-ddcolor-tiny"}.get(part, part)
        (out / f"{name}.md").write_text(table, encoding="utf-8")
        click.echo(f"\n{name}\n\n{table}")


def pytest_table(part: str, out: Path) -> str:
    """Run a pytest-benchmark suite; its median, spread and calls per step."""
    found = out / f"{part}.json"
    options = ("only", "disable-gc", "warmup=on", "columns=median,iqr,rounds", f"json={found}")
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", str(SUITES / f"test_{part}.py"))
    run(*pytest, *(f"--benchmark-{option}" for option in options))
    document = json.loads(found.read_text())
    lines = [
        "| step | median ms | interquartile range ms | calls |",
        "|---|--:|--:|--:|",
        *(
            f"| {_name(row['name'])} | {_ms(row['stats']['median'])} | {_ms(row['stats']['iqr'])} | "
            f"{row['stats']['rounds'] * row['stats']['iterations']} |"
            for row in document["benchmarks"]
        ),
        "",
        f"On {document['machine_info']['cpu'].get('brand_raw', document['machine_info']['processor'])}.",
    ]
    return "\n".join(lines) + "\n"


def peers_table(checkpoint: str, folder: Path, options: tuple[str, ...]) -> str:
    """Prepare, measure what is missing, and print."""
    suite = str(SUITES / "peers.py")
    run(suite, "prepare", checkpoint, str(folder))
    run(suite, "measure", str(folder), *options)
    return subprocess.run([sys.executable, suite, "table", str(folder)], capture_output=True, text=True, check=True).stdout


def ddcolor_checkpoint(out: Path) -> Path:
    """The seeded checkpoint in DDColor-tiny's layout, made once."""
    path, data = out / "ddcolor-tiny.pth", ROOT / "tests" / "data"
    if not path.exists():
        run(str(data / "make_ddcolor_checkpoint.py"), str(data / "ddcolor_tiny_keys.tsv"), str(path))
    return path


def run(*arguments: str) -> None:
    """Run Python with these arguments; a failure ends this script with its status."""
    status = subprocess.run([sys.executable, *arguments], check=False).returncode
    if status:
        sys.exit(status)


def _name(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ").replace("[", " (").replace("]", ")")


def _ms(seconds: float) -> str:
    value = seconds * MILLISECONDS
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits are enough


if __name__ == "__main__":
    main()

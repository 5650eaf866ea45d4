"""Does `compare` tell the truth? An engine against itself, and against itself made 5 % slower, twenty times.

    python benchmarks/suites/aa.py RESULT.json [--comparisons N] [--limit SECONDS]

Three candidates take turns in every comparison: icf-edge on ONNX Runtime with one thread as the baseline, the same once more,
and the same with a sleep of 5 % of each call after it. OpenVINO, another kind of engine, is alive beside them all the time and
makes calls before every comparison, so that whatever its idle threads do is there to be seen. The same engine must get
"no difference shown" at least 17 times of 20, the slower one "slower" at least 16 times. (A true 95 % interval is wrong once
in twenty: 17 of 20 or more then happen in 98 % of such runs.)

Every comparison is written to RESULT.json as it ends, and a run that finds the file goes on where it stopped; --limit ends one
before its time is over. Run it on a quiet machine. Exit status 1 where a target is missed, 2 where comparisons are missing.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from icf_deploy.benchmarks import Candidate, compare
from icf_deploy.benchmarks.clock import StopRule, short_warm_up
from icf_deploy.benchmarks.columns import aligned
from icf_deploy.benchmarks.inputs import inputs_of, reference_gray
from icf_deploy.benchmarks.openers import open_registered
from icf_deploy.benchmarks.remote import WorkerProcess
from icf_deploy.cli.terminal import write_json
from icf_deploy.errors import INTERRUPTED_EXIT_STATUS, IcfError
from icf_deploy.runtimes.base import FloatArray, Session

SCHEMA = "icf-aa 1"
COMPARISONS = 20
SLOWER = 0.05
SAME_TARGET, SLOWER_TARGET = 17, 16  # of 20; fewer comparisons have to reach the same share
TURN_SECONDS, TURN_CALLS = 0.06, 4
AGAIN, SLEEPY = "ort again", "ort +5 %"
BESIDE = Candidate("openvino beside", "openvino", threads=1)
FIRST_GUESS = 30.0  # seconds of one comparison, before one has been timed


class Sleepy:
    """A session that sleeps after each call for a share of the time that the call took."""

    def __init__(self, session: Session, share: float) -> None:
        self._session, self._share = session, share
        self.size, self.output_size, self.formats = session.size, session.output_size, session.formats

    def run(self, gray: FloatArray) -> FloatArray:
        start = time.perf_counter()
        ab = self._session.run(gray)
        time.sleep((time.perf_counter() - start) * self._share)
        return ab

    def close(self) -> None:
        self._session.close()


def sleepy(candidate: Candidate) -> Sleepy:
    """Opens the candidate's engine; option `share`: how much longer its calls take."""
    return Sleepy(open_registered(candidate), float(candidate.options["share"]))


def candidates() -> list[Candidate]:
    """The baseline, and the two that are compared with it."""
    return [
        Candidate("ort", threads=1),
        Candidate(AGAIN, threads=1),
        Candidate(SLEEPY, threads=1, opener=f"{Path(__file__).resolve()}:sleepy", options={"share": SLOWER}),
    ]


def one_comparison(seed: int, beside: WorkerProcess) -> dict[str, Any]:
    """Verdict, ratio and interval of the same engine and of the slower one, while `beside` is alive."""
    start = time.perf_counter()
    beside.turn(short_warm_up(TURN_SECONDS), StopRule(TURN_SECONDS, TURN_CALLS))
    found = compare(candidates(), seconds_per_turn=TURN_SECONDS, calls_per_turn=TURN_CALLS, seed=seed)
    if found.interrupted:
        raise KeyboardInterrupt
    for row in found.rows:
        if row.error is not None:
            raise row.error
    result: dict[str, Any] = {"seed": seed, "median_ns": found.median("ort").value, "warnings": found.warnings()}
    for name in (AGAIN, SLEEPY):
        ratio = found.ratio(name)
        assert ratio is not None  # no row failed
        effect = ratio.smallest_effect
        result[name] = {
            "verdict": ratio.verdict,
            "ratio": ratio.ratio,
            "low": ratio.low,
            "high": ratio.high,
            "smallest_effect": effect,
        }
    return {**result, "seconds": time.perf_counter() - start}


def enough(verdicts: list[str], wanted: str, target: int) -> bool:
    """Whether the wanted verdict came at least `target` times of 20, or in the same share."""
    return verdicts.count(wanted) * COMPARISONS >= target * len(verdicts)


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--comparisons", default=COMPARISONS, show_default=True)
@click.option("--limit", type=float, help="Seconds after which no further comparison is begun.")
def main(result: Path, comparisons: int, limit: float | None) -> int:
    """Compare, remember, and say whether the targets are met."""
    runs: list[dict[str, Any]] = json.loads(result.read_text())["runs"] if result.exists() else []
    start = time.perf_counter()
    with WorkerProcess(BESIDE, "engine", inputs_of("engine", reference_gray())) as beside:
        while len(runs) < comparisons:
            longest = max((run["seconds"] for run in runs), default=FIRST_GUESS)
            if limit is not None and time.perf_counter() - start + longest > limit:
                break
            runs.append(one_comparison(len(runs), beside))
            write_json({"schema": SCHEMA, "slower": SLOWER, "runs": runs}, result, overwrite=True)
    header = ("run", "ort ms", AGAIN, "95 %", "verdict", SLEEPY, "95 %", "verdict")
    lines: list[tuple[str, ...]] = [header]
    for number, run in enumerate(runs):
        cells: list[str] = []
        for name in (AGAIN, SLEEPY):
            found = run[name]
            cells += [f"{found['ratio']:.3f}", f"{found['low']:.3f} .. {found['high']:.3f}", found["verdict"]]
        lines.append((str(number + 1), f"{run['median_ns'] / 1e6:.1f}", *cells))
    print(aligned(lines))
    same = [run[AGAIN]["verdict"] for run in runs]
    slow = [run[SLEEPY]["verdict"] for run in runs]
    print(
        f"the same engine: no difference shown {same.count('no difference shown')} of {len(runs)} (target {SAME_TARGET} of 20)"
    )
    print(f"5 % slower: slower {slow.count('slower')} of {len(runs)} (target {SLOWER_TARGET} of 20)")
    if len(runs) < comparisons:
        print(f"{comparisons - len(runs)} comparisons are missing: run it again")
        return 2
    return 0 if enough(same, "no difference shown", SAME_TARGET) and enough(slow, "slower", SLOWER_TARGET) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(standalone_mode=False))
    except IcfError as error:
        sys.exit(f"error: {error}")
    except click.Abort:
        sys.exit(INTERRUPTED_EXIT_STATUS)

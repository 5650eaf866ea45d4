"""The table of `tune` for a terminal, and what belongs under it."""

from __future__ import annotations

from collections.abc import Sequence

from icf_deploy.benchmarks.report import milliseconds, three_digits
from icf_deploy.tuning.result import TuneResult, TuneRow

NOTHING = "-"
ROUGH = "~"  # before a latency of the first look
SHOWN = {"de2000_p95": "ΔE\np95", "de2000_p95_worst": "worst\np95"}


def tune_cells(found: TuneResult) -> list[tuple[str, ...]]:
    """The header, then one line of cells for each row, the fastest inside the budget first."""
    metrics = dict.fromkeys([*SHOWN, *(limit.metric for limit in found.budget.limits)])
    header = ("engine", "graph", "formats", "p50\nms", "95 %", *(SHOWN.get(name, name) for name in metrics), "")
    return [header, *(_line(found, row, list(metrics)) for row in ordered(found))]


def tune_notes(found: TuneResult) -> list[str]:
    """What was chosen and why, what the figures are, and what a reader should know."""
    settings = found.settings
    notes = [*_choice(found), *found.yardstick.notes(), f"budget: {found.budget}"]
    paired = max((len(row.timed.turns) for row in found.rows if row.is_paired), default=0)
    again = (
        f", {_count(paired // settings['rounds'], 'time')} where the order was undecided" if paired > settings["rounds"] else ""
    )
    rounds = (
        f"; {settings['rounds']} shuffled rounds in {_count(settings['processes'], 'process', 'es')} each{again}"
        if paired
        else ""
    )
    notes.append(f"scope engine, {_count(settings['threads'], 'thread')}{rounds}")
    if any(not row.is_paired and row.milliseconds() for row in found.rows):
        notes.append(
            f"{ROUGH}: a first look alone, at what is outside or over {settings['contender']:g} times as slow as the best"
        )
    notes += list(found.same)
    notes += [f"{row.label}: {str(row.error).removeprefix(row.label + ': ')}" for row in found.rows if row.error is not None]
    return [*notes, *(f"warning: {line}" for line in found.warnings())]


def ordered(found: TuneResult) -> list[TuneRow]:
    """Rows as a reader wants them: the choice, the others inside, those outside, each by latency; then what did not run."""

    def rank(row: TuneRow) -> tuple[int, float]:
        verdicts = ("chosen", "inside", "outside", "refused", "not here", "failed")
        return verdicts.index(found.verdict(row)), row.milliseconds() or 0.0

    return sorted(found.rows, key=rank)


def tune_headline(found: TuneResult) -> str:
    """The answer in one sentence."""
    if found.interrupted:
        return "Interrupted: nothing was chosen, and nothing is remembered."
    if found.choice is None:
        return f"Nothing is inside the budget {found.budget}."
    row = found.choice.row
    assert row.drift is not None  # it was chosen
    what = "the checkpoint" if row.graph is None else f"graph {row.graph}"
    return (
        f"{row.engine} with {what}: {three_digits(row.milliseconds() or 0.0)} ms at de2000_p95 "
        f"{row.drift.value('de2000_p95'):.2g}, inside {found.budget}."
    )


def _choice(found: TuneResult) -> list[str]:
    lines = [tune_headline(found)]
    if found.choice is not None:
        lines.append(f"Why: {found.choice.why}.")
        if found.kept is None:
            lines.append(f"Not remembered, as asked. In use: {found.earlier or 'what is preferred, as before'}.")
        else:
            lines.append(
                f"Remembered in {found.kept}: icf_deploy.load() and colorize take it for this bundle with "
                f"{_count(found.settings['threads'], 'thread')}."
            )
    return lines


def _line(found: TuneResult, row: TuneRow, metrics: Sequence[str]) -> tuple[str, ...]:
    latency, verdict = row.latency(), found.verdict(row)
    interval = latency.interval if latency is not None and row.is_paired else None
    half = NOTHING
    if (
        interval is not None
        and interval.low is not None
        and interval.high is not None
        and latency is not None
        and latency.value
    ):
        half = f"± {(interval.high - interval.low) / 2 / latency.value:.1%}"
    value = None if latency is None else latency.value
    return (
        row.engine,
        row.graph or "checkpoint",
        formats_of(row),
        NOTHING if value is None else f"{'' if row.is_paired else ROUGH}{milliseconds(value)}",
        half,
        *(
            NOTHING if row.drift is None or name not in row.drift.metrics else f"{row.drift.value(name):.3f}"
            for name in metrics
        ),
        verdict,
    )


def formats_of(row: TuneRow) -> str:
    """Executed formats, the one of most nodes first."""
    return "+".join(sorted(row.formats, key=lambda name: -row.formats[name])) or NOTHING


def _count(number: int, what: str, ending: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else ending}"

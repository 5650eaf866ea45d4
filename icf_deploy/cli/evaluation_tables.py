"""What `icf-deploy evaluate` prints: scores with their intervals, the curve, definitions, and the table under corruption."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from icf_deploy.cli.terminal import say, show_lines, show_table

if TYPE_CHECKING:
    from icf_deploy.training.evaluate import Evaluation
    from icf_deploy.training.intervals import Interval
    from icf_deploy.training.robustness import Robustness

# Metric of a summary -> its column's header and the format of its values.
COLUMNS: Mapping[str, tuple[str, str]] = {
    "psnr": ("PSNR\ndB", ".2f"),
    "db_over_gray": ("over gray\ndB", "+.2f"),
    "ssim": ("SSIM", ".3f"),
    "lpips": ("LPIPS", ".3f"),
    "psnr_ab": ("ab-PSNR\ndB", ".2f"),
    "ciede2000": ("ΔE 2000", ".2f"),
    "colourfulness": ("colour-\nfulness", ".1f"),
    "colourfulness_share": ("of the\ntrue one", ".0%"),
}
ROBUST_COLUMNS = ("db_over_gray", "ssim", "psnr_ab", "ciede2000", "colourfulness_share")
CURVE_HEADER = ("gain", "dB over gray", "colourfulness")
READ_OFF = (0.6, 0.85)  # shares of the true colourfulness at which networks are compared
SKIPPED_SHOWN = 5  # photos that were left out, by name
MILLISECONDS = 1000


def show_evaluation(found: Evaluation, without_lpips: str) -> None:
    """The table with intervals, the protocol, the curve, and what it says where networks are compared.

    without_lpips: why there is no LPIPS, or nothing.
    """
    from icf_deploy.benchmarks.columns import WIDTH

    names = [name for name in COLUMNS if all(name in scores for scores in found.summary.values())]
    lines: list[tuple[str, ...]] = [("", *(COLUMNS[name][0] for name in names), "gray to\nab, ms")]
    for prediction, scores in found.summary.items():
        cells = [f"{scores[name].mean:{COLUMNS[name][1]}}\n{_range(scores[name], COLUMNS[name][1])}" for name in names]
        seconds = found.seconds.get(prediction)
        lines.append((f"{prediction}\n  95 %", *cells, "\n" if seconds is None else f"{seconds * MILLISECONDS:.0f}\n"))
    show_table(lines)
    over, share = found.summary["prediction"]["db_over_gray"], found.summary["prediction"]["colourfulness_share"]
    show_lines(
        [
            f"prediction: {over.mean:+.2f} dB over no colour ({over.low:+.2f} .. {over.high:+.2f}) at {share.mean:.0%} "
            f"({share.low:.0%} .. {share.high:.0%}) of the true colourfulness, gain {found.gain:g}",
            *textwrap.wrap(found.protocol, WIDTH),
            *textwrap.wrap(f"no LPIPS: {without_lpips}" if without_lpips else "", WIDTH),
            "",
        ]
    )
    curve = [(f"{point.gain:g}", f"{point.db_over_gray:+.2f}", f"{point.colourfulness:.0%}") for point in found.curve]
    show_table([CURVE_HEADER, *curve])
    show_lines([_read_off(found, name) for name in found.curves])
    if found.definitions:
        _show_definitions(found.definitions)


def show_robustness(found: Robustness) -> None:
    """A line per corruption and severity."""
    from icf_deploy.benchmarks.columns import WIDTH

    header = ("", *(COLUMNS[name][0] for name in ROBUST_COLUMNS), "shift\nΔE 2000", "PSNR to\nundamaged", "of no\ncolour")
    lines: list[tuple[str, ...]] = [header]
    for condition in found.conditions:
        scores, gray = condition.summary["prediction"], condition.summary["no colour"]
        cells = [f"{scores[name].mean:{COLUMNS[name][1]}}" for name in ROBUST_COLUMNS]
        cells[0] += f" ({_range(scores['db_over_gray'], '+.2f')})"
        others = (f"{scores['shift'].mean:.2f}", f"{scores['psnr_clean'].mean:.2f}", f"{gray['psnr_clean'].mean:.2f}")
        lines.append((condition.label, *cells, *others))
    show_table(lines)
    show_lines(["", f"gain {found.gain:g}; {len(found.conditions)} conditions", *textwrap.wrap(found.protocol, WIDTH)])


def tell_skipped(skipped: Mapping[str, str], count: int) -> None:
    """How many of `count` photos were left out, which, and why."""
    if not skipped:
        return
    say(f"{len(skipped)} of {count} photos left out")
    for name, reason in list(skipped.items())[:SKIPPED_SHOWN]:
        say(f"left out: {name}: {reason}")
    if len(skipped) > SKIPPED_SHOWN:
        say(f"left out: {len(skipped) - SKIPPED_SHOWN} more")


def _range(interval: Interval, form: str) -> str:
    """The interval's ends with a digit less than the mean has: `21.9..23.8`."""
    digits = form.removeprefix("+")
    shorter = {".3f": ".2f", ".2f": ".1f", ".1f": ".0f"}.get(digits, digits)
    sign = "+" if form.startswith("+") else ""
    low, high = (f"{value:{sign}{shorter}}" for value in (interval.low, interval.high))
    return f"{low.removesuffix('%')}..{high}"


def _read_off(found: Evaluation, name: str) -> str:
    """One line: a prediction's curve where networks are compared."""
    parts = []
    for share in READ_OFF:
        decibels, gain = found.db_at(share, name), found.gain_at(share, name)
        where = "not reached" if decibels is None or gain is None else f"{decibels:+.2f} dB (gain {gain:.2f})"
        parts.append(f"at {share:.0%} of the true colourfulness {where}")
    return f"{name}: {'; '.join(parts)}"


def _show_definitions(found: Mapping[str, Mapping[str, float]]) -> None:
    """PSNR and SSIM by definition, a line each, marked where they reach the ICF paper's claim."""
    from icf_deploy.training.definitions import CLAIMED_PSNR, CLAIMED_SSIM, reaches_claim

    predictions = list(found)
    lines: list[tuple[str, ...]] = [("", *(name.replace(" ", "\n", 1) for name in predictions))]
    for definition in found[predictions[0]]:
        digits = ".2f" if definition.startswith("PSNR") else ".3f"
        values = [found[name][definition] for name in predictions]
        cells = [f"{value:{digits}}{'*' if reaches_claim(definition, value) else ' '}" for value in values]
        lines.append((definition, *cells))
    show_lines([""])
    show_table(lines)
    show_lines([f"* reaches {CLAIMED_PSNR:g} dB, or SSIM above {CLAIMED_SSIM:g}, which is what the ICF paper claims"])

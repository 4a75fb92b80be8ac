"""How the figures of speed.py are judged and shown: a row, the table, its main rows for the guide, the picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import TextIO

Units = list[tuple[float, float, str]]  # below the first number: times the second, in the third

SECONDS: Units = [(1e-6, 1e9, "ns"), (1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (math.inf, 1.0, "s")]
BYTES: Units = [(1e4, 1.0, "B"), (1e7, 1e-3, "kB"), (math.inf, 1e-6, "MB")]
COUNT: Units = [(math.inf, 1.0, "open")]


@dataclass
class Row:
    """One line of the table."""

    what: str
    ours: list[float]  # one figure a round
    against: str
    theirs: list[float]
    goal: float | None = None  # None: shown, not judged
    at_least: bool = False  # the goal is how many times cheaper than the baseline
    units: Units = field(default_factory=lambda: SECONDS)
    guide: bool = True  # one of the main rows, where it is judged

    def ratios(self) -> tuple[float, float]:
        """The ratio, and what it is at best.

        The ratio is the median of those of the rounds: within a round a busy machine slows both sides. At best it is
        that of the quickest rounds, ours and theirs, which are the least disturbed.
        """
        if len(self.ours) == len(self.theirs):
            middle = median(self._ratio(ours, theirs) for ours, theirs in zip(self.ours, self.theirs, strict=True))
        else:  # not measured in pairs
            middle = self._ratio(median(self.ours), median(self.theirs))
        return middle, (max if self.at_least else min)(middle, self._ratio(min(self.ours), min(self.theirs)))

    def _ratio(self, ours: float, theirs: float) -> float:
        return theirs / ours if self.at_least else ours / theirs

    def holds(self, ratio: float, factor: float = 1.0) -> bool:
        if self.goal is None:
            return True
        return ratio * factor >= self.goal if self.at_least else ratio <= self.goal * factor

    def cells(self) -> tuple[str, ...]:
        middle, best = self.ratios()
        if self.goal is None:
            goal = verdict = "–"
        else:
            goal = f"{'≥' if self.at_least else '≤'} {self.goal:g}"
            verdict = "yes" if self.holds(middle) else "at best" if self.holds(best) else "NO"
        ours, theirs = (show(median(values), self.units) for values in (self.ours, self.theirs))
        return self.what, ours, f"{theirs} {self.against}", f"{middle:.3g}", f"{best:.3g}", goal, verdict


def show(value: float, units: Units = SECONDS) -> str:
    scale, unit = next((scale, unit) for limit, scale, unit in units if value < limit)
    number = value * scale
    return f"{number:.0f} {unit}" if number >= 99.5 else f"{number:.3g} {unit}"


def print_table(rows: Iterable[Row], file: TextIO = sys.stdout) -> None:
    heads = ("what", "py_restart", "compared with", "ratio", "best", "goal", "holds")
    lines = [heads, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    lines.insert(1, tuple("-" * width for width in widths))
    for line in lines:
        print("|", " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)), "|", file=file)
    print(
        "\ntimes: medians of the rounds; ratio: median of the rounds' ratios; best: that of the quickest rounds",
        file=file,
    )


def guide(rows: Iterable[Row], where: str) -> str:
    """The main rows, as they stand in the guide between the two comments."""
    lines = [
        "<!-- speed:begin: the main rows, as `python tests/benchmarks/speed.py --markdown` prints them -->",
        "",
        "| what | py_restart | beside it | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        if row.goal is not None and row.guide:
            what, ours, _, ratio, *_ = row.cells()
            lines.append(f"| {what} | {ours} | {show(median(row.theirs), row.units)}, {row.against} | {ratio} |")
    lines += ["", f"{where}; medians of several rounds, the ratio that of the rounds' ratios."]
    return "\n".join([*lines, "", "<!-- speed:end -->"])


# The picture: one panel a comparison, each on an axis of its own.

WIDTH, LEFT, RIGHT, TOP, STEP, BELOW = 720, 255, 75, 58, 34, 34
GREY, BLUE = "#7d8590", "#2f81f7"  # can be read on white and on black


def draw(panels: dict[str, dict[str, float]]) -> str:
    """Draw bars on logarithmic axes, the panels one below the other."""
    height = sum(TOP + STEP * len(bars) + BELOW for bars in panels.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="13" fill="{GREY}">',
        f"<title>What saving adds to each item, on logarithmic axes: {'; '.join(panels).lower()}</title>",
    ]
    y = 0
    for title, bars in panels.items():
        parts += [f'<g transform="translate(0 {y})">', *panel(title, bars), "</g>"]
        y += TOP + STEP * len(bars) + BELOW
    return "\n".join([*parts, "</svg>", ""])


def panel(title: str, bars: dict[str, float]) -> list[str]:
    low = math.floor(math.log10(min(bars.values()) / 2))  # so that the shortest bar is one to be seen
    high = math.ceil(math.log10(max(bars.values())))
    scale = (WIDTH - LEFT - RIGHT) / (high - low)
    bottom = TOP + STEP * len(bars)
    parts = [
        f'<text x="12" y="24" font-size="15" font-weight="600">{title}</text>',
        '<text x="12" y="42">time per item, logarithmic; shorter is better</text>',
    ]
    for power in range(low, high + 1):
        at = LEFT + scale * (power - low)
        parts.append(f'<path d="M{at:.1f} {TOP}V{bottom}" stroke="{GREY}" stroke-opacity="0.35"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{show(1.001 * 10.0**power)}</text>')
    for index, (name, seconds) in enumerate(sorted(bars.items(), key=lambda item: item[1])):
        y, length = TOP + STEP * index, scale * (math.log10(seconds) - low)
        colour, weight = (BLUE, "600") if name == "py_restart" else (GREY, "400")
        fill = f'fill="{colour}" font-weight="{weight}"'
        parts.append(f'<text x="{LEFT - 10}" y="{y + 22}" text-anchor="end" {fill}>{name}</text>')
        parts.append(f'<rect x="{LEFT}" y="{y + 7}" width="{length:.1f}" height="20" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + length + 7:.1f}" y="{y + 22}" {fill}>{show(seconds)}</text>')
    return parts

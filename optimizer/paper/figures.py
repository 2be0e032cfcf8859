"""The figures as SVG text, from raw rows alone: per-domain bars with intervals, score against calls, adaptation
curves, change per task. Plain shapes and words, readable without colour: every bar and point carries its name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from optimizer.paper.methods import order_of
from optimizer.paper.raw import RawRow
from optimizer.paper.scales import UNKNOWN, has_macro_f1, name_of, scale_of, scales_of
from optimizer.paper.shown import Shown, label_of, mean_curve, mean_of, over_seeds, per_run

_COLOURS = (
    "#1b6ca8",
    "#c8553d",
    "#3a7d44",
    "#7a4e9f",
    "#a07800",
    "#555555",
    "#008b8b",
    "#b03a6f",
    "#4d6a00",
    "#8a3324",
)
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 190, 70, 46, 44
_STEPS = 5
"""Between the lines of an axis."""
_SIGNS = (
    "Points of the metric named at each task. The paired tables count right answers on every task: macro-F1 counts",
    "every label alike and right answers every question alike, so that the two may have opposite signs.",
)


def figures(rows: Sequence[RawRow]) -> dict[str, str]:
    """Every figure that the rows can fill: name -> SVG."""
    plain = [row for row in rows if not (row.adapted or row.sources or row.found_on)]
    drawn = {
        "domains": domain_bars([row for row in plain if row.role == "unseen"]),
        "score_against_calls": score_against_calls([row for row in plain if row.role == "unseen"]),
        "adaptation": adaptation_curves([row for row in rows if row.adapted]),
        "change_per_task": change_per_task(plain),
    }
    return {name: svg for name, svg in drawn.items() if svg}


def domain_bars(rows: Sequence[RawRow]) -> str:
    """The mean over unseen tasks per domain and method, with its 95 % interval."""
    bars: list[tuple[str, str, Shown]] = []
    for domain in dict.fromkeys(row.domain for row in rows):
        of_domain = [row for row in rows if row.domain == domain]
        heading = f"{domain}{_scale(of_domain)}"
        for method, scope in _keys(rows):
            found = mean_of([r for r in of_domain if (r.method, r.scope) == (method, scope)], of_domain)
            if found is not None:
                bars.append((heading, label_of(method, scope), found))
    return _bars("Unseen tasks: mean per domain, 95 % interval", bars) if bars else ""


def change_per_task(rows: Sequence[RawRow]) -> str:
    """What each method changes against Default, task by task, in points."""
    lines: list[tuple[str, str, float]] = []
    for task in dict.fromkeys(row.task for row in rows):
        start = over_seeds([row for row in rows if (row.task, row.method) == (task, "default")])
        heading = f"{task}{_scale([row for row in rows if row.task == task])}"
        for method, scope in _keys(rows):
            found = over_seeds([row for row in rows if (row.task, row.method, row.scope) == (task, method, scope)])
            if start is not None and found is not None and method != "default":
                lines.append((heading, label_of(method, scope), 100 * (found.score - start.score)))
    if not lines:
        return ""
    most = max(10.0, *(abs(change) for _, _, change in lines))
    height = _TOP + _BOTTOM + _rows_high([(task, label) for task, label, _ in lines])
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    half = (_WIDTH - _RIGHT - _LEFT) / 2
    parts = [*_frame("Change against Default, per task (points)", height), _vertical(middle, height)]
    y, last = float(_TOP), ""
    for task, label, change in lines:
        y, drawn = _heading(y, task, last)
        parts += drawn
        last = task
        width = half * abs(change) / most
        x = middle - width if change < 0 else middle
        colour = _COLOURS[1] if change < 0 else _COLOURS[2]
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="11" fill="{colour}"/>')
        parts.append(_words(_LEFT - 8, y + 10, label, "end"))
        parts.append(_words(_WIDTH - 8, y + 10, f"{change:+.1f}", "end"))
        y += 16
    caption = _SIGNS if has_macro_f1(rows) else ()
    parts += [_words(16, height - 24 + 15 * place, line, "start") for place, line in enumerate(caption)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def score_against_calls(rows: Sequence[RawRow]) -> str:
    """The mean over unseen tasks against the base calls that finding the prompt took."""
    points: dict[str, list[tuple[float, float]]] = {}
    for method, scope in _keys(rows):
        group = [row for row in rows if (row.method, row.scope) == (method, scope)]
        found = mean_of(group, rows)
        if found is not None:
            points[label_of(method, scope)] = [(per_run(group, lambda row: row.base_calls), found.score)]
    title = f"Unseen tasks{_scale(rows)} against the calls of the search"
    return _lines(title, "base calls to find the prompt, mean of a run", points)


def adaptation_curves(rows: Sequence[RawRow]) -> str:
    """The mean test score of the best user prompt so far, against the calls spent on it."""
    series: dict[str, list[tuple[float, float]]] = {}
    for method, scope in _keys(rows):
        series[f"{label_of(method, scope)} prompt"] = mean_curve(
            [row for row in rows if (row.method, row.scope) == (method, scope)]
        )
    title = f"Test-time adaptation of user prompts{_scale(rows)}"
    return _lines(title, "base calls per task", {name: points for name, points in series.items() if points})


def _scale(rows: Sequence[RawRow]) -> str:
    """The metric of these rows' scores in brackets; nothing where no row tells."""
    if set(scales_of(rows)) == {UNKNOWN}:
        return ""
    shared = name_of(rows, "mean")
    return f" ({shared if shared != 'mean' else scale_of(rows).removeprefix('share of ')})"


# --- drawing ---------------------------------------------------------------------------------------------------------


def _bars(title: str, bars: Sequence[tuple[str, str, Shown]]) -> str:
    height = _TOP + _BOTTOM + _rows_high([(group, label) for group, label, _ in bars])
    span = _WIDTH - _LEFT - _RIGHT
    parts = _frame(title, height)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _LEFT + share * span
        parts += [_vertical(x, height), _words(x, height - 22, f"{share:.0%}", "middle")]
    names = list(dict.fromkeys(label for _, label, _ in bars))
    y, last = float(_TOP), ""
    for group, label, shown in bars:
        y, heading = _heading(y, group, last)
        parts += heading
        last = group
        colour = _COLOURS[names.index(label) % len(_COLOURS)]
        parts.append(f'<rect x="{_LEFT}" y="{y:.1f}" width="{shown.score * span:.1f}" height="11" fill="{colour}"/>')
        low, high = _LEFT + (shown.low or 0.0) * span, _LEFT + (shown.high or 0.0) * span
        parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 5.5:.1f}" y2="{y + 5.5:.1f}" stroke="#111"/>')
        for x in (low, high):
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y + 2:.1f}" y2="{y + 9:.1f}" stroke="#111"/>')
        parts.append(_words(_LEFT - 8, y + 10, label, "end"))
        parts.append(_words(_WIDTH - 8, y + 10, f"{100 * shown.score:.1f}", "end"))
        y += 16
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lines(title: str, x_name: str, series: dict[str, list[tuple[float, float]]]) -> str:
    if not series:
        return ""
    height, left, right = max(380, _TOP + _BOTTOM + 20 * len(series)), 60, 230
    x_step = _step(max(1.0, *(x for points in series.values() for x, _ in points)))
    y_step = _step(max(0.1, *(y for points in series.values() for _, y in points)))
    widest, top = x_step * _STEPS, y_step * _STEPS

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / widest * (_WIDTH - left - right), _TOP + (1 - y / top) * (height - _TOP - _BOTTOM)

    parts = _frame(title, height)
    for k in range(_STEPS + 1):
        x, y = at(x_step * k, y_step * k)
        parts.append(f'<line x1="{left}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts += [_words(left - 6, y + 4, f"{y_step * k:.0%}", "end")]
        parts += [_words(x, height - _BOTTOM + 18, f"{x_step * k:,.10g}", "middle")]
    parts.append(_words((left + _WIDTH - right) / 2, height - 6, x_name, "middle"))
    ends: list[tuple[float, float, list[str]]] = []
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [at(*point) for point in points]
        if len(placed) > 1:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in placed]
        last = placed[-1]
        near = next((names for x, y, names in ends if abs(x - last[0]) < 14 and abs(y - last[1]) < 12), None)
        if near is None:
            ends.append((*last, [str(number + 1)]))
        else:
            near.append(str(number + 1))
        row = _TOP + 12 + 20 * number
        parts.append(f'<circle cx="{_WIDTH - right + 24}" cy="{row - 4}" r="4" fill="{colour}"/>')
        parts.append(_words(_WIDTH - right + 34, row, f"{number + 1} {name}", "start"))
    parts += [_words(x + 6, y - 6, ", ".join(names), "start") for x, y, names in ends]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _step(most: float) -> float:
    """The round number that covers ``most`` in ``_STEPS`` steps: 1, 2, 2.5 or 5 times a power of ten."""
    least = most / _STEPS
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least * (1 - 1e-9))


def _frame(title: str, height: float) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" font-family="sans-serif" '
        'font-size="12" role="img">',
        f'<title>{escape(title)}</title><rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="15" font-weight="bold" fill="#222">{escape(title)}</text>',
    ]


def _words(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222">{escape(text)}</text>'


def _vertical(x: float, height: float) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _BOTTOM:.1f}" stroke="#bbb"/>'


def _heading(y: float, group: str, last: str) -> tuple[float, list[str]]:
    """A group's name where a new one begins, and where its first row goes."""
    if group == last:
        return y, []
    y += 22
    return y, [f'<text x="16" y="{y - 6:.1f}" font-weight="bold" fill="#222">{escape(group)}</text>']


def _rows_high(rows: Sequence[tuple[str, str]]) -> float:
    return 16 * len(rows) + 22 * len({group for group, _ in rows}) + 8


def _keys(rows: Sequence[RawRow]) -> list[tuple[str, str]]:
    found = {(row.method, row.scope) for row in rows}
    return sorted(found, key=lambda key: order_of(*key))

#!/usr/bin/env python3
"""Draws what docs/performance.md has measured: one SVG beside this file for each entry of measured.json.

    docs/benchmarks/plots.py            draws them anew
    docs/benchmarks/plots.py --check    exit code 1 unless each picture is what the data gives, is shown in docs/performance.md, and each of
                                        its numbers stands there, too

Needs Python alone.
"""

import html
import json
import math
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "performance.md"

# Colours that people who see few colours tell apart (Okabe and Ito).
COLOURS = ["#0072b2", "#d55e00", "#009e73"]
WIDTH, LEFT, RIGHT = 760, 270, 90
BAR, GAP, HEAD, FOOT = 18, 14, 66, 62


def shown(value):
    """The number as the page writes it."""
    return f"{value:,}"


def step(largest):
    """The distance of grid lines: 1, 2 or 5 times a power of ten, four to eight of them."""
    power = 10 ** math.floor(math.log10(largest / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if largest / (power * factor) <= 8)


def text(x, y, words, size=13, more=""):
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{more}>{html.escape(words)}</text>'


def svg(chart):
    """The picture of one chart: a group of bars for each label, a bar for each series."""
    series, bars, unit = chart["series"], chart["bars"], chart["unit"]
    group = BAR * len(series) + GAP
    height = HEAD + group * len(bars) + FOOT
    largest = max(value for bar in bars for value in bar["values"])
    grid = step(largest)
    end = math.ceil(largest / grid) * grid
    scale = (WIDTH - LEFT - RIGHT) / end
    bottom = HEAD + group * len(bars)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' font-family="sans-serif" fill="#222">',
        f"<title>{html.escape(chart['title'])}</title>",
        f"<desc>{html.escape('; '.join(described(chart)))}</desc>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        text(16, 28, chart["title"], 17),
    ]
    x = LEFT
    for place, name in enumerate(series if len(series) > 1 else []):
        out.append(f'<rect x="{x}" y="40" width="12" height="12" fill="{COLOURS[place]}"/>')
        out.append(text(x + 18, 51, name, 12))
        x += 40 + 8 * len(name)
    for line in range(round(end / grid) + 1):
        at = LEFT + line * grid * scale
        out.append(f'<line x1="{at:.1f}" y1="{HEAD}" x2="{at:.1f}" y2="{bottom}" stroke="#ddd"/>')
        label = shown(round(line * grid, 6)).removesuffix(".0") + (f" {unit}" if line * grid == end else "")
        out.append(text(round(at, 1), bottom + 16, label, 11, ' text-anchor="middle" fill="#555"'))
    for row, bar in enumerate(bars):
        top = HEAD + row * group + GAP / 2
        out.append(text(LEFT - 10, top + BAR * len(series) / 2 + 4, bar["label"], 13, ' text-anchor="end"'))
        for place, value in enumerate(bar["values"]):
            y, long = top + place * BAR, value * scale
            out.append(f'<rect x="{LEFT}" y="{y + 1:g}" width="{long:.1f}" height="{BAR - 2}" fill="{COLOURS[place]}"/>')
            out.append(text(round(LEFT + long + 6, 1), y + 14, shown(value), 12))
    if "note" in chart:
        out.append(text(16, bottom + 36, chart["note"], 12, ' fill="#555"'))
    out.append(text(16, bottom + 53, chart["command"], 11, ' font-family="monospace" fill="#555"'))
    return "\n".join(out) + "\n</svg>\n"


def described(chart):
    """The bars in words, for those who do not see them."""
    for bar in chart["bars"]:
        values = [shown(value) + (f" ({name})" if len(chart["series"]) > 1 else "") for name, value in zip(chart["series"], bar["values"], strict=True)]
        yield f"{bar['label']}: {', '.join(values)} {chart['unit']}"


def numbers(page):
    """All numbers of a text, without its commands."""
    words = "".join(page.split("`")[::2])
    for separator in "/|()*;:–":
        words = words.replace(separator, " ")
    return {word.strip(".,%s") for word in words.split()}


def mistakes(charts, page):
    there = numbers(page)
    for chart in charts:
        path = HERE / f"{chart['name']}.svg"
        if not path.is_file() or path.read_text(encoding="utf-8") != svg(chart):
            yield f"{path.name} is not what measured.json gives: run docs/benchmarks/plots.py"
        if f"](benchmarks/{path.name})" not in page:
            yield f"{path.name} is not shown in {PAGE.name}"
        for bar in chart["bars"]:
            for value in bar["values"]:
                if shown(value) not in there:
                    yield f"{chart['name']}: {shown(value)} ({bar['label']}) does not stand in {PAGE.name}"
    for path in sorted(HERE.glob("*.svg")):
        if path.stem not in {chart["name"] for chart in charts}:
            yield f"{path.name} has no data in measured.json"


def main():
    charts = json.loads((HERE / "measured.json").read_text(encoding="utf-8"))
    if sys.argv[1:] == ["--check"]:
        found = list(mistakes(charts, PAGE.read_text(encoding="utf-8")))
        print("\n".join(found) or f"{len(charts)} plots are what was measured")
        return bool(found)
    if sys.argv[1:]:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    for chart in charts:
        (HERE / f"{chart['name']}.svg").write_text(svg(chart), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

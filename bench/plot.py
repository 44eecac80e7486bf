"""Lines in an SVG file, one panel each, both axes logarithmic: what is linear is a straight line of slope one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDTH, _HEIGHT, _MARGIN = 300, 220, 46


@dataclass(frozen=True)
class Line:
    """Points of one quantity, with its unit."""

    title: str
    points: tuple[tuple[float, float], ...]
    unit: str


def svg(lines: Sequence[Line], across: str) -> str:
    """Return the panels side by side; `across` is what the horizontal axis counts."""
    width = len(lines) * (_WIDTH + _MARGIN) + _MARGIN
    panels = "\n".join(
        f'<g transform="translate({_MARGIN + number * (_WIDTH + _MARGIN)},{_MARGIN})">\n'
        + "\n".join(_panel(line, across))
        + "\n</g>"
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT + 2 * _MARGIN}" '
        f'font-family="sans-serif" font-size="11">\n{panels}\n</svg>\n'
    )


def _panel(line: Line, across: str) -> Iterator[str]:
    horizontal = _decades([point[0] for point in line.points])
    vertical = _decades([point[1] for point in line.points])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _WIDTH * _share(x, horizontal),
            _HEIGHT * (1 - _share(y, vertical)),
        )

    yield f'<text x="0" y="-12" font-weight="bold">{line.title} ({line.unit})</text>'
    for exponent in range(horizontal[0], horizontal[1] + 1):
        x, _ = place(10.0**exponent, 10.0 ** vertical[0])
        yield f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{_HEIGHT}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{_HEIGHT + 15}" text-anchor="middle">{10.0**exponent:g}</text>'
    for exponent in range(vertical[0], vertical[1] + 1):
        _, y = place(10.0 ** horizontal[0], 10.0**exponent)
        yield f'<line x1="0" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}" stroke="#ddd"/>'
        yield f'<text x="-5" y="{y + 4:.1f}" text-anchor="end">{10.0**exponent:g}</text>'
    yield f'<text x="{_WIDTH}" y="{_HEIGHT + 30}" text-anchor="end">{across}</text>'
    spots = [place(*point) for point in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    yield f'<polyline points="{path}" fill="none" stroke="#1f5fa8" stroke-width="2"/>'
    for (x, y), (_, value) in zip(spots, line.points, strict=True):
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#1f5fa8"/>'
        yield f'<text x="{x:.1f}" y="{y - 7:.1f}" text-anchor="middle">{value:.3g}</text>'


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten around all values, at least one apart."""
    least, most = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return least, max(most, least + 1)


def _share(value: float, decades: tuple[int, int]) -> float:
    return (math.log10(value) - decades[0]) / (decades[1] - decades[0])

"""Line charts with bands as inline SVG; colours come from the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40


@dataclass(frozen=True)
class Curve:
    """Points (x, y, low, high) of one method; ``style`` is its number on the page."""

    title: str
    style: int
    points: Sequence[tuple[float, float, float, float]]


def chart(curves: Sequence[Curve], x_title: str, y_title: str) -> str:
    """An SVG with a logarithmic x axis (x > 0); points that are not finite are left out."""
    curves = [Curve(c.title, c.style, sorted(filter(_finite, c.points))) for c in curves]
    xs = [p[0] for c in curves for p in c.points]
    ys = [v for c in curves for p in c.points for v in p[1:] if math.isfinite(v)]
    if not xs:
        return "<p>no figures yet</p>"
    x_range = (math.log10(min(xs)), math.log10(max(xs)))
    y_range = (min(ys), max(ys))
    ticks = nice_ticks(*y_range)
    y_range = (min(ticks[0], y_range[0]), max(ticks[-1], y_range[1]))

    def at(x: float, y: float) -> str:
        across = _share(math.log10(x), *x_range)
        up = _share(y, *y_range)
        left = _LEFT + across * (WIDTH - _LEFT - _RIGHT)
        return f"{left:.1f},{HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM):.1f}"

    parts = [_y_axis(ticks, at)]
    parts.append(_x_axis(sorted(set(xs)), at, y_range[0]))
    for curve in curves:
        parts.append(_curve(curve, at))
    label = escape(f"{y_title} over {x_title}")
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        + "".join(parts)
        + "</svg>"
    )


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span [low, high] in about ``count`` steps."""
    span = (high - low) or abs(high) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [i * step for i in range(first, last + 1)]


def _finite(point: tuple[float, ...]) -> bool:
    return math.isfinite(point[0]) and point[0] > 0 and math.isfinite(point[1])


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)


def _curve(curve: Curve, at) -> str:
    line = " ".join(at(x, y) for x, y, _, _ in curve.points)
    banded = [p for p in curve.points if math.isfinite(p[2]) and math.isfinite(p[3])]
    band = [at(x, high) for x, _, _, high in banded]
    band += [at(x, low) for x, _, low, _ in reversed(banded)]
    marks = "".join(
        '<circle r="2.6" cx="{}" cy="{}"><title>{}</title></circle>'.format(
            *at(x, y).split(","), escape(f"{curve.title}: {x:g}, {y:.3g} [{low:.3g}, {high:.3g}]")
        )
        for x, y, low, high in curve.points
    )
    return (
        f'<g class="m{curve.style}"><polygon points="{" ".join(band)}"/>'
        f'<polyline points="{line}"/>{marks}</g>'
    )


def _y_axis(ticks: Sequence[float], at) -> str:
    parts = []
    for tick in ticks:
        y = at(1.0, tick).split(",")[1]
        ends = f'x1="{_LEFT}" x2="{WIDTH - _RIGHT}"'
        parts.append(f'<line class="grid" {ends} y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text x="{_LEFT - 5}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
        )
    return "".join(parts)


def _x_axis(xs: Sequence[float], at, y_low: float) -> str:
    """A number under every x that has room."""
    parts, last = [], -math.inf
    for x in xs:
        left = float(at(x, y_low).split(",")[0])
        if left - last >= 34:
            last = left
            parts.append(
                f'<text x="{left}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{x:.3g}</text>'
            )
    return "".join(parts)

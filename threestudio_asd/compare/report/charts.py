"""Line charts with bands as inline SVG; colours come from the page's style sheet."""

import math
from collections.abc import Iterable, Sequence
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


@dataclass(frozen=True)
class Frame:
    """Where values lie in a picture: x logarithmic (x > 0), y between round ticks.

    Args:
        x_range: Decimal logarithms of the ends.
        down: Whether the least y is on top.
    """

    x_range: tuple[float, float]
    ticks: Sequence[float]
    width: int = WIDTH
    height: int = HEIGHT
    down: bool = False

    @classmethod
    def around(
        cls,
        xs: Iterable[float],
        ys: Iterable[float],
        room: tuple[float, float] = (0.0, 0.0),
        **options: int,
    ) -> "Frame":
        """What holds all of ``xs`` and ``ys``, which are finite; ``room``: left and right of them,
        as shares of their range."""
        logs, ys = sorted(map(math.log10, xs)), sorted(ys)
        span = (logs[-1] - logs[0]) or 1.0
        ends = (logs[0] - room[0] * span, logs[-1] + room[1] * span)
        return cls(ends, nice_ticks(ys[0], ys[-1]), **options)

    @property
    def area(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of where values lie."""
        edges = (_LEFT, _TOP, self.width - _RIGHT, self.height - _BOTTOM)
        return tuple(map(float, edges))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """From the left and from the top."""
        across = _share(math.log10(x), *self.x_range)
        up = _share(y, self.ticks[0], self.ticks[-1])
        left = _LEFT + across * (self.width - _LEFT - _RIGHT)
        rise = (1.0 - up if self.down else up) * (self.height - _TOP - _BOTTOM)
        return left, self.height - _BOTTOM - rise

    def axes(self, xs: Iterable[float]) -> str:
        """A line and a number at every tick, and a number under each of ``xs`` that has room."""
        parts = []
        for tick in self.ticks:
            _, y = self.at(1.0, tick)
            ends = f'x1="{_LEFT}" x2="{self.width - _RIGHT}"'
            parts.append(f'<line class="grid" {ends} y1="{y:.1f}" y2="{y:.1f}"/>')
            place = f'x="{_LEFT - 5}" y="{y + 4:.1f}"'
            parts.append(f'<text {place} text-anchor="end">{tick:.4g}</text>')
        last, below = -math.inf, self.height - _BOTTOM + 16
        for x in sorted(xs):
            left, _ = self.at(x, self.ticks[0])
            if left - last >= 34:
                last, place = left, f'x="{left:.1f}" y="{below}"'
                parts.append(f'<text {place} text-anchor="middle">{float(f"{x:.3g}"):g}</text>')
        return "".join(parts)

    def svg(self, parts: Iterable[str], x_title: str, label: str) -> str:
        middle = (_LEFT + self.width - _RIGHT) / 2
        place = f'x="{middle}" y="{self.height - 4}"'
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(label)}">{"".join(parts)}'
            f'<text {place} text-anchor="middle">{escape(x_title)}</text></svg>'
        )


def chart(curves: Sequence[Curve], x_title: str, y_title: str) -> str:
    """An SVG with a logarithmic x axis (x > 0); points that are not finite are left out."""
    curves = [Curve(c.title, c.style, sorted(filter(_finite, c.points))) for c in curves]
    xs = {p[0] for c in curves for p in c.points}
    if not xs:
        return "<p>no figures yet</p>"
    ys = [v for c in curves for p in c.points for v in p[1:] if math.isfinite(v)]
    frame = Frame.around(xs, ys)
    parts = [frame.axes(xs), *(_curve(curve, frame) for curve in curves)]
    return frame.svg(parts, x_title, f"{y_title} over {x_title}")


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span [low, high] in about ``count`` steps."""
    span = (high - low) or abs(high) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [i * step for i in range(first, last + 1)]


def told(title: str, x: float, y: float, low: float, high: float) -> str:
    """What the pointer is told of a point, in SVG."""
    return f"<title>{escape(f'{title}: {x:g}, {y:.3g} [{low:.3g}, {high:.3g}]')}</title>"


def _finite(point: tuple[float, ...]) -> bool:
    return math.isfinite(point[0]) and point[0] > 0 and math.isfinite(point[1])


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)


def _curve(curve: Curve, frame: Frame) -> str:
    def at(x: float, y: float) -> str:
        return "{:.1f},{:.1f}".format(*frame.at(x, y))

    line = " ".join(at(x, y) for x, y, _, _ in curve.points)
    banded = [p for p in curve.points if math.isfinite(p[2]) and math.isfinite(p[3])]
    band = [at(x, high) for x, _, _, high in banded]
    band += [at(x, low) for x, _, low, _ in reversed(banded)]
    marks = "".join(
        '<circle r="2.6" cx="{:.1f}" cy="{:.1f}">{}</circle>'.format(
            *frame.at(*point[:2]), told(curve.title, *point)
        )
        for point in curve.points
    )
    return (
        f'<g class="m{curve.style}"><polygon points="{" ".join(band)}"/>'
        f'<polyline points="{line}"/>{marks}</g>'
    )

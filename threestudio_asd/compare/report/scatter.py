"""Quality over cost as inline SVG: the front filled and joined, what it beats hollow."""

import math
from collections.abc import Sequence
from html import escape

from threestudio_asd.compare.report.charts import Frame, told
from threestudio_asd.compare.report.fronts import Priced

NOTE = (
    "Left is cheaper, up is better. Filled: the front, rows that no other is at least as good as "
    "for less, nor better than for no more. Bars: 95 % intervals. The pointer tells every name."
)
_SIZE = {"width": 660, "height": 400}
_ROOM = (0.04, 0.16)  # left and right of the points, for names
_LETTER, _LINE = 6.2, 13.0  # of a name: its width, its height

Box = tuple[float, float, float, float]
Place = tuple[float, float]


def scatter(points: Sequence[Priced], x_title: str, y_title: str, down: bool) -> str:
    """An SVG with a logarithmic x axis; names of the front first, others as far as there is room.

    Args:
        down: Whether the least y is best; the best is on top.
    """
    if not points:
        return "<p>no figures yet</p>"
    ends = [v for p in points for v in (p.quality.value, p.quality.low, p.quality.high)]
    costs = [p.cost for p in points]
    frame = Frame.around(costs, filter(math.isfinite, ends), _ROOM, **_SIZE, down=down)
    ordered = sorted(points, key=lambda p: (not p.best, p.cost, p.title))
    parts = [frame.axes(round_numbers(min(costs), max(costs))), _stairs(ordered, frame)]
    parts += [_mark(point, frame) for point in reversed(ordered)]
    parts += _named(ordered, frame)
    return frame.svg(parts, x_title, f"{y_title} over {x_title}")


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high] (> 0); its ends where there are fewer than
    two."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    found = [x for x in found if low <= x <= high]
    return found if len(found) > 1 else sorted({low, high})


def _at(point: Priced, frame: Frame) -> Place:
    return frame.at(point.cost, point.quality.value)


def _stairs(points: Sequence[Priced], frame: Frame) -> str:
    """Along the front: the best that a cost buys."""
    (x, y), *rest = sorted(_at(point, frame) for point in points if point.best)
    path = f"M{x:.1f},{y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)
    return f'<path class="stairs" d="{path}H{frame.area[2]:.1f}"/>'


def _mark(point: Priced, frame: Frame) -> str:
    quality, (x, y) = point.quality, _at(point, frame)
    bar = ""
    if math.isfinite(quality.low) and math.isfinite(quality.high):
        low, high = (frame.at(point.cost, end)[1] for end in (quality.low, quality.high))
        bar = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    said = told(point.title, point.cost, quality.value, quality.low, quality.high)
    circle = f'<circle r="{5 if point.best else 3.5}" cx="{x:.1f}" cy="{y:.1f}">{said}</circle>'
    return f'<g class="{_kind(point)}">{bar}{circle}</g>'


def _kind(point: Priced) -> str:
    return "best" if point.best else "beaten"


def _named(points: Sequence[Priced], frame: Frame) -> list[str]:
    """Names beside the points, the first ones first, where they cover neither points nor names."""
    places = [_at(point, frame) for point in points]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    parts = []
    for point, place in zip(points, places, strict=True):
        boxes = _beside(place, _LETTER * len(point.title), point.best)
        free = (b for b in boxes if _within(b, frame.area) and not any(_meet(b, o) for o in taken))
        if (box := next(free, None)) is not None:
            taken.append(box)
            at = f'x="{box[0]:.1f}" y="{box[3] - 3:.1f}"'
            parts.append(f'<text class="{_kind(point)}" {at}>{escape(point.title)}</text>')
    return parts


def _beside(place: Place, width: float, above: bool) -> list[Box]:
    """Where a name may stand: right, left, aslant, above, below; ``above`` goes before the rest
    for the front, whose line leaves a point to the right and comes from below."""
    x, y = place
    level = [(x + 8, y), (x - 8 - width, y)]
    high, low = (
        [(x + 6, y + rise), (x - 6 - width, y + rise), (x - width / 2, y + 1.3 * rise)]
        for rise in (-11, 11)
    )
    lefts = [*high, *level, *low] if above else [*level, *high, *low]
    return [(left, mid - _LINE / 2, left + width, mid + _LINE / 2) for left, mid in lefts]


def _within(box: Box, area: Box) -> bool:
    return area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

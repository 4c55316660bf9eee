"""Draws the results as SVG: one panel per measure, with logarithmic axes.

Rectangles, lines and text need no library.
"""

import math
from xml.sax.saxutils import escape

PANELS = [
    ("image_seconds", "ctr c checkpoint --task --rw", 1, "s"),
    ("image_frozen_seconds", "of it frozen", 1, "s"),
    ("restore_seconds", "ctr c restore --live", 1, "s"),
    ("path_seconds", "ctr task checkpoint --image-path", 1, "s"),
    ("path_frozen_seconds", "of it frozen", 1, "s"),
    ("path_stored_bytes", "bytes stored", 1 << 20, "MiB"),
]
SERIES = [
    ("stock", "containerd's own shim", "#9a6b00"),
    ("ours", "Cedana", "#0b61a4"),
    ("in place", "Cedana in place of it", "#2f8f4e"),
]

COLUMNS = 3
WIDTH, HEIGHT = 330, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 40, 34
HEAD = 44


class Picture:
    def __init__(self, width, height):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
            ' font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def line(self, points, colour, width=1.0):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def dot(self, x, y, colour):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')

    def text(self, x, y, text, anchor="start", colour="#333333", size=12, weight="normal"):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}"'
            f' font-weight="{weight}">{escape(text)}</text>'
        )

    def __str__(self):
        return "\n".join([*self.parts, "</svg>", ""])


def number(value):
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def render(workloads):
    rows = math.ceil(len(PANELS) / COLUMNS)
    picture = Picture(COLUMNS * WIDTH, HEAD + rows * HEIGHT)
    x = LEFT
    for _, title, colour in SERIES:
        picture.line([(x, 22), (x + 24, 22)], colour, 2)
        picture.dot(x + 12, 22, colour)
        picture.text(x + 32, 26, title)
        x += 60 + 7 * len(title)
    picture.text(COLUMNS * WIDTH - RIGHT, 26, "medians; less is better; logarithmic", "end", "#777777")
    for n, panel in enumerate(PANELS):
        draw(picture, n % COLUMNS * WIDTH, HEAD + n // COLUMNS * HEIGHT, workloads, *panel)
    return str(picture)


def draw(picture, left, top, workloads, measure, title, unit, unit_name):
    picture.text(left + LEFT, top + 18, f"{title}, {unit_name}", weight="bold")
    found = {
        candidate: {
            name: measured[measure]["median"][candidate] / unit
            for name, measured in workloads.items()
            if measured.get(measure, {"median": {}})["median"].get(candidate)
        }
        for candidate, _, _ in SERIES
    }
    values = [value for series in found.values() for value in series.values()]
    if not values:
        picture.text(left + LEFT, top + 40, "not measured", colour="#777777")
        return
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)
    x0, x1, y0, y1 = left + LEFT, left + WIDTH - RIGHT, top + HEIGHT - BOTTOM, top + TOP
    step = (x1 - x0) / len(workloads)
    across = {name: x0 + (n + 0.5) * step for n, name in enumerate(workloads)}

    def up(value):
        return y0 - (math.log10(value) - low) / (high - low) * (y0 - y1)

    for power in range(low, high + 1):
        y = up(10**power)
        picture.line([(x0, y), (x1, y)], "#dddddd")
        picture.text(x0 - 6, y + 4, f"{10.0**power:g}", "end", "#777777", 11)
    for name, x in across.items():
        picture.text(x, y0 + 18, short(name), "middle", "#555555", 11)
    for candidate, _, colour in SERIES:
        # The line connects only workloads with a size.
        line = [(across[name], up(value)) for name, value in found[candidate].items() if name.endswith("MiB")]
        if len(line) > 1:
            picture.line(line, colour, 1.5)
    for name, x in across.items():
        # Labels of one column are in the order of their values, without overlaps.
        column = sorted(
            (value, colour) for candidate, _, colour in SERIES for value in [found[candidate].get(name)] if value
        )
        below = y0 + 12.0
        for place, (value, colour) in enumerate(column):
            picture.dot(x, up(value), colour)
            y = min(up(value) + (14 if place == 0 and len(column) > 1 else -7), below - 11)
            picture.text(x + (6 if y > up(value) else -8), y, number(value), "middle", colour, 10)
            below = y


def short(name):
    """1024 MiB is 1 GiB."""
    count, _, unit = name.partition(" ")
    if unit == "MiB" and int(count) >= 1024:
        return f"{int(count) / 1024:g} GiB"
    return name

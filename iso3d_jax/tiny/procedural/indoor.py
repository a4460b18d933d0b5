"""Rules for furniture; see `kinds.py`."""

from __future__ import annotations

import numpy as np

from iso3d_jax.tiny.procedural.makers import Maker
from iso3d_jax.tiny.procedural.solids import blob, box, lathe, path, rod, sheet, turned


def chair(m: Maker) -> None:
    seat, frame = m.colour(), m.colour()
    frame = seat if m.chance(0.4) else frame
    width, depth, height = m.u(0.36, 0.62), m.u(0.36, 0.62), m.u(0.3, 0.78)
    thick, back = m.u(0.02, 0.14), m.u(0.25, 0.85)
    m.legs(frame, depth, width, height)
    if m.chance(0.25):
        m.add(seat, lathe([(0, 0), (0.5, 0), (0.5, 1), (0, 1)]) * [depth, width, thick]
              + [0, 0, height])  # fmt: skip
    elif m.chance(0.5):
        m.add(seat, blob([0, 0, height + thick / 2], [depth / 2, width / 2, thick / 2], 0.4))
    else:
        m.add(seat, box([0, 0, height + thick / 2], [depth, width, thick]))
    lean = m.u(0.0, 0.22)
    foot = np.array([-depth / 2 + 0.02, height + thick / 2])
    top = foot + [-lean, back]
    kind = m.one("solid", "shell", "slats", "rungs", "frame", "cushion")
    if kind in ("solid", "shell"):
        bow = m.u(0.0, 0.06)
        line = [foot, (foot + top) / 2 + [bow, 0], top]
        bulge = m.u(0.02, 0.15) if kind == "shell" else 0.0
        m.add(seat, sheet(line, width * m.u(0.7, 1), m.u(0.012, 0.06), bulge))
    elif kind == "cushion":
        plump = m.u(0.03, 0.09)
        pad = blob([foot[0], 0, foot[1] + back / 2], [plump, width / 2, back / 2], 0.5)
        m.add(seat, turned(pad, -np.degrees(np.arctan2(lean, back)), [foot[0], 0, foot[1]], 1))
    else:
        y, bar = width / 2 - 0.02, m.u(0.01, 0.025)
        m.mirror(frame, rod([foot[0], y, foot[1]], [top[0], y, top[1]], bar))
        m.add(frame, rod([top[0], -y, top[1]], [top[0], y, top[1]], bar * m.u(1, 2)))
        count = m.n(2, 6)
        for k in range(count) if kind != "frame" else ():
            s = (k + 1) / (count + 1)
            if kind == "slats":
                at = y * (2 * s - 1)
                m.add(frame, rod([foot[0], at, foot[1]], [top[0], at, top[1]], bar * 0.8))
            else:
                p = foot + s * (top - foot)
                m.add(frame, rod([p[0], -y, p[1]], [p[0], y, p[1]], bar))
    if m.chance(0.35):
        y, z, bar = width / 2, height + thick + m.u(0.12, 0.24), m.u(0.012, 0.04)
        front = depth / 2 - m.u(0.02, 0.15)
        m.mirror(frame, path([[front, y, height], [front, y, z], [foot[0], y, z]], bar))


def stool(m: Maker) -> None:
    colour = m.colour()
    width, height, thick = m.u(0.28, 0.45), m.u(0.3, 0.85), m.u(0.02, 0.12)
    depth = width * m.u(0.8, 1.6)
    m.legs(m.colour(), width, depth, height)
    if m.chance(0.6):
        m.add(colour, lathe([(0, height), (width / 2, height), (width / 2, height + thick),
                             (0, height + thick)]))  # fmt: skip
    else:
        m.add(colour, blob([0, 0, height + thick / 2], [width / 2, depth / 2, thick / 2], 0.4))


def table(m: Maker) -> None:
    wood = m.colour()
    top = wood if m.chance(0.6) else m.colour()
    depth, width, height, thick = m.u(0.4, 1.1), m.u(0.5, 2.0), m.u(0.3, 1.05), m.u(0.015, 0.08)
    if m.chance(0.3):
        flat = m.u(0.6, 1.0)
        m.add(top, lathe([(0, height), (depth / 2, height), (depth / 2, height + thick),
                          (0, height + thick)], flat=flat))  # fmt: skip
        width = depth * flat
        m.legs(wood, depth * 0.7, width * 0.7, height)
    else:
        m.add(top, box([0, 0, height + thick / 2], [depth, width, thick]))
        m.legs(wood, depth * m.u(0.8, 1), width * m.u(0.8, 1), height)
    if m.chance(0.3):
        m.add(wood, box([0, 0, height * m.u(0.15, 0.5)], [depth * 0.85, width * 0.85, thick]))
    if m.chance(0.3):  # drawers under one side, as a desk has them
        deep = height * m.u(0.2, 0.9)
        part = width * m.u(0.15, 0.35)
        side = m.one(-1, 1) * (width - part) / 2 * 0.95
        m.add(wood, box([0, side, height - deep / 2], [depth * 0.9, part, deep]))
        fronts(m, m.colour(), depth * 0.45, side, height - deep, deep, part, m.n(1, 4), 1)
    for _ in range(m.n(0, 2) if m.chance(0.3) else 0):  # things on it
        at = [m.u(-0.3, 0.3) * depth, m.u(-0.3, 0.3) * width, height + thick]
        size = m.u(0.05, 0.2)
        m.add(m.colour(), lathe([(0, 0), (size / 2, 0), (size * m.u(0.2, 0.7), size), (0, size)],
                                at))  # fmt: skip


def fronts(m, colour, x, y, z, tall, wide, rows, columns) -> None:
    """Drawers or doors with handles on a front at x, about y, from z up."""
    handle, cell = m.colour(), [tall / rows, wide / columns]
    for r in range(rows):
        for c in range(columns):
            at = [x, y + (c + 0.5) * cell[1] - wide / 2, z + (r + 0.5) * cell[0]]
            m.add(colour, box(at, [0.02, cell[1] * 0.92, cell[0] * 0.92]))
            if columns > 1 or rows == 1:
                side = (1 if c % 2 == 0 else -1) * cell[1] * 0.38
                ends = [[x + 0.025, at[1] + side, at[2] + s * cell[0] * 0.1] for s in (-1, 1)]
            else:
                ends = [[x + 0.025, at[1] + s * cell[1] * 0.12, at[2]] for s in (-1, 1)]
            m.add(handle, rod(ends[0], ends[1], 0.01))


def cabinet(m: Maker) -> None:
    body, front = m.colour(), m.colour()
    front = body if m.chance(0.5) else front
    depth, width, height = m.u(0.25, 0.7), m.u(0.3, 1.8), m.u(0.35, 2.1)
    feet = m.u(0.03, 0.2) if m.chance(0.4) else 0.0
    m.add(body, box([0, 0, feet + height / 2], [depth, width, height]))
    if feet:
        m.legs(body, depth, width, feet)
    if m.chance(0.4):
        m.add(m.colour(), box([0, 0, feet + height], [depth * 1.06, width * 1.04, 0.03]))
    rows, columns = (m.n(1, 6), m.n(1, 2)) if m.chance(0.6) else (1, m.n(1, 4))
    fronts(m, front, depth / 2, 0.0, feet, height, width, rows, columns)


def shelf(m: Maker) -> None:
    wood = m.colour()
    depth, width, height, thick = m.u(0.2, 0.5), m.u(0.3, 1.6), m.u(0.5, 2.1), m.u(0.015, 0.05)
    boards, sides = m.n(2, 7), m.one("solid", "solid", "posts")
    for z in np.linspace(thick, height - thick, boards):
        m.add(wood, box([0, 0, z], [depth, width, thick]))
    if sides == "solid":
        m.mirror(wood, box([0, width / 2, height / 2], [depth, thick, height]))
    else:
        for s in (-1, 1):
            post = rod([s * depth / 2, width / 2, 0], [s * depth / 2, width / 2, height], thick / 2)
            m.mirror(wood, post)
    if m.chance(0.5):
        m.add(wood, box([-depth / 2, 0, height / 2], [0.01, width, height]))
    gap = (height - 2 * thick) / (boards - 1)
    for k in range(boards - 1) if m.chance(0.4) else ():  # books, boxes
        y = -width / 2 + 0.05
        while y < width / 2 - 0.1 and m.chance(0.9):
            size = [depth * m.u(0.5, 0.9), m.u(0.03, 0.2), gap * m.u(0.3, 0.85)]
            m.add(m.colour(), box([0, y + size[1] / 2, (k + 0.5 * 1) * gap - gap / 2 + thick
                                   + size[2] / 2 + thick / 2], size))  # fmt: skip
            y += size[1] + m.u(0, 0.05)


def sofa(m: Maker) -> None:
    cloth, pads = m.colour(), m.colour()
    pads = cloth if m.chance(0.6) else pads
    seats = m.n(1, 3)
    wide, depth = m.u(0.5, 0.75), m.u(0.6, 1.0)
    width, height, feet = seats * wide, m.u(0.25, 0.45), m.u(0.0, 0.15)
    back, arm, thick = m.u(0.25, 0.6), m.u(0.08, 0.4), m.u(0.08, 0.22)
    round_ = m.u(0.15, 0.6)
    if feet > 0.03:
        m.legs(m.colour(), depth, width, feet + 0.02)
    m.add(cloth, blob([0, 0, feet + height / 2], [depth / 2, width / 2 + thick, height / 2], 0.2))
    full = height + back
    m.add(cloth, blob([-depth / 2, 0, feet + full / 2], [thick / 2 + 0.03, width / 2 + thick,
                                                         full / 2], round_))  # fmt: skip
    if m.chance(0.85):
        tall = height + arm
        m.mirror(cloth, blob([0, width / 2 + thick / 2, feet + tall / 2],
                             [depth / 2, thick / 2, tall / 2], round_))  # fmt: skip
    for k in range(seats):
        y = (k + 0.5) * wide - width / 2
        m.add(pads, blob([0.05, y, feet + height + 0.05], [depth / 2, wide * 0.48, 0.09], 0.5))
        if m.chance(0.7):
            m.add(pads, blob([-depth / 2 + 0.14, y, feet + height + back / 2],
                             [0.09, wide * 0.46, back / 2], 0.5))  # fmt: skip
    if seats > 1 and m.chance(0.3):  # a corner
        side, out = m.one(-1, 1), m.u(0.5, 1.0)
        m.add(cloth, box([depth / 2 + out / 2, side * (width / 2 - wide / 2), feet + height / 2],
                         [out, wide, height]))  # fmt: skip


def bed(m: Maker) -> None:
    wood, sheetc, cover = m.colour(), m.colour(), m.colour()
    length, width, height = m.u(1.7, 2.1), m.u(0.7, 1.8), m.u(0.2, 0.5)
    levels = [0.0] if m.chance(0.85) else [0.0, m.u(0.8, 1.1)]
    for z in levels:
        m.add(wood, box([0, 0, z + height - 0.1], [length, width, 0.12]))
        m.add(sheetc, blob([0, 0, z + height + 0.08], [length / 2, width / 2, 0.12], 0.25))
        m.add(cover, blob([length * 0.12, 0, z + height + 0.1],
                          [length * 0.38, width / 2 + 0.02, 0.13], 0.3))  # fmt: skip
        count = 1 if width < 1.1 else 2
        for k in range(count):
            y = (k + 0.5) * width / count - width / 2
            m.add(sheetc, blob([-length / 2 + 0.25, y, z + height + 0.22],
                               [0.17, width / count * 0.4, 0.08]))  # fmt: skip
    head, foot = m.u(0.2, 0.8), m.u(0.0, 0.5)
    tall = levels[-1] + height + head
    if len(levels) > 1 or m.chance(0.3):
        for s in (-1, 1):
            m.mirror(wood, rod([s * length / 2, width / 2, 0], [s * length / 2, width / 2, tall],
                               0.04))  # fmt: skip
    else:
        m.add(wood, box([-length / 2, 0, tall / 2], [0.06, width * 1.03, tall]))
        m.add(wood, box([length / 2, 0, (height + foot) / 2], [0.05, width, height + foot]))

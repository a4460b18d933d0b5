"""Rules for lamps, plants, vessels, machines and whatever else stands about; see `kinds.py`."""

from __future__ import annotations

import numpy as np

from iso3d_jax.tiny.procedural.indoor import fronts
from iso3d_jax.tiny.procedural.makers import Maker
from iso3d_jax.tiny.procedural.solids import blob, box, lathe, path, rod, turned


def lamp(m: Maker) -> None:
    metal, shade = m.colour(), m.colour()
    kind = m.one("stand", "stand", "table", "arm", "pendant", "street")
    height = {"stand": m.u(1.0, 1.9), "street": m.u(2.5, 4)}.get(kind, m.u(0.25, 0.6))
    bar, foot = height * m.u(0.008, 0.03), height * m.u(0.08, 0.3)
    low, high, tall = m.u(0.1, 0.3), m.u(0.02, 0.25), m.u(0.1, 0.3)
    if kind in ("stand", "street"):
        low, high, tall = low * 1.2, high * 1.2, tall * 1.2
    bowl = [(low, 0), (high, tall), (high * 0.98, tall), (low * 0.98, 0)]
    if m.chance(0.3):
        bowl = [(0, 0), (low, 0), (low * 1.05, tall / 2), (high, tall), (0, tall)]
    top = np.array([0.0, 0.0, height])
    if kind == "pendant":
        m.add(metal, rod([0, 0, tall * 0.9], [0, 0, tall + height], bar / 2))
        m.add(metal, lathe([(0, 0), (0.06, 0), (0.06, 0.03), (0, 0.03)], [0, 0, tall + height]))
        m.add(shade, lathe(bowl))
        return
    m.add(metal, lathe([(0, 0), (foot, 0), (foot, 0.02), (bar, m.u(0.02, 0.08)), (0, 0.1)]))
    if kind in ("arm", "street"):
        reach = height * m.u(0.3, 0.9)
        elbow = [-reach * m.u(0.0, 0.5), 0, height] if kind == "arm" else [0, 0, height]
        top = np.array([reach, 0, height * m.u(0.6, 1.1)])
        m.add(metal, path([[0, 0, 0], elbow, top], bar))
        m.add(shade, turned(lathe(bowl) - [0, 0, tall / 2], m.u(-60, 0), axis=1) + top)
        return
    body = [(bar, 0), (bar, height)]
    if kind == "table" and m.chance(0.7):
        round_ = m.u(0.05, 0.16)
        body = [(round_ * m.u(0.3, 1), 0), (round_, height * 0.4), (bar, height * 0.9),
                (bar, height)]  # fmt: skip
    m.add(metal, lathe([(0, 0), *body, (0, height)]))
    m.add(shade, lathe(bowl) + top - [0, 0, tall * m.u(0.0, 0.7)])


def plant(m: Maker) -> None:
    pot, green = m.colour(), (m.u(0.05, 0.35), m.u(0.3, 0.65), m.u(0.05, 0.3))
    if m.chance(0.15):
        green = m.colour()
    wide, tall = m.u(0.08, 0.25), m.u(0.1, 0.4)
    if m.chance(0.85):
        m.add(pot, lathe([(0, 0), (wide * m.u(0.5, 1), 0), (wide, tall), (wide * 0.9, tall),
                          (0, tall * 0.9)]))  # fmt: skip
    kind = m.one("leaves", "leaves", "crown", "cone", "blades", "flowers")
    height = m.u(0.3, 1.3)
    trunk = (0.35, 0.24, 0.14)
    if kind == "crown":
        m.add(trunk, rod([0, 0, 0], [0, 0, tall + height * 0.6], wide * m.u(0.05, 0.2)))
        spread = m.u(0.15, 0.5) * height
        for _ in range(m.n(1, 9)):
            at = [m.u(-0.5, 0.5) * spread, m.u(-0.5, 0.5) * spread, tall + height * m.u(0.6, 1)]
            m.add(green, blob(at, spread * m.rng.uniform(0.4, 1, 3), segments=10))
    elif kind == "cone":
        m.add(trunk, rod([0, 0, 0], [0, 0, tall + height * 0.2], wide * 0.2))
        layers = m.n(1, 5)
        for k in range(layers):
            z, r = tall + height * (0.1 + 0.8 * k / layers), height * 0.4 * (1 - 0.8 * k / layers)
            m.add(green, lathe([(0, z), (r, z), (0, z + height * 1.2 / layers)], segments=12))
    else:
        count = m.n(5, 24)
        for _ in range(count):
            a, out, up = m.u(0, 2 * np.pi), m.u(0.05, 0.7) * height, m.u(0.3, 1) * height
            tip = np.array([out * np.cos(a), out * np.sin(a), tall + up])
            base, bend = np.array([0, 0, tall * 0.8]), m.u(0.3, 0.7)
            middle = base + (tip - base) * [bend * 0.6, bend * 0.6, bend * 1.3]
            if kind == "blades":
                width = m.u(0.01, 0.04)
                m.add(green, rod(base, middle, width / 2, width, 4), rod(middle, tip, width,
                                                                         0.002, 4))  # fmt: skip
                continue
            m.add(green, rod(base, tip, 0.006, 0.004, 4))
            size = m.u(0.03, 0.14)
            leaf = m.colour() if kind == "flowers" and m.chance(0.6) else green
            m.add(leaf, blob(tip, size * np.array([m.u(0.4, 1), m.u(0.4, 1), m.u(0.15, 0.8)]),
                             segments=8))  # fmt: skip


def vessel(m: Maker) -> None:
    colour = m.colour()
    count, height = m.n(3, 6), m.u(0.15, 0.6)
    radius = height * m.u(0.12, 0.7)
    z = np.sort(m.rng.uniform(0, height, count))
    z[0], z[-1] = 0, height
    r = radius * m.rng.uniform(0.25, 1, count)
    kind = m.one("vase", "bottle", "cup", "bowl", "barrel")
    if kind == "bottle":
        neck = radius * m.u(0.15, 0.5)
        shoulder = height * m.u(0.45, 0.75)
        r, z = [radius, radius, neck, neck], [0, shoulder, shoulder + height * 0.12, height]
    elif kind == "cup":
        r, z = [radius * m.u(0.5, 1), radius], [0, height]
    elif kind == "bowl":
        z = np.linspace(0, height * 0.5, 5)
        r = radius * np.sqrt(np.linspace(0.1, 1, 5))
    elif kind == "barrel":
        r, z = radius * np.array([0.8, 0.97, 0.97, 0.8]), np.array([0, 0.3, 0.7, 1]) * height
    outside = [(0, z[0]), *zip(r, z, strict=True)]
    if kind in ("cup", "bowl", "vase"):
        inside = [(a * 0.85, b + 0.03 * height) for a, b in zip(r[::-1], z[::-1], strict=True)]
        m.add(colour, lathe([*outside, *inside[:-1], (0, height * 0.08)]))
    else:
        m.add(colour, lathe([*outside, (0, z[-1])]))
    if kind == "bottle" and m.chance(0.6):
        m.add(m.colour(), lathe([(0, 0), (neck * 1.15, 0), (neck * 1.15, height * 0.06), (0,
              height * 0.06)], [0, 0, height]))  # fmt: skip
    if kind == "bottle" and m.chance(0.6):
        a, b = sorted(m.rng.uniform(0.05, 0.95, 2) * shoulder)
        m.add(m.colour(), lathe([(radius * 1.01, a), (radius * 1.01, b)]))
    if kind == "cup" and m.chance(0.6) or m.chance(0.15):
        out, angle = radius * m.u(0.4, 0.8), m.u(0, 360)
        ring = [[radius * 0.9 + out * np.sin(t), 0, height * (0.5 - 0.3 * np.cos(t))]
                for t in np.linspace(0, np.pi, 6)]  # fmt: skip
        m.add(colour, turned(path(ring, radius * m.u(0.06, 0.14)), angle))
    if m.chance(0.15):
        m.add(m.colour(), lathe([(0, 0), (r[-1] * 1.05, 0), (r[-1] * 0.7, height * 0.1),
                                 (0, height * 0.15)], [0, 0, height]))  # fmt: skip


def appliance(m: Maker) -> None:
    body, trim = m.colour(), m.colour()
    depth, width, height = m.u(0.25, 0.7), m.u(0.25, 0.9), m.u(0.2, 1.9)
    if m.chance(0.5):
        m.add(body, box([0, 0, height / 2], [depth, width, height]))
    else:
        m.add(body, blob([0, 0, height / 2], [depth / 2, width / 2, height / 2], m.u(0.1, 0.35)))
    x = depth / 2 + 0.005
    kind = m.one("round", "doors", "screen", "knobs", "plain")
    if kind == "round":
        r = min(width, height) * m.u(0.2, 0.42)
        disc = lathe([(0, 0), (r, 0), (r * 0.9, 0.03), (0, 0.03)])
        m.add(trim, turned(disc, 90, axis=1) + [x - 0.01, 0, height * m.u(0.4, 0.6)])
    elif kind == "doors":
        fronts(m, body if m.chance(0.5) else trim, x, 0.0, 0, height, width, m.n(1, 2), 1)
    elif kind == "screen":
        m.add(trim, box([x, width * m.u(-0.1, 0.1), height * 0.5],
                        [0.02, width * m.u(0.4, 0.9), height * m.u(0.3, 0.8)]))  # fmt: skip
    if m.chance(0.5):
        m.add(trim, box([x, 0, height * 0.92], [0.02, width * 0.95, height * 0.1]))
    for k in range(m.n(1, 5) if kind == "knobs" else 0):
        at = [x, width * (-0.4 + 0.2 * k), height * 0.9]
        m.add(trim, turned(lathe([(0, 0), (0.025, 0), (0.025, 0.03), (0, 0.03)]), 90, axis=1) + at)
    for s, t in ((-1, -1), (-1, 1), (1, -1), (1, 1)) if m.chance(0.25) else ():
        m.add(trim, lathe([(0, 0), (0.1, 0), (0.1, 0.015), (0, 0.015)],
                          [s * depth * 0.22, t * width * 0.24, height]))  # fmt: skip


def screen(m: Maker) -> None:
    body, glass = m.colour(), m.one((0.05, 0.05, 0.07), (0.3, 0.35, 0.45), m.colour())
    width, height, thick = m.u(0.3, 1.3), m.u(0.2, 0.8), m.u(0.02, 0.3)
    up = m.u(0.05, 0.4)
    # fmt: off
    front = [box([0, 0, up + height / 2], [thick, width, height]),
             box([thick / 2, 0, up + height / 2], [0.012, width * 0.92, height * 0.88])]
    # fmt: on
    lean = m.u(-20, 5)
    m.add(body, turned(front[0], lean, [0, 0, up], 1))
    m.add(glass, turned(front[1], lean, [0, 0, up], 1))
    if m.chance(0.3):  # a laptop, a board with keys
        deep = height * m.u(0.7, 1.1)
        m.add(body, box([deep / 2, 0, up], [deep, width, 0.03]))
        m.add(glass, box([deep * 0.45, 0, up + 0.02], [deep * 0.5, width * 0.85, 0.012]))
    elif m.chance(0.4):
        m.legs(body, max(thick, 0.3), width, up)
    else:
        m.add(body, rod([0, 0, 0], [0, 0, up + 0.05], m.u(0.02, 0.05)),
              box([0, 0, 0.01], [m.u(0.12, 0.3), width * m.u(0.25, 0.6), 0.02]))  # fmt: skip


def container(m: Maker) -> None:
    """Bins, baskets, crates, open boxes, tubs; perhaps on wheels, perhaps with a lid."""
    colour = m.colour()
    height, radius, taper, wall = m.u(0.2, 1.0), m.u(0.12, 0.45), m.u(0.6, 1.1), m.u(0.01, 0.05)
    feet = m.u(0.04, 0.12) if m.chance(0.35) else 0.0
    if m.chance(0.4):
        low = radius * taper
        m.add(colour, lathe([(0, 0), (low, 0), (radius, height), (radius - wall, height),
                             (max(low - wall, 0.02), wall), (0, wall)], [0, 0, feet],
                            flat=m.u(0.6, 1)))  # fmt: skip
    else:
        depth, width = 2 * radius, 2 * radius * m.u(0.8, 2.2)
        m.add(colour, box([0, 0, feet + wall / 2], [depth, width, wall]))
        for s in (-1, 1):
            m.add(colour, box([s * depth / 2, 0, feet + height / 2], [wall, width, height]))
        m.mirror(colour, box([0, width / 2, feet + height / 2], [depth, wall, height]))
    if m.chance(0.4):
        top = blob([0, 0, feet + height], [radius * 1.03, radius * 1.03, height * m.u(0.03, 0.2)])
        m.add(m.colour(), top)
    for s, t in ((-1, 1), (1, 1)) if feet else ():
        wheel = turned(lathe([(0, -0.02), (feet, -0.02), (feet, 0.02), (0, 0.02)]), 90, axis=0)
        m.mirror((0.1, 0.1, 0.1), wheel + [s * radius * 0.8, t * radius * 0.9, feet])
    if m.chance(0.25):
        m.add(m.colour(), path([[-radius, radius, height], [-radius * 1.2, radius, height * 1.3],
                                [-radius * 1.2, -radius, height * 1.3],
                                [-radius, -radius, height]], 0.02))  # fmt: skip


def bathroom(m: Maker) -> None:
    white = m.one((0.95, 0.95, 0.95), (0.9, 0.88, 0.85), m.colour())
    kind = m.one("toilet", "basin", "bath")
    if kind == "bath":
        length, width, height = m.u(1.3, 1.9), m.u(0.6, 0.9), m.u(0.4, 0.65)
        r = [0.8, 1, 1.05, 0.95, 0.75]
        z = np.array([0, 0.5, 1, 1, 0.15]) * height
        tub = lathe([(0, 0), *zip(r, z, strict=True), (0, height * 0.15)], segments=24)
        m.add(white, tub * [length / 2, width / 2, 1])
        return
    rim, deep, height = m.u(0.18, 0.3), m.u(0.1, 0.2), m.u(0.35, 0.9)
    if kind == "toilet":
        height = m.u(0.35, 0.45)
        m.add(white, box([-rim, 0, height + 0.15], [0.18, rim * 1.7, 0.35]))
    bowl = [(0.09, 0), (0.08, height - deep), (rim, height), (rim * 0.8, height),
            (0.05, height - deep * 0.7)]  # fmt: skip
    m.add(white, lathe([(0, 0), *bowl, (0, height - deep * 0.7)]) * [m.u(1, 1.4), 1, 1])
    if m.chance(0.5):
        m.add(m.colour(), path([[-rim * 0.9, 0, height], [-rim * 0.9, 0, height + 0.2],
                                [-rim * 0.3, 0, height + 0.18]], 0.015))  # fmt: skip


def parasol(m: Maker) -> None:
    cloth, pole = m.colour(), m.colour()
    height, reach, drop = m.u(0.8, 2.4), m.u(0.4, 1.4), m.u(0.1, 0.5)
    sides = m.n(6, 10)
    roof = [(0, height), (reach, height - drop), (reach * 0.98, height - drop - 0.02),
            (0, height - 0.04)]  # fmt: skip
    m.add(cloth, lathe(roof, segments=sides))
    m.add(pole, rod([0, 0, 0], [0, 0, height], 0.02))
    if m.chance(0.6):
        m.add(pole, lathe([(0, 0), (0.25, 0), (0.2, 0.08), (0, 0.1)]))


def heap(m: Maker) -> None:
    """Any solids, stacked and put beside one another."""
    colours = [m.colour() for _ in range(3)]
    size = np.array([1.0, 1.0, 1.0])
    at = np.zeros(3)
    both = m.chance(0.5)
    for _ in range(m.n(2, 8)):
        colour, half = colours[m.n(0, 2)], m.rng.uniform(0.05, 0.5, 3) * size
        solid = m.one(
            box(at, 2 * half), blob(at, half, m.u(0.2, 1)), blob(at, half),
            lathe([(0, -1), (1, -1), (m.u(0, 1), 1), (0, 1)]) * half + at,
            rod(at - half * [1, 0, 1], at + half * [1, 0, 1], half[1] * 0.5),
        )  # fmt: skip
        if m.chance(0.3):
            solid = turned(solid, m.u(0, 90), at, m.n(0, 2))
        (m.mirror if both else m.add)(colour, solid)
        at = at + m.rng.uniform(-1, 1, 3) * half * 1.2
        size = size * m.u(0.6, 1.0)

"""Rules for what has limbs or wheels; see `kinds.py`."""

from __future__ import annotations

import numpy as np

from iso3d_jax.tiny.procedural.makers import Maker
from iso3d_jax.tiny.procedural.solids import blob, box, lathe, path, rod, turned


def person(m: Maker) -> None:
    skin = m.one((0.9, 0.72, 0.6), (0.55, 0.38, 0.28), (0.8, 0.6, 0.45), m.colour())
    shirt, trousers, hair = m.colour(), m.colour(), m.colour()
    leg, trunk, wide = m.u(0.7, 0.95), m.u(0.5, 0.65), m.u(0.16, 0.24)
    pose = m.one("stand", "stand", "sit", "walk")
    hip, thick = leg, m.u(0.055, 0.1)
    stride = m.u(0.1, 0.35) if pose == "walk" else m.u(0, 0.05)
    for side in (-1, 1):
        y = side * wide * 0.5
        top = [0, y, hip]
        if pose == "sit":
            knee = [leg * 0.5, y, hip]
            foot = [leg * m.u(0.4, 0.65), y, hip - leg * 0.5]
        else:
            foot = [side * stride, y * m.u(0.8, 1.6), 0.04]
            knee = [side * stride * 0.5 + 0.03, y, hip * 0.5]
        m.add(trousers, rod(top, knee, thick * 1.2, thick), rod(knee, foot, thick, thick * 0.7))
        m.add(hair, blob(np.add(foot, [0.06, 0, 0]), [0.13, 0.05, 0.04], segments=10))
    if m.chance(0.25):  # a skirt
        m.add(trousers, lathe([(wide * 0.9, hip), (wide * m.u(1.2, 2), hip * m.u(0.3, 0.7))]))
    neck = hip + trunk
    m.add(shirt, blob([0, 0, hip + trunk / 2], [wide * 0.6, wide, trunk * 0.56], 0.7))
    m.add(skin, rod([0, 0, neck - 0.05], [0, 0, neck + 0.1], 0.05))
    m.add(skin, blob([0.01, 0, neck + 0.2], [0.095, 0.08, 0.125]))
    m.add(hair, blob([-0.03, 0, neck + 0.23], [0.095, 0.09, 0.12]))
    arm = m.u(0.25, 0.32)
    up = [m.u(0, 0.3) if m.chance(0.7) else m.u(0, 2.8) for _ in range(2)]
    for side, angle in zip((-1, 1), up, strict=True):
        shoulder = np.array([0, side * wide, neck - 0.06])
        elbow = shoulder + arm * np.array([0, side * np.sin(angle), -np.cos(angle)])
        bend = m.u(0, 1.5)
        hand = elbow + arm * np.array([np.sin(bend), side * 0.1, -np.cos(bend)])
        m.add(shirt if m.chance(0.7) else skin, rod(shoulder, elbow, 0.055, 0.045))
        m.add(skin, rod(elbow, hand, 0.045, 0.03), blob(hand, [0.05, 0.035, 0.05], segments=8))


def animal(m: Maker) -> None:
    coat, other = m.colour(), m.colour()
    length, tall, girth = m.u(0.35, 0.8), m.u(0.1, 0.6), m.u(0.09, 0.2)
    back = tall + girth
    m.add(coat, blob([0, 0, back], [length / 2 + girth / 2, girth, girth * m.u(0.9, 1.2)], 0.8))
    for s in (-1, 1):
        at = [s * length * 0.42, girth * 0.6, back]
        foot = [at[0] + m.u(-0.05, 0.05), at[1], 0]
        m.mirror(coat, rod(at, foot, girth * 0.4, girth * m.u(0.15, 0.3)))
    neck = np.array([length / 2 + m.u(0.05, 0.3), 0, back + m.u(0.0, 0.5)])
    m.add(coat, rod([length * 0.42, 0, back], neck, girth * 0.6, girth * 0.45))
    head = girth * m.u(0.5, 0.9)
    m.add(coat, blob(neck + [head * 0.6, 0, 0], [head * m.u(0.9, 1.6), head * 0.8, head * 0.8]))
    ear = neck + [0, head * 0.5, head * 0.5]
    m.mirror(other, rod(ear, ear + [0, head * 0.2, head * m.u(0.3, 1.5)], head * 0.25, 0.005))
    tail = np.array([-length / 2, 0, back])
    m.add(other, rod(tail, tail + [-m.u(0.05, 0.35), 0, m.u(-0.4, 0.3)], 0.03, 0.01))


def _wheel(radius: float, width: float):
    rim = [(0, -width / 2), (radius, -width / 2), (radius, width / 2), (0, width / 2)]
    return turned(lathe(rim, segments=16), 90, axis=0)


def vehicle(m: Maker) -> None:
    paint, glass, rubber = m.colour(), m.one((0.1, 0.12, 0.15), (0.5, 0.6, 0.7)), (0.08, 0.08, 0.08)
    length, width, height = m.u(1.8, 4.5), m.u(1.2, 1.9), m.u(0.4, 0.8)
    wheel = m.u(0.2, 0.42)
    low = wheel * m.u(0.6, 1.1)
    m.add(
        paint, blob([0, 0, low + height / 2], [length / 2, width / 2, height / 2], m.u(0.15, 0.5))
    )
    cabin, roof = length * m.u(0.25, 0.9), m.u(0.3, 1.4)
    shift = m.u(-0.5, 0.5) * (length - cabin)
    lid = box([0, 0, roof / 2], [1, 1, roof]) * [cabin, width * 0.92, 1]
    narrow = lid[..., 2] > roof / 2
    lid[..., 0] *= np.where(narrow, m.u(0.5, 1.0), 1.0)
    m.add(glass if m.chance(0.6) else paint, lid + [shift, 0, low + height])
    m.add(paint, box([shift, 0, low + height + roof], [cabin * 0.6, width * 0.8, 0.06]))
    for x in np.linspace(-0.33, 0.33, m.n(2, 3)) * length:
        m.mirror(rubber, _wheel(wheel, 0.2) + [x, width / 2 - 0.05, wheel])


def cycle(m: Maker) -> None:
    frame, seat, rubber = m.colour(), m.colour(), (0.08, 0.08, 0.08)
    wheel, base, tube = m.u(0.15, 0.36), m.u(0.7, 1.1), m.u(0.015, 0.05)
    heavy = m.chance(0.4)
    for x in (-base / 2, base / 2):
        if heavy:
            m.add(rubber, _wheel(wheel, m.u(0.08, 0.16)) + [x, 0, wheel])
        else:
            ring = np.linspace(0, 2 * np.pi, 17)
            points = np.stack(
                [x + wheel * np.cos(ring), 0 * ring, wheel + wheel * np.sin(ring)], -1
            )
            m.add(rubber, path(points, m.u(0.012, 0.03)))
    back, front = [-base / 2, 0, wheel], [base / 2, 0, wheel]
    saddle, bar = [-base * 0.2, 0, wheel * 2 + 0.15], [base * 0.33, 0, wheel * 2 + m.u(0.1, 0.4)]
    pedal = [-0.02, 0, wheel]
    for a, b in ((back, pedal), (back, saddle), (pedal, saddle), (pedal, bar), (saddle, bar),
                 (bar, front)):  # fmt: skip
        m.add(frame, rod(a, b, tube))
    if heavy:
        m.add(frame, blob([0, 0, wheel * 1.6], [base * 0.35, 0.14, wheel * 0.7], 0.6))
    m.add(seat, blob(saddle, [0.16, 0.09, 0.05], segments=10))
    wide = m.u(0.2, 0.35)
    m.add(frame, rod([bar[0], -wide, bar[2]], [bar[0], wide, bar[2]], tube))

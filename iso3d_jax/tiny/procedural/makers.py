"""What a rule draws with: random numbers, colours, and the solids so far."""

from __future__ import annotations

import colorsys

import numpy as np

from iso3d_jax.tiny.procedural import solids
from iso3d_jax.tiny.procedural.solids import Triangles

Colour = tuple[float, float, float]


class Maker:
    """Collects coloured solids; rules call `add` and `mirror`."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.solids: list[tuple[Triangles, Colour]] = []

    def u(self, low: float, high: float) -> float:
        """Uniform in [low, high]."""
        return float(self.rng.uniform(low, high))

    def n(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def one(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def colour(self) -> Colour:
        """Wood, grey, white, black, or any colour."""
        kind = self.rng.random()
        if kind < 0.35:
            h, s, v = self.u(0.04, 0.11), self.u(0.3, 0.8), self.u(0.2, 0.9)
        elif kind < 0.55:
            h, s, v = self.u(0, 1), self.u(0, 0.1), self.u(0.05, 0.95)
        elif kind < 0.65:
            h, s, v = self.u(0, 1), self.u(0, 0.06), self.u(0.85, 0.97)
        else:
            h, s, v = self.u(0, 1), self.u(0.3, 1), self.u(0.2, 0.95)
        return colorsys.hsv_to_rgb(h, s, v)

    def add(self, colour: Colour, *triangles: Triangles) -> None:
        self.solids += [(t, colour) for t in triangles]

    def mirror(self, colour: Colour, *triangles: Triangles) -> None:
        """Added on both sides: as they are, and with y turned over."""
        self.add(colour, *triangles)
        self.add(colour, *[(t * [1, -1, 1])[:, ::-1] for t in triangles])

    def legs(self, colour: Colour, depth: float, width: float, height: float) -> None:
        """Something for a seat or a top of this size, at this height, to stand on."""
        kind = self.one("four", "four", "splayed", "pedestal", "frames", "star", "panels")
        thick = self.u(0.012, 0.045)
        square = self.chance(0.5)
        x, y = depth / 2 - thick, width / 2 - thick
        if kind in ("four", "splayed"):
            out = self.u(0.02, 0.12) if kind == "splayed" else 0.0
            taper = self.u(0.5, 1.0)
            for s in (-1, 1):
                foot, top = [s * (x + out), y + out, 0], [s * x, y, height]
                if square and kind == "four":
                    leg = solids.box([s * x, y, height / 2], [2 * thick, 2 * thick, height])
                else:
                    leg = solids.rod(foot, top, thick * taper, thick)
                self.mirror(colour, leg)
            if self.chance(0.35):  # bars between them
                z = height * self.u(0.15, 0.5)
                for s in (-1, 1):
                    self.add(colour, solids.rod([s * x, -y, z], [s * x, y, z], thick * 0.6))
                self.mirror(colour, solids.rod([-x, y, z], [x, y, z], thick * 0.6))
        elif kind in ("pedestal", "star"):
            stem = thick * self.u(0.8, 2.5)
            reach = min(depth, width) * self.u(0.3, 0.5)
            self.add(colour, solids.rod([0, 0, 0], [0, 0, height], stem))
            if kind == "pedestal":
                foot = [(0, 0), (reach, 0), (reach, 0.02), (stem, self.u(0.03, 0.1)), (0, 0.1)]
                self.add(colour, solids.lathe(foot))
            else:
                count = self.n(3, 6)
                for k in range(count):
                    a = 2 * np.pi * k / count
                    tip = [reach * np.cos(a), reach * np.sin(a), 0.02]
                    self.add(colour, solids.rod([0, 0, self.u(0.05, 0.12)], tip, thick, thick / 2))
        elif kind == "frames":
            bar = thick * 0.7
            ring = [[-x, y, bar], [x, y, bar], [x, y, height], [-x, y, height], [-x, y, bar]]
            self.mirror(colour, solids.path(ring[: self.one(3, 5)], bar))
        else:
            self.mirror(
                colour, solids.box([0, y, height / 2], [depth * self.u(0.6, 1), thick, height])
            )

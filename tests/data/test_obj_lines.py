"""Lines parsed many at a time give what they give one by one, and are parsed so where alike."""

import numpy as np
import pytest

from iso3d_jax.data import obj_lines
from iso3d_jax.data.meshes import BadMesh

SPELLINGS = {
    "positions": "{0}", "coordinates": "{0}/{1}", "all": "{0}/{1}/{2}", "normals": "{0}//{2}",
}  # fmt: skip


def numbers(found):
    """All that a scan holds, or the refusal."""
    if isinstance(found, str):
        return found
    flat = [found.positions, found.uvs, found.normals, found.colours]
    groups = {name: (list(s), list(c)) for name, (s, c) in found.groups.items()}
    return (
        [x.tobytes() for x in flat],
        groups,
        found.coloured,
        found.libraries,
        found.lines_or_points,
    )


def one_by_one(text):
    found = obj_lines.Scan()
    try:
        for line in obj_lines.split_lines(text):
            found.read(line)
    except BadMesh as error:
        return str(error)
    return found


def together(text):
    try:
        return obj_lines.scan(text)
    except BadMesh as error:
        return str(error)


def grid(spelling, side=12, corners="34", colours=False, back=False):
    """Quads and pairs of triangles of a grid."""
    rng = np.random.default_rng(side)
    count = (side + 1) ** 2
    lines = []
    for point in rng.normal(size=(count, 6)):
        lines.append("v " + " ".join(f"{x:.7g}" for x in point[: 6 if colours else 3]))
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in rng.random((count, 2))]
    lines += [f"vn {x:e} {y:e} {z:e}" for x, y, z in rng.normal(size=(count, 3))]
    for y in range(side):
        for x in range(side):
            a = y * (side + 1) + x + 1 - (count + 1 if back else 0)
            ring = [a, a + 1, a + side + 2, a + side + 1]
            faces = (
                [ring] if corners[(x + y) % len(corners)] == "4" else [ring[:3], ring[::2] + [a]]
            )
            for face in faces:
                lines.append("f " + " ".join(spelling.format(k, k, k) for k in face))
    return lines


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(obj_lines, "BLOCK", 3000)
    monkeypatch.setattr(obj_lines, "FEW", 8)


def check_alike(lines, ending="\n"):
    text = ending.join(lines).encode() + ending.encode()
    assert numbers(together(text)) == numbers(one_by_one(text))


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_gives_the_same_numbers(spelling):
    check_alike(grid(spelling))
    check_alike(grid(spelling, corners="3", colours=True), "\r\n")
    check_alike(grid(spelling, back=True))
    found = together("\n".join(grid(spelling)).encode())
    (sizes, corners) = found.groups[""]
    assert set(sizes) == {3, 4} and len(corners) == 3 * sum(sizes)


def test_lines_of_all_kinds_between_one_another_keep_their_order():
    """Vertex and normal in turn as MeshLab writes them, materials, groups, comments, tabs."""
    plain = grid("{0}/{1}/{2}")
    count = 13 * 13
    v, vt, vn = (plain[k * count : (k + 1) * count] for k in range(3))
    f = plain[3 * count :]
    lines = ["# head", "mtllib a.mtl b.mtl", ""]
    lines += [line for three in zip(v, vn, vt, strict=True) for line in three]
    for k, line in enumerate(f):
        if k % 40 == 0:
            lines += [f"usemtl m {k // 40 % 3}", "g part", "s 1"]
        lines += [f"  \t{line}  ", "l 1 2", "p 3"] if k % 90 == 7 else [line]
    check_alike(lines)


@pytest.mark.parametrize(
    "line",
    [
        "f 1/1/1 2/2/1 3/3", "f 1 2", "f 1 2 3 # a comment", "f 1/1/ 2/2/ 3/3/", "f /1/1 2/2 3/3",
        "f 1//1 2/2/2 3/3/3", "f 0 1 2", "f 1 2 999999999999", "f 1 2 99999999999999999999999",
        "f 1.5 2 3", "f 1-2 3 4", "f 1/1/1/1 2/2 3/3/3", "f 1_0 2 3", "f a b c", "f",
        "v 1 2", "v 1 2 x", "v 1 2 3 4", "v 1 2 3 1", "v 1e400 nan 3", "v 1_0 2 3", 
        "v 1 2 3 .1 .2 .3",
        "vt 0.5", "vt 1 2 3", "vt x 1", "vn 1 2", "vn 1 2 3 4", "v\t1\t2\t3", "vp 1 2 3", "v1 2 3",
        "vnn 1 2 3", "f\v1 2 3", "usemtl b", "f -1 -2 -3", "f 1 2 -3", "v 1 2 3 # x",
        "call a.obj", "f 1/2 3/4 5/6", "f 1 2 3 \\",
    ],
)  # fmt: skip
def test_one_line_of_another_kind_changes_nothing_else(line):
    """Among faces, among coordinates, and at the very end without an end of line."""
    lines = grid("{0}/{1}/{2}")
    for at in (50, 200, 600):
        check_alike([*lines[:at], line, *lines[at:]])
    text = "\n".join([*lines, line]).encode()
    assert numbers(together(text)) == numbers(one_by_one(text))


def test_random_lines_are_read_alike():
    rng = np.random.default_rng(5)
    words = ["1", "-1", "2/2", "3//3", "4/4/4", "1e3", "x", "#", "0", "/", "1/", "\v", "-2/1", ".5"]
    keys = ["v", "vt", "vn", "f", "f", "g", "usemtl", "l", "o", ""]
    for _ in range(300):
        lines = []
        for key in rng.choice(keys, rng.integers(1, 60)):
            lines.append(" ".join([key, *rng.choice(words, rng.integers(0, 6))]))
        check_alike(grid("{0}", 3)[: rng.integers(0, 80)] + lines)


def test_what_is_too_much_is_refused_together_too(monkeypatch):
    text = "\n".join(grid("{0}")).encode()
    monkeypatch.setattr(obj_lines, "MOST_TRIANGLES", 100)
    monkeypatch.setattr("iso3d_jax.data.meshes.MOST_TRIANGLES", 100)
    assert "triangles, and the most is 100" in together(text)
    monkeypatch.setattr(obj_lines, "MOST_NUMBERS", 300)
    assert together(text) == "more than 100 vertices"


def test_faces_that_are_alike_are_read_together(monkeypatch):
    """But for a few at the ends of blocks none goes line by line."""
    lines = []
    read = obj_lines.Scan.read
    monkeypatch.setattr(
        obj_lines.Scan, "read", lambda self, line: lines.append(line) or read(self, line)
    )
    monkeypatch.setattr(obj_lines, "BLOCK", 1 << 20)
    faces = "\n".join(grid("{0}/{1}/{2}", 60, "3")[3 * 61 * 61 :] * 8).encode()
    found = obj_lines.scan(faces)
    assert len(found.groups[""][0]) == 60 * 60 * 2 * 8
    assert len(lines) < obj_lines.FEW

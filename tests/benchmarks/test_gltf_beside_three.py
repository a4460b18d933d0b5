"""benchmarks/gltf_beside_three.py: its figures by hand, and what it makes of a pair of drawings."""

import http.client
import http.server
import json
import threading

import numpy as np
import pytest

from benchmarks import gltf_beside_three as beside
from benchmarks.gltf_beside_three import Drawn


def square(first=0, colour=(200, 100, 0), alpha=255):
    """Two views with the same square of 10 x 10 in a picture of 20 x 20, from a column on."""
    views = np.zeros((2, 20, 20, 4), np.uint8)
    views[:, 5:15, first : first + 10] = (*colour, alpha)
    return views


def test_masks_and_colours_are_compared_as_by_hand():
    one = square()[0]
    assert beside.compare(one, one) == (1.0, 0.0)
    iou, difference = beside.compare(square(first=1)[0], one)
    assert iou == pytest.approx(9 / 11)  # 90 pixels of 110
    # The two columns that one has alone are grey in the other: |200-128|, |100-128|, |0-128|.
    assert difference == pytest.approx(20 * (72 + 28 + 128) / 3 / 110)
    assert beside.compare(square(colour=(200, 100, 30))[0], one) == (1.0, pytest.approx(10))
    half = beside.compare(square(alpha=51)[0], one)  # a fifth of it before grey
    assert half == (1.0, pytest.approx(0.8 * (72 + 28 + 128) / 3, rel=1e-5))


@pytest.mark.parametrize(
    "ours, theirs, outcome",
    [
        (Drawn(square()), Drawn(square()), "same"),
        (Drawn(square()), Drawn(square(colour=(200, 100, 15))), "same"),
        (Drawn(square()), Drawn(square(colour=(200, 100, 30))), "other colours"),
        (Drawn(square()), Drawn(square(first=1)), "other shape"),
        (Drawn(np.stack([square()[0], square(1)[1]])), Drawn(square()), "other shape"),
        (Drawn(square(alpha=0)), Drawn(square()), "other shape"),
        (Drawn(square(alpha=0)), Drawn(square(alpha=0)), "neither"),
        (Drawn(None, "no meshes"), Drawn(None, "no triangles"), "neither"),
        (Drawn(None, "it requires X"), Drawn(square()), "left out"),
        (Drawn(square()), Drawn(None, "it hangs"), "ours alone"),
        (Drawn(square(), "no texture: a.png is not there"), Drawn(square()), "not whole"),
    ],
)
def test_a_file_is_one_of_seven_things(ours, theirs, outcome):
    row = beside.judge(ours, theirs)
    assert row["outcome"] == outcome and outcome in beside.OUTCOMES
    assert outcome in beside.describe(row)


def test_the_worst_comes_first_and_white_is_known():
    rows = [
        beside.judge(Drawn(square()), Drawn(square())),
        beside.judge(Drawn(square()), Drawn(square(colour=(200, 100, 15)))),
        beside.judge(Drawn(square()), Drawn(square(first=1))),
        beside.judge(Drawn(None, "x"), Drawn(None, "y")),
    ]
    assert [rows.index(row) for row in sorted(rows, key=beside.badness)] == [2, 3, 1, 0]
    white = Drawn(square(colour=(255, 255, 255)))
    assert beside.judge(white, white)["white"] and not rows[0]["white"]


def test_the_server_gives_each_file_once_and_takes_pictures_upside_down(tmp_path, monkeypatch):
    """As a browser would ask it; OpenGL's row 0 is the bottom, its colours premultiplied."""
    monkeypatch.setattr(beside, "RESOLUTION", 2)
    (tmp_path / "a b.gltf").write_text("{}")
    desk = beside._Desk([tmp_path / "a b.gltf", tmp_path / "c.glb"])
    handler = beside._handler(desk, tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(path, data=None):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
        connection.request("GET" if data is None else "POST", path, data)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    try:
        setting = json.loads(ask("/setting")[1])
        assert setting["side"] == 8 and len(setting["cameras"]) == 2
        given = json.loads(ask("/next")[1])
        assert given["number"] == 0 and given["url"].endswith("/a%20b.gltf")
        assert ask(given["url"]) == (200, b"{}") and ask("/elsewhere")[0] == 404
        views = np.zeros((2, 8, 8, 4), np.uint8)
        views[:, :4] = (100, 50, 0, 128)
        assert ask("/result/0/drawn", views.tobytes())[0] == 200
        assert json.loads(ask("/next")[1])["number"] == 1
        ask("/result/1/failed", b"it cannot be read")
        assert ask("/next")[0] == 204 and desk.closed
    finally:
        server.shutdown()
        server.server_close()
    first, second = desk.drawn[0], desk.drawn[1]
    assert second == Drawn(None, "it cannot be read")
    assert (first.pictures[:, 0] == 0).all()
    assert (first.pictures[:, 1] == (199, 100, 0, 128)).all()  # 100 * 255 / 128

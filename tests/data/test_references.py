"""Training references: every view prepared as a picture of that framing would be."""

import numpy as np

from iso3d_jax.data.colour import on_white
from iso3d_jax.data.pictures import prepare_picture
from iso3d_jax.data.table import MultiViewTable, mix_references, prepare_references


def some_views():
    return MultiViewTable.load(None, "test").images[0, :5]


def test_references_look_like_pictures():
    views = some_views()
    for mode in ("centred", "framed"):
        references = prepare_references(views[None], mode)[0]
        for view, reference in zip(views, references, strict=True):
            want = prepare_picture(view, len(view), mode)
            error = np.abs(on_white(reference / 255.0) - want)
            assert (error > 1.5 / 255).mean() < 1e-3  # where bicubic weights overshoot


def test_views_take_turns_in_how_they_are_prepared():
    views = some_views()
    framed, centred = (prepare_references(views[None], mode)[0] for mode in ("framed", "centred"))
    assert not np.array_equal(framed[1], centred[1])
    mixed = mix_references(views, ("framed", "centred"), shift=1)
    for k, view in enumerate(mixed):
        np.testing.assert_array_equal(view, (framed if k % 2 else centred)[k])

"""Two small data sets as `data.render` makes them, and a file in which they are packed."""

import dataclasses

import numpy as np
import pytest

from iso3d_jax.data.multiview import open_dataset, write_dataset
from iso3d_jax.tiny.quarter_hour import pack

VIEWS = 8


def smaller(record, name, mirrored):
    """A shipped object at half its size, with fewer views."""
    images = record["images"][:VIEWS, ::2, ::2]
    few = {key: value[:VIEWS] for key, value in record.items() if isinstance(value, np.ndarray)}
    if mirrored:
        images, few["azimuth_deg"] = images[:, :, ::-1], -few["azimuth_deg"] % 360
    return record | few | {"images": images, "name": name}


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """The folders of two sets of 32 pixels; the second is the first mirrored, and shorter."""
    root = tmp_path_factory.mktemp("rendered")
    objects = list(open_dataset("samples", "all"))
    folders = []
    for name, some, mirrored in (("plain", objects, False), ("mirrored", objects[::2], True)):
        items = [smaller(o, f"{o['name']}_{name}", mirrored) for o in some]
        write_dataset(root / name, items, {"resolution": 32})
        folders.append(str(root / name))
    return folders


@pytest.fixture(scope="session")
def packed_file(rendered, tmp_path_factory):
    """Both, all of their objects."""
    file = tmp_path_factory.mktemp("packed") / "two.zip"
    how = pack.pack(rendered, file, megabytes=4.0)
    assert dataclasses.astuple(how) == (VIEWS, 50, 1.0)
    return file

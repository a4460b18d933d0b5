"""Views of an object with the cameras that they are seen by."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from iso3d_jax.core.arrays_file import read_arrays
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, explain_os_errors, make_folder
from iso3d_jax.core.images import to_uint8
from iso3d_jax.data import grids, transforms
from iso3d_jax.data.posed_pictures import LAYOUTS, PICTURES, write_transforms
from iso3d_jax.geometry.cameras import camera_to_world

_LENS = LAYOUTS["orthogonal"]  # of the views that a model draws


@dataclasses.dataclass(frozen=True)
class Views:
    """What a model generated from one picture.

    Attributes:
      images: [V, H, W, 3] in [0, 1], on white.
      azimuth_deg, elevation_deg: of the cameras, [V]; azimuth 0 is the side that the picture shows,
        azimuths grow counter-clockwise seen from above (geometry/cameras.py).
      picture: what they were generated from, RGBA uint8 [h, w, 4].
      prepared: the picture as the image encoder saw it, [H, W, 3] in [0, 1].
      seed: of their noise.
      preprocessing: how the picture was fitted to the frame, a name of `data.pictures.MODES`; the
        model's own if empty.
    """

    images: Float[np.ndarray, "V H W 3"]
    azimuth_deg: Float[np.ndarray, " V"]
    elevation_deg: Float[np.ndarray, " V"]
    picture: UInt8[np.ndarray, "h w 4"]
    prepared: Float[np.ndarray, "H W 3"]
    seed: int = 0
    preprocessing: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image.Image:
        """One view as a Pillow image."""
        return grids.to_image(self.images[index])

    def grid(self, cell: int | None = None) -> Image.Image:
        """The prepared picture and the views in one row.

        Args:
          cell: side of each in pixels; the views' own, but at least 256, if None.
        """
        return grids.tile([[self.prepared, *self.images]], cell or max(256, self.images.shape[1]))

    @property
    def c2w(self) -> Float[np.ndarray, "V 4 4"]:
        """Camera to world, OpenGL, as these cameras are taken to be where nothing else is said."""
        distance = _LENS.scale / np.tan(np.deg2rad(_LENS.fov_deg) / 2)
        return np.asarray(camera_to_world(self.elevation_deg, self.azimuth_deg, distance))

    @explain_os_errors()
    def save(self, path: str | Path) -> Path:
        """Writes the views.

        Args:
          path: `x.png` gets the row that `grid` makes; `x.npz` everything, for `Views.load`, and
            beside it transforms.json with the pictures that it names, in `views/`, for other
            programs and `reconstruct --views`; any other name is a folder, which gets a PNG a view.

        Returns:
          The path.

        Raises:
          UserError: the place cannot be written to, or holds somebody else's transforms.json.
        """
        path = Path(path).expanduser()
        if path.suffix.lower() not in (".png", ".npz"):
            make_folder(path)
            for k, azimuth in enumerate(self.azimuth_deg):
                with atomic_path(path / f"{k}_azimuth{round(azimuth) % 360:03d}.png") as temporary:
                    self[k].save(temporary)
            return path
        make_folder(path.parent)
        if path.suffix.lower() == ".png":
            with atomic_path(path) as temporary:
                self.grid().save(temporary)
            return path
        _check_place(path.parent)
        with atomic_path(path) as temporary:
            np.savez(temporary, **dataclasses.asdict(self))
        fov_deg = np.full(len(self), _LENS.fov_deg)
        write_transforms(path.parent, list(to_uint8(self.images)), self.c2w, fov_deg)
        return path

    @classmethod
    @explain_os_errors()
    def load(cls, path: str | Path) -> Views:
        """The views of an `.npz` that `save` wrote.

        Raises:
          UserError: no such file, or not one of these.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        remedy = "it is to hold views that Views.save wrote"
        arrays = read_arrays(Path(path).expanduser(), remedy, names)
        axes = dict(images=4, azimuth_deg=1, elevation_deg=1, picture=3, prepared=3, seed=0,
                    preprocessing=0)  # fmt: skip
        if any(arrays[name].ndim != count for name, count in axes.items()):
            raise UserError(f"{path} is damaged; {remedy}")
        try:
            values: dict[str, Any] = arrays | {
                "seed": int(arrays["seed"]), "preprocessing": str(arrays["preprocessing"])
            }  # fmt: skip
        except ValueError:
            raise UserError(f"{path} is damaged; {remedy}") from None
        return cls(**values)


def _check_place(folder: Path) -> None:
    """Refuses a folder whose transforms.json, or the pictures below it, are not of saved views."""
    file, first = folder / transforms.FILE, folder / PICTURES / "000.png"
    if file.is_file():
        named = transforms.read(file).pictures
        foreign = next((p for p in named if p.parent != folder / PICTURES), None)
        if foreign is not None:
            raise UserError(
                f"{file} is there and names {foreign.name}, which is no saved view: save into "
                "another folder"
            )
    elif first.exists():
        raise UserError(f"{first} is there and no saved view: save into another folder")

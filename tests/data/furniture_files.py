"""Meshes and catalogues that the tests make themselves."""

import zipfile

# Colours of a cube's sides by where they face in the file (Y-up, front +z).
COLOURS = {
    "front": (0.9, 0.1, 0.1),
    "right": (0.1, 0.8, 0.1),
    "back": (0.1, 0.1, 0.9),
    "left": (0.8, 0.8, 0.1),
    "top": (0.5, 0.5, 0.5),
    "bottom": (0.2, 0.2, 0.2),
}
AZIMUTH = {"front": 0, "right": 90, "back": 180, "left": 270}  # in the data set's world
_FACES = {
    "front": "5 6 7 8",
    "back": "1 2 3 4",
    "left": "1 5 8 4",
    "right": "2 6 7 3",
    "top": "4 3 7 8",
    "bottom": "1 2 6 5",
}


def cube_obj(x=1.0, y=1.0, z=1.0) -> str:
    """A box with half sides x, y, z whose sides have the materials of `cube_mtl`."""
    corners = [
        (sx * x, sy * y, sz * z)
        for sz in (-1, 1)
        for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    lines = ["mtllib cube.mtl"] + [f"v {a} {b} {c}" for a, b, c in corners]
    for side, face in _FACES.items():
        lines += [f"usemtl {side}", f"f {face}"]
    return "\n".join(lines) + "\n"


def cube_mtl(opacity=1.0) -> str:
    return "".join(
        f"newmtl {side}\nKd {r} {g} {b}\nd {opacity}\n" for side, (r, g, b) in COLOURS.items()
    )


def write_folder(folder, names, **sizes):
    """A folder with one OBJ a name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cube.mtl").write_text(cube_mtl())
    for name in names:
        (folder / f"{name}.obj").write_text(cube_obj(**sizes))
    return folder


def write_catalogue(path, entries, licence="Public domain"):
    """A .sh3f with one cube an entry; an entry is a dict of properties with `stem` in it."""
    properties = [f"license={licence}"]
    with zipfile.ZipFile(path, "w") as archive:
        for k, entry in enumerate(entries, 1):
            entry = dict(entry)
            stem = entry.pop("stem")
            size = entry.pop("size", (1.0, 1.0, 1.0))
            archive.writestr(f"models/{stem}/{stem}.obj", cube_obj(*size))
            archive.writestr(f"models/{stem}/cube.mtl", cube_mtl())
            archive.writestr(f"models/{stem}.png", b"icon of " + stem.encode())
            entry = {
                "name": stem,
                "category": "Misc",
                "creator": "A",
                "icon": f"/models/{stem}.png",
                "model": f"/models/{stem}/{stem}.obj",
            } | entry
            properties += [f"{key}#{k}={value}" for key, value in entry.items()]
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(properties))
    return path

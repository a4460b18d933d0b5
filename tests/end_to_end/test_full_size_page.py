"""Every command of docs/full_size.md, with the flags that stand there, on small stand-ins."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from iso3d_jax.commands import config_files
from iso3d_jax.weights import bundle
from iso3d_jax.weights.folders import TINY
from iso3d_jax.weights.importing import import_weights
from iso3d_jax.weights.tensors import open_tensors
from iso3d_jax.weights.torch_file import write_torch

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "full_size.md"
GOLDEN = ROOT / "tests" / "golden"
CHECKPOINT = GOLDEN / "isotropic3d_tiny_fp16.ckpt"
SMALLEST = ROOT / "tests" / "smallest_reconstruction.py"

# What makes a command small, by module; the flags of the page stand before these.
SMALLER = {
    "convert": [],
    "sample": ["--steps=2", "--seed=1"],
    "reconstruct": [f"--config={SMALLEST}:1"],
    "export": ["--resolution=24", "--texture=64"],
    "data.render": ["--sets=2"],
    "data.encode": ["--variants=1"],
    "train": [
        "--config.steps=2", "--config.batch_size=1", "--config.model.resolution=32",
        "--config.sample_every=0", "--config.loader=memory", "--config.single_view_share=1.0",
        "--config.reference_dropout=0.0", "--config.warmup_steps=1", "--config.dtype=float32",
    ],
    "evaluate": [
        "--split=train", "--objects=1", "--steps=2", "--consistency_objects=0", "--st_lpips=none"
    ],
}  # fmt: skip


def commands():
    """(module, flags) of the page's commands in order."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            assert words[:2] == ["python", "-m"] and words[2].startswith("iso3d_jax."), line
            found.append((words[2].removeprefix("iso3d_jax."), words[3:]))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with stand-ins for public files, picture and meshes; what a token becomes."""
    folder = tmp_path_factory.mktemp("full_size")
    numbers = json.loads((GOLDEN / "config.json").read_text())
    numbers["unet"]["image_size"] = 8  # pictures of 32 pixels
    arch = folder / "architecture.json"
    arch.write_text(json.dumps(numbers))
    tensors = open_tensors(CHECKPOINT)
    for name, of_tower in (("sd-v2.1-base-4view.pt", False), ("vit_h.pt", True)):
        kept = {k: t for k, t in tensors.items() if ("cond_stage_model" in k) == of_tower}
        entries = [
            (k.removeprefix("cond_stage_model.model."), t.shape, t.dtype, t.read)
            for k, t in kept.items()
        ]
        write_torch(folder / name, entries)
    Image.open(ROOT / "iso3d_jax/data/examples/wardrobe.png").resize((64, 64)).save(
        folder / "chair.png"
    )
    stand_ins = {
        "pkunliu/Isotropic3D/isotropic3d.ckpt": str(CHECKPOINT),
        "MVDream/MVDream/sd-v2.1-base-4view.pt": str(folder / "sd-v2.1-base-4view.pt"),
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": str(folder / "vit_h.pt"),
        "MESHES": "procedural:2", "256": "32", "chair.png": str(folder / "chair.png"),
        "25": "0.5",  # density; the smallest scene is thin
    }  # fmt: skip
    return folder, stand_ins, arch


@pytest.mark.long
def test_the_page_is_walked(place, run_python):
    folder, stand_ins, arch = place
    unet = json.loads(arch.read_text())["unet"]
    known = config_files.load_config("configs/stage1.py").model.unet
    sizes = [f"--config.model.unet.{k}={tuple(v) if isinstance(v, list) else v}"
             for k, v in unet.items() if k in known]  # fmt: skip
    outputs = {}
    for number, (module, flags) in enumerate(commands()):
        line = [stand_ins.get(flag, flag) for flag in flags]
        line = [re.sub(r"\b(models|data|runs|out|mine)(?=[/.])", rf"{folder}/\1", w)
                if not w.startswith(("configs/", "/", "--config.data=samples")) else w
                for w in line]  # fmt: skip
        more = [*SMALLER[module]]
        if module == "convert" and "--to" not in line:
            more += ["--arch", str(arch)]
        if module == "train":
            more += sizes
        process = run_python("-m", f"iso3d_jax.{module}", *line, *more)
        text = process.stdout + process.stderr
        assert process.returncode == 0, f"{number}: {module} {' '.join(line)}\n{text}"
        outputs.setdefault(module, []).append(text)
    assert (folder / "data/objects/multiview").is_dir()
    said = "\n".join(outputs["convert"])
    for promised in (
        "cameras: isotropic3d, sampled with isotropic3d_sampling", "cameras: mvdream", "clip of"
    ):  # fmt: skip
        assert promised in said and promised in PAGE.read_text()
    assert "cameras mvdream (the base's)" in outputs["train"][0]
    assert "cameras mvdream (the base's)" in outputs["train"][1]
    assert bundle.load_config(folder / "runs/stage2").camera_encoding == "mvdream"
    assert (folder / "out/chair/mesh.obj").is_file() and (folder / "mine.ckpt").is_file()
    theirs = open_tensors(folder / "mine.ckpt")
    assert {k: t.shape for k, t in theirs.items()}.items() <= {
        k: t.shape for k, t in open_tensors(CHECKPOINT).items()
    }.items()


def test_a_tower_that_does_not_fit_is_refused_at_once(place, tmp_path, refused):
    """The sentence names the public one that does."""
    folder, _, arch = place
    released = tmp_path / "released"
    import_weights([str(CHECKPOINT)], released, json.loads(arch.read_text()))
    message = refused(
        "-m", "iso3d_jax.train", "--config=configs/stage1.py", f"--workdir={tmp_path / 'run'}",
        f"--config.init_from={released}", f"--config.init.vae={released}",
        f"--config.init.clip={TINY}", "--config.data=samples",
        "--config.model.resolution=32", "--config.loader=memory",
    )  # fmt: skip
    assert "512 numbers" in message and "CLIP-ViT-H-14-laion2B-s32B-b79K" in message
    assert message.count("1024") == 2

"""Every line of a bash block in README and docs: its flags are read, its files are there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iso3d_jax.__main__ import COMMANDS
from tests.docs import read_flags

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TRAINS = {f"launch/{name}.sh" for name in ("one_machine", "slurm", "jobset")}
SHARDS = {"launch/data_slurm.sh", "launch/data_job.sh"}
# Programs that are not ours and take nothing of ours.
THEIRS = {"apt", "cd", "export", "source", "kubectl", "tensorboard", "docker", "gcloud"}
ASSIGNMENT = re.compile(r"[A-Z_]+=")


def lines(page):
    """(block's line, words) of each command of a page's bash blocks, without what a pipe takes."""
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
        block = re.sub(r"<<'EOF'\n.*?^EOF$", "", block, flags=re.DOTALL | re.MULTILINE)
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r" \| | && ", line):
                words = shlex.split(command, comments=True)
                while words and ASSIGNMENT.match(words[0]):
                    del words[0]
                if words:
                    yield words


def module_and_flags(words):
    """What reads a line's flags, or None where no command of the package does."""
    words = [word for word in words if word != "..."]
    program, *rest = words
    if program == "sbatch":
        program, *rest = rest[next(k for k, word in enumerate(rest) if word[:2] != "--") :]
    name = os.path.basename(program)
    if name == "iso3d":
        return COMMANDS[rest[0]], rest[1:]
    if re.fullmatch(r"python[0-9.]*", name) and rest[:1] == ["-m"]:
        return (rest[1], rest[2:]) if rest[1].startswith("iso3d_jax") else None
    if program in SHARDS:
        return f"iso3d_jax.data.{rest[0]}", ["--shard=0/2", *rest[1:]][rest[0] == "join" :]
    if program == "launch/tpu.sh":
        return ("iso3d_jax.train", ["--workdir=x", *rest[1:]]) if rest[0] == "train" else None
    return ("iso3d_jax.train", ["--workdir=x", *rest]) if program in TRAINS else None


def check_other(words, extras, targets):
    """Of a line that no command of the package reads: the files, extras and targets it names."""
    program, *rest = words[words[0] == "sbatch" :]
    name = os.path.basename(program)
    if name == "make":
        named = [word for word in rest if not ASSIGNMENT.match(word) and word[0] != "-"]
        assert set(named) <= targets, words
    elif name == "pip":
        named = re.findall(r"(?:\.|iso3d_jax)\[([a-z,]+)\]", " ".join(rest))
        assert {extra for given in named for extra in given.split(",")} <= extras, words
    elif re.fullmatch(r"python[0-9.]*", name):
        if rest[0] == "-m":
            module = ROOT / rest[1].replace(".", "/")
            outside = ("venv", "pip")
            assert rest[1] in outside or module.is_dir() or module.with_suffix(".py").is_file()
        else:
            assert rest[0] in ("-", "-c") or (ROOT / rest[0]).is_file(), words
    else:
        assert (ROOT / program).is_file() or name in THEIRS, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_pages_lines_name_is_there(page):
    extras = set(re.findall(r'^        "([a-z]+)": ', (ROOT / "setup.py").read_text(), re.M))
    makefiles = (ROOT / "Makefile").read_text() + (ROOT / "launch/tiny_model.mk").read_text()
    targets = set(re.findall(r"^([a-z-]+)(?= ?:)", makefiles, re.M))
    for words in lines(page):
        if module_and_flags(words) is None:
            check_other(words, extras, targets)


WRONG = {
    ("iso3d_jax.sample", "--image=x.png", "--out=y.png", "--sede=1"): "did you mean 'seed'",
    ("iso3d_jax.train", "--config=stage1:tiny", "--config.batchsize=1"): "mean 'batch_size'",
    ("iso3d_jax.train", "--config=stage1:tiny", "--config.steps=-1"): "config.steps",
}


def test_every_commands_flags_are_read():
    """By the commands themselves: no flag or config's key is misspelt, no value out of range."""
    found = {
        (module, *flags): page.name
        for page in PAGES
        for words in lines(page)
        for module, flags in filter(None, [module_and_flags(words)])
        if flags != ["--help"]
    }
    assert len(found) > 80
    process = subprocess.run(
        [sys.executable, read_flags.__file__], input=json.dumps([*found, *WRONG]),
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = dict(zip([*found, *WRONG], json.loads(process.stdout), strict=True))
    for command, words in WRONG.items():
        assert words in said.pop(command), command
    wrong = {f"{found[c]}: {' '.join(c)}": text for c, text in said.items() if text}
    assert not wrong, json.dumps(wrong, indent=1)


# What makes the commands of the first page small; their own flags stand before these.
SMALLER = {
    "iso3d_jax.sample": ["--steps=2"],
    "iso3d_jax.reconstruct": [f"--config={ROOT / 'tests' / 'smallest_reconstruction.py'}"],
    "iso3d_jax.export": ["--resolution=24", "--texture=64"],
}


@pytest.mark.slow
def test_the_first_page_is_walked(run_python, model_folder, tmp_path):
    """With a model of random weights; matting and folders of pictures have tests of their own."""
    shutil.copy(ROOT / "iso3d_jax/data/examples/sofa.png", tmp_path / "chair.png")
    walked = []
    for words in lines(ROOT / "docs/start/one_picture.md"):
        found = module_and_flags(words)
        if found is None or {"always", "--images"} & {*words}:
            continue
        module, flags = found
        flags = [re.sub(r"^(out/|chair\.png)", rf"{tmp_path}/\1", flag) for flag in flags]
        model = [] if module == "iso3d_jax.export" else [f"--model={model_folder}"]
        process = run_python("-m", module, *flags, *model, *SMALLER[module])
        assert process.returncode == 0, (words, process.stderr)
        walked.append(module.removeprefix("iso3d_jax."))
    assert walked == ["sample", "sample", "reconstruct", "export", "export"]
    made = {path.name for path in (tmp_path / "out").rglob("*")}
    assert {"seen.png", "views.png", "views_2.png", "index.html", "mesh.glb", "mesh.obj"} <= made
    assert "mesh.stl" in made

"""A wrong path is refused before JAX is imported or a weight is read, in one sentence."""

import json
import textwrap

import pytest
from ml_collections import ConfigDict

from iso3d_jax.commands import paths
from iso3d_jax.core.errors import UserError
from iso3d_jax.weights.folders import TINY, check_model

PICTURE = "iso3d_jax/data/examples/trash_can.png"
WATCHED = """
import atexit, runpy, sys
atexit.register(lambda: print("jax was imported" if "jax" in sys.modules else "without jax"))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
STAGE1 = ["--config=configs/stage1.py:tiny", "--workdir={tmp}/run"]
COMPARE = "compare --out={tmp}/out"


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    towerless = tmp_path / "towerless"
    towerless.mkdir()
    (towerless / "model.json").write_text("{}")
    header = json.dumps({"vae/x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    file = len(header).to_bytes(8, "little") + header + bytes(4)
    (towerless / "model.safetensors").write_bytes(file)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "model.json").write_text("{}")
    (cut / "model.safetensors").write_bytes(file[:-2])
    return tmp_path


@pytest.mark.parametrize(
    "command, words",
    [
        ("export --run=nothere", "--run: nothere holds no reconstruction"),
        ("export --run={tmp}/empty", "--run: {tmp}/empty holds no reconstruction"),
        ("evaluate --data=nothere --out={tmp}/out", "--data: there is no data set at nothere"),
        ("evaluate --model=nothere --out={tmp}/out", "--model: model folder not found: nothere"),
        ("evaluate --model={tmp}/cut --out={tmp}/out", "'vae/x' does not lie inside the file"),
        ("evaluate --images=nothere --out={tmp}/out", "--images nothere: there is no such folder"),
        ("evaluate --images={tmp}/empty --out={tmp}/out", "holds no pictures"),
        (f"sample --image={PICTURE} --matting_model=no.onnx --out={{tmp}}/x.png",
         "--matting_model no.onnx: there is no such file"),
        (f"demo --image={PICTURE} --matting_model=no.onnx --out={{tmp}}/out", "no.onnx"),
        ("reconstruct --images={tmp}/../.. --out={tmp}/out --matting_model=no.onnx", "no.onnx"),
        ("evaluate --gso=nothere --out={tmp}/out", "--gso nothere: there is no such folder"),
        ("evaluate --runs=nothere --meshes={tmp} --out={tmp}/out", "--runs nothere: there is no"),
        ("evaluate --runs={tmp} --meshes=nothere --out={tmp}/out", "--meshes nothere: there is no"),
        ("evaluate --lpips=nothere --out={tmp}/out", "--lpips nothere: there is no such file"),
        ("evaluate --st_lpips=nothere --out={tmp}/out", "--st_lpips nothere: there is no such"),
        ("evaluate --out={tmp}/file", "cannot make the folder {tmp}/file"),
        (f"sample --image={PICTURE} --model=nothere --out={{tmp}}/x.png", "--model: model folder"),
        (f"sample --image={PICTURE} --model={{tmp}}/towerless --out={{tmp}}/x.png", "for 'unet'"),
        (f"sample --image={PICTURE} --out={{tmp}}/file/x.png", "cannot make the folder"),
        (f"reconstruct --image={PICTURE} --model=nothere --out={{tmp}}/out", "--model: model fold"),
        (f"reconstruct --image={PICTURE} --init=nothere --out={{tmp}}/out", "--init: nothere"),
        (f"reconstruct --image={PICTURE} --out={{tmp}}/file", "cannot make the folder"),
        ("reconstruct --images=nothere --out={tmp}/out", "--images nothere: there is no such"),
        ("convert --from=nothere --out={tmp}/out", "nothere not found"),
        ("convert --from=nothere --to=compact --out={tmp}/out", "--from: model folder not found"),
        ("convert --from={tmp}/towerless --to=torch --leftovers=nothere --out={tmp}/x.pt",
         "--leftovers nothere: there is no such file"),
        ("data.render --assets=nothere --out={tmp}/out", "--assets nothere: there is no such file"),
        ("evaluation.inputs --data=nothere --assets=x --out={tmp}/out", "--data: there is no data"),
        ("evaluation.inputs --assets=nothere --out={tmp}/out", "--assets nothere: there is no"),
        ("demo --model=nothere --out={tmp}/out", "--model: model folder not found"),
        (COMPARE + " --config.data=nothere", "--config.data: there is no data set"),
        (COMPARE + " --config.stage1.init.vae=nothere", "--config.stage1.init.vae: model folder"),
        (COMPARE + " --config.stage2.ccr.init.clip=nothere", "--config.stage2.ccr.init.clip: "),
        (" ".join(["train", *STAGE1, "--config.data=nothere"]), "--config.data: there is no data"),
        (" ".join(["train", *STAGE1, "--config.init_from=nothere"]), "--config.init_from: model"),
        (" ".join(["train", *STAGE1, "--config.init.clip={tmp}/towerless"]), "weights for 'clip'"),
        (" ".join(["train", *STAGE1, "--config.data_encoded=nothere"]), "no encoded data set in"),
        ("train --config=configs/decoder.py --workdir={tmp}/run --config.init_from={tmp}/towerless",
         "for 'unet'"),
    ],
)  # fmt: skip
def test_a_wrong_path_is_refused_without_jax(run_python, folders, command, words):
    module, *flags = command.format(tmp=folders).split()
    process = run_python("-c", WATCHED, f"iso3d_jax.{module}", *flags)
    assert process.returncode == 2, process.stdout + process.stderr
    (message,) = process.stderr.strip().splitlines()
    assert message.startswith("error: ") and words.format(tmp=folders) in message
    assert process.stdout.strip().endswith("without jax")
    assert not (folders / "out").exists() and not (folders / "run").exists()


@pytest.mark.parametrize(
    "command, words",
    [
        (COMPARE + " --runs=nothere", "there is no run 'nothere'"),
        ("convert --from={tmp}/broken.ckpt --out={tmp}/out/model", "is not a checkpoint"),
        ("convert --from={tmp}/cut --to=compact --out={tmp}/out/model", "inside the file"),
        ("reconstruct --image={tmp}/file --out={tmp}/out", "is not a picture"),
        ("demo --image={tmp}/file --out={tmp}/out", "is not a picture"),
        # Where results go is looked at before the picture.
        ("reconstruct --image={tmp}/file --out={tmp}/file/out", "--out: cannot make the folder"),
        ("demo --image={tmp}/file --out={tmp}/file/out", "--out: cannot make the folder"),
        ("demo --image={tmp}/file --out={tmp}/out --save_input={tmp}/file/x.png",
         "--save_input: cannot make the folder"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_no_folder(refused, folders, command, words):
    (folders / "broken.ckpt").write_bytes(b"PK\3\4 and nothing else")
    module, *flags = command.format(tmp=folders).split()
    assert words in refused("-m", f"iso3d_jax.{module}", *flags)
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--data=nothere", "--data: there is no data set"),
        ("--data=samples,nothere", "--data: there is no data set"),
        ("--vae=nothere", "--vae: model folder not found"),
        ("--clip={tmp}/towerless", "--clip: the model in"),
        ("--pictures=round", "--pictures has round"),
        ("--out={tmp}/file", "cannot make the folder"),
    ],
)
def test_encode_looks_before_it_loads(refused, folders, flag, words):
    program = textwrap.dedent("""
        import runpy, sys
        from iso3d_jax.weights import bundle
        def load_model(*args, **kwargs):
            raise RuntimeError("weights were loaded before all paths were looked at")
        bundle.load_model = load_model
        sys.argv = ["encode"] + sys.argv[1:]
        runpy.run_module("iso3d_jax.data.encode", run_name="__main__", alter_sys=True)
    """)
    assert words in refused("-c", program, f"--out={folders}/out", flag.format(tmp=folders))


def test_what_a_model_folder_holds(folders):
    assert check_model(None, "unet", "vae", "clip") == {"unet", "vae", "clip"}
    assert check_model(TINY) == check_model(None)
    assert check_model(folders / "towerless") == {"vae"}
    (folders / "towerless" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        check_model(folders / "towerless")


def test_a_training_config_without_paths_passes():
    paths.training(ConfigDict(dict(task="autoencoder", data="samples", init_from="")))
    with pytest.raises(UserError, match="--config.data: "):
        paths.training(ConfigDict(dict(data="samples,nothere")))


def test_a_run_writes_over_no_picture_that_was_given(tmp_path):
    (tmp_path / "input.png").touch()
    given = tmp_path / "input.png"
    with pytest.raises(UserError, match="holds the picture that was given: give another folder"):
        paths.run_folder(tmp_path, ["views.png", "input.png"], given)
    paths.run_folder(tmp_path, ["views.png"], given)
    paths.run_folder(tmp_path / "new", ["input.png"], given)
    with pytest.raises(UserError, match="holds the pictures that were given"):
        paths.run_folder(tmp_path, [], tmp_path / ".")  # sheet.png would be one of them

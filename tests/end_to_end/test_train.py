"""`python -m iso3d_jax.train`, both stages on the shipped objects, then views from the result."""

import json

import pytest

TRAIN = ("-m", "iso3d_jax.train")


@pytest.fixture(scope="module")
def small(model_folder):
    """Overrides that make the tiny presets smaller: random frozen networks, a narrow UNet."""
    return [
        f"--config.init.vae={model_folder}", f"--config.init.clip={model_folder}",
        "--config.model.unet.context_dim=24", "--config.model.unet.adm_in_channels=24",
        "--config.model.unet.model_channels=32", "--config.model.unet.channel_mult=(1,2)",
        "--config.model.unet.attention_resolutions=(2,)", "--config.data_variants=1",
        "--config.batch_size=4", "--config.checkpoint_every=2",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def first(small, tmp_path_factory):
    """The folder and the command of a stage 1 of two steps."""
    stage1 = tmp_path_factory.mktemp("train") / "stage1"
    return stage1, [*TRAIN, "--config=configs/stage1.py:tiny", f"--workdir={stage1}", *small]


@pytest.fixture(scope="module")
def stage1(run_python, first):
    folder, command = first
    process = run_python(*command, "--config.steps=2", "--config.ablate_every=2")
    assert process.returncode == 0, process.stderr
    return folder


def test_stage_1_as_it_is_typed(stage1):
    last = json.loads((stage1 / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2
    for case in ("right", "another_embedding", "no_embedding", "cameras_turned_90"):
        assert last[f"x0_db/t0980/{case}"] < 20
    assert (stage1 / "model" / "model.safetensors").is_file()


def test_stage_2_then_views(run_python, refused, model_folder, small, first, stage1, tmp_path):
    message = refused(*first[1], "--config.steps=4", "--config.model.unet.model_channels=64")
    assert str(stage1) in message or "checkpoint" in message

    encoded = tmp_path / "encoded"
    process = run_python(
        "-m", "iso3d_jax", "encode", "--data", "samples", "--out", encoded, "--variants", 1,
        "--vae", model_folder, "--clip", model_folder,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    small = [*small, f"--config.data_encoded={encoded}"]

    stage2 = tmp_path / "stage2"
    process = run_python(
        *TRAIN, "--config=configs/stage2.py:tiny", "--out", stage2, *small,
        f"--config.init_from={stage1}", "--config.steps=2",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    out = tmp_path / "views.png"
    image = "my bin.png"
    process = run_python(
        "-m", "iso3d_jax.sample", "--image", image, "--model", stage2, "--out", out, "--steps=2"
    )
    assert process.returncode == 0, process.stderr
    assert out.is_file()

    # A little on top of it by LoRA: the folder that comes out is an ordinary model's.
    lora, adapted = tmp_path / "lora", tmp_path / "adapted.png"
    process = run_python(
        *TRAIN, "--config", "stage2:tiny", f"--workdir={lora}", *small,
        f"--config.init_from={stage2}", "--config.steps=2", "--config.trainable=lora",
        "--config.learning_rate=0.1", "--config.warmup_steps=0",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    process = run_python(
        "-m", "iso3d_jax.sample", "--image", image, "--model", lora, "--out", adapted, "--steps=2"
    )
    assert process.returncode == 0, process.stderr
    assert adapted.is_file() and adapted.read_bytes() != out.read_bytes()

    compact = tmp_path / "compact"
    process = run_python(
        "-m", "iso3d_jax.convert", "--from", lora, "--to", "compact", "--out", compact
    )
    assert process.returncode == 0, process.stderr
    assert (compact / "model.safetensors").is_file()


def test_full_size_says_in_one_message_what_is_missing(refused, tmp_path):
    message = refused(*TRAIN, "--config=configs/stage1.py", f"--workdir={tmp_path / 'run'}")
    for words in ("init_from", "init.vae", "init.clip", "data", "iso3d_jax.convert", "data.render"):
        assert words in message
    message = refused(*TRAIN, "--config=configs/stage2.py", f"--workdir={tmp_path / 'run'}")
    assert "stage 1" in message


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config=configs/stage1.py:tyni"], "did you mean 'tiny'"),
        (["--config=configs/stage1.py:tiny", "--config.learning_rat=1"], "'learning_rate'"),
        (["--config=configs/stage3.py"], "config file not found"),
        ([], "no config was given"),
        (["--config=configs/stage2.py:tiny", "--config.init_from=none"], "none"),
    ],
)
def test_mistakes_are_one_sentence(refused, tmp_path, arguments, words):
    assert words in refused(*TRAIN, f"--workdir={tmp_path / 'run'}", *arguments)

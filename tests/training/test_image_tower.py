"""Training of the image tower by the loop that the command runs."""

import json

from configs import image_tower as config
from iso3d_jax.training.loop import fit
from iso3d_jax.training.tasks import make_task
from iso3d_jax.weights import bundle


def test_the_tower_trains_previews_and_exports(tmp_path):
    cfg = config.get_config("tiny")
    cfg.model.clip.update(widths=(16, 16, 16), hidden=16, num_groups=4)
    cfg.update(steps=6, batch_size=2, log_every=1, sample_every=6, warmup_steps=1)
    fit(make_task(cfg), cfg, tmp_path)

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["drawing"] < lines[0]["drawing"]
    assert list((tmp_path / "samples").iterdir())
    assert "layout/kernel" in bundle.load_weights(tmp_path, ("clip",))["clip"]

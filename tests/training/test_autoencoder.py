"""Training of the autoencoder's decoder alone: the latents and their scale stay."""

import numpy as np
import pytest

from configs import autoencoder as config
from iso3d_jax.errors import UserError
from iso3d_jax.training.loop import fit
from iso3d_jax.training.tasks import make_task
from iso3d_jax.weights import bundle


def small(preset, **changes):
    cfg = config.get_config(preset)
    cfg.model.vae.update(ch=8, num_groups=4)
    cfg.update(steps=2, batch_size=4, log_every=1, sample_every=9, warmup_steps=1, **changes)
    return cfg


@pytest.mark.slow
def test_the_decoder_alone_goes_on_from_a_trained_autoencoder(tmp_path):
    cfg = small("tiny")
    fit(make_task(cfg), cfg, tmp_path / "whole")
    cfg = small("decoder", init_from=str(tmp_path / "whole"))
    task = make_task(cfg)
    fit(task, cfg, tmp_path / "decoder")

    before, after = (
        bundle.load_weights(tmp_path / run, ("vae",))["vae"] for run in ("whole", "decoder")
    )
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert {path.split("/")[0] for path in changed} == {"decoder", "post_quant_conv"}
    scales = [bundle.load_config(tmp_path / run).scale_factor for run in ("whole", "decoder")]
    assert scales[0] == scales[1] != 1.0

    with pytest.raises(UserError, match="needs --config.init_from"):
        make_task(small("decoder"))

"""A reconstruction so small that its one program compiles in seconds; a config like the others.

`tests/smallest_reconstruction.py:20` has 20 iterations; without a number it has 4.
"""

from iso3d_jax.presets import reconstruct


def get_config(steps: str = "4"):
    cfg = reconstruct.get_config(f"tiny,steps={steps}")
    cfg.init = "none"
    cfg.phases = ((cfg.steps, 16, 1),)
    cfg.steps_per_call, cfg.preview_every, cfg.save_every = cfg.steps, 0, 0
    cfg.field.update(levels=3, log2_table_size=9, base_resolution=4, growth=1.6, hidden=8)
    cfg.render.update(step_size=2 / 24, candidates=6.0, samples=4.0, normals=1.0)
    cfg.occupancy.update(resolution=16, every=4)
    cfg.optimizer.update(encoding=0.03, networks=0.01)
    cfg.draft.update(steps=cfg.steps, rays=256, networks=0.01, sets=cfg.draft.sets[:1])
    cfg.video.update(frames=3, resolution=32, seconds=1.0)
    cfg.mesh.update(resolution=24, faces=2000, texture=64)
    return cfg

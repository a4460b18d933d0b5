"""One picture to a 3D object by score distillation.

    python -m iso3d_jax.reconstruct --image X.png --model DIR --out DIR \\
        --config configs/reconstruct.py:tiny

Presets: `isotropic3d` (the released recipe), `fast`, `tiny`; without one that which suits the
model. `views` is for pictures with cameras (--views). `:tiny,steps=200` scales every schedule with
the iterations.
Every number, and where it is from: iso3d_jax/presets/reconstruct.py.
"""

from iso3d_jax.presets import reconstruct

get_config = reconstruct.get_config

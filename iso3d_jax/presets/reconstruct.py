"""One picture to a 3D object by score distillation.

    python -m iso3d_jax.reconstruct --image X.png --model DIR --out DIR \\
        --config configs/reconstruct.py:tiny

Presets:
  isotropic3d  the released recipe's numbers (configs/isotropic3d-shading.yaml): 10,000 iterations,
               64x64 then 256x256 renders, guidance 10. For the full-size model on an accelerator.
  fast         the same with 2,500 iterations, for the full-size model.
  tiny         for the 64x64 model that ships with the package: a draft from sampled views, then the
               last 60 of 200 iterations; two and a half minutes on one core.
  views        for pictures with cameras (--views): they are fitted, and no model is asked, 128x128
               pixels of each. 24 true views of 64x64: 31 dB in five minutes of one core.

Released numbers are those of Isotropic3D's configs/isotropic3d-shading.yaml, or the defaults of its
threestudio and of nerfacc 0.5.2 where that file leaves them out; the comments say which they are
and which are this port's own. Where `tiny` and `fast` differ from `isotropic3d`, they are too.

Options: `:tiny,steps=200` runs fewer (or more) iterations and scales every schedule with them.
"""

from ml_collections import ConfigDict

from iso3d_jax.commands import config_presets

PRESETS = {"isotropic3d": 10_000, "fast": 2_500, "tiny": 200, "views": 300}

# twelve sets of four views: every 7.5 degrees a view, elevations spread over those of training
SETS_ALL_ROUND = (
    (0.0, 15), (30.0, 0), (60.0, 30), (15.0, 7), (45.0, 22), (75.0, 15),
    (7.5, 30), (22.5, 18), (37.5, 11), (52.5, 4), (67.5, 26), (82.5, 9),
)  # fmt: skip


SMALL = 64  # pixels; models up to here are made for `tiny`
PICTURE_SIDE = 128  # pixels, of pictures that `views` fits


def preset_for(resolution: int) -> str:
    """The preset that suits a model of so many pixels."""
    return "tiny" if resolution <= SMALL else "isotropic3d"


def get_config(arg: str = "") -> ConfigDict:
    preset, options = config_presets.parse(arg, tuple(PRESETS), steps=0)
    steps = options.steps or PRESETS[preset]

    def at(iteration):  # an iteration of the released 10,000, scaled
        return round(iteration * steps / 10_000)

    c = ConfigDict()
    c.preset = preset
    c.seed = 22  # released
    c.picture = ""  # how it is fitted to the frame (data/pictures.py); empty: the model's own way
    c.mode = "sds"  # or "views": fit the sampled views, a draft
    c.init = "none"  # released; "views": start from such a draft, at this share of the schedules:
    c.init_skip = 0.5  # the port's own
    c.steps = steps  # released: 10,000
    c.views = 4  # orthogonal views the denoiser sees together; released
    # (until iteration, render resolution, groups of views an iteration); released
    c.phases = ((at(5000), 64, 2), (steps, 256, 1))
    # the port's own: how often to save and to show, iterations a dispatch
    c.save_every = 500
    c.preview_every = 250
    c.steps_per_call = 50
    # iterations whose loss is not finite are left out, as by the released run's gradient scaler;
    # the run stops after so many in a row (the port's own)
    c.max_bad_steps = 25

    # released
    c.field = ConfigDict(
        dict(levels=16, features=2, log2_table_size=19, base_resolution=16,
             growth=1.447269237440378, hidden=64, radius=1.0, blob_scale=10.0, blob_std=0.5)
    )  # fmt: skip
    # step_size, bound and both thresholds: released. The port's own: nerfacc takes as many samples
    # as there are, here there is room for so many a ray, on average over all rays of an iteration
    # (see iso3d_jax/nerf/render.py); the blob at the start needs up to 54 candidates and 51 samples
    # where the camera is nearest, 40 and 38 on average
    c.render = ConfigDict(
        dict(step_size=2 * 1.732 / 512, bound="box", candidates=64.0, samples=48.0, normals=16.0,
             alpha_threshold=0.01, early_stop=1e-4, chunk=1 << 18)
    )  # fmt: skip
    c.occupancy = ConfigDict(
        dict(resolution=32, every=16, decay=0.95, threshold=0.01, warmup=at(256))
    )  # released
    c.camera = ConfigDict(
        dict(fov_deg=(15.0, 60.0), elevation_deg=(0.0, 30.0), distance=(0.8, 1.0))
    )  # distance in units of 1 / tan(fov / 2); released
    # released; the loss is "x0" or "sds"
    c.guidance = ConfigDict(
        dict(loss="x0", scale=10.0, rescale=0.5,
             low=(0, 0.98, 0.02, at(8000)), high=(0, 0.98, 0.50, at(8000)))
    )  # fmt: skip
    # weights: a number, or (first iteration, first value, last value, last iteration); released
    c.loss = ConfigDict(
        dict(
            guidance=1.0,
            reference_l2=0.0,  # the method has none; some 1,000 is the ablation
            orientation=(0, 10.0, 1000.0, max(1, at(5000))),
            sparsity=0.0,
            opaque=(0, 0.0, 0.0, at(10_000)),
        )
    )
    # where `loss.reference_l2` takes the picture to be seen from, and its weight for the outline;
    # the port's own
    c.reference = ConfigDict(dict(elevation_deg=15.0, fov_deg=40.0, distance=1.075, mask=0.1))
    # released; probability 0: never
    c.shading = ConfigDict(dict(start_step=at(5000), probability=0.75))
    # released, but for `final`: learning rates end at this share of their value
    c.optimizer = ConfigDict(
        dict(encoding=0.01, networks=0.001, b1=0.9, b2=0.99, eps=1e-15, weight_decay=0.01,
             final=1.0)
    )  # fmt: skip
    # from here on the port's own, but for the turntable's frames and what `mesh` says
    # with several devices: "objects", each makes an object of a folder; "views", all make one
    c.parallelism = "objects"
    # "low": the autoencoder sees a view at a time and is computed twice; rays go in smaller chunks
    c.memory = "normal"
    # a draft from sampled views: how they are drawn and fitted; `sets` has the azimuth of the first
    # view and the elevation of each set of `views`, the picture's own side first; the object is
    # where a channel is so far from white (not at all, surely), and with `fill` where white is
    # enclosed by it; `hull`: see reconstruction/init/hull.py; `networks`: their learning rate, in
    # place of `optimizer.networks`
    c.draft = ConfigDict(
        dict(steps=1000, rays=8192, fov_deg=40.0, distance=1.075, sets=((0.0, 15.0),),
             white=(0.02, 0.12), fill=False, mask=0.5, hull=0.0, hull_resolution=64, networks=0.001,
             opaque=0.01, sparsity=0.0, orientation=0.1)
    )  # fmt: skip
    # few iterations leave rims half transparent: the turntable and the mesh show the density's edge
    # so many times steeper (see sharpen in iso3d_jax/nerf/field.py) at the surface: where outlines
    # begin ("outline"), or most like the sampled views' hull ("hull")
    c.show = ConfigDict(dict(sharpness=1.0, surface="outline"))
    c.video = ConfigDict(dict(frames=120, resolution=256, seconds=4.0))
    # threshold: density on the surface, 0 to choose it as `show.surface` says (released: 25);
    # remove_outliers: parts with a smaller share of the largest one's faces go (released); the
    # release has marching tetrahedra of 128 cells (256 for its marching cubes), all faces, 1024
    c.mesh = ConfigDict(
        dict(resolution=256, faces=40_000, texture=1024, threshold=0.0, remove_outliers=0.01)
    )

    if preset == "tiny":
        c.init, c.init_skip = "views", 0.7  # nearer to true meshes than either alone, and see
        # docs/reconstruction.md for what guidance, outlines and hull give
        c.phases = ((steps, 32, 1),)
        c.save_every, c.preview_every, c.steps_per_call = 100, 100, 10
        c.field.update(levels=8, log2_table_size=14, base_resolution=8, growth=1.4, hidden=32)
        # samples: distillation asked for at most 4.8 in 25 runs, a draft for up to 20 in its first
        # third, 6 in its middle and 4.5 at its end; with 8 it fitted its views no better
        c.render.update(step_size=2 / 64, bound="sphere", candidates=20.0, samples=5.0, normals=1.5,
                        alpha_threshold=3e-3, chunk=0)  # fmt: skip
        c.occupancy.update(every=8, threshold=1e-3, warmup=steps)
        c.camera.update(fov_deg=(20.0, 50.0), distance=(1.0, 1.15))
        c.guidance.update(scale=1.3)  # that of the model's own sampling; 5 eats solids away
        c.shading.probability = 0.0
        c.loss.opaque = (at(3000), 0.0, 100.0, at(8000))
        c.optimizer.final = 0.1
        c.show.update(sharpness=8.0, surface="hull")  # what else was tried: docs/reconstruction.md
        c.draft.update(steps=300, rays=3072, sets=SETS_ALL_ROUND, white=(0.04, 0.2), fill=True,
                       hull=1.0, networks=0.005)  # fmt: skip
        c.video.update(frames=40, resolution=112, seconds=4.0)
        c.mesh.update(resolution=128, faces=10_000, texture=512, remove_outliers=0.03)
    if preset == "views":
        c.mode = "views"
        c.phases = ((steps, PICTURE_SIDE, 1),)  # the pictures' side
        c.save_every, c.preview_every, c.steps_per_call = 200, 200, 20
        c.field.update(levels=10, log2_table_size=16, base_resolution=8, growth=1.4, hidden=32)
        c.render.update(step_size=2 / 96, bound="sphere", candidates=32.0, samples=12.0,
                        normals=1.5, alpha_threshold=3e-3, chunk=0)  # fmt: skip
        c.occupancy.update(every=8, threshold=1e-3, warmup=steps)
        c.shading.probability = 0.0
        c.optimizer.update(encoding=0.02, final=0.1)
        c.show.update(sharpness=4.0, surface="hull")
        c.draft.update(steps=steps, rays=4096, hull=1.0, hull_resolution=96, networks=0.005)
        c.video.update(frames=40, resolution=112, seconds=4.0)
        c.mesh.update(resolution=128, faces=20_000, texture=512, remove_outliers=0.03)
    return c

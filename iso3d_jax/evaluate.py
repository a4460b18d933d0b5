"""Scores a model beside two baselines, with JSON, a Markdown table and a page of pictures.

    python -m iso3d_jax.evaluate --data DIR --out out/evaluation           a data set's test split
    python -m iso3d_jax.evaluate --images DIR --out out/evaluation         pictures, no true views
    python -m iso3d_jax.evaluate --gso DIR --out out/evaluation            Google Scanned Objects
    python -m iso3d_jax.evaluate --data DIR --ablate --out out/ablation    what the model looks at
    python -m iso3d_jax.evaluate --runs DIR --meshes DIR --out out/shapes  reconstructed meshes
    python -m iso3d_jax.evaluate --data DIR --model runs/image_tower --out out/tower
                                                              an image tower or an autoencoder alone

Writes report.json, table.md, index.html (open it in a browser) and contact.png. docs/evaluation.md
says what each figure is, to the digit.
"""

from iso3d_jax.commands import command_line
from iso3d_jax.commands.config_checks import SPLITS

flags = command_line.flags_for(__name__)

_MODEL = flags.DEFINE_string("model", None, "model folder; the package's own if left out")
_DATA = flags.DEFINE_string(
    "data", "samples", "rendered data set; 'samples' is the shipped one. Baselines are from its "
    "training split, also with --images and --gso",
)  # fmt: skip
_SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "the part of the data set")
_IMAGES = flags.DEFINE_string("images", None, "folder of pictures to score instead of a split")
_GSO = flags.DEFINE_string("gso", None, "folder in the layout of SyncDreamer's evaluation")
_RUNS = flags.DEFINE_string("runs", None, "folder of reconstructions, NAME/mesh.glb, to score")
_MESHES = flags.DEFINE_string("meshes", None, "folder of the true meshes for --runs, NAME.ply")
_FRAME = flags.DEFINE_enum(
    "frame", "box", ["box", "truth"],
    "with --runs: each mesh scaled and centred by its own box, or all by the true mesh's, for "
    "pictures that kept their framing",
)  # fmt: skip
_OUT = flags.DEFINE_string("out", None, "folder for the report", required=True)
_PREPARE = flags.DEFINE_enum(
    "prepare", None, ["centred", "framed", "launch", "i2i"],
    "how pictures are fitted to the frame; the model's own if left out",
)  # fmt: skip
_STEPS = flags.DEFINE_integer(
    "steps", None, "DDIM steps; the model's own number if left out", 1, 999
)
_LOOK = flags.DEFINE_enum(
    "look", "own", ["own", "sharp"],
    "views as the model draws them by itself, or sharper: more steps and all of the noise",
)  # fmt: skip
_SEED = flags.DEFINE_integer("seed", 0, "of the noise", 0, command_line.MOST)
_COUNT = flags.DEFINE_integer(
    "objects", 0, "so many objects, evenly spaced; 0: all", 0, command_line.MOST
)
_ABLATE = flags.DEFINE_bool("ablate", False, "only the ablation of embedding and cameras")
_CONSISTENCY = flags.DEFINE_integer(
    "consistency_objects", 8, "objects whose cross-view consistency is measured; 0: none",
    0, command_line.MOST,
)  # fmt: skip
_LPIPS = flags.DEFINE_list(
    "lpips", None, "weights for LPIPS: torchvision's alexnet or vgg16 file and lpips' linear file"
)
_ST_LPIPS = flags.DEFINE_string(
    "st_lpips", "auto", "ST-LPIPS: the weights' file; 'auto' takes those of the package "
    "stlpips-pytorch where it is installed; 'none'",
)  # fmt: skip
_OBJECTS = flags.DEFINE_integer("sheet_objects", 8, "rows of the contact sheet", 1, 1000)
_PAGE = flags.DEFINE_integer(
    "page_objects", 40, "objects on the page: half the best, half the worst", 1, command_line.MOST
)
_DTYPE = flags.DEFINE_enum(*command_line.DTYPE_FLAG)
_REMOVE_BACKGROUND = flags.DEFINE_enum(*command_line.REMOVE_BACKGROUND_FLAG)
_MATTING_MODEL = flags.DEFINE_string(*command_line.MATTING_MODEL_FLAG)


def main(_argv):
    """Scores what the flags name."""
    from iso3d_jax.core.errors import UserError
    from iso3d_jax.evaluation.run import Evaluation, evaluate

    report = evaluate(
        Evaluation(
            model=_MODEL.value,
            data=_DATA.value,
            split=_SPLIT.value,
            images=_IMAGES.value,
            gso=_GSO.value,
            runs=_RUNS.value,
            meshes=_MESHES.value,
            frame=_FRAME.value,
            preprocessing=_PREPARE.value,
            look=_LOOK.value,
            steps=_STEPS.value,
            seed=_SEED.value,
            objects=_COUNT.value,
            ablate=_ABLATE.value,
            consistency_objects=_CONSISTENCY.value,
            lpips=_LPIPS.value,
            st_lpips=_ST_LPIPS.value,
            sheet_objects=_OBJECTS.value,
            page_objects=_PAGE.value,
            dtype=_DTYPE.value,
            remove_background=_REMOVE_BACKGROUND.value,
            matting_model=_MATTING_MODEL.value,
        ),
        _OUT.value,
    )
    if failed := report.get("data", {}).get("left out"):
        raise UserError(
            f"{len(failed)} pictures of {_IMAGES.value} could not be used ({', '.join(failed)}): "
            "the reasons are above, the others are in the report"
        )


if __name__ == "__main__":
    command_line.run(main)

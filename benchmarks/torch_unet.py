"""diffusers' UNet of Stable Diffusion 2.1's size in PyTorch: the other side of two benchmarks.

    python benchmarks/torch_unet.py '{"side": 32}'

Eight latents of `side` and two of twice that, in half precision, each as PyTorch runs it (eager)
and, on a GPU, through `torch.compile`; a line of JSON each, so that a run that is cut keeps what it
had. `unet` may give other numbers of the network than the released ones.
"""

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def network(config, side: int, dtype: str):
    """diffusers' network with random weights, and the name of the device that holds it."""
    import torch
    from diffusers import UNet2DConditionModel

    from iso3d_jax.weights.layouts.diffusers import unet_settings

    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = unet_settings(config, side)
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**settings)
    unet = unet.to(getattr(torch, dtype)).to_empty(device=device).eval()
    with torch.inference_mode():
        for weight in unet.parameters():
            weight.normal_(0, 0.02) if weight.ndim > 1 else weight.fill_(0.5)
    if device == "cuda":
        unet = unet.to(memory_format=torch.channels_last)
    return unet, device


def call(unet, config, latents: int, side: int, dtype: str, device: str):
    """A function that evaluates the network once and waits for it."""
    import torch

    kind = getattr(torch, dtype)
    inputs = (
        torch.ones(latents, config.in_channels, side, side, dtype=kind, device=device),
        torch.full((latents,), 500, device=device),
        torch.ones(latents, 1, config.context_dim, dtype=kind, device=device),
    )

    def run():
        with torch.inference_mode():
            unet(*inputs)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def main():
    request = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    import torch
    from measuring import seconds_a_call

    from iso3d_jax.models.unet import UNetConfig

    values = request.get("unet", {})
    config = UNetConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    side = request.get("side", 32)
    unet, device = network(config, side, "bfloat16")
    for how in ("eager", "torch.compile") if device == "cuda" else ("eager",):
        ours = unet if how == "eager" else torch.compile(unet, dynamic=False)
        for latents, at in ((8, side), (2, 2 * side)):
            run = call(ours, config, latents, at, "bfloat16", device)
            began = time.perf_counter()
            run()
            first = time.perf_counter() - began
            seconds = seconds_a_call(run)
            line = {"how": how, "latents": latents, "side": at, "seconds": seconds}
            line |= {"compile_seconds": first, "torch": torch.__version__, "device": device}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

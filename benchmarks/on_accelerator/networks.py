"""The device and the networks: rates, bfloat16's error, UNet, attention, encoding, sampling."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from measuring import compile_all, random_network, seconds_a_call
from on_accelerator.record import first_line
from on_accelerator.setting import Bench

from iso3d_jax import sampling
from iso3d_jax.models.attention import attend
from iso3d_jax.models.registry import SECTIONS

BENCHMARKS = Path(__file__).resolve().parents[1]


def device(bench: Bench) -> None:
    """What the device is, and what a matrix product, a copy and an empty call take on it."""
    row, chip, sizes = bench.record.row, jax.devices()[0], bench.sizes
    row("device", kind=chip.device_kind, capability=getattr(chip, "compute_capability", ""))
    row("memory", gb=(chip.memory_stats() or {}).get("bytes_limit", 0) / 1e9)
    row("driver", text=_driver())
    row("platform", text=" ".join(chip.client.platform_version.split())[:200])
    with bench.record.trying("cudnn"):
        row("cudnn", text=_cudnn())
    n = sizes.matmul
    for dtype in (jnp.bfloat16, jnp.float32):
        a = jax.random.normal(jax.random.key(0), (n, n), dtype)
        product = jax.jit(lambda a, b: a @ b)
        seconds = seconds_a_call(lambda p=product, a=a: p(a, a), sizes.repeats)
        rate = 2 * n**3 / seconds
        row(f"{dtype.dtype.name} matmul {n}^3", seconds=seconds, tflops_per_second=rate / 1e12)
        bench.matmul_rate = bench.matmul_rate or rate
    x = jnp.ones(sizes.bandwidth_bytes // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    seconds = seconds_a_call(lambda: add(x), sizes.repeats)
    row("memory, read and write", seconds=seconds, gb_per_second=2 * x.nbytes / seconds / 1e9)
    one = jnp.ones(8)
    row("a call of nothing", seconds=seconds_a_call(lambda: add(one), sizes.repeats))


def _driver() -> str:
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total",
        "--format=csv,noheader",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return first_line(error)


def _cudnn() -> str:
    """The version that jaxlib found; it has no public name."""
    from jax._src.lib import cuda_versions

    return "none" if cuda_versions is None else str(cuda_versions.cudnn_get_version())


def _calls(model) -> dict:
    """Each network's call as (function of network and inputs, network's name, inputs)."""
    c, keys = model.config, jax.random.split(jax.random.key(1), 5)
    latent = (c.latent_size, c.latent_size, c.latent_channels)
    size = c.clip.image_size
    unet = (
        jax.random.normal(keys[0], (2, 4, *latent)),
        jnp.full((2, 4), 500),
        jax.random.normal(keys[1], (2, 1, c.context_dim)),
        jax.random.normal(keys[2], (2, 4, 16)),
    )
    picture = jax.random.uniform(keys[3], (1, c.resolution, c.resolution, 3), minval=-1)
    pixels = jax.random.normal(keys[4], (1, size, size, 3))
    return {
        "unet, 4 views with guidance": (lambda net, *x: net(*x), "unet", unet),
        "encode": (lambda net, x: jnp.concatenate(net.encode(x), -1), "vae", (picture,)),
        "decode": (lambda net, z: net.decode(z), "vae", (unet[0][0, :1],)),
        "tower": (lambda net, x: net(x), "clip", (pixels,)),
    }


def precision(bench: Bench) -> None:
    """Relative error of each network in bfloat16, against float32 at the highest precision.

    The same random weights, rounded; the error is |difference| / |float32|, over all outputs.
    """
    calls, half = _calls(bench.model), bench.model
    full = {name: random_network(name, half.config, jnp.float32) for name in SECTIONS}

    def trace(call, network, inputs, exact):
        with jax.default_matmul_precision("highest" if exact else "default"):
            return jax.jit(call).trace(network, *inputs)

    traces = {}
    for name, (call, kind, inputs) in calls.items():
        for network, exact in ((full[kind], True), (getattr(half, kind), False)):
            traces[name, exact] = lambda c=call, n=network, i=inputs, e=exact: trace(c, n, i, e)
    programs = compile_all(traces, lambda key, error: bench.record.failed(key[0], error))
    for name, (_, kind, inputs) in calls.items():
        if (name, True) not in programs or (name, False) not in programs:
            continue
        with bench.record.trying(name):
            want = np.asarray(programs[name, True].call(full[kind], *inputs), np.float64)
            got = programs[name, False].call(getattr(half, kind), *inputs)
            got = np.asarray(got.astype(jnp.float32), np.float64)
            times = [
                seconds_a_call(
                    lambda p=programs[name, exact], n=net, x=inputs: p.call(n, *x),
                    bench.sizes.repeats,
                    limit=2.0,
                )
                for exact, net in ((True, full[kind]), (False, getattr(half, kind)))
            ]
            bench.record.row(
                name,
                relative_error=np.linalg.norm(got - want) / np.linalg.norm(want),
                largest_error=np.abs(got - want).max(),
                float32_rms=np.sqrt(np.mean(np.square(want))),
                float32_seconds=times[0],
                bfloat16_seconds=times[1],
            )


def unet(bench: Bench) -> None:
    """The UNet, beside diffusers' of the same size in PyTorch where that can be imported.

    Four joint views at 32 x 32 have no equal there. What has: eight single latents of 32 x 32, and
    two of 64 x 64, whose attention is over as many tokens as that of four joint views.
    """
    c, network = bench.model.config, bench.model.unet
    side = c.latent_size
    shapes = {
        "4 joint views with guidance": (2, 4, side),
        f"8 single latents of {side}": (8, 1, side),
        f"2 single latents of {2 * side}": (2, 1, 2 * side),
    }

    def trace(batch, views, side):
        inputs = (
            jnp.ones((batch, views, side, side, c.latent_channels)),
            jnp.full((batch, views), 500),
            jnp.ones((batch, 1, c.context_dim)),
            jnp.ones((batch, views, 16)),
        )
        return jax.jit(lambda net, *x: net(*x)).trace(network, *inputs), inputs

    traced = {}

    def traces(name, shape):
        traced[name] = trace(*shape)
        return traced[name][0]

    programs = compile_all(
        {name: lambda n=name, s=shape: traces(n, s) for name, shape in shapes.items()},
        bench.record.failed,
    )
    for name, program in programs.items():
        with bench.record.trying(name):
            seconds = seconds_a_call(
                lambda p=program, n=name: p.call(network, *traced[n][1]), bench.sizes.repeats
            )
            bench.record.row(name, **program.figures(seconds))
    with bench.record.trying("diffusers"):
        _diffusers(bench, side)


def _diffusers(bench: Bench, side: int) -> None:
    """PyTorch's side, in a process of its own that ends when its time is over."""
    config = bench.model.config.network("unet")
    request = {"unet": {k: v for k, v in vars(config).items()}, "side": side}
    command = [sys.executable, str(BENCHMARKS / "torch_unet.py"), json.dumps(request)]
    limit = max(1.0, min(120.0, bench.record.left() - 60.0)) if not bench.tiny else 60.0
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=limit,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        out, err, status = process.stdout, process.stderr, process.returncode
    except subprocess.TimeoutExpired as error:
        out, err, status = (error.stdout or b"").decode(), f"cut after {limit:.0f} s", 0
        bench.record.row("diffusers", cut_after_seconds=limit)
    rows = bench.record.data["parts"]["unet"]["rows"]
    for line in out.splitlines():
        if not line.startswith("{"):
            continue
        found = json.loads(line)
        name = f"{found['latents']} single latents of {found['side']}"
        ours = rows.get(name, {}).get("seconds")
        bench.record.row(
            f"diffusers, {found['how']}, {name}",
            seconds=found["seconds"], compile_seconds=found["compile_seconds"],
            torch=found["torch"], device=found["device"],
            **({"ours_over_diffusers": ours / found["seconds"]} if ours else {}),
        )  # fmt: skip
    if status:
        lines = [line for line in err.splitlines() if line.strip()] or [f"status {status}"]
        bench.record.row("diffusers", left_out=lines[-1][:300])


def attention_cases(config, view_counts=(4, 5)) -> dict[str, tuple[int, int, int, int]]:
    """(batch, tokens, heads, width of a head) of every self-attention of the networks."""
    u, cases = config.network("unet"), {}
    levels = [
        (2**i, u.model_channels * mult // u.num_head_channels)
        for i, mult in enumerate(u.channel_mult)
    ]
    # The middle block attends whether or not the deepest level does.
    at = [x for x in levels[:-1] if x[0] in u.attention_resolutions] + levels[-1:]
    for views in view_counts:
        for down, heads in at:
            length = views * (config.latent_size // down) ** 2
            cases[f"unet {views} views, {length}"] = (2, length, heads, u.num_head_channels)
    t = config.clip
    length = (t.image_size // t.patch_size) ** 2 + 1
    cases[f"tower, {length}"] = (1, length, t.heads, t.width // t.heads)
    width = config.vae.ch * config.vae.ch_mult[-1]
    cases[f"autoencoder, {config.latent_size**2}"] = (8, config.latent_size**2, 1, width)
    return cases


def attention(bench: Bench) -> None:
    """Self-attention in bfloat16 by our choice of kernel and by plain XLA, with the gradient too.

    Operations are those of the mathematics, two products forward and five backward, whatever a
    kernel computes again.
    """

    def plain(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")

    def with_gradient(how):
        return jax.grad(lambda *x: jnp.sum(jnp.square(how(*x).astype(jnp.float32))), (0, 1, 2))

    inputs, traces = {}, {}
    cases = attention_cases(bench.model.config, (4,) if bench.tiny else (4, 5))
    for name, (n, length, heads, width) in cases.items():
        keys = jax.random.split(jax.random.key(0), 3)
        shape = (n, length, heads, width)
        inputs[name] = [jax.random.normal(key, shape, jnp.bfloat16) for key in keys]
        for word, how in (("ours", attend), ("xla", plain)):
            for kind, call in (("forward", how), ("and backward", with_gradient(how))):
                traces[name, word, kind] = lambda f=call, x=inputs[name]: jax.jit(f).trace(*x)

    def failed(key, error):
        bench.record.row(f"{key[0]}, {key[2]}", **{f"{key[1]}_error": first_line(error)})

    programs = compile_all(traces, failed)
    for (name, word, kind), program in programs.items():
        n, length, heads, width = cases[name]
        try:
            seconds = seconds_a_call(
                lambda p=program, x=inputs[name]: p.call(*x), bench.sizes.repeats, limit=1.0
            )
        except Exception as error:
            failed((name, word, kind), error)
            continue
        row = f"{name}, {kind}"
        work = 2 * n * heads * length**2 * width * (2 if kind == "forward" else 7)
        columns = {f"{word}_seconds": seconds, f"{word}_tflops_per_second": work / seconds / 1e12}
        if word == "ours":
            columns |= {"kernel": kernel_of(program.call.as_text()), "heads": heads, "width": width}
        other = bench.record.data["parts"]["attention"]["rows"].get(row, {}).get("ours_seconds")
        if word == "xla" and other:
            columns["ours_over_xla"] = other / seconds
        bench.record.row(row, **columns)


def kernel_of(text: str) -> str:
    """Which kernel a compiled program's attention became."""
    found = re.findall(r'custom_call_target="([^"]*(?:fmha|triton|tpu_custom_call)[^"]*)"', text)
    return ", ".join(sorted(set(found))) or "xla"


def encode(bench: Bench) -> None:
    """The autoencoder's encoder and its gradient with respect to the pictures."""
    c, vae = bench.model.config, bench.model.vae

    def forward(vae, images):
        mean, logvar = vae.encode(images)
        return mean.astype(jnp.float32), logvar.astype(jnp.float32)

    def gradient(vae, images):
        return jax.grad(lambda x: sum(jnp.sum(jnp.square(y)) for y in forward(vae, x)))(images)

    images = {n: jnp.full((n, c.resolution, c.resolution, 3), 0.5) for n in bench.sizes.encoded}
    traces = {
        (n, word): lambda f=f, x=x: jax.jit(f).trace(vae, x)
        for n, x in images.items()
        for word, f in (("forward", forward), ("forward and backward", gradient))
    }

    def row(key):
        return f"{key[0]} pictures of {c.resolution}, {key[1]}"

    programs = compile_all(traces, lambda key, error: bench.record.failed(row(key), error))
    for key, program in programs.items():
        with bench.record.trying(row(key)):
            x = images[key[0]]
            seconds = seconds_a_call(lambda p=program, x=x: p.call(vae, x), bench.sizes.repeats)
            bench.record.row(row(key), **program.figures(seconds))


def sample(bench: Bench) -> None:
    """Four views of one picture, from RGBA pixels to pictures; its two programs' memory."""
    model, steps = bench.model, bench.sizes.steps
    config = model.config
    rng = np.random.default_rng(0)

    def views():
        picture = rng.integers(0, 256, (256, 256, 4), np.uint8)
        return sampling.sample_views(model, [picture], steps=steps)

    name = f"1 picture, 4 views, {steps} steps"
    began = time.perf_counter()
    views()
    bench.record.row(name, first_call_seconds=time.perf_counter() - began)
    times = []
    for _ in range(3 if not bench.tiny else 1):
        began = time.perf_counter()
        drawn = views()
        times.append(time.perf_counter() - began)
    seconds = float(np.median(times))
    bench.record.row(
        name, seconds=seconds, seconds_a_step=seconds / steps, finite=bool(np.isfinite(drawn).all())
    )
    options = sampling.settings(config, steps=steps)
    traces = {
        "its loop": lambda: sampling.sample_latents.trace(
            model.unet, jnp.ones((1, 1, config.context_dim)), jnp.ones((4, 16)),
            jnp.asarray(model.alphas_cumprod), jax.random.key(0), **options,
        ),
        "its decoding": lambda: sampling.decode_views.trace(
            model.vae,
            jnp.ones((1, 4, config.latent_size, config.latent_size, config.latent_channels)),
        ),
    }  # fmt: skip
    for key, program in compile_all(traces, bench.record.failed).items():
        bench.record.row(key, program_gb=program.gb, tflop=program.flops / 1e12)
        if key == "its loop":
            bench.record.row(name, tflop=program.flops / 1e12)
            bench.record.row(name, tflops_per_second=program.flops / seconds / 1e12)

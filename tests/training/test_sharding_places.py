"""Where each kind of weight and each row of a batch lives; devices that are names alone."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from iso3d_jax.core.errors import UserError
from iso3d_jax.training import sharding
from iso3d_jax.training.state import TrainState

BLOCK = "middle_block/transformer/blocks/0/"
PLACES = {
    BLOCK + "attn1/to_q/kernel": P("fsdp", "tensor"),
    BLOCK + "attn2/to_k/kernel": P("fsdp", "tensor"),
    BLOCK + "attn2/to_v/kernel": P("fsdp", "tensor"),
    BLOCK + "ff/proj_in/kernel": P("fsdp", "tensor"),
    BLOCK + "attn1/to_out/kernel": P("tensor", "fsdp"),
    BLOCK + "ff/proj_out/kernel": P("tensor", "fsdp"),
    "input_blocks/1/res/emb/kernel": P(None, "fsdp"),
    "camera_embed/linear_in/kernel": P(None, "fsdp"),
    "time_embed/linear_out/kernel": P(None, "fsdp"),
    "layout/drawing/draw/kernel": P(None, "fsdp"),
    "shortcut/token/kernel": P(None, "fsdp"),
    "middle_block/transformer/proj_in/kernel": P(None, "fsdp"),
    "middle_block/transformer/proj_out/kernel": P(None, "fsdp"),
    "conv_out/kernel": P(None, None, "fsdp", None),
    "input_blocks/0/stem/kernel": P(None, None, None, "fsdp"),
    "input_blocks/1/res/conv_in/kernel": P(None, None, None, "fsdp"),
    "input_blocks/1/res/conv_out/kernel": P(None, None, None, "fsdp"),
    "output_blocks/1/conv/kernel": P(None, None, None, "fsdp"),
    "input_blocks/1/res/skip/kernel": P(None, None, None, "fsdp"),
    "input_blocks/3/down/kernel": P(None, None, None, "fsdp"),
    BLOCK + "attn1/to_out/bias": P(),
    "out_norm/scale": P(),
    BLOCK + "attn1/to_q/lora_a": P("fsdp", None),
    BLOCK + "attn1/to_q/lora_b": P(),
}


@pytest.mark.parametrize("path", PLACES)
def test_each_kind_of_weight_has_its_place(path):
    sizes = {"data": 1, "fsdp": 2, "tensor": 2}
    spec = PLACES[path]
    shape = (4,) if path.endswith(("bias", "scale")) else (4,) * max(len(spec), 2)
    rules = sharding.UNET_RULES + sharding.LORA_RULES
    assert sharding.spec_for(path, shape, sizes, rules) == spec
    assert sharding.spec_for(path, shape, sizes, sharding.REPLICATED) == P()


def test_the_first_rule_that_matches_wins_and_its_dimensions_may_be_fewer():
    rules = ((r"a/kernel$", P("fsdp")), (r"kernel$", P()))
    sizes = {"fsdp": 4}
    assert sharding.spec_for("a/kernel", (8, 3), sizes, rules) == P("fsdp")
    assert sharding.spec_for("b/kernel", (8, 3), sizes, rules) == P()
    with pytest.raises(UserError, match="splits dimension 0 of a/kernel, which is 6"):
        sharding.spec_for("a/kernel", (6, 4), sizes, rules)


def devices(count):
    """CPUs that are names alone."""
    kind = {"platform": "cpu", "device_kind": "cpu", "process_index": 0}
    return [types.SimpleNamespace(**kind, id=i) for i in range(count)]


def test_what_is_left_of_the_devices_splits_the_batch(monkeypatch):
    seen = []
    monkeypatch.setattr(sharding, "Mesh", lambda *a, **k: seen.append((*a, k)))
    for shape, sizes in (
        ({"fsdp": 2, "tensor": 3}, (2, 2, 3)), (None, (12, 1, 1)), ({"fsdp": 4}, (3, 4, 1)),
    ):  # fmt: skip
        sharding.make_mesh(shape, devices(12))
        grid, axes, how = seen.pop()
        assert grid.shape == sizes and axes == ("data", "fsdp", "tensor")
        # Neighbours along the last axis are neighbours in the list.
        assert [d.id for d in grid.ravel()] == list(range(12))
        assert how["axis_types"] == (jax.sharding.AxisType.Auto,) * 3
    with pytest.raises(UserError, match="fsdp 5 x tensor 1 does not divide the 12 devices"):
        sharding.make_mesh({"fsdp": 5}, devices(12))
    with pytest.raises(UserError, match="must be 1 or more"):
        sharding.make_mesh({"fsdp": 0}, devices(12))
    from jax.experimental import mesh_utils

    def along_the_torus(sizes, given, allow_split_physical_axes):
        assert allow_split_physical_axes
        return np.array(given[::-1], object).reshape(sizes)

    monkeypatch.setattr(mesh_utils, "create_device_mesh", along_the_torus)
    pod = [types.SimpleNamespace(platform="tpu", process_index=0, id=i) for i in range(4)]
    sharding.make_mesh({"fsdp": 2}, pod)
    assert [d.id for d in seen.pop()[0].ravel()] == [3, 2, 1, 0]
    sharding.make_mesh(None, pod[:1])
    assert seen.pop()[0].shape == (1, 1, 1)
    monkeypatch.undo()
    real = sharding.make_mesh()
    assert dict(real.shape) == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}


def test_a_batch_divides_by_data_times_fsdp_times_accumulation():
    mesh = types.SimpleNamespace(
        shape={"data": 2, "fsdp": 3, "tensor": 5}, devices=np.zeros((2, 3, 5))
    )
    sharding.check_batch_size(24, 2, mesh)
    for size, parts in ((18, 2), (24, 3), (8, 1)):
        with pytest.raises(UserError, match=f"batch_size {size} does not divide by {6 * parts}"):
            sharding.check_batch_size(size, parts, mesh)
    with pytest.raises(UserError, match="accumulate 0"):
        sharding.check_batch_size(24, 0, mesh)


class Rows:
    """A sharding over four devices of which this process has the second and the last."""

    def addressable_devices_indices_map(self, shape):
        quarter = shape[0] // 4
        return {k: (slice(k * quarter, (k + 1) * quarter),) for k in (3, 1)}


def test_a_process_reads_the_rows_of_its_own_devices(monkeypatch):
    monkeypatch.setattr(sharding, "batch_sharding", lambda mesh: Rows())
    rows = sharding.local_rows(12, None)
    assert rows.tolist() == [3, 4, 5, 9, 10, 11]


def test_a_process_s_rows_become_its_part_of_the_batch(monkeypatch):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    batch = {"x": np.arange(12).reshape(6, 2), "y": np.arange(6, dtype=np.uint8)}
    put = sharding.put_batch(batch, 6, mesh)
    for name, value in put.items():
        np.testing.assert_array_equal(value, batch[name])
        assert value.sharding == sharding.batch_sharding(mesh)
    asked = []
    monkeypatch.setattr(jax, "make_array_from_process_local_data", lambda *a: asked.append(a))
    sharding.put_batch(batch, 12, mesh)
    assert asked == [(sharding.batch_sharding(mesh), batch, {"x": (12, 2), "y": (12,)})]


def torus(kind, *sides):
    """The chips of a TPU pod by their place."""
    return [
        types.SimpleNamespace(
            platform="tpu", device_kind=kind, id=i, process_index=i // 4,
            coords=place[::-1], core_on_chip=0,
        )
        for i, place in enumerate(np.ndindex(*sides[::-1]))
    ]  # fmt: skip


def test_an_axis_lies_along_the_torus_and_may_be_part_of_a_side(monkeypatch):
    seen = []
    monkeypatch.setattr(sharding, "Mesh", lambda grid, *a, **k: seen.append(grid))
    for kind, sides, shape in (
        ("TPU v5p", (4, 4, 4), {"fsdp": 4}), ("TPU v6 lite", (4, 4, 1), {"fsdp": 4}),
        ("TPU v5p", (4, 4, 4), {"fsdp": 2}), ("TPU v6 lite", (4, 4, 1), {"fsdp": 2, "tensor": 2}),
        ("TPU v5p", (1, 1, 1), {}),
    ):  # fmt: skip
        sharding.make_mesh(shape, torus(kind, *sides))
        places = np.array([d.coords for d in seen[-1].ravel()]).reshape(*seen[-1].shape, 3)
        assert len({tuple(place) for place in places.reshape(-1, 3)}) == np.prod(sides)
        if shape == {"fsdp": 4}:
            steps = np.abs(np.diff(places, axis=1))
            assert np.all(np.minimum(steps, np.array(sides) - steps).sum(-1) == 1), kind


def test_moments_and_averages_are_where_their_weight_is_and_the_rest_is_everywhere():
    mesh = jax.sharding.AbstractMesh((1, 2, 2), sharding.AXES)
    rules = ((r"kernel$", P("fsdp", "tensor")), (r"bias$", P()))
    params = {"a/kernel": jnp.zeros((4, 6)), "a/bias": jnp.zeros(6)}
    moments = {"mu": dict(params), "rows": {"a/kernel": jnp.zeros(4)}}  # the latter factored
    state = TrainState(
        jnp.zeros(()), params, moments, {"a/kernel": params["a/kernel"]}, jnp.zeros(2)
    )
    found = sharding.state_shardings(state, mesh, rules)
    for place in (found.params, found.ema_params, found.opt_state["mu"]):
        assert place["a/kernel"].spec == P("fsdp", "tensor")
    for leaf in (
        found.params["a/bias"], found.opt_state["mu"]["a/bias"],
        found.opt_state["rows"]["a/kernel"], found.step, found.key,
    ):  # fmt: skip
        assert leaf.spec == P()


def test_weights_come_to_the_devices_and_back_whole(monkeypatch):
    from jax.experimental import multihost_utils

    calls = []
    monkeypatch.setattr(
        multihost_utils, "process_allgather", lambda x, tiled: calls.append(tiled) or x
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
    where = {"a": jax.NamedSharding(mesh, P("fsdp"))}
    put = sharding.put_params(params, where)
    assert put["a"].sharding == where["a"]
    back = sharding.to_host(put)
    assert isinstance(back["a"], np.ndarray)
    np.testing.assert_array_equal(back["a"], params["a"])
    assert calls == []  # one process has all of it
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    np.testing.assert_array_equal(sharding.to_host(put)["a"], params["a"])
    assert calls == [True]
    assert sharding.batch_sharding(mesh).spec == P(("data", "fsdp"))

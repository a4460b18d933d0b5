"""Path rules: what they say, and what they refuse."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from iso3d_jax.core.errors import UserError
from iso3d_jax.training import sharding
from iso3d_jax.training.loop import abstract_state
from iso3d_jax.training.optimizer import make_optimizer

SIZES = {"data": 1, "fsdp": 4, "tensor": 2}


def fake_mesh(**sizes):
    """A mesh's shape, for rules look at nothing else."""
    return type("Mesh", (), {"shape": dict(data=1, fsdp=1, tensor=1) | sizes})()


def test_dimension_that_does_not_divide_is_named():
    with pytest.raises(UserError, match=r"to_q.*dimension 0 of a/to_q/kernel.*10.*fsdp of size 4"):
        sharding.spec_for("a/to_q/kernel", (10, 8), SIZES, sharding.UNET_RULES)


def test_rule_with_too_many_dimensions_is_named():
    with pytest.raises(UserError, match="stem.*names 4 dimensions, but stem/kernel has 2"):
        sharding.spec_for("stem/kernel", (8, 8), SIZES, sharding.UNET_RULES)


def test_weight_without_a_rule_is_named():
    with pytest.raises(UserError, match="no sharding rule matches new_layer/table"):
        sharding.spec_for("new_layer/table", (8, 8), SIZES, sharding.UNET_RULES)


def test_rule_that_matches_nothing_is_named(make_config, make_task):
    shapes = {k: v.shape for k, v in make_task(make_config()).abstract_params.items()}
    rules = (*sharding.UNET_RULES, (r"lora_a$", P("fsdp")))
    with pytest.raises(UserError, match=r"rule 'lora_a\$'.*matches no weight"):
        sharding.param_specs(shapes, fake_mesh(), rules)
    sharding.param_specs(shapes, fake_mesh(), sharding.UNET_RULES)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_moments_and_averages_live_where_their_weight_does(make_config, make_task, optimizer):
    cfg = make_config(trainable="lora", optimizer=optimizer)
    task = make_task(cfg)
    state = abstract_state(task, make_optimizer(task.cfg), task.cfg)
    mesh = jax.sharding.AbstractMesh((1, 2, 2), sharding.AXES)
    shardings = sharding.state_shardings(state, mesh, task.sharding_rules)
    path = "middle_block/transformer/blocks/0/attn1/to_q/lora_a"
    assert shardings.params[path].spec == P("fsdp", None)
    assert shardings.ema_params[path].spec == P("fsdp", None)
    leaves = jax.tree_util.tree_leaves_with_path((state.opt_state, shardings.opt_state))
    moments = [
        sharding_.spec
        for (at, leaf), (_, sharding_) in zip(
            leaves[: len(leaves) // 2], leaves[len(leaves) // 2 :], strict=True
        )
        if path in str(at) and leaf.shape == state.params[path].shape
    ]
    assert moments and all(spec == P("fsdp", None) for spec in moments)
    # Frozen weights have neither moments nor averages.
    assert all(k.endswith(("lora_a", "lora_b")) for k in state.ema_params)


def test_batch_that_does_not_split_is_refused():
    with pytest.raises(UserError, match="batch_size 12 does not divide by 8.*accumulate 2"):
        mesh = fake_mesh(data=2, fsdp=2)
        mesh.devices = np.zeros(4)
        sharding.check_batch_size(12, 2, mesh)


def test_the_full_size_networks_fit_their_rules():
    """Every weight of the released model divides over the meshes of docs/scale.md."""
    from configs.stage1 import get_config
    from iso3d_jax.weights.bundle import abstract_network
    from iso3d_jax.weights.model_spec import ModelSpec

    model = ModelSpec.read(get_config().model.to_dict())
    shapes = {k: v.shape for k, v in abstract_network("unet", model)[1].items()}
    for fsdp in (4, 16, 64):
        sharding.param_specs(shapes, fake_mesh(fsdp=fsdp), sharding.UNET_RULES)

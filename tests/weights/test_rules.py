"""Tables of rules: keys by hand, and arrays there and back for any shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iso3d_jax.core.errors import UserError
from iso3d_jax.weights.rules import Match, Rule, find, nest, plan, to_ours, to_theirs

TABLE = (
    Rule(r"blocks/(\d+)/qkv/*", (r"b.\1.q.*", r"b.\1.k.*", r"b.\1.v.*")),
    Rule(r"blocks/(\d+)/out/*", r"b.\1.o.*"),
    Rule(r"skip/(\w+)/kernel", r"s.\1.weight", "linear"),
    Rule(r"proj", r"p", "transposed"),
)


def test_keys_are_the_first_rules():
    assert find(TABLE, "blocks/12/qkv/kernel").keys == ("b.12.q.weight", "b.12.k.weight",
                                                        "b.12.v.weight")  # fmt: skip
    assert find(TABLE, "blocks/3/out/bias") == Match(("b.3.o.bias",), "")
    assert find(TABLE, "blocks/3/out/scale") == Match(("b.3.o.weight",), "")
    assert find(TABLE, "skip/up/kernel") == Match(("s.up.weight",), "linear")
    for unknown in (
        "blocks/3/out",
        "blocks/x/out/bias",
        "skip/up/bias",
        "more/proj",
        "proj/kernel",
    ):
        assert find(TABLE, unknown) is None, unknown
    nested = nest(r"outer/", "o.", TABLE)
    assert find(nested, "outer/proj") == Match(("o.p",), "transposed")
    assert find(nested, "outer/blocks/1/qkv/bias").keys[1] == "o.b.1.k.bias"


def test_layouts_by_hand():
    """PyTorch's [out, in] and [out, in, h, w] are our [in, out] and [h, w, in, out]."""
    linear = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(to_ours([linear], "a/kernel", "", 2), linear.T)
    conv = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    ours = to_ours([conv], "a/kernel", "", 4)
    assert ours.shape == (4, 5, 3, 2) and ours[1, 2, 0, 1] == conv[1, 0, 1, 2]
    # A 1x1 convolution of theirs for a matrix of ours, and the other way round.
    np.testing.assert_array_equal(to_ours([linear[:, :, None, None]], "a/kernel", "", 2), linear.T)
    np.testing.assert_array_equal(to_ours([linear], "a/kernel", "linear", 4)[0, 0], linear.T)
    q, k = np.arange(4).reshape(2, 2), 10 + np.arange(4).reshape(2, 2)
    np.testing.assert_array_equal(to_ours([q, k], "a/kernel", "", 2), np.hstack([q.T, k.T]))
    np.testing.assert_array_equal(to_ours([linear], "a/scale", "", 2), linear)  # no kernel
    np.testing.assert_array_equal(to_ours([linear], "proj", "transposed", 2), linear.T)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    kind=st.sampled_from(["matrix", "convolution", "1x1", "vector", "proj"]),
    sides=st.tuples(*[st.integers(1, 4)] * 4), parts=st.sampled_from([1, 3]),
)  # fmt: skip
def test_weights_go_there_and_come_back(kind, sides, parts):
    h, w, cin, cout = sides
    shape, path, form = {
        "matrix": ((cin, parts * cout), "a/kernel", ""),
        "convolution": ((h, w, cin, parts * cout), "a/kernel", ""),
        "1x1": ((1, 1, cin, parts * cout), "a/kernel", "linear"),
        "vector": ((parts * cout,), "a/bias", ""),
        "proj": ((cin, parts * cout), "proj", "transposed"),
    }[kind]
    array = np.random.default_rng(0).normal(size=shape)
    theirs = to_theirs(array, path, Match(("key",) * parts, form))
    assert len(theirs) == parts and all(len(one) == cout for one in theirs)
    np.testing.assert_array_equal(to_ours(theirs, path, form, len(shape)), array)


def test_plans_are_strict_both_ways():
    shapes = {"blocks/0/out/kernel": (3, 2), "proj": (3, 2)}
    source = {"b.0.o.weight": (2, 3), "p": (2, 3), "step": ()}
    found = plan(TABLE, shapes, source, ["step"], "it")
    assert found == {"blocks/0/out/kernel": Match(("b.0.o.weight",), ""),
                     "proj": Match(("p",), "transposed")}  # fmt: skip
    for changed, words in [
        (source | {"p": (3, 2)}, r"1 shapes do not fit: p \[3, 2\] for \[3, 2\]"),
        (source | {"q": (1,)}, "1 keys are unknown: q"),
        ({"p": (2, 3), "step": ()}, "1 weights are missing: b.0.o.weight"),
    ]:
        with pytest.raises(UserError, match=f"it does not fit: {words}$"):
            plan(TABLE, shapes, changed, ["step"], "it")
    with pytest.raises(UserError, match="weights are missing: unheard/of"):
        plan(TABLE, {"unheard/of": (1,)}, {}, [], "it")

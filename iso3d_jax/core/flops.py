"""Floating-point operations of a traced program: what is behind TFLOP/s and the share of peak.

Matrix products, convolutions and attention kernels are counted, two operations a multiplication;
the rest of a network is small beside them. Counting before compilation makes the number the same
on every platform: compilers know nothing of what their kernels do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from jax.extend import core

# Attention kernels, which are one operation to the compiler: how many products of [L, D] by [D, M]
# each does, and how many of these the forward pass has done before.
_KERNELS = (
    ("splash_mha_fwd", 2, 0),
    ("splash_mha_dkv", 4, 1),  # k q^T again, dv, dp, dk
    ("splash_mha_dq", 3, 2),  # q k^T and dp again, dq
    ("dot_product_attention_fwd", 2, 0),
    ("dot_product_attention_bwd", 5, 1),
)

# A 3x3 convolution by fewer products than its sum has (models/winograd.py): the network asks for
# the sum, and does so on every platform.
_CONVOLUTION = "convolve_by_tiles"


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations on all devices together.

    Attributes:
      executed: all.
      repeated: those of them that remat does a second time.
      in_kernels: those of them in kernels that the compiler's own count leaves out.
    """

    executed: float = 0.0
    repeated: float = 0.0
    in_kernels: float = 0.0

    @property
    def useful(self) -> float:
        """What the network needs: the usual numerator of the share of a chip's peak."""
        return self.executed - self.repeated

    def __add__(self, other: Flops) -> Flops:
        return self._each(other, lambda a, b: a + b)

    def __mul__(self, times: float) -> Flops:
        return self._each(self, lambda a, _: a * times)

    def _each(self, other, f) -> Flops:
        return Flops(*map(f, self._numbers(), other._numbers()))

    def _numbers(self) -> tuple[float, float, float]:
        return self.executed, self.repeated, self.in_kernels


def count(jaxpr: core.Jaxpr | core.ClosedJaxpr, again: bool = False) -> Flops:
    """The operations of a traced function, such as `jax.jit(f).trace(x).jaxpr`.

    `again`: it is what remat made of a part: its forward pass once more, and its backward pass,
    which is twice the work.
    """
    return _count(jaxpr, again, {})


# By part and `again`: equal parts of a program, such as what is done to each weight, are one.
_Seen = dict[tuple[int, bool], Flops]


def _count(jaxpr: core.Jaxpr | core.ClosedJaxpr, again: bool, seen: _Seen) -> Flops:
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    part = id(jaxpr), again
    if part not in seen:
        counted = (_count_equation(eqn, again, seen) for eqn in jaxpr.eqns)
        seen[part] = sum((flops for flops in counted if flops), Flops())
    return seen[part]


def _count_equation(eqn, again: bool, seen: _Seen) -> Flops | None:
    """The operations of one equation; None if it has none."""
    name = eqn.primitive.name
    if name in ("dot_general", "conv_general_dilated"):
        shapes: list[tuple[int, ...]] = [getattr(v.aval, "shape", ()) for v in eqn.invars]
        out = math.prod(getattr(eqn.outvars[0].aval, "shape", ()))
        if name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            per_output = math.prod(shapes[0][i] for i in contracted)
        else:
            outputs = shapes[1][eqn.params["dimension_numbers"].rhs_spec[0]]
            zeros = math.prod(eqn.params["lhs_dilation"])  # between a gradient's entries
            per_output = math.prod(shapes[1]) / outputs / zeros
        work = 2.0 * out * per_output
        return Flops(work, work / 3 if again else 0.0)
    if eqn.params.get("name") == _CONVOLUTION:
        channels = eqn.invars[0].aval.shape[-1]
        work = 2.0 * math.prod(eqn.outvars[0].aval.shape) * 9 * channels
        return Flops(work, work / 3 if again else 0.0)
    kernel = _attention_kernel(eqn)
    if kernel:
        products, repeated = kernel
        operands = [v.aval for v in eqn.invars if len(getattr(v.aval, "shape", ())) >= 3]
        query, key = [a.shape for a in operands if "float" in str(a.dtype)][:2]
        length_first = name.startswith("dot_product_attention")  # [N, L, H, D], not [N, H, L, D]
        work = 2.0 * math.prod(query) * key[-3 if length_first else -2]
        forward = "fwd" in _full_name(eqn)
        repeated = products if again and forward else repeated
        return Flops(products * work, repeated * work, products * work)
    if name in ("checkpoint", "remat", "remat2"):
        again = again or eqn.params["differentiated"]
    inner = [_count(jaxpr, again, seen) for jaxpr in _inner_jaxprs(eqn.params)]
    if not inner:
        return None
    if name == "cond":
        return max(inner, key=lambda flops: flops.executed)
    times = 1
    if name == "scan":
        times = eqn.params["length"]
    elif name == "shard_map":
        sizes = eqn.params["mesh"].shape  # nested, each names its own axes alone
        times = math.prod(sizes[axis] for axis in eqn.params["newly_manual_axes"])
    return sum(inner, Flops()) * times


def _full_name(eqn) -> str:
    if eqn.primitive.name != "pallas_call":
        return eqn.primitive.name
    return str(eqn.params.get("name_and_src_info", eqn.params.get("name", "")))


def _attention_kernel(eqn) -> tuple[int, int] | None:
    name = _full_name(eqn)
    return next(((n, repeated) for part, n, repeated in _KERNELS if part in name), None)


def _inner_jaxprs(params: dict) -> Iterator[core.Jaxpr | core.ClosedJaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
                yield item

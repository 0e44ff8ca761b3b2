"""Gradients of every model inside `jax.shard_map` with its default checks, beside those of one device.

Run by `test_shard_map.py` in a process of its own, on four emulated devices: names of cases, all by default, and
`--by-hand` to average the devices' own gradients as well. Prints the largest difference of each case, relative to the
largest entry of its gradient.
"""

import json
import os
import sys
from typing import Any

# Devices wait for one another, by default 40 s and then they abort: a busy machine takes longer.
os.environ["XLA_FLAGS"] = " ".join([
    os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
])  # fmt: skip

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES, Case
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

jax.config.update("jax_default_matmul_precision", "highest")
ROWS = 8  # two a device


def random_model(case: Case) -> Any:
    """Every array random, as by the tests' `fill`: a bias of zero hides an error."""
    skeleton = eqx.filter_eval_shape(case.make, jax.random.key(0))
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray((0.4 * rng.normal(size=leaf.shape)).astype(leaf.dtype), leaf.dtype)  # noqa: E731
    arrays, static = eqx.partition(skeleton, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    return eqx.nn.inference_mode(eqx.combine(jax.tree.map(draw, arrays), static))


def largest_difference(case: Case, by_hand: bool) -> float:
    params, static = eqx.partition(random_model(case), eqx.is_inexact_array)
    rng = np.random.default_rng(1)
    batch = jax.tree.map(lambda *rows: np.stack(rows), *(case.example(rng) for _ in range(ROWS)))

    def loss(params, batch):
        model = eqx.combine(params, static)
        logits = jax.vmap(lambda *example: case.call(model, *example))(*batch)
        return -jnp.mean(jax.nn.log_softmax(logits)[..., 2])

    def summed_by_jax(params, batch):
        """The mean loss of all devices: the gradient of parameters that all devices share is summed over them."""
        return jax.grad(lambda params: jax.lax.pmean(loss(params, batch), "data"))(params)

    def averaged_by_hand(params, batch):
        """Each device's own gradient, of its own copy of the parameters, and then their mean."""
        own = jax.lax.pcast(params, "data", to="varying")
        return jax.lax.pmean(jax.grad(loss)(own, batch), "data")

    largest = lambda tree: max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(tree))  # noqa: E731
    one = jax.device_get(jax.jit(jax.grad(loss))(params, batch))  # not in the same program: it would be split as well
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    found = 0.0
    for program in (summed_by_jax, averaged_by_hand) if by_hand else (summed_by_jax,):
        mapped = jax.shard_map(program, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
        ours = jax.device_get(jax.jit(mapped)(params, batch))
        found = max(found, largest(jax.tree.map(np.subtract, ours, one)) / largest(one))
    return found


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--by-hand"]
    chosen = [case for case in CASES if not names or case.name in names]
    print(json.dumps({case.name: largest_difference(case, "--by-hand" in sys.argv) for case in chosen}))

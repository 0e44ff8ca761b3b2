"""`rows_times_matrix` beside the plain product inside `jax.shard_map`, on four emulated devices.

Run by `test_products.py` in a process of its own. Prints the largest difference of each use, for operands that vary
from device to device and operands that do not; fails where the types of the results differ.
"""

import json
import os

# Devices wait for one another, by default 40 s and then they abort: a busy machine takes longer.
os.environ["XLA_FLAGS"] = " ".join([
    os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
])  # fmt: skip

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from product_uses import plain, uses

from zoo.nn.products import rows_times_matrix
from zoo.varying import vary_together

jax.config.update("jax_default_matmul_precision", "highest")

LAYOUTS = {
    "rows vary": (P("data"), P()),
    "matrix varies": (P(), P("data")),
    "both vary": (P("data"), P("data")),
}


def differences(xs, matrix):
    """The largest of all devices for each use, in their order."""
    out, index = [], jax.lax.axis_index("data")  # varies, and so does what is compared

    def largest(ours, theirs):
        return jnp.max(jnp.abs(vary_together(ours - theirs, index)[0]))

    for name, use in uses(rows_times_matrix).items():
        ours, theirs = use(xs, matrix), uses(plain)[name](xs, matrix)
        types = [jax.tree.map(lambda leaf: str(jax.typeof(leaf)), tree) for tree in (ours, theirs)]
        assert types[0] == types[1], (name, types)
        out.append(jnp.stack(jax.tree.leaves(jax.tree.map(largest, ours, theirs))).max())
    return jax.lax.pmax(jnp.stack(out), "data")


if __name__ == "__main__":
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    found = {}
    for layout, (x_spec, matrix_spec) in LAYOUTS.items():
        xs = rng.normal(size=(16 if x_spec == P("data") else 4, 3, 5)).astype(np.float32)
        matrix = rng.normal(size=(24 if matrix_spec == P("data") else 6, 5)).astype(np.float32)
        mapped = jax.shard_map(differences, mesh=mesh, in_specs=(x_spec, matrix_spec), out_specs=P())
        values = jax.jit(mapped)(xs, matrix).tolist()
        found |= {f"{layout}: {name}": value for name, value in zip(uses(plain), values, strict=True)}
    print(json.dumps(found))

"""`vary_together` gives all arrays of some trees one type inside `jax.shard_map`, and touches nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from zoo.varying import vary_together


def test_every_kind_of_array_varies_over_all_axes():
    def inside(rows, columns):
        tree = {"zeros": np.zeros(3), "key": jax.random.key(0), "flag": True, "f": jnp.tanh, "none": None}
        tree, rows, *others = vary_together(tree, rows, columns, jnp.int32(3))
        for leaf in (tree["zeros"], tree["key"], rows, *others):
            assert jax.typeof(leaf).manual_axis_type.varying == {"x", "y"}
        assert tree["flag"] is True
        assert tree["f"] is jnp.tanh
        assert tree["none"] is None
        return rows

    mesh = jax.make_mesh((1, 1), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    mapped = jax.shard_map(inside, mesh=mesh, in_specs=(P("x"), P("y")), out_specs=P(("x", "y")))
    jax.eval_shape(mapped, jnp.ones(2), jnp.ones(2))


def test_outside_and_without_the_checks_nothing_happens():
    trees = {"a": jnp.ones(2), "b": 3}, np.ones(2)
    assert vary_together(*trees)[0]["a"] is trees[0]["a"]
    assert vary_together(*trees)[1] is trees[1]
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    program = jax.shard_map(
        lambda x: vary_together(jnp.zeros(2), x)[0], mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False
    )
    assert "pvary" not in str(jax.make_jaxpr(program)(jnp.ones(2)))

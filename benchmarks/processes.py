"""One step in several processes: ``python -m snrgate.lab.launch -n 2 -- python <this file>``."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import snrgate
from snrgate.lab import launch

launch.join()  # before anything else is done with JAX
mesh = jax.make_mesh((jax.device_count(),), ("data",))

rng = np.random.default_rng(jax.process_index())
own = {"x": rng.normal(size=(8, 3)), "y": rng.normal(size=8)}  # this process's examples
batch = jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), x), own
)
params = jax.device_put({"w": np.ones(3)}, NamedSharding(mesh, P()))


@jax.jit
def loss_and_moments(params, batch):
    """The loss and the moments of all processes' examples."""
    return snrgate.value_and_moments(lambda p, e: jnp.square(e["x"] @ p["w"] - e["y"]))(
        params, batch
    )


loss, moments = loss_and_moments(params, batch)
print(f"{moments.sample_size:.0f} examples in {jax.process_count()} processes, loss {loss:.6f}")

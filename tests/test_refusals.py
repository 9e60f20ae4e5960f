"""Every refusal names the offending thing and the way out."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate

PARAMS = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def update(tx, grads=PARAMS, params=PARAMS, **extra):
    return tx.update(grads, tx.init(PARAMS), params, **extra)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": "sof"}, r"gate='sof' is unknown; use one of \['hard', 'snr', 'soft'\]"),
        ({"noise": "ema"}, "noise='ema' is unknown"),
        ({"block": "row"}, "block='row' is unknown"),
        ({"alpha": 1.0, "z": 1.0}, "alpha and z are two names"),
        ({"alpha": -1.0}, "alpha=-1.0 must be a number >= 0"),
        ({"z": float("nan")}, "z=nan must be"),
        ({"softness": -0.1}, "softness=-0.1"),
        ({"floor": 1.5}, "floor=1.5"),
        ({"noise_decay": 1.0}, r"noise_decay=1.0 must be a number in \[0, 1\)"),
        ({"signal_decay": 1.0}, r"signal_decay=1.0 must be a number in \[0, 1\)"),
        ({"signal_decay": 0.9, "noise": "instantaneous"}, "not go with instantaneous noise"),
        ({"signal_decay": 0.9, "alpha": 1.0}, "signal_decay=0.9 does not go with alpha"),
        ({"fitted": 1.0}, r"fitted=1.0 must be a number in \[0, 1\)"),
        ({"dataset_size": float("nan")}, "dataset_size=nan must be"),
        ({"dataset_size": 1}, "dataset_size=1 must be a number >= 2"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        snrgate.adamw(1e-3, **settings)
    with pytest.raises(ValueError, match=message):
        snrgate.snr_gate(optax.identity(), **settings)


def test_decay_of_a_momentum_that_the_inner_transformation_keeps():
    with pytest.raises(ValueError, match="leave b1 out"):
        snrgate.snr_gate(optax.scale_by_adam(), b1=0.9).init(PARAMS)
    with pytest.raises(ValueError, match=r"b1=1.5"):
        snrgate.snr_gate(optax.identity(), b1=1.5)


@pytest.mark.parametrize("noise", ["exact", "instantaneous"])
def test_missing_statistics(noise):
    tx = snrgate.adamw(1e-3, noise=noise)
    with pytest.raises(ValueError, match=r"needs sum_sq_diff_grads; call tx.update\(moments"):
        update(tx)
    with pytest.raises(ValueError, match="needs sample_size"):
        update(tx, sum_sq_diff_grads=ZEROS)


def test_missing_params():
    with pytest.raises(ValueError, match="not passing `params`"):
        update(snrgate.adamw(1e-3), params=None)
    with pytest.raises(ValueError, match="from_per_example needs params"):
        update(snrgate.from_per_example(snrgate.adam(1e-3)), params=None)


@pytest.mark.parametrize(
    ("kernel", "hint"),
    [
        ((8, 3, 2), "from_per_example"),
        ((3, 1), "give value_and_moments and the gate the same block="),
        ((), "block="),
    ],
)
def test_mis_shaped_statistics_name_the_leaf(kernel, hint):
    ssd = {"dense": {"kernel": jnp.zeros(kernel), "bias": jnp.zeros(2)}}
    with pytest.raises(ValueError, match=f"'dense/kernel' has shape.*{hint}"):
        update(snrgate.adamw(1e-3), sum_sq_diff_grads=ssd, sample_size=8)


def test_pooled_statistics_for_a_gate_per_parameter():
    ssd = {"dense": {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}}
    with pytest.raises(ValueError, match=r"needs \(3, 2\) \(give"):
        update(snrgate.adamw(1e-3, block="parameter"), sum_sq_diff_grads=ssd, sample_size=8)


@pytest.mark.parametrize("kernel", ["kernel", "w"])  # a name that tells the side, and none
def test_moments_serve_the_gate_of_their_block_and_single_ones_all_that_pool(kernel):
    def loss_fn(params, x):
        return jnp.sum(jnp.square(x @ params[kernel] + params["bias"]))

    params, batch = {kernel: jnp.ones((3, 2)), "bias": jnp.zeros(2)}, jnp.eye(3)
    blocks = ("parameter", "unit", "tensor", "kronecker")
    moments = {b: snrgate.value_and_moments(loss_fn, block=b)(params, batch)[1] for b in blocks}
    for of_gate, of_moments in itertools.product(blocks, blocks):
        tx, given = snrgate.adamw(1e-3, block=of_gate), moments[of_moments]
        args = given.mean, tx.init(params), params
        if of_gate == of_moments or (of_moments == "parameter" and of_gate != "kronecker"):
            tx.update(*args, **given.extra_args())
        else:
            with pytest.raises(ValueError, match=r"sum_sq_diff_grads of .*block="):
                tx.update(*args, **given.extra_args())


def test_the_moments_have_the_block_of_the_gate_where_neither_is_told():
    functions = (
        *(snrgate.adamw, snrgate.adam, snrgate.snr_gate),
        *(snrgate.value_and_moments, snrgate.explain_moments),
    )
    assert {inspect.signature(f).parameters["block"].default for f in functions} == {"unit"}


def test_statistics_of_another_tree():
    with pytest.raises(ValueError, match="sum_sq_diff_grads does not have the tree structure"):
        update(snrgate.adamw(1e-3), sum_sq_diff_grads={"dense": jnp.zeros(2)}, sample_size=8)


@pytest.mark.parametrize("size", [1, np.float32(1)])
def test_a_batch_of_one_example(size):
    with pytest.raises(ValueError, match="one example shows no noise"):
        update(snrgate.adamw(1e-3), sum_sq_diff_grads=ZEROS, sample_size=size)
    one = jax.tree.map(lambda p: p[None], PARAMS)
    with pytest.raises(ValueError, match="at least two examples"):
        update(snrgate.from_per_example(snrgate.adamw(1e-3)), one)


def test_a_traced_batch_of_one_example_shuts_the_instantaneous_gate():
    tx = snrgate.snr_gate(optax.identity(), noise="instantaneous")

    @jax.jit
    def run(n):
        return update(tx, sum_sq_diff_grads=ZEROS, sample_size=n)[0]

    assert not any(jnp.any(u) for u in jax.tree.leaves(run(1.0)))
    assert all(
        jnp.all(u == p) for u, p in zip(*map(jax.tree.leaves, (run(2.0), PARAMS)), strict=True)
    )


def test_data_set_sizes():
    tx = snrgate.adamw(1e-3, dataset_size=10)
    with pytest.raises(ValueError, match="dataset_size needs the size of the batch"):
        update(tx)
    with pytest.raises(ValueError, match="sample_size=11 is more than dataset_size=10"):
        update(tx, sum_sq_diff_grads=ZEROS, sample_size=11)
    with pytest.raises(ValueError, match="every batch is the whole data set"):
        update(tx, sample_size=10)
    update(snrgate.adamw(1e-3, dataset_size=10, alpha=1.0))  # then the size is not needed
    update(snrgate.adamw(1e-3, dataset_size=float("inf")))  # nor where every batch is fresh


def test_per_example_gradients_without_the_adapter():
    per_example = jax.tree.map(lambda p: jnp.stack([p] * 8), PARAMS)
    with pytest.raises(ValueError, match=r"'dense/bias' has shape .8, 2.*from_per_example"):
        update(snrgate.adamw(1e-3), per_example)


def test_per_example_gradients_that_disagree():
    tx = snrgate.from_per_example(snrgate.adamw(1e-3))
    grads = {"dense": {"kernel": jnp.ones((8, 3, 2)), "bias": jnp.ones((7, 2))}}
    with pytest.raises(ValueError, match=r"'dense/bias': 7, 'dense/kernel': 8"):
        update(tx, grads)
    with pytest.raises(ValueError, match=r"'dense/bias' has shape .2,.; per example"):
        update(tx, PARAMS)


@pytest.mark.parametrize("wrapper", ["masked", "partition"])
def test_per_example_gradients_inside_a_mask(wrapper):
    """Outside the mask they would reach apply_updates with their example axis: (2,) -> (8, 2)."""
    inner = snrgate.from_per_example(snrgate.adamw(1e-3))
    labels = {"dense": {"kernel": "a", "bias": "b"}}
    tx = (
        optax.masked(inner, {"dense": {"kernel": True, "bias": False}})
        if wrapper == "masked"
        else optax.partition({"a": inner, "b": optax.sgd(1.0)}, labels)
    )
    per_example = jax.tree.map(lambda p: jnp.stack([p] * 8), PARAMS)
    with pytest.raises(ValueError, match=r"'dense/bias'.*put the mask inside"):
        update(tx, per_example)
    inside = snrgate.from_per_example(
        optax.masked(snrgate.adamw(1e-3), {"dense": {"kernel": True, "bias": False}})
    )
    updates, _ = update(inside, per_example)
    assert updates["dense"]["bias"].shape == (2,)


def test_integer_and_complex_parameters_are_named():
    for bad in (jnp.arange(3), jnp.ones(3, jnp.complex64)):
        with pytest.raises(TypeError, match="parameter 'table' has dtype"):
            snrgate.adamw(1e-3).init({**PARAMS, "table": bad})


def test_a_mask_of_another_tree():
    with pytest.raises(ValueError, match="mask is not a prefix"):
        snrgate.snr_gate(optax.identity(), mask={"other": True}).init(PARAMS)


@pytest.mark.parametrize(
    ("flag", "kind"), [(jnp.ones((3, 2), bool), "Array"), ("gated", "str"), (0.5, "float")]
)
def test_a_mask_of_what_is_no_boolean(flag, kind):
    tx = snrgate.adamw(1e-2, gate_mask={"dense": {"kernel": flag, "bias": True}})
    with pytest.raises(TypeError, match=f"mask has '{kind}.*' for 'dense/kernel'"):
        tx.init(PARAMS)
    for one in (np.bool_(True), np.array(True), jnp.array(True), 1):
        mask = {"dense": {"kernel": one, "bias": False}}
        state = snrgate.adamw(1e-2, gate_mask=mask).init(PARAMS)
        assert not jax.tree.leaves(optax.tree.get(state, "noise")["dense"]["bias"])


def test_a_traced_mask():
    with pytest.raises(TypeError, match="nothing traced"):
        jax.eval_shape(lambda m: snrgate.adamw(1e-2, gate_mask=m).init(PARAMS), True)


@pytest.mark.parametrize("size", [-4, float("nan"), np.float32("nan"), jnp.ones(1), np.arange(2)])
@pytest.mark.parametrize("noise", ["exact", "streaming"])
def test_a_sample_size_that_is_no_size(size, noise):
    tx = snrgate.adamw(1e-2, noise=noise)
    with pytest.raises(ValueError, match=r"sample_size.* must be (a number >= 0|one number)"):
        update(tx, sum_sq_diff_grads=PARAMS, sample_size=size)


def test_no_array_is_printed():
    with pytest.raises(ValueError, match=r"block=<\w+> is unknown"):
        snrgate.adamw(1e-2, block=jnp.ones((9, 9)))
    tx = snrgate.adamw(1e-2, block=lambda path, shape: jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"returned <\w+> for"):
        tx.init(PARAMS)

"""The quality of labels, against cleanlab's own scores and against formulas in high precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

import snrgate


def example(n=50, classes=4, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, classes)) * scale, rng.integers(0, classes, n)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(2, 6), st.floats(0.1, 2000.0), st.integers(0, 99))
def test_logits_are_ranked_by_the_probability_of_the_given_label(n, classes, scale, seed):
    logits, labels = example(n, classes, seed, scale)
    found = snrgate.label_quality(logits, labels, logits=True)
    logs = log_softmax(logits, axis=1)[np.arange(n), labels]
    np.testing.assert_allclose(found.scores, np.exp(logs), rtol=1e-9, atol=1e-300)
    assert np.all(np.diff(logs[found.ranked]) >= 0)
    assert sorted(found.ranked) == list(range(n))
    np.testing.assert_array_equal(found.suggested, logits.argmax(1))
    np.testing.assert_allclose(found.probabilities.sum(1), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_probabilities_of_any_precision(dtype):
    # Halves and quarters are exact, so every row sums to one in any precision.
    rows = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
    found = snrgate.label_quality(jnp.asarray(rows, dtype), jnp.array([0, 1, 0]))
    assert found.scores.tolist() == [0.75, 0.5, 0.25]
    assert found.ranked.tolist() == [2, 1, 0]


def test_equal_scores_stay_in_their_order():
    found = snrgate.label_quality(np.full((20, 2), 0.5), np.zeros(20, int))
    assert found.ranked.tolist() == list(range(20))


def test_logits_that_look_like_probabilities_are_not_guessed():
    values = [[0.9, 0.1], [0.3, 0.7]]
    given = snrgate.label_quality(values, [0, 0]).scores
    np.testing.assert_allclose(given, [0.9, 0.3])
    as_logits = snrgate.label_quality(values, [0, 0], logits=True).scores
    np.testing.assert_allclose(as_logits, [1 / (1 + np.exp(-0.8)), 1 / (1 + np.exp(0.4))])


GOOD = [[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("outputs", "labels", "error", "says"),
    [
        ([[0.9, 0.1], [3.0, -1.0]], [0, 1], ValueError, "example 1 has a negative.*logits=True"),
        ([[0.9, 0.1], [3.0, 1.0]], [0, 1], ValueError, "example 1 .* sum to one.*logits=True"),
        ([[0.9, 0.1], [np.nan, 1.0]], [0, 1], ValueError, "example 1 .*not finite"),
        (GOOD, [0, 1, 2], ValueError, "example 2 has a label outside 0 ... 1"),
        (GOOD, [0, -1, 1], ValueError, "example 1 has a label outside"),
        (GOOD, [0, 1], ValueError, r"labels have shape \(2,\), and outputs \(3, 2\)"),
        (GOOD, [[0], [1], [1]], ValueError, r"labels have shape \(3, 1\)"),
        (GOOD, [0.0, 1.0, 1.0], TypeError, "labels have dtype float64"),
        (GOOD, ["a", "b", "b"], TypeError, "labels have dtype <U1"),
        ([0.9, 0.1], [0, 1], ValueError, r"outputs have shape \(2,\)"),
        ([[1.0], [1.0]], [0, 0], ValueError, r"outputs have shape \(2, 1\)"),
        (np.zeros((0, 2)), np.zeros(0, int), ValueError, "no examples"),
        (np.array(GOOD) + 0j, [0, 1, 1], TypeError, "dtype complex128"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(outputs, labels, error, says):
    with pytest.raises(error, match=says):
        snrgate.label_quality(outputs, labels)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_probabilities_of_16_bits_are_probabilities(dtype):
    logits = jnp.asarray(3 * np.random.default_rng(0).normal(size=(50, 100)), dtype)
    probabilities, labels = jax.nn.softmax(logits), np.arange(50)
    found = snrgate.label_quality(probabilities, labels)
    exact = snrgate.label_quality(logits, labels, logits=True)
    np.testing.assert_allclose(found.scores, exact.scores, rtol=0.05, atol=1e-6)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="sum to one"):
        snrgate.label_quality(probabilities * 0.9, labels)


def test_masked_examples_are_not_ranked():
    mask = np.ma.array([1, 0], mask=[0, 1])
    with pytest.raises(ValueError, match="labels are masked; leave"):
        snrgate.label_quality(GOOD[:2], mask)
    with pytest.raises(ValueError, match="outputs are masked; leave"):
        snrgate.label_quality(np.ma.array(GOOD, mask=np.eye(3, 2)), [0, 1, 1])
    assert snrgate.label_quality(GOOD[:2], np.ma.array([1, 0])).scores.shape == (2,)


@pytest.mark.filterwarnings("ignore")
def test_cleanlab_agrees_and_takes_the_result():
    rank = pytest.importorskip("cleanlab.rank")
    from cleanlab.filter import find_label_issues

    logits, labels = example(300, 3)
    found = snrgate.label_quality(logits, labels, logits=True)
    theirs = rank.get_label_quality_scores(labels, found.probabilities, method="self_confidence")
    np.testing.assert_allclose(found.scores, theirs)
    issues = find_label_issues(
        labels, found.probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    np.testing.assert_array_equal(issues, [i for i in found.ranked if i in set(issues)])

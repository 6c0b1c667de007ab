"""LoRA, rsLoRA and DoRA learn what PEFT's do: twenty updates' losses, and the logits after them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import pytest
import torch
import transformers

from tests.adapters.bases import LLAMA, OPTIMIZER, adamw_of, apart, base_from, batch_of, experiment_of
from tests.exhaustive import few
from transformer.interop import peft_folder
from transformer.interop.bert import BERT
from transformer.interop.llama import LLAMA as FAMILY
from transformer.layers.execution import Execution
from transformer.models.bert import BertConfig
from transformer.params import flatten, unflatten
from transformer.training.session import Session

# PEFT asks Transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

STEPS = 20
# rsLoRA's alpha is halved, so that its scale is LoRA's: at twice that, PEFT's own float32 and float64 are 0.3 % apart
# after twenty steps.
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "dora": {"use_dora": True},
}


def adapted_by_peft(model: Any, task: str, **settings: Any) -> Any:
    """Returns PEFT's model, whose B is not zero, so that the first gradients of A are not either."""
    torch.manual_seed(1)
    asked = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"} | settings
    config = peft.LoraConfig(task_type=task, **asked)
    adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


@pytest.mark.parametrize("kind", few(KINDS, "dora"))
def test_a_causal_llama_learns_as_pefts(kind, tmp_path):
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{**FAMILY.write_config(LLAMA), "initializer_range": 0.2})
    )
    base = base_from(tmp_path / "base", FAMILY, LLAMA, theirs)
    theirs = adapted_by_peft(theirs, "CAUSAL_LM", **KINDS[kind])
    theirs.save_pretrained(tmp_path / "peft")
    adapter, arrays = peft_folder.read(tmp_path / "peft", LLAMA, FAMILY.table(LLAMA))
    assert len(adapter.targets) == 7

    optimizer = adamw_of(theirs)
    wanted = []
    for step in range(STEPS):
        batch = batch_of(step % 2)
        logits = theirs(torch.tensor(batch["inputs"]["tokens"]).long()).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(batch["targets"]).long().flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), OPTIMIZER.clip_norm)
        optimizer.step()
        wanted.append(loss.item())

    session = Session(experiment_of(base, dataclasses.replace(adapter.config, leaves=None)))
    program, losses = session.program, []
    with jax.set_mesh(session.mesh):
        state = session.initial_state()
        if kind == "dora":  # measured of the base
            for path, array in flatten(state.params).items():
                if path.endswith("magnitude"):
                    np.testing.assert_allclose(array, arrays[path], rtol=1e-5)
        state = dataclasses.replace(state, params=unflatten({path: jnp.array(x) for path, x in arrays.items()}))
        for step in range(STEPS):
            state, metrics = program.step(state, batch_of(step % 2))
            losses.append(float(metrics["loss"]))
        assert losses[0] - losses[-1] > 0.05
        np.testing.assert_allclose(losses, wanted, rtol=1e-4)
        # Unmerged, merged by us, and PEFT's.
        model, inputs = LLAMA.build(Execution()), batch_of(99)["inputs"]
        beside = scores(model, program.variables(state.params, program.frozen), inputs)
        whole = scores(model, {"params": adapter.merged(state.params, program.frozen["base"])}, inputs)
    with torch.no_grad():
        logits = theirs(torch.tensor(inputs["tokens"]).long()).logits.numpy()
    size = np.abs(logits).max()
    np.testing.assert_allclose(beside, logits, atol=1e-4 * size)
    assert apart(whole, beside) < 1e-6


def scores(model: Any, variables: Any, inputs: Any) -> np.ndarray:
    return np.asarray(jax.jit(lambda v: model.apply(v, **inputs, deterministic=True).logits)(variables))


@pytest.mark.parametrize("kind", few(KINDS, "rslora"))
def test_a_classifying_bert_learns_as_pefts(kind, tmp_path):
    """Its new head is trained whole: PEFT's modules_to_save."""
    model = BertConfig(
        vocab_size=64, context_length=16, width=16, num_layers=2, num_heads=4, mlp_width=32, dropout=0.0,
        attention_dropout=0.0, head="sequence_classification", num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**BERT.write_config(model), "initializer_range": 0.2})
    theirs = transformers.BertForSequenceClassification(config).eval()
    params = BERT.from_hf({name: tensor.numpy() for name, tensor in theirs.state_dict().items()}, model)
    theirs = adapted_by_peft(theirs, "SEQ_CLS", **KINDS[kind])
    theirs.save_pretrained(tmp_path / "peft")
    adapter, arrays = peft_folder.read(tmp_path / "peft", model, BERT.table(model))
    assert adapter.whole == {"head/out/kernel", "head/out/bias"}
    frozen = {path: array for path, array in flatten(params).items() if path in adapter.frozen}
    base = {"params": unflatten(frozen), "scales": {}}

    rng = np.random.default_rng(0)
    data = [(rng.integers(0, 64, (8, 16), dtype=np.int32), rng.integers(0, 3, 8)) for _ in range(STEPS)]
    optimizer, wanted = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2), []
    for tokens, labels in data:
        loss = theirs(torch.tensor(tokens).long(), labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())

    module = model.build(Execution())

    def apply(trained: Any, tokens: Any) -> jax.Array:
        ones, places = jnp.ones_like(tokens), jnp.broadcast_to(jnp.arange(16, dtype=jnp.int32), tokens.shape)
        inputs = {"tokens": tokens, "positions": places, "segment_ids": ones}
        outputs: Any = module.apply(adapter.variables(trained, base), **inputs, deterministic=True)
        return outputs.logits

    @jax.jit
    def step(trained: Any, moments: Any, tokens: Any, labels: Any) -> Any:
        def loss(trained: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(apply(trained, tokens), labels).mean()

        value, grads = jax.value_and_grad(loss)(trained)
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = ours.update(grads, moments, trained)
            return value, optax.apply_updates(trained, updates), moments

    ours = optax.adamw(1e-2, weight_decay=1e-2)
    trained = unflatten({path: jnp.array(array) for path, array in arrays.items()})
    moments, losses = ours.init(trained), []
    for tokens, labels in data:
        value, trained, moments = step(trained, moments, tokens, labels.astype(np.int32))
        losses.append(float(value))
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)
    with torch.no_grad():
        logits = theirs(torch.tensor(data[0][0]).long()).logits.numpy()
    np.testing.assert_allclose(apply(trained, data[0][0]), logits, atol=1e-4 * np.abs(logits).max())

"""Published weights through import, verify, export and what they are for, against Hugging Face Transformers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer.errors import UserError
from transformer.inference.decode import generate
from transformer.inference.restored import restore
from transformer.inference.text_generator import TextGenerator
from transformer.interop import verify, weights

SENTENCES = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
COSINES = [0.7553, -0.1050]
"""Cosines of the first sentence with the others, by Transformers 5.23 and PyTorch 2.13."""

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
]
NEW = 40
ANSWER = [7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40]
"""What follows the first prompt, in the same way."""


def test_outputs_are_transformers(source, figures):
    said = []
    worst = verify.verify(source, report=said.append)
    # Held to a little less than that, it is compared with float64 too.
    verify.verify(source, tolerance=0.999 * worst, report=said.append)
    shown = {line for line in said if "largest difference" in line or "from float64" in line}
    for line in sorted(shown):
        figures[f"verify, {line[:24].strip()}, {'float64' if 'float64' in line else 'float32'}"] = line[24:].strip()


def test_a_thousandth_in_one_layer_is_noticed(source, figures, monkeypatch):
    """In the queries of the last layer, where it shows least."""
    imported = verify.convert.import_folder(source)
    tree = flatten_dict(imported.params, sep="/")
    [path] = [path for path in tree if path.endswith("query/kernel")]
    tree[path] = jnp.asarray(tree[path]).at[-1].multiply(1.001)
    changed = dataclasses.replace(imported, params=unflatten_dict(tree, sep="/"))
    monkeypatch.setattr(verify.convert, "import_folder", lambda path, **how: changed)
    with pytest.raises(UserError, match="above the tolerance") as error:
        verify.verify(source, report=lambda line: None)
    figures["the same, one matrix times 1.001"] = str(error.value).split(": ", 1)[1]


def test_every_tensor_goes_out_bit_for_bit(source, exported, figures):
    with weights.open_tensors(source) as before, weights.open_tensors(exported) as after:
        assert before.keys() - after.keys() <= {"embeddings.position_ids"}  # a buffer: 0, 1, 2, ...
        assert after.keys() <= before.keys()
        for name, tensor in after.items():
            assert tensor.dtype == before[name].dtype
            np.testing.assert_array_equal(tensor, before[name], err_msg=name)
        figures["exported, equal bit for bit"] = f"{len(after)} of {len(after)} tensors"
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in (source, exported))
    assert theirs.items() <= ours.items()


@pytest.mark.parametrize("name", ["minilm"], indirect=True, scope="package")
def test_sentences_are_where_they_were(source, run, exported, figures):
    """Our words' vectors, pooled and normalised as modules.json says, against Transformers' of what was exported."""
    files = [path.relative_to(source) for path in source.rglob("*.json")]
    assert {"modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"} <= set(map(str, files))
    for path in files:
        if str(path) != "config.json":
            assert (exported / path).read_bytes() == (source / path).read_bytes()
    assert [entry["path"] for entry in json.loads((exported / "modules.json").read_text())][:2] == ["", "1_Pooling"]
    assert json.loads((exported / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]

    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    model = transformers.AutoModel.from_pretrained(exported, attn_implementation="eager").eval()
    restored = restore(run)
    vectors = []
    for sentence in SENTENCES:
        asked = tokenizer(sentence, return_tensors="pt")
        with torch.no_grad():
            want = model(**asked).last_hidden_state[0].numpy()
        tokens = jnp.asarray(asked["input_ids"].numpy(), jnp.int32)
        inputs = {
            "tokens": tokens,
            "positions": jnp.arange(tokens.shape[1], dtype=jnp.int32)[None],
            "segment_ids": jnp.ones_like(tokens),
        }
        have = np.asarray(jax.jit(restored.model.apply)({"params": restored.params}, **inputs).hidden_BTD[0])
        assert np.abs(have - want).max() < 1e-5 * np.abs(want).max()
        vectors.append(have.mean(axis=0) / np.linalg.norm(have.mean(axis=0)))
    cosines = [float(vectors[0] @ other) for other in vectors[1:]]
    np.testing.assert_allclose(cosines, COSINES, rtol=0, atol=5e-5)
    figures["cosines of three sentences"] = ", ".join(f"{cosine:.4f}" for cosine in cosines)


@pytest.mark.parametrize("name", ["smollm2-135m"], indirect=True, scope="package")
def test_texts_go_on_as_in_generate(source, run, figures):
    restored = restore(run)
    generator = TextGenerator(restored)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()
    rows = [generator.encode(prompt) for prompt in PROMPTS]
    how, stops = generator.settings.how, generator.settings.stop_ids
    ours = generate(restored.model, restored.params, rows, max_new_tokens=NEW, how=how, stop_ids=stops)
    compared = 0
    for prompt, row, [found] in zip(PROMPTS, rows, ours, strict=True):
        asked = tokenizer(prompt, return_tensors="pt")
        assert list(row) == asked["input_ids"][0].tolist()
        theirs = model.generate(**asked, max_new_tokens=NEW, do_sample=False)[0, len(row) :].tolist()
        theirs = theirs[: theirs.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in theirs else theirs
        assert list(found.tokens) == theirs, prompt
        compared += len(theirs)
    assert list(ours[0][0].tokens)[: len(ANSWER)] == ANSWER
    [[text], *_] = generator(PROMPTS[:1], max_new_tokens=NEW)
    assert text.text == tokenizer.decode(ours[0][0].tokens)
    figures["greedy, equal to `generate`"] = f"{compared} of {compared} tokens after {len(PROMPTS)} prompts"

"""Folders written by the last Transformers with Flax classes: Flax weights, the same for PyTorch, Flax's outputs.

They need an environment of their own (Python 3.11), as that Transformers needs an old JAX:

    python3.11 -m venv VENV
    VENV/bin/pip install transformers==4.57.6 flax==0.7.0 jax==0.4.13 jaxlib==0.4.13 "numpy<2" "scipy<1.13" \
        "ml_dtypes<0.4" torch==2.13.0
    VENV/bin/python tests/interop/flax4/make.py write FOLDERS   # a folder a case, and FOLDERS.zip: ours is folders.zip
    python -m tests.interop.flax4.export EXPORTS                # from here: each imported, and exported with --flax
    VENV/bin/python tests/interop/flax4/make.py check FOLDERS EXPORTS

`write` prints how far PyTorch's outputs are from Flax's. `check` loads every export with the Flax class it names and
prints missing and unexpected keys, how many arrays differ from those that the class itself wrote, and how far its
outputs are. README.md beside this file holds what they printed.

Weights are multiples of 1/32, so that bfloat16 holds them and the archive is small.
"""

import json
import logging
import sys
import zipfile
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.torch import load_file, save_file
from transformers.modeling_flax_pytorch_utils import load_flax_weights_in_pytorch_model

VOCABULARY, LENGTH, TARGET_LENGTH, LABELS = 23, 7, 5, 3
PAD, END = 1, 2
SPECIALS = {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": END}

ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "pad_token_id": PAD,
}
DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 20,
    "max_position_embeddings": 16,
    "pad_token_id": PAD,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_inner": 20, "n_positions": 16, **SPECIALS}
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    **SPECIALS,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 20,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": PAD,
}
T5_V11 = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 18,
    "max_position_embeddings": 16,
    "decoder_start_token_id": END,
    "forced_eos_token_id": END,
    **SPECIALS,
}
TOWER = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
CLIP = {
    "text_config": {"vocab_size": VOCABULARY, "max_position_embeddings": 16, **TOWER, **SPECIALS},
    "vision_config": {"image_size": 12, "patch_size": 4, **TOWER},
    "projection_dim": 10,
}
VIT = {**TOWER, "image_size": 12, "patch_size": 4}

ENCODER_HEADS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
ENCODER_HEADS += ("ForMultipleChoice", "Model")
LM_AND_MODEL = ("ForCausalLM", "Model")

# Model's name, its classes, its config, and what the class is told beside it.
MODELS = [
    ("Bert", ("ForPreTraining", "ForNextSentencePrediction", *ENCODER_HEADS), ENCODER),
    ("Roberta", ENCODER_HEADS, ENCODER),
    ("Albert", ("ForPreTraining", *ENCODER_HEADS), {**ENCODER, "embedding_size": 8}),
    ("DistilBert", ENCODER_HEADS, DISTILBERT),
    ("GPT2", ("LMHeadModel", "Model"), GPT2),
    ("Llama", LM_AND_MODEL, LLAMA),
    ("Mistral", LM_AND_MODEL, {**LLAMA, "sliding_window": 16}),
    ("T5", ("ForConditionalGeneration", "Model"), T5),
    ("MT5", ("ForConditionalGeneration", "Model"), T5_V11),
    ("Bart", ("ForConditionalGeneration", "ForSequenceClassification", "ForQuestionAnswering", "Model"), BART),
    ("Marian", ("MTModel", "Model"), {**BART, "activation_function": "swish", "scale_embedding": True}),
]
CASES = {f"{name}{head}": (f"{name}{head}", config, {}) for name, heads, config in MODELS for head in heads}
CASES |= {
    "BertModel-unpooled": ("BertModel", ENCODER, {"add_pooling_layer": False}),
    "BertForMaskedLM-untied": ("BertForMaskedLM", {**ENCODER, "tie_word_embeddings": False}, {}),
    "RobertaForMaskedLM-untied": ("RobertaForMaskedLM", {**ENCODER, "tie_word_embeddings": False}, {}),
    "AlbertForMaskedLM-untied": (
        "AlbertForMaskedLM",
        {**ENCODER, "embedding_size": 8, "tie_word_embeddings": False},
        {},
    ),
    "GPT2LMHeadModel-untied": ("GPT2LMHeadModel", {**GPT2, "tie_word_embeddings": False}, {}),
    "GPT2LMHeadModel-bfloat16": ("GPT2LMHeadModel", GPT2, {"save": "bfloat16"}),
    "GPT2LMHeadModel-mixed": ("GPT2LMHeadModel", GPT2, {"save": "mixed"}),
    "GPT2LMHeadModel-sharded": ("GPT2LMHeadModel", GPT2, {"save": "sharded"}),
    "BertForMaskedLM-safetensors": ("BertForMaskedLM", ENCODER, {"save": "safetensors"}),
    "LlamaForCausalLM-biases": ("LlamaForCausalLM", {**LLAMA, "attention_bias": True}, {}),
    "LlamaForCausalLM-tied": ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True}, {}),
    "T5ForConditionalGeneration-v1.1": ("T5ForConditionalGeneration", T5_V11, {}),
    "CLIPModel": ("CLIPModel", CLIP, {}),
    "ViTForImageClassification": ("ViTForImageClassification", VIT, {}),
    "ViTModel": ("ViTModel", VIT, {}),
}


def fill(params, seed, *, tied, zero_bias):
    """Returns seeded random weights in the tree's shapes; a stream that NumPy keeps frozen."""
    random, flat = np.random.RandomState(seed), {}
    for path, leaf in sorted(flatten_dict(flax.core.unfreeze(params)).items()):
        scale = path[-1] in ("scale", "weight")  # a norm's
        values = np.round(random.standard_normal(leaf.shape) * (4 if scale else 10)) / 32 + scale
        if path[-1] == "final_logits_bias" and zero_bias:
            values = np.zeros_like(values)  # a buffer in PyTorch's BART, which holds nothing
        flat[path] = jnp.asarray(values, jnp.float32)
    tree = unflatten_dict(flat)
    if "lm_head" in tree and "model" in tree and "embed_tokens" in tree["model"] and tied:
        tree["lm_head"]["kernel"] = tree["model"]["embed_tokens"]["embedding"].T
    return tree


def inputs_of(cls):
    """Returns the same inputs for every class of a kind: two rows, the second padded on the right."""
    random = np.random.RandomState(0)
    pixels = random.standard_normal((2, 3, 12, 12)).astype(np.float32) if cls.startswith(("CLIP", "ViT")) else None
    if cls.startswith("ViT"):
        return {"pixel_values": pixels}

    def rows(length, padded):
        tokens, mask = random.randint(3, VOCABULARY, (2, length)), np.ones((2, length), int)
        mask[1, length - padded :] = 0
        tokens[mask == 0] = PAD
        tokens[np.arange(2), mask.sum(axis=1) - 1] = END
        return tokens, mask

    tokens, mask = rows(LENGTH, 2)
    inputs = {"input_ids": tokens, "attention_mask": mask}
    if cls.startswith(("Bert", "Albert")):
        inputs["token_type_ids"] = np.tile(np.arange(LENGTH) // 4, (2, 1))
    if cls.endswith("MultipleChoice"):
        inputs = {name: array[None] for name, array in inputs.items()}  # one example of two choices
    if cls.startswith(("T5", "MT5", "Bart", "Marian")):
        targets, target_mask = (tokens, mask) if "SequenceClass" in cls else rows(TARGET_LENGTH, 1)
        inputs |= {"decoder_input_ids": targets, "decoder_attention_mask": target_mask}
    inputs = {name: array.astype(np.int32) for name, array in inputs.items()}
    return inputs if pixels is None else inputs | {"pixel_values": pixels}


def run(model, inputs):
    """Returns the outputs of a Flax model by name, float32."""
    if "position_ids" not in inputs and model.__class__.__name__.startswith(("FlaxLlama", "FlaxMistral")):
        inputs = {**inputs, "position_ids": np.tile(np.arange(LENGTH, dtype=np.int32), (2, 1))}
    outputs = model(**inputs)
    return {name: np.asarray(array, np.float32) for name, array in outputs.items() if hasattr(array, "shape")}


def tensor(array):
    """Returns PyTorch's tensor; integers as int64."""
    out = torch.tensor(array)
    return out if out.is_floating_point() else out.long()


def largest(have, want):
    """Returns the largest difference, relative to the largest value of each output."""
    assert have.keys() == want.keys(), (sorted(have), sorted(want))
    return max(np.abs(have[name] - want[name]).max() / np.abs(want[name]).max() for name in want)


def write(out):
    """Writes every case."""
    for seed, (case, (cls, fields, told)) in enumerate(CASES.items()):
        told, folder = dict(told), out / case
        how = told.pop("save", "float32")
        labels = {"num_labels": LABELS} if "Classification" in cls else {}
        config_class = getattr(transformers, cls).config_class
        config = config_class(**fields, **labels)
        config.torch_dtype = None
        model = getattr(transformers, f"Flax{cls}")(config, **told)
        params = fill(
            model.params, seed, tied=fields.get("tie_word_embeddings", False), zero_bias=cls.startswith("Bart")
        )
        if how == "bfloat16":
            params = model.to_bf16(params)
        elif how == "mixed":  # the norms stay as they are
            flat = flatten_dict(params)
            params = model.to_bf16(params, unflatten_dict({path: path[-1] != "scale" for path in flat}))
        model.params = params
        model.save_pretrained(
            folder,
            max_shard_size="4KB" if how == "sharded" else "10GB",
            safe_serialization=how == "safetensors",
        )
        inputs = inputs_of(cls)
        outputs = run(model, inputs)
        torch_model = to_torch(cls, config, params, told)
        (folder / "pytorch").mkdir()
        torch_model.save_pretrained(folder / "pytorch")
        if fields.get("tie_word_embeddings") is False and "MaskedLM" in cls:
            add_decoder_bias(folder / "pytorch" / "model.safetensors")
        with torch.no_grad():
            theirs = torch_model(**{name: tensor(array) for name, array in inputs.items()})
        theirs = {name: theirs[name].numpy() for name in outputs}
        np.savez(folder / "flax.npz", **inputs, **{f"out_{name}": array for name, array in outputs.items()})
        size = sum(leaf.size for leaf in jax.tree_util.tree_leaves(params))
        print(f"| {case} | {size:,} | {largest(theirs, outputs):.1e} |")
    pack(out)


def to_torch(cls, config, params, told):
    """Returns PyTorch's model with Flax's weights, as that Transformers itself converts them."""
    config._attn_implementation = "eager"
    model = getattr(transformers, cls)(config, **told)
    load_flax_weights_in_pytorch_model(model, jax.tree_util.tree_map(np.asarray, params))
    model.tie_weights()
    return model.eval()


def add_decoder_bias(path):
    """Writes the bias of an untied decoder under its second name too, which Transformers 5 reads and 4 leaves out."""
    tensors = load_file(path)
    [weight] = [name for name in tensors if name.endswith(".decoder.weight")]
    tensors[weight.replace("weight", "bias")] = tensors[weight.replace("decoder.weight", "bias")].clone()
    save_file(tensors, path, metadata={"format": "pt"})


def pack(out):
    """Writes FOLDERS.zip, of what the tests need."""
    with zipfile.ZipFile(f"{out}.zip", "w") as archive:
        for path in sorted(out.rglob("*")):
            if path.is_file() and (path.parent.name != "pytorch" or path.suffix == ".safetensors"):
                info = zipfile.ZipInfo(str(path.relative_to(out)))
                archive.writestr(info, path.read_bytes(), zipfile.ZIP_LZMA)


def check(originals, exports):
    """Loads every export with its Flax class."""
    bad = 0
    for case, (cls, _, told) in CASES.items():
        told = {name: value for name, value in told.items() if name != "save"}
        messages = []
        handler = logging.Handler()
        handler.emit = lambda record, messages=messages: messages.append(record.getMessage())
        logging.getLogger("transformers").addHandler(handler)
        flax_class = getattr(transformers, f"Flax{cls}")
        model = flax_class.from_pretrained(exports / case, **told)
        original = flax_class.from_pretrained(originals / case, **told)
        logging.getLogger("transformers").removeHandler(handler)
        problems = [line.split("\n")[0] for line in messages if "newly" in line or "not used" in line]
        have, want = (flatten_dict(flax.core.unfreeze(each.params)) for each in (model, original))
        differ = sorted(have.keys() ^ want.keys())
        differ += [
            path
            for path in have.keys() & want.keys()
            if have[path].dtype != want[path].dtype or not np.array_equal(have[path], want[path])
        ]
        stored = np.load(originals / case / "flax.npz")
        inputs = {name: stored[name] for name in stored.files if not name.startswith("out_")}
        outputs = {name[4:]: stored[name] for name in stored.files if name.startswith("out_")}
        distance = largest(run(model, inputs), outputs)
        architectures = json.loads((exports / case / "config.json").read_text())["architectures"]
        bad += bool(problems or differ)
        print(f"| {case} | {architectures} | {len(problems)} | {len(differ)} of {len(want)} | {distance:.1e} |")
        for line in problems:
            print(f"    {line}")
    print(f"{len(CASES)} cases, {bad} bad")


if __name__ == "__main__":
    transformers.logging.set_verbosity_warning()
    command, *paths = sys.argv[1:]
    {"write": write, "check": check}[command](*map(Path, paths))

"""A tiny random Llama that chats: as a folder in the Hugging Face format, and imported as a run."""

from pathlib import Path

import torch
import transformers

from tests.tokenizers.test_chat import write_folder
from transformer.interop import convert


def write_model(place: Path, kind: str = "chatml", **fields) -> tuple[Path, Path]:
    """Returns a new folder with a model and its tokenizer, and a run that it is imported to."""
    folder = write_folder(place / "hf", kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "initializer_range": 0.3,
    }
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | ids | fields)))
    model.save_pretrained(folder)
    convert.save(convert.import_folder(folder), folder, place / "run")
    return folder, place / "run"

"""Fields of every config.json that change neither weights nor scores, by reason."""

from itertools import chain

_BY_REASON = {
    "what wrote the file, and where it came from": (
        "_name_or_path",
        "architectures",
        "model_type",
        "name_or_path",
        "t",  # of some uploads, a stray keystroke
        "tokenizer_class",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
    ),
    "the task: how many classes there are is read apart, with the head": (
        "finetuning_task",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "task_specific_params",
    ),
    "special tokens, for tokenizers and generation": (
        "bos_token_id",
        "decoder_start_token_id",  # encoder-decoders map it
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
    ),
    "the kind of model, which model_type says; BERT's and RoBERTa's is_decoder is pinned": (
        "is_decoder",
        "is_encoder_decoder",
    ),
    "what a call returns": (
        "keys_to_ignore_at_inference",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "return_dict",
        "return_dict_in_generate",
        "use_cache",
    ),
    "how weights start, before those of the file take their place": ("initializer_range",),
    "how numbers are kept: the tensors have their own dtypes, and what is computed here its own": (
        "dtype",
        "torch_dtype",
        "use_bfloat16",
    ),
    "memory and speed: the equation is the same": (
        "chunk_size_feed_forward",
        "gradient_checkpointing",
        "torchscript",  # a tied tensor twice, equal
    ),
    "losses of Transformers' TensorFlow classes": ("tf_legacy_loss",),
    "generation, before it had a file of its own": (
        "bad_words_ids",
        "begin_suppress_tokens",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "force_bos_token_to_be_generated",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "prefix",
        "remove_invalid_values",
        "repetition_penalty",
        "suppress_tokens",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    ),
}

HARMLESS = frozenset(chain.from_iterable(_BY_REASON.values()))
"""Fields that are accepted with any value."""

INERT = {
    "add_cross_attention": (False,),
    "pruned_heads": ({},),  # pruning takes rows out of the weights
    "tie_encoder_decoder": (False,),
}
"""Fields of every config.json -> the values with which they change nothing."""

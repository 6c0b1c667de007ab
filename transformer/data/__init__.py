"""Text to batches, without JAX: source -> tokenizer -> token store -> windows -> pipeline. `prepare` joins them."""

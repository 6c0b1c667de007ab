"""Objectives: how an example becomes a batch, and how a batch becomes a loss. One file each; the table names them."""

from transformer.objectives.causal_lm import CausalLM

OBJECTIVES: dict[str, type] = {"causal_lm": CausalLM}

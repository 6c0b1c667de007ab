"""OLMoE: the published size."""

import dataclasses

from configs.llama import pretrained
from configs.recipe import Preset
from transformer.models.olmoe import OLMOE_EXPERTS, OlmoeConfig
from transformer.training.experiment import Experiment


@Preset
def olmoe_1b_7b() -> Experiment:
    """OLMoE-1B-7B (Muennighoff et al. 2024, appendix B), 1.3B of its 6.9B active; without its last anneal.

    Its balance loss of 0.01 was computed by MegaBlocks, which divides by the number of choices; here nothing does.
    """
    experts = dataclasses.replace(OLMOE_EXPERTS, balance_loss=0.01 / OLMOE_EXPERTS.experts_per_token)
    return pretrained(OlmoeConfig(experts=experts), learning_rate=4e-4, tokens=5.1e12, seq_len=4096, warmup_steps=2500)

"""DeepSeek-V3: the published size."""

import dataclasses

from configs.llama import pretrained
from configs.recipe import Preset
from transformer.models.deepseek import V3_EXPERTS, DeepseekConfig
from transformer.training.experiment import Experiment


@Preset
def deepseek_v3() -> Experiment:
    """DeepSeek-V3 (DeepSeek-AI 2024), 37B of its 671B active, at its pretraining's context of 4,096.

    Section 4.2: 14.8T tokens, a warmup of 2,000 updates to 2.2e-4. The paper's batch grows from 12.6M to 63M tokens and
    its rate stays at the peak for 10T; here batches have 4M and the rate is a cosine. Its balance loss is taken within
    each sequence, here over the whole batch; its matrices start at a standard deviation of 0.006, here at 0.02. It is
    trained without the layer that predicts a second token.
    """
    # Its balance loss has a coefficient of 1e-4 in each layer, and is divided by the number of choices (equation 18).
    # Here nothing divides by that, and layers are averaged.
    sparse_layers = DeepseekConfig.num_layers - DeepseekConfig.first_dense
    balance_loss = 1e-4 * sparse_layers / V3_EXPERTS.experts_per_token
    model = DeepseekConfig(experts=dataclasses.replace(V3_EXPERTS, balance_loss=balance_loss))
    return pretrained(model, learning_rate=2.2e-4, tokens=14.8e12, seq_len=4096)

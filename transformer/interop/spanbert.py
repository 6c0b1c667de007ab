"""SpanBERT in Transformers: a BERT, whose classes do not have its boundary head.

A folder of SpanBERT's says that it is a BERT and is read as one: as the backbones' parameters are the same, they start
a SpanBERT as they are.
"""

import dataclasses

from transformer.interop.bert import BERT
from transformer.models.spanbert import SpanBertConfig

SPANBERT = dataclasses.replace(
    BERT,
    config=SpanBertConfig,
    heads={head: name for head, name in BERT.heads.items() if head not in ("pretraining", "next_sentence")},
    fits=lambda config: config.head != "pretraining",
)

FAMILIES = (SPANBERT,)

"""TeacherConfig: the model that a run learns from, and how much of each thing that it shows."""

import dataclasses

from transformer import checks


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """A teacher; without a path there is none. The defaults are DistilBERT's recipe.

    Sanh et al. 2019, "DistilBERT, a distilled version of BERT", and its released code: Hugging Face Transformers,
    `examples/research_projects/distillation`, `README.md` (the weights 5, 2 and 1) and `distiller.py` (the losses).
    """

    path: str | None = None
    """A run or a checkpoint (an imported one too) of the same tokenizer and kind, which the run learns from. It is read
    at every start, is computed without dropout beside the model, and never changes."""
    temperature: float = 2.0
    """What the scores of both are divided by before their distributions are compared (Hinton et al. 2015)."""
    kl: float = 5.0
    """Weight of the divergence of the model's distribution from the teacher's, times `temperature` squared."""
    objective: float = 2.0
    """Weight of the objective's own loss, of the right words or classes."""
    cosine: float = 1.0
    """Weight of 1 less the cosine of the last hidden states of both; they must be as wide."""
    everywhere: bool = True
    """Where a masked language model hears its teacher's distribution: at every token, as the released code does, or at
    the hidden ones alone (its `restrict_ce_to_mask`), which computes fewer scores."""
    hidden: float = 0.0
    """Weight of the mean squared difference of the hidden states after each layer and after its teacher's layer, added
    over the layers (Jiao et al. 2020, TinyBERT, equation 8, without a projection: they must be as wide)."""
    attention: float = 0.0
    """Weight of the divergence of what each layer attends to from what its teacher's layer does, the mean over heads
    and tokens, added over the layers (Sun et al. 2020, MobileBERT, section 3.3)."""
    layers: tuple[int, ...] | None = None
    """The teacher's layer, from 0, that each of the model's layers is compared with by `hidden` and `attention`. None:
    the last of as many equal parts (TinyBERT's mapping)."""

    def __post_init__(self) -> None:
        checks.above(self, 0, "temperature")
        checks.at_least(self, 0, "kl", "objective", "cosine", "hidden", "attention")
        if self.path is None:
            changed = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
            for name in changed:
                checks.rule(self, name, False, "there is no `path` to a teacher")
            return
        learns = self.kl or self.cosine or self.hidden or self.attention
        told = "`kl`, `cosine`, `hidden` and `attention` are 0: nothing is learnt from the teacher. Make `path` None"
        checks.require(self, bool(learns), told)
        used = self.layers is None or self.compares_layers
        checks.rule(self, "layers", used, "only `hidden` and `attention` use it")

    @property
    def compares_layers(self) -> bool:
        """Whether layers are compared with the teacher's, one by one."""
        return self.hidden > 0 or self.attention > 0

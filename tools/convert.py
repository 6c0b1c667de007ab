"""Hugging Face models: tools/convert.py import HF_FOLDER RUN | export CHECKPOINT HF_FOLDER | verify HF_FOLDER."""

import dataclasses
import sys
from typing import Annotated, Literal

import tyro

from transformer import command
from transformer.paths import expanded


@dataclasses.dataclass(frozen=True)
class Import:
    """Write a folder in the Hugging Face format as a checkpoint in a new run folder."""

    hf_folder: tyro.conf.Positional[str]
    """config.json, safetensors or Flax's msgpack (one file, or shards with an index) and tokenizer files; with --base a
    folder of PEFT's."""
    run: tyro.conf.Positional[str]
    """A new run folder."""
    head: str | None = None
    """Another head on the backbone, such as sequence_classification; what is new is named. None: the weights' own."""
    num_labels: int | None = None
    """Classes of a classification head; None: as config.json says."""
    pickle: bool = False
    """Read pytorch_model.bin, a pickle, with PyTorch's weights-only loading."""
    base: str | None = None
    """The run or the checkpoint that an adapter of PEFT's (adapter_config.json, adapter_model.safetensors) is of."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a checkpoint as a folder that Transformers loads."""

    checkpoint: tyro.conf.Positional[str]
    """A run folder, or one of its checkpoints (RUN/checkpoints/STEP)."""
    hf_folder: tyro.conf.Positional[str]
    """A new folder."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype of the weights on disk; None: as they were imported, or float32."""
    flax: bool = False
    """Write flax_model.msgpack, for the Flax classes of Transformers 4, in safetensors' place."""
    adapter: bool = False
    """Write an adapter alone, in PEFT's format; without, it is merged into its base."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Load a folder here and in Transformers (with PyTorch), and print the largest differences of what they compute."""

    hf_folder: tyro.conf.Positional[str]
    """In the Hugging Face format."""
    tolerance: float = 1e-5
    """The largest difference allowed, in float32, relative to the largest value of the output; up to ten times as large
    where PyTorch's own float32 is a quarter as far from its float64."""
    length: int = 32
    """Tokens of the random sequences."""
    pickle: bool = False
    """Read pytorch_model.bin, a pickle, with PyTorch's weights-only loading."""


Command = (
    Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/convert.py")  # type: ignore[arg-type]
    command.start_jax()
    # After the flags are known to be good: these take a second to import.
    if isinstance(flags, Import):
        import_(flags)
    elif isinstance(flags, Export):
        export(flags)
    else:
        from transformer.interop.verify import verify

        verify(expanded(flags.hf_folder), num_tokens=flags.length, tolerance=flags.tolerance, pickle=flags.pickle)


def import_(flags: Import) -> None:
    """Imports, and says what came of it."""
    from transformer.checkpoint.files import check_new
    from transformer.inference.settings import Settings
    from transformer.interop import convert

    path = expanded(flags.hf_folder)
    check_new(expanded(flags.run))
    if flags.base is not None:
        adapter, place = convert.import_adapter(path, flags.run, flags.base)
        print(f"adapter     rank {adapter.config.rank}, of {len(adapter.targets)} kernels of {flags.base}")
        print(f"checkpoint  {place}")
        return
    imported = convert.import_folder(path, head=flags.head, num_labels=flags.num_labels, pickle=flags.pickle)
    architecture = imported.architecture
    generates = architecture.kind != "encoder" and architecture.head == "language_model"
    settings = Settings.read(path) if generates else None  # what cannot be is refused before anything is written
    place, lines = convert.save(imported, path, flags.run)
    print(f"{imported.family.model_type}: {architecture.num_params():,} parameters, head {architecture.head}")
    for path in imported.new:
        print(f"new, initialised: {path}")
    for name in imported.left:
        print(f"left out (of another head): {name}")
    for line in lines:
        print(line)
    if settings is not None:
        print(f"generation  {settings} ({settings.source})")
        for words in settings.not_applied:
            print(f"not applied in generation: {words}")
    print(f"checkpoint  {place}")


def export(flags: Export) -> None:
    """Exports, and says what came of it."""
    from transformer.interop import convert

    out = expanded(flags.hf_folder)
    if flags.adapter:
        family = convert.export_adapter(flags.checkpoint, out)
    else:
        family = convert.export(flags.checkpoint, out, dtype=flags.dtype, flax=flags.flax)
    print(f"{family.model_type}: {flags.hf_folder}")


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))

"""Generate text with a run: python tools/generate.py RUN --prompt "def " (or --chat, --source, --mask, --audio)."""

import dataclasses
import sys
from typing import TYPE_CHECKING, Any, Literal

import tyro

from transformer import checks, command
from transformer.errors import UserError

if TYPE_CHECKING:  # these take a second to import, after the flags are known to be good
    from transformer.inference.beam_search import BeamSearch
    from transformer.inference.restored import Restored
    from transformer.inference.rules import DecodingRules
    from transformer.inference.sampling import Sampling
    from transformer.inference.settings import Settings
    from transformer.inference.speech.chunks import Chunking
    from transformer.tokenizers.chat import Message


@dataclasses.dataclass(frozen=True)
class Command:
    """Generate text with the newest checkpoint of a run.

    A decoder continues each --prompt or answers each --chat, an encoder-decoder answers each --source, an encoder fills
    in each --mask, a speech model writes down each --audio. An imported model generates as its generation_config.json
    (or config.json) declares, where no flag says otherwise.
    """

    run: tyro.conf.Positional[str]
    """A run folder, or one of its checkpoints (RUN/checkpoints/STEP)."""
    prompt: tuple[str, ...] = ()
    """Texts to continue, by a decoder. None at all: one from nothing."""
    chat: tuple[str, ...] = ()
    """Messages of a user to answer, each a conversation of its own, by a decoder that came with a chat template."""
    messages: str | None = None
    """A .jsonl file of conversations to answer likewise, a list of `messages` a line; where one ends with an answer,
    that is left out."""
    system: str | None = None
    """With --chat, the system's message before the user's."""
    source: tuple[str, ...] = ()
    """Texts to answer (to translate, to sum up), by an encoder-decoder; `-`: the lines of standard input."""
    mask: tuple[str, ...] = ()
    """Texts with a <mask> (or [MASK]) to fill in, by an encoder."""
    audio: tuple[str, ...] = ()
    """Sound files to write down, by a speech model: wav, flac and what else libsndfile reads, of any length."""
    language: str | None = None
    """With --audio, the code of the language that is spoken, such as en; by default the likeliest."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """With --audio: write down what is said, or say it in English."""
    timestamps: Literal["segment", "word"] | None = None
    """With --audio, say when each segment, or each word, begins and ends; by default the text alone."""
    chunk: float | None = None
    """With --audio, cut recordings in overlapping chunks of so many seconds, which are decoded together and joined,
    without times: batches for an accelerator. By default each window starts where the speech of the last one ended."""
    stride: float | None = None
    """With --chunk, seconds at each edge that the next chunk hears too; by default a sixth of the chunk."""
    batch_size: int = 8
    """With --audio, windows of 30 s (or chunks) that are decoded together."""
    num: int | None = None
    """Texts for each prompt or source, 1 by default; guesses for each mask, 5 by default."""
    max_new_tokens: int | None = None
    """Tokens of a text, at most, 128 by default; the model's context may end it before."""
    min_new_tokens: int | None = None
    """Tokens of a text before it may end, 0 by default."""
    temperature: float | None = None
    """Below 1 likelier tokens, above 1 more surprising ones; 0 is greedy. By default 1 for prompts, 0 for sources and
    chats."""
    top_k: int | None = None
    """Draw among the k likeliest tokens."""
    top_p: float | None = None
    """Draw among the likeliest tokens that together reach this probability."""
    min_p: float | None = None
    """Draw among tokens at least this many times as likely as the likeliest."""
    repetition_penalty: float | None = None
    """Above 1, tokens that were there before become less likely; 1 by default."""
    no_repeat_ngram_size: int | None = None
    """No so many tokens in a row are said twice, or repeat a prompt's; 0, the default: any may."""
    encoder_no_repeat_ngram_size: int | None = None
    """No so many tokens in a row of the source (or the prompt) are said; 0, the default: any may."""
    beams: int | None = None
    """Search with so many beams, rather than draw; --num of them are shown."""
    length_penalty: float | None = None
    """A beam search's preference: above 0, longer texts gain; 1 by default."""
    early_stopping: bool = False
    """Stop a beam search at as many finished texts as beams."""
    stop: tuple[str, ...] = ()
    """Tokens that end a text, as they are spelled, besides those that end it anyway."""
    seed: int = 0
    """Seed of the draws: the same seed gives the same text."""
    draft: str | None = None
    """A run or checkpoint of a smaller model with the same tokenizer, which proposes tokens that the model reads all at
    once: what is said is distributed as without it; greedily, it is the same."""
    draft_tokens: int = 4
    """With --draft, tokens that are proposed at a time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/generate.py")
    kinds = [name for name in ("prompt", "chat", "messages", "source", "mask", "audio") if getattr(flags, name)]
    if len(kinds) > 1:
        raise UserError(f"--{kinds[0]} and --{kinds[1]}: give one, as a model does one of these")
    command.start_jax()
    from transformer.inference.restored import restore
    from transformer.layers.execution import Execution

    if flags.system is not None and not flags.chat:
        raise UserError("--system is of a chat: give --chat TEXT, or put it into the file of --messages")
    chats = conversations(flags)
    if not flags.mask:  # what no model could do is refused before one is read
        strategy(flags)
        rules(flags)
    chunking(flags)
    with command.flags_named(Command):
        checks.at_least(flags, 1, "batch_size", "draft_tokens")
    if flags.draft is not None and (flags.mask or flags.audio):
        raise UserError(f"--draft proposes text and --{kinds[0]} asks for none: leave it out")
    restored = restore(flags.run, Execution(dtype=flags.dtype))
    kind = restored.architecture.kind
    [wanted] = kinds or ["prompt"]
    if kind not in _TAKES:
        raise UserError(f"{restored.checkpoint} is a {restored.architecture.family} model: it reads no text")
    if wanted not in (takes := _TAKES[kind]):
        what = "FILE" if kind == "speech" else "TEXT"
        raise UserError(f"{restored.checkpoint} is a {restored.architecture.family} model: give it --{takes[0]} {what}")
    if flags.audio:
        transcribe(restored, flags)
        return
    if flags.mask:
        from transformer.inference.fill_mask import MaskFiller

        for number, masks in enumerate(MaskFiller(restored)(flags.mask, top_k=5 if flags.num is None else flags.num)):
            for guesses in masks:
                print(f"{'' if number == 0 else chr(10)}{flags.mask[number]}")
                for guess in guesses:
                    print(f"  {guess.probability:.4f}  {guess.piece!r:16}  {guess.text}")
        return
    from transformer.inference.beam_search import BeamSearch
    from transformer.inference.text_generator import TextGenerator

    texts: list[Any] = chats or list(flags.source or flags.prompt or ("",))
    if flags.source == ("-",):
        texts = [line.rstrip("\n") for line in sys.stdin]
    draft = None if flags.draft is None else restore(flags.draft, Execution(dtype=flags.dtype))
    generator = TextGenerator(restored, draft, flags.draft_tokens)
    settings = generator.settings
    how = strategy(flags, settings)
    is_greedy = how.beams == 1 if isinstance(how, BeamSearch) else how.temperature == 0
    if flags.num is not None and flags.num > 1 and is_greedy:
        raise UserError(f"--num {flags.num}: greedy, every text would be the same: give --temperature or --beams")
    generated = generator(
        texts,
        max_new_tokens=flags.max_new_tokens,
        min_new_tokens=flags.min_new_tokens,
        how=how,
        rules=rules(flags, settings),
        num=flags.num,
        seed=flags.seed,
        stop=flags.stop,
    )
    if settings is not None:
        print(f"{settings.source}: {settings} (flags go first)", file=sys.stderr)
    shown = [(text, answer) for text, answers in zip(texts, generated, strict=True) for answer in answers]
    for number, (text, answer) in enumerate(shown, start=1):
        if len(shown) > 1 and flags.source != ("-",):
            score = "" if answer.score is None else f", score {answer.score:.4f}"
            print(f"{'' if number == 1 else chr(10)}--- {number} of {len(shown)}{score} ---")
        print(answer.text if flags.source or chats else text + answer.text)


_TAKES = {
    "decoder": ("prompt", "chat", "messages"),
    "encoder_decoder": ("source",),
    "encoder": ("mask",),
    "speech": ("audio",),
}
"""Kind of model -> the flags of what it generates from, the usual one first."""


def conversations(flags: Command) -> "list[list[Message]]":
    """Returns the conversations that are to be answered; UserError where one is none."""
    from transformer.data.chats.conversations import conversations
    from transformer.paths import expanded
    from transformer.tokenizers.chat import check_messages

    if flags.messages is not None:
        chats = [chat.question for chat in conversations(expanded(flags.messages))]
        if not chats:
            raise UserError(f"{flags.messages} has no conversation")
        return chats
    system = [] if flags.system is None else [{"role": "system", "content": flags.system}]
    return [check_messages([*system, {"role": "user", "content": text}], f"--chat {text!r}") for text in flags.chat]


@command.flags_named(Command)
def transcribe(restored: "Restored", flags: Command) -> None:
    """Prints what is said in each recording, and when where that is asked."""
    from transformer.data.audio.log_mel import log_mel
    from transformer.data.audio.sound import load
    from transformer.inference.speech.transcriber import Transcriber
    from transformer.paths import expanded

    recordings = [load(expanded(file)) for file in flags.audio]  # a wrong one is named before any is heard
    options: dict[str, Any] = {
        "language": flags.language,
        "task": flags.task,
        "batch_size": flags.batch_size,
        "progress": sys.stderr.isatty(),
    }
    transcriber, how = Transcriber(restored, log_mel), chunking(flags)
    if how is None:
        times, words = flags.timestamps is not None, flags.timestamps == "word"
        told = transcriber(recordings, times=times, words=words, **options)
    else:
        told = transcriber.in_chunks(recordings, how, **options)
    for file, transcript in zip(flags.audio, told, strict=True):
        if len(flags.audio) > 1:
            print(f"--- {file} ---")
        parts: Any = transcript.words if flags.timestamps == "word" else transcript.segments
        if flags.timestamps is None:
            print(transcript.text.strip())
        for part in parts if flags.timestamps else ():
            print(f"[{part.start:7.2f} -> {part.end:7.2f}] {part.text.strip()}")


@command.flags_named(Command)
def chunking(flags: Command) -> "Chunking | None":
    """Returns how recordings are cut in chunks, or None where they are not.

    Raises:
      UserError: there are no recordings, or times are asked for, which chunks do not have.
    """
    from transformer.inference.speech.chunks import Chunking

    name = "chunk" if flags.chunk is not None else "stride"
    if flags.chunk is None and flags.stride is None:
        return None
    if not flags.audio:
        raise UserError(f"--{name} is of recordings: give --audio FILE")
    if flags.chunk is None:
        raise UserError("--stride is how far chunks overlap: give --chunk SECONDS")
    if flags.timestamps is not None:
        raise UserError(f"--timestamps {flags.timestamps}: chunks have no times: leave --chunk out, or --timestamps")
    return Chunking(flags.chunk, flags.stride)


@command.flags_named(Command)
def strategy(flags: Command, settings: "Settings | None" = None) -> "Sampling | BeamSearch":
    """Returns how tokens are chosen: as flags say, then as an imported model declares.

    Raises:
      UserError: flags of drawing and of searching together, or of what cannot be.
    """
    from transformer.inference.beam_search import BeamSearch
    from transformer.inference.sampling import Sampling

    drawing = given(flags, "temperature", "top_k", "top_p", "min_p")
    searching = given(flags, "beams", "length_penalty") | ({"early_stopping": True} if flags.early_stopping else {})
    is_answer = bool(flags.source or flags.chat or flags.messages)
    default = Sampling(0.0 if is_answer else 1.0) if settings is None else settings.how
    if flags.beams is not None and drawing:
        name = next(iter(drawing)).replace("_", "-")
        raise UserError(f"--{name} is of drawing and --beams of searching: give one of them")
    if flags.beams is not None or (isinstance(default, BeamSearch) and not drawing):
        return dataclasses.replace(default if isinstance(default, BeamSearch) else BeamSearch(), **searching)
    draws = isinstance(default, Sampling) and (default.temperature > 0 or not drawing)
    return dataclasses.replace(default if draws else Sampling(), **drawing)


@command.flags_named(Command)
def rules(flags: Command, settings: "Settings | None" = None) -> "DecodingRules":
    """Returns what is done to scores before a token is chosen: as flags say, then as an imported model declares."""
    from transformer.inference.rules import DecodingRules

    names = ("repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size")
    return dataclasses.replace(DecodingRules() if settings is None else settings.rules, **given(flags, *names))


def given(flags: Command, *names: str) -> dict[str, Any]:
    """Returns the flags of these names that were given."""
    return {name: value for name in names if (value := getattr(flags, name)) is not None}


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))

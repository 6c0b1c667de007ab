"""Evaluate a run on its validation data: python tools/evaluate.py RUN --metric loss bleu."""

import dataclasses
import json
import math
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from transformer import checks, command
from transformer.errors import UserError
from transformer.inference.scoring import BleuTokenizer
from transformer.paths import check_file, write_file

if TYPE_CHECKING:  # these take a second to import, after the flags are known to be good
    from transformer.data.dataset import DataConfig, Dataset
    from transformer.inference.restored import Restored
    from transformer.training.experiment import Experiment

SAMPLES = 3
"""Translations that are shown."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Evaluate the newest checkpoint of a run on the validation part of its data, or on all of other data."""

    run: tyro.conf.Positional[str]
    """A run folder, or one of its checkpoints (RUN/checkpoints/STEP)."""
    metric: tuple[
        Literal["loss", "bleu", "chrf", "rouge", "cer", "wer", "probe", "retrieval", "exact_match", "perplexity"],
        ...,
    ] = ("loss",)
    """loss: the objective's own, with its accuracies. bleu, chrf: of an encoder-decoder's answers to the sources,
    against the targets, by sacrebleu (BLEU detokenised, cased). rouge: of summaries, likewise, by rouge-score (1, 2, L
    and, of lines, Lsum: mean F in percent, stemmed). cer, wer: the error rates of a speech model's
    transcripts, in characters and in words, decoded greedily, as they are written. probe: how well logistic regression
    tells the classes of the run's images by what its encoder makes of them, beside the same of an untrained encoder
    and of pixels. retrieval: how often an image finds its caption, and a caption an image of it, among all of the
    validation split. exact_match: how often a decoder's greedy answer to a conversation is the one that it ends with,
    spaces around it aside. perplexity: of a decoder on the text of --path, by windows that are --stride tokens apart.
    An imported model, which has no data of its own, takes the last two, with --path."""
    path: Annotated[str | None, tyro.conf.arg(aliases=["--data.path"])] = None
    """Other text or recordings, as the run's are, such as a test set: all of it is evaluated on. Of pairs: a file, a
    folder with test.en and test.de (or else val, or train), or the beginning of two parallel files' names
    (DATA/newstest)."""
    fields: Annotated[tuple[str, str] | None, tyro.conf.arg(name="data.fields")] = None
    """What --path calls source and target; None: as in training."""
    text_field: Annotated[str | None, tyro.conf.arg(name="data.text-field")] = None
    """What --path calls its text; None: as in training."""
    header: Annotated[bool | None, tyro.conf.arg(name="data.header")] = None
    """Whether --path, a .tsv file of pairs, begins with a line of column names; None: as that line looks."""
    cache_dir: Annotated[str | None, tyro.conf.arg(name="data.cache-dir")] = None
    """The folder that keeps prepared data; None: as in training."""
    null_threshold: Annotated[float | None, tyro.conf.arg(name="objective.null-threshold")] = None
    """By how much no answer to a question must be ahead of the best span to be told; None: as in training."""
    bleu_tokenize: BleuTokenizer = "13a"
    """How BLEU cuts text into words, by sacrebleu's names: zh for Chinese, ja-mecab for Japanese, ko-mecab for Korean,
    char or flores200 where words are not set apart by spaces."""
    stride: int | None = None
    """Tokens between windows of --metric perplexity: each token is scored once, with context - stride tokens before it
    or more; None: half of the context."""
    context: int | None = None
    """Tokens of such a window; None: as many as the model reads at once."""
    limit: int | None = None
    """Pairs or conversations to answer, or recordings to transcribe, from the front; None: all."""
    per_class: int | None = None
    """Images of each class that a probe learns from, chosen by a fixed seed; None: all."""
    beams: int = 4
    """The beam search's width; 1 is greedy."""
    length_penalty: float = 1.0
    """The beam search's: above 0, longer texts gain."""
    max_new_tokens: int = 128
    """Tokens of an answer, at most."""
    batch_size: int = 64
    """Sources or recordings that are read together."""
    out: str | None = None
    """A file that gets the answers, a line each, in the order of the sources or recordings; of a task's examples as
    JSON, with their fields and scores."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/evaluate.py")
    with command.flags_named(Command):
        checks.at_least(flags, 1, "limit", "batch_size", "max_new_tokens", "per_class", "stride", "context")
    if flags.bleu_tokenize != "13a" and "bleu" not in flags.metric:
        raise UserError(f"--bleu-tokenize {flags.bleu_tokenize} is for --metric bleu")
    if flags.per_class is not None and "probe" not in flags.metric:
        raise UserError("--per-class is for --metric probe")
    if flags.out is not None:
        check_file(flags.out, "--out")
    command.start_jax()
    from transformer import checkpoint
    from transformer.training import experiment as experiments

    source = checkpoint.find(flags.run)
    recorded = source / "record" / "experiment.json"
    if not recorded.exists() and flags.path is not None and {*flags.metric} <= {"exact_match", "perplexity"}:
        experiment = None  # of an imported model
    else:
        experiment = experiments.read(recorded)
    if of_texts := [metric for metric in flags.metric if metric in ("exact_match", "perplexity")]:
        score_decoder(source, experiment, of_texts, flags)
    if experiment is None or {*flags.metric} == {*of_texts}:
        return
    experiment = dataclasses.replace(experiment, data=data_of(flags, experiment.data))
    if flags.null_threshold is not None:
        from transformer.objectives.question_answering import QuestionAnswering

        if not isinstance(experiment.objective, QuestionAnswering):
            raise UserError(
                f"--objective.null-threshold is of questions, and the run's objective is {experiment.objective.name}"
            )
        objective = dataclasses.replace(experiment.objective, null_threshold=flags.null_threshold)
        experiment = dataclasses.replace(experiment, objective=objective)
    if "loss" in flags.metric:
        show_loss(experiment, flags)
    if others := [metric for metric in flags.metric if metric not in ("loss", *of_texts)]:
        from transformer.inference.restored import restore

        restored = restore(source, experiment.execution)
        if rates := [metric for metric in others if metric in ("cer", "wer")]:
            score_transcripts(restored, experiment, rates, flags)
        if "probe" in others:
            score_probe(restored, experiment, flags)
        if "retrieval" in others:
            score_retrieval(restored, experiment)
        if texts := [metric for metric in others if metric in ("bleu", "chrf", "rouge")]:
            score_answers(restored, experiment, texts, flags)


@command.flags_named(Command)
def data_of(flags: Command, recorded: "DataConfig") -> "DataConfig":
    """Returns what to evaluate on: the data of the run, or other data, which is named as flags say."""
    from transformer.data.audio.config import AudioConfig
    from transformer.data.chats.config import ChatConfig
    from transformer.data.examples.config import ExamplesConfig
    from transformer.data.text.config import TextConfig

    names = ("fields", "text_field", "header")
    named = {name: value for name in names if (value := getattr(flags, name)) is not None}
    if named and flags.path is None:
        raise UserError(f"--data.{next(iter(named)).replace('_', '-')} is of --path, which is not given")
    if isinstance(recorded, ExamplesConfig):
        if named.keys() - {"text_field"}:
            raise UserError(
                f"--data.{next(iter(named.keys() - {'text_field'}))} is of pairs, and the run's data are examples"
            )
        path = {} if flags.path is None else {"path": flags.path, "tfds": None}
        cache = {} if flags.cache_dir is None else {"cache_dir": flags.cache_dir}
        return dataclasses.replace(recorded, **path, **cache, **named)
    if not isinstance(recorded, (TextConfig, AudioConfig, ChatConfig)):
        if flags.path is not None or flags.cache_dir is not None:
            raise UserError(
                "--path and --data.cache-dir are of text, chats and recordings, and the run's data are neither"
            )
        return recorded
    cache_dir = recorded.cache_dir if flags.cache_dir is None else flags.cache_dir
    if isinstance(recorded, (AudioConfig, ChatConfig)):
        if named:
            raise UserError(
                f"--data.{next(iter(named)).replace('_', '-')} is of text, and the run's data are {recorded.kind}"
            )
        path = recorded.path if flags.path is None else flags.path
        return dataclasses.replace(recorded, path=path, cache_dir=cache_dir)
    if flags.path is None:
        return dataclasses.replace(recorded, cache_dir=cache_dir)
    other = dataclasses.replace(recorded, path=flags.path, tfds=None, mixture=(), header=None, cache_dir=cache_dir)
    return dataclasses.replace(other, **named)


def show_loss(experiment: "Experiment", flags: Command) -> None:
    """Prints the objective's loss and accuracies on all validation data, or on all of other data."""
    from transformer.data.text.dataset import TextDataset
    from transformer.metrics.bootstrap import intervals
    from transformer.training.saved_evaluation import evaluate_checkpoint

    evaluation, dataset = evaluate_checkpoint(experiment, flags.run, whole=flags.path is not None, report=print)
    if isinstance(dataset, TextDataset):
        kind, count = "pair" if _reads_pairs(experiment) else "document", dataset.figures.documents
        print(f"loss on {_what(flags)}: {count:,} {kind}{'s' * (count != 1)}, {evaluation.targets:,.0f} targets")
        print(f"loss {evaluation.loss:.4f} nats a target, perplexity {evaluation.perplexity:.2f}")
    else:
        print(f"loss on {_what(flags)}, {evaluation.targets:,.0f} targets: {evaluation.loss:.4f}")
    objective, predictions = experiment.objective, evaluation.predictions
    ranges = {}
    if predictions:
        examples, metric = objective.resampling(predictions, dataset, experiment.model)
        ranges = intervals(metric, examples)
    for name, value in evaluation.metrics.items():
        low, high = ranges.get(name, (0.0, 0.0))
        bounds = f"  (95 % interval {low:.4f} to {high:.4f})" if name in ranges else ""
        print(f"{name.replace('_', ' ')} {value:.4f}{bounds}")
    if predictions and (table := objective.table(predictions, dataset, experiment.model)) is not None:
        print(f"\n{table}")
    if predictions and flags.out is not None:
        told = objective.answers(predictions, dataset, experiment.model)
        write_file(flags.out, "".join(f"{json.dumps(answer, ensure_ascii=False)}\n" for answer in told))
    if evaluation.bits_per_byte is not None:
        print(f"bits per byte {evaluation.bits_per_byte:.4f}")


def score_answers(restored: "Restored", experiment: "Experiment", metrics: list[str], flags: Command) -> None:
    """Answers the validation sources, prints the scores against the targets, and a few answers to look at."""
    from sacrebleu.metrics.chrf import CHRF

    from transformer.data.pairs.mixture import open_pairs
    from transformer.data.text.config import TextConfig
    from transformer.inference.beam_search import BeamSearch
    from transformer.inference.scoring import bleu, fitting_tokenizer
    from transformer.inference.text_generator import TextGenerator
    from transformer.metrics.rouge import rouge

    data = experiment.data
    if not isinstance(data, TextConfig) or not _reads_pairs(experiment):
        raise UserError(
            f"--metric {metrics[0]} compares answers with targets, and the objective {experiment.objective.name} has "
            "no pairs: use --metric loss"
        )
    scorers = [bleu(flags.bleu_tokenize) if metric == "bleu" else CHRF() for metric in metrics if metric != "rouge"]
    corpora = [corpus for corpus, _ in open_pairs(data, whole=flags.path is not None)]
    every = [pair for corpus in corpora for pair in corpus.pairs("validation")]
    if not every:
        raise UserError(f"{_what(flags)} has no pair with two sides")
    pairs = every[: flags.limit]
    if "loss" not in flags.metric:  # which has said so
        print("".join(f"{note}\n" for corpus in corpora for note in corpus.notes), end="")
    print(
        f"answers {f'the first {len(pairs):,} of' if len(pairs) < len(every) else 'all'} {len(every):,} pairs of "
        f"{_what(flags)}"
    )
    sources, targets = zip(*pairs, strict=True)
    if "bleu" in metrics and flags.bleu_tokenize == "13a" and (fitting := fitting_tokenizer(targets)) is not None:
        print(
            "warning: half of the targets' letters or more are of scripts whose words 13a does not find; this BLEU "
            f"says little: give --bleu-tokenize {fitting}",
            file=sys.stderr,
        )
    with command.flags_named(Command):
        how = BeamSearch(flags.beams, flags.length_penalty)
    generated = TextGenerator(restored)(
        sources,
        max_new_tokens=flags.max_new_tokens,
        how=how,
        batch_size=flags.batch_size,
        progress=True,
    )
    answers = [answer.text for [answer] in generated]
    if flags.out is not None:
        write_file(flags.out, "".join(f"{' '.join(answer.split())}\n" for answer in answers))
    for source, target, answer in list(zip(sources, targets, answers, strict=True))[:SAMPLES]:
        print(f"\nsource  {source}\ntarget  {target}\nanswer  {answer}")
    print()
    for scorer in scorers:
        print(f"{scorer.corpus_score(answers, [targets])}  ({len(pairs):,} pairs; {scorer.get_signature()})")
    if "rouge" in metrics:
        found = rouge(answers, targets)
        print(f"{', '.join(f'{kind} {value:.2f}' for kind, value in found.items())}  ({len(pairs):,} pairs)")


def score_transcripts(restored: "Restored", experiment: "Experiment", metrics: list[str], flags: Command) -> None:
    """Transcribes the validation recordings, prints the error rates, and a few transcripts to look at."""
    from transformer.data.audio.dataset import SpeechDataset
    from transformer.inference.speech.errors import character_error_rate, transcribed, word_error_rate

    dataset = _opened(restored, experiment, whole=flags.path is not None)
    if not isinstance(dataset, SpeechDataset):
        raise UserError(
            f"--metric {metrics[0]} compares transcripts of recordings, and the objective "
            f"{experiment.objective.name} has none: use --metric loss"
        )
    limits = {"limit": flags.limit, "batch_size": flags.batch_size}
    pairs = list(transcribed(restored, dataset, **limits, progress=True))
    if flags.out is not None:
        write_file(flags.out, "".join(f"{' '.join(pair.answer.split())}\n" for pair in pairs))
    for pair in pairs[:SAMPLES]:
        print(f"\nsaid   {pair.transcript}\nheard  {pair.answer}")
    print()
    for metric in metrics:
        if metric == "cer":
            rate, right = character_error_rate(pairs), sum(pair.character_errors == 0 for pair in pairs)
        else:
            rate, right = word_error_rate(pairs), sum(pair.word_errors == 0 for pair in pairs)
        name = {"cer": "character", "wer": "word"}[metric]
        print(f"{name} error rate {100 * rate:.2f} %  ({right:,} of {len(pairs):,} without an error)")


def score_decoder(source: Any, experiment: "Experiment | None", metrics: list[str], flags: Command) -> None:
    """Prints how a decoder answers conversations, and its perplexity on a text."""
    from transformer.inference.likelihood import LikelihoodModel, strided_perplexity
    from transformer.inference.restored import restore
    from transformer.inference.text_generator import TextGenerator
    from transformer.layers.execution import Execution
    from transformer.parallel.mesh import MeshConfig, make_mesh

    execution = Execution() if experiment is None else experiment.execution
    if "exact_match" in metrics:
        score_chats(restore(source, execution), experiment, flags)
    if "perplexity" not in metrics:
        return
    if flags.path is None:
        raise UserError("--metric perplexity reads a text: give its file with --path")
    text = read_text(flags.path)
    mesh = make_mesh(MeshConfig())
    restored = restore(source, execution, mesh)
    model = LikelihoodModel(restored, mesh, batch_size=min(flags.batch_size, 8))
    context = model.context if flags.context is None else flags.context
    stride = max(context // 2, 1) if flags.stride is None else flags.stride
    found = strided_perplexity(model, TextGenerator(restored).encode(text), context, stride)
    print(f"perplexity {found.perplexity:.4f} on {flags.path}: {found.loss:.4f} nats a token, {found.tokens:,} tokens")
    print(f"each is scored once, with {context - stride:,} tokens before it or more; windows of {context:,} tokens")
    print(f"bits per byte {found.loss * found.tokens / len(text.encode()) / math.log(2):.4f}")


def read_text(path: str) -> str:
    """Returns the text of a file; raises UserError for what is none."""
    from transformer.paths import expanded

    try:
        return expanded(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--path {path}: {getattr(error, 'strerror', None) or f'not UTF-8 text ({error})'}") from None


def score_chats(restored: "Restored", experiment: "Experiment | None", flags: Command) -> None:
    """Answers the conversations, and prints how many answers are the wanted ones, and a few to look at."""
    from transformer.data.chats.config import ChatConfig
    from transformer.data.chats.dataset import validation_chats
    from transformer.inference.answering import answered

    data = ChatConfig(path=flags.path) if experiment is None or flags.path is not None else experiment.data
    if not isinstance(data, ChatConfig):
        raise UserError("--metric exact_match answers conversations, and the run has none: give them with --path")
    chats = validation_chats(data, whole=flags.path is not None)[: flags.limit]
    answers = answered(restored, chats, max_new_tokens=flags.max_new_tokens, batch_size=flags.batch_size, progress=True)
    if flags.out is not None:
        write_file(flags.out, "".join(f"{' '.join(answer.given.split())}\n" for answer in answers))
    for answer in answers[:SAMPLES]:
        print(f"\nuser    {answer.question}\nwanted  {answer.wanted}\nanswer  {answer.given}")
    right = sum(answer.is_match for answer in answers)
    print(f"\nexact match {right / len(answers):.4f}  ({right:,} of {len(answers):,} conversations of {_what(flags)})")


def score_probe(restored: "Restored", experiment: "Experiment", flags: Command) -> None:
    """Prints how well the classes of the run's images are told by its encoder, by an untrained one, and by pixels."""
    import jax

    from transformer.data.images.config import ImagesConfig
    from transformer.data.images.records import ImageReading
    from transformer.data.kinds import open_dataset
    from transformer.inference import probe

    model: Any = experiment.model
    if model.kind != "image_encoder" or not isinstance(experiment.data, ImagesConfig):
        raise UserError(f"--metric probe is of encoders of images, and the run is a {model.family} model")
    dataset = open_dataset(experiment.data, ImageReading(), vocab_size=None, input_size=model.input_size)
    train = probe.Sample.of(dataset.train, progress=True)
    test = probe.Sample.of([dataset.validation], progress=True)
    train = train if flags.per_class is None else train.few(flags.per_class)
    inputs = model.example_inputs()
    untrained = restored.model.init({name: jax.random.key(0) for name in ("params", "kept")}, **inputs)["params"]
    vectors = {
        "its features": lambda images: probe.features(model, restored.model, restored.params, images),
        "an untrained one's": lambda images: probe.features(model, restored.model, untrained, images),
        "pixels": lambda images: images.reshape(len(images), -1),
    }
    print(f"linear probe: {len(train.labels):,} images to learn from, {len(test.labels):,} to tell")
    for name, of in vectors.items():
        right = probe.accuracy(of(train.images), train.labels, of(test.images), test.labels)
        print(f"{name:20} accuracy {right:.4f}")


def score_retrieval(restored: "Restored", experiment: "Experiment") -> None:
    """Prints how well the images and captions of the validation split find each other."""
    from transformer.inference.zero_shot import TwoTowersReader, retrieval

    reader = TwoTowersReader(restored)  # refuses other models
    found = retrieval(reader, _opened(restored, experiment).validation)
    print(f"retrieval: {found.images:,} images, {found.texts:,} different captions")
    for name, shares in {"captions of images": found.texts_found, "images of captions": found.images_found}.items():
        print(f"{name:20} " + ", ".join(f"recall@{k} {share:.4f}" for k, share in shares.items()))


def _opened(restored: "Restored", experiment: "Experiment", *, whole: bool = False) -> "Dataset":
    """Returns the data of an experiment as its objective reads them, with the tokenizer that came with the weights."""
    from transformer.data.kinds import open_dataset

    return open_dataset(
        experiment.data,
        experiment.objective.reading(experiment.train.seq_len),
        vocab_size=experiment.model.vocab_size,
        input_size=experiment.model.input_size,
        tokenizer=restored.own_tokenizer,
        whole=whole,
    )


def _reads_pairs(experiment: "Experiment") -> bool:
    from transformer.data.pairs.rows import PairReading

    return isinstance(experiment.objective.reading(experiment.train.seq_len), PairReading)


def _what(flags: Command) -> str:
    return "the validation part of the run's data" if flags.path is None else flags.path


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))

"""Evaluations on other data are on all of it, and BLEU is sacrebleu's; on a run's own data they are on its split."""

import gzip
import json
import re
import typing

import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU

import train
from tests.exhaustive import few
from tools import evaluate
from transformer import command
from transformer.errors import UserError
from transformer.inference import scoring
from transformer.metrics.rouge import rouge

from .test_commands import TINY  # whose programs are compiled already
from .tool_calls import caller, refuser

PAIRS = [(f"count {n} {n % 7}", f"zählt {n} {n % 7}") for n in range(100)]
SHORT = ["--max-new-tokens", 2, "--beams", 1]


def tsv(pairs) -> str:
    return "".join(f"{source}\t{target}\n" for source, target in pairs)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of an encoder-decoder on 200 pairs of a .tsv file, 10 or so of them held out."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "train.tsv").write_text(tsv((f"count {n} {n % 7}", f"zählt {n} {n % 7}") for n in range(200)))
    sizes = [f"--model.num-{part} 1" for part in ("encoder-layers", "decoder-layers")]
    sizes += [f"--model.num-{side}-heads 2 --model.{side}-mlp-width 32" for side in ("encoder", "decoder")]
    flags = [*" ".join(sizes).split(), "--model.width", "16", "--model.vocab-size", "400", "--data.tokenizer", "bytes"]
    flags += ["--objective.target-len", "32", "--train.seq-len", "32", "--train.batch-size", "8", "--train.steps", "2"]
    flags += ["--data.path", str(folder / "train.tsv"), "--data.cache-dir", str(folder / "cache"), "--mesh.data", "1"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(command, "start_jax", lambda **_: None)
        train.main(["transformer-multi30k", "--workdir", str(folder / "run"), *flags])
    return folder / "run"


@pytest.fixture
def call(capsys, monkeypatch):
    monkeypatch.setattr(command, "start_jax", lambda **_: None)
    return caller(evaluate.main, capsys)


def write(folder, form):
    """Writes the pairs in a form; returns the flags that name them."""
    if form == "tsv":
        (folder / "test.tsv").write_text(tsv(PAIRS))
        return ["--path", folder / "test.tsv"]
    if form == "tsv with a header":
        (folder / "test.tsv").write_text("\ufeffen\tde\n" + tsv(PAIRS))
        return ["--data.path", folder / "test.tsv"]
    if form == "jsonl":
        lines = (json.dumps({"q": source, "a": target}) + "\n" for source, target in PAIRS)
        (folder / "test.jsonl").write_text("".join(lines))
        return ["--path", folder / "test.jsonl", "--data.fields", "q", "a"]
    if form == "json":
        (folder / "test.json").write_text(json.dumps([{"q": source, "a": target} for source, target in PAIRS]))
        return ["--path", folder / "test.json", "--data.fields", "q", "a"]
    if form == "csv":
        (folder / "test.csv").write_text("a,q\n" + "".join(f"{target},{source}\n" for source, target in PAIRS))
        return ["--path", folder / "test.csv", "--data.fields", "q", "a"]
    name = "test" if form == "folder" else "newstest"
    for side, field in enumerate(("en", "de")):
        content = "".join(f"{pair[side]}\n" for pair in PAIRS).encode()
        (folder / f"{name}.{field}.gz").write_bytes(gzip.compress(content))
    return ["--path", folder if form == "folder" else folder / name, "--data.fields", "en", "de"]


@pytest.mark.parametrize(
    "form", few(["tsv", "tsv with a header", "jsonl", "json", "csv", "folder", "prefix"], "tsv", "jsonl", "folder")
)
def test_all_pairs_of_other_data_are_scored_as_sacrebleu_scores_them(run, call, tmp_path, form):
    flags, out = write(tmp_path, form), tmp_path / "answers.txt"
    code, printed, said = call(run, "--metric", "bleu", "chrf", "rouge", *flags, "--out", out, *SHORT)
    assert code == 0, said
    assert "answers all 100 pairs of " in printed
    assert printed.count("(100 pairs; ") == 2
    assert ("its first line names the columns en and de" in printed) == (form == "tsv with a header")
    answers, targets = out.read_text().splitlines(), [target for _, target in PAIRS]
    assert f"{sacrebleu.corpus_bleu(answers, [targets])}  (" in printed
    assert f"{sacrebleu.corpus_chrf(answers, [targets])}  (" in printed
    assert f"rougeL {rouge(answers, targets)['rougeL']:.2f}, rougeLsum" in printed


def test_the_loss_is_of_all_pairs_too_and_of_a_runs_own_split_without_a_path(run, call, tmp_path):
    code, printed, said = call(run, *write(tmp_path, "tsv"))
    assert code == 0, said
    targets = sum(len(target.encode()) + 1 for _, target in PAIRS)
    assert printed.startswith(f"loss on {tmp_path}/test.tsv: 100 pairs, {targets:,} targets\n")
    [row] = [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "eval_loss" in row]
    code, printed, _ = call(run)
    held_out = int(re.match(r"loss on the validation part of the run's data: (\d+) pairs", printed)[1])
    assert 5 <= held_out <= 15
    assert f"loss {row['eval_loss']:.4f} nats" in printed
    code, printed, _ = call(run, "--metric", "bleu", "--limit", 3, *SHORT)
    assert f"answers the first 3 of {held_out} pairs of the validation part of the run's data" in printed


def test_a_single_pair_and_a_lonely_one(run, call, tmp_path):
    (tmp_path / "one.tsv").write_text("count 1 1\tzählt 1 1\nlonely\t\n")
    code, printed, said = call(run, "--metric", "loss", "bleu", "--path", tmp_path / "one.tsv", *SHORT)
    assert code == 0, said
    assert "one.tsv: 1 pair, " in printed
    assert printed.count("1 pair with an empty side left out") == 1


@pytest.mark.exhaustive
def test_text_is_evaluated_on_whole(tmp_path, call):
    text = "".join(f"line {n}: to be, or not to be\n" for n in range(40))
    (tmp_path / "train.txt").write_text(text * 5)
    (tmp_path / "small.txt").write_text(text)
    flags = [*TINY, "--data.cache-dir", str(tmp_path / "cache"), "--mesh.data", "1"]
    train.main(["gpt-text", "--workdir", str(tmp_path / "run"), "--data.path", str(tmp_path / "train.txt"), *flags])
    code, printed, said = call(tmp_path / "run", "--path", tmp_path / "small.txt")
    assert code == 0, said
    assert f"small.txt: 1 document, {len(text) + 1:,} targets\n" in printed
    lines = [json.dumps({"body": line}) for line in text.splitlines()]
    (tmp_path / "small.jsonl").write_text("\n".join(lines))
    code, printed, said = call(tmp_path / "run", "--path", tmp_path / "small.jsonl", "--data.text-field", "body")
    assert code == 0, said
    assert f"small.jsonl: 40 documents, {len(text):,} targets\n" in printed


def test_what_cannot_be_evaluated_on_is_one_line(run, call, tmp_path):
    (tmp_path / "test.en").write_text("a\n")
    (tmp_path / "empty.tsv").touch()
    (tmp_path / "lonely.tsv").write_text("a\t\n")
    for words, *flags in [
        ("no such file or folder", "--path", tmp_path / "nowhere"),
        ("no such file or folder", "--path", tmp_path / ("x" * 300)),
        ("--data.path is empty", "--path", ""),
        ("test.de (or .gz, .zst) is missing", "--path", tmp_path, "--data.fields", "en", "de"),
        ("empty.tsv is empty", "--path", tmp_path / "empty.tsv"),
        ("lonely.tsv holds 0 pair(s)", "--path", tmp_path / "lonely.tsv"),
        ("--data.fields is of --path", "--data.fields", "en", "de"),
        ("--data.cache-dir is empty", "--data.cache-dir", ""),
        ("--bleu-tokenize zh is for --metric bleu", "--bleu-tokenize", "zh"),
    ]:
        assert words in refuser(call)(run, *flags)


CHINESE, JAPANESE = "一个男人在绿色的房间里睡觉。", "男の人が緑の部屋で寝ています。"
KOREAN, THAI = "한 남자가 초록색 방에서 자고 있다.", "ชายคนหนึ่งนอนหลับอยู่ในห้องสีเขียว"


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        (CHINESE, "zh"),
        (JAPANESE, "ja-mecab"),
        ("新幹線ﾋｶﾘ", "ja-mecab"),
        (KOREAN, "ko-mecab"),
        (THAI, "char"),
        ("Ein Mann schläft.", None),
        ("Человек спит.", None),
        (f"A man called {CHINESE[:4]} sleeps in a green room.", None),
        ("123 !?", None),
        ("", None),
    ],
)
def test_the_tokenizer_that_a_script_needs(text, tokenizer):
    assert scoring.fitting_tokenizer([text]) == tokenizer


def test_chinese_is_scored_with_its_own_tokenizer_and_13a_is_warned_of(run, call, tmp_path):
    (tmp_path / "test.tsv").write_text(tsv([("a", CHINESE), ("b", CHINESE[:6])]))
    flags, out = ["--metric", "bleu", "--path", tmp_path / "test.tsv", *SHORT], tmp_path / "answers.txt"
    _, printed, said = call(run, *flags)
    assert "tok:13a" in printed
    assert "warning: half of the targets' letters or more" in said
    assert "--bleu-tokenize zh" in said
    code, printed, said = call(run, *flags, "--bleu-tokenize", "zh", "--out", out)
    assert code == 0
    assert "warning" not in said
    score = sacrebleu.corpus_bleu(out.read_text().splitlines(), [[CHINESE, CHINESE[:6]]], tokenize="zh")
    assert f"{score}  (2 pairs; " in printed
    assert "tok:zh" in printed


def test_every_tokenizer_of_sacrebleu_is_offered_and_what_it_lacks_is_one_line(monkeypatch):
    offered = set(typing.get_args(scoring.BleuTokenizer))
    assert offered <= set(BLEU.TOKENIZERS)
    assert set(BLEU.TOKENIZERS) - offered <= {"spm", "spBLEU-1K"}  # another name of flores101, and one more of its kind
    assert (
        scoring.bleu("zh").corpus_score(["一 个"], [["一个"]]).score
        == sacrebleu.corpus_bleu(["一 个"], [["一个"]], tokenize="zh").score
    )

    def absent(**_):
        raise RuntimeError("Japanese tokenization requires extra dependencies")

    monkeypatch.setattr(scoring, "BLEU", absent)
    with pytest.raises(UserError, match=r"--bleu-tokenize ja-mecab needs a package .* pip install 'sacrebleu\[ja\]'"):
        scoring.bleu("ja-mecab")

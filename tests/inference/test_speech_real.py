"""Real speech by real weights against Transformers: the same tokens, and no more errors."""

import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from transformer.data.audio.log_mel import HOP
from transformer.errors import UserError
from transformer.inference.restored import restore
from transformer.inference.speech.chunks import Chunking
from transformer.inference.speech.errors import edit_distance
from transformer.inference.speech.transcriber import Transcriber
from transformer.inference.speech.windows import GREEDY, Fallback
from transformer.interop import convert

WEIGHTS = Path.home() / ".cache" / "real-weights"
SPEECH = WEIGHTS / "speech"


def _samples(path):
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768


def _spelled(text):
    """Lower case, hyphens as spaces, letters and apostrophes alone."""
    kept = [letter for letter in text.lower().replace("-", " ") if letter in "abcdefghijklmnopqrstuvwxyz' "]
    return "".join(kept).split()


def _joined(samples):
    """One recording of all, half a second of silence behind each."""
    return np.concatenate([part for clip in samples for part in (clip, np.zeros(8000, np.float32))])


class Errors(NamedTuple):
    """Words that Transformers gets wrong."""

    clips: int
    """In the clips one after the other, of 92."""
    long: int
    """In one recording made of them, of 184."""


MODELS = [("whisper-tiny.en", None, Errors(11, 18)), ("whisper-base", "en", Errors(12, 11))]


@pytest.fixture(scope="module", params=MODELS, ids=lambda p: p[0])
def speech(request, tmp_path_factory):
    """The model here, in Transformers, the clips' samples and transcripts, the language and Transformers' errors."""
    name, language, errors = request.param
    for needed in (WEIGHTS / name, SPEECH):
        if not needed.exists():
            pytest.skip(f"{needed} is not there")
    transformers = pytest.importorskip("transformers")
    run = tmp_path_factory.mktemp(name) / "run"
    convert.save(convert.import_folder(WEIGHTS / name), WEIGHTS / name, run)
    processor = transformers.WhisperProcessor.from_pretrained(WEIGHTS / name)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(WEIGHTS / name, dtype="float32").eval()

    def log_mel(samples, bins, least):
        samples = np.pad(samples, (0, max(least * HOP - len(samples), 0)))
        extractor = processor.feature_extractor
        options = {"sampling_rate": 16000, "return_tensors": "np", "padding": False, "truncation": False}
        return extractor(samples, **options).input_features[0].T

    lines = [line.split("\t") for line in (SPEECH / "transcripts.tsv").read_text().splitlines()]
    texts = {line[0].removesuffix(".wav"): line[-1] for line in lines}
    paths = sorted(SPEECH.glob("*.wav"))
    samples = [_samples(path) for path in paths]
    truths = [texts[path.stem] for path in paths]
    return Transcriber(restore(run), log_mel), theirs, processor, samples, truths, language, errors


def _their_tokens(theirs, processor, samples, language, task="transcribe", **options):
    import torch

    features = processor(samples, sampling_rate=16000, return_tensors="pt").input_features
    named = {"language": language, "task": task} if language else {}
    with torch.no_grad():
        said = theirs.generate(features, do_sample=False, num_beams=1, max_new_tokens=60, **named, **options)
    special = {*theirs.generation_config.suppress_tokens[-6:], theirs.generation_config.eos_token_id}
    special |= set((getattr(theirs.generation_config, "lang_to_id", None) or {}).values())
    special |= {theirs.generation_config.decoder_start_token_id, theirs.generation_config.no_timestamps_token_id}
    return [token for token in said[0].tolist() if token not in special]


def test_greedy_tokens_are_transformers_and_errors_no_more(speech):
    transcriber, theirs, processor, samples, truths, language, errors = speech
    ours = transcriber(samples, language=language, most=60, fallback=GREEDY, batch_size=5)
    for transcript, clip in zip(ours, samples, strict=True):
        assert transcript.tokens == _their_tokens(theirs, processor, clip, language), transcript.text
    wrong = sum(edit_distance(_spelled(have.text), _spelled(want)) for have, want in zip(ours, truths, strict=True))
    assert sum(len(_spelled(want)) for want in truths) == 92
    assert wrong <= errors.clips


def test_tokens_of_times_are_transformers(speech):
    transcriber, theirs, processor, samples, _, language, _ = speech
    ours = transcriber(samples[:4], language=language, times=True, most=60, fallback=GREEDY, batch_size=4)
    for transcript, clip in zip(ours, samples, strict=False):
        want = _their_tokens(theirs, processor, clip, language, return_timestamps=True)
        assert transcript.tokens == want, transcript.text


def test_a_silent_recording_gives_nothing(speech):
    """Zeros, in which the models would say "you", and the noise of a quiet room, in which they think of a text."""
    transcriber, *_, language, _ = speech
    room = np.random.default_rng(0).normal(0, 1e-3, 160_000).astype(np.float32)
    greedy, *_ = transcriber([room], language=language, most=20, fallback=GREEDY)
    assert greedy.text
    for transcript in transcriber([np.zeros(160_000, np.float32), room], language=language, most=20):
        assert (transcript.text, transcript.tokens, transcript.segments) == ("", [], [])


def test_no_speech_and_likelihoods_are_transformers(speech):
    """Drawn tokens' likelihoods, which the temperature does not raise, and no speech after earlier text."""
    import torch

    transcriber, theirs, _, samples, _, language, _ = speech
    decoder, vocabulary = transcriber.decoder, transcriber.decoder.vocabulary
    features = transcriber._spectrogram(samples[0])[None]
    memory = decoder.encode(features)
    assert vocabulary.previous is not None
    earlier = [vocabulary.previous, *decoder.tokenizer.encode(" four queen of clubs")]
    prompt = [*earlier, *vocabulary.prefix(language, "transcribe", times=False)]
    tries = Fallback((0.8,), None, None, None)
    [window] = decoder(memory, [prompt], times=False, most=60, fallback=tries)
    row = torch.tensor([[*prompt, *window.tokens, vocabulary.stops[0]]])
    with torch.no_grad():
        logits = theirs(torch.tensor(features.transpose(0, 2, 1)), decoder_input_ids=row).logits[0]
    for end, told in ((len(earlier), [prompt]), (0, None)):
        if told is None:
            with torch.no_grad():
                start = torch.tensor([[vocabulary.start]])
                want = theirs(torch.tensor(features.transpose(0, 2, 1)), decoder_input_ids=start).logits[0, 0]
        else:
            want = logits[end]
        have = decoder.after_start(memory, told)[0]
        np.testing.assert_allclose(have, want.softmax(-1).numpy(), atol=1e-4)
    scores = logits[len(prompt) - 1 : -1]
    scores[:, theirs.generation_config.suppress_tokens] = -torch.inf
    scores[0, theirs.generation_config.begin_suppress_tokens] = -torch.inf
    said = row[0, len(prompt) :]
    likelihoods = scores.log_softmax(-1)[torch.arange(len(said)), said]
    assert window.log_probability == pytest.approx(float(likelihoods.mean()), abs=1e-3)


def test_a_language_is_found_as_transformers_finds_it(speech):
    import torch

    transcriber, theirs, _, samples, _, language, _ = speech
    if language is None:
        pytest.skip("the model knows one language")
    decoder, tokens = transcriber.decoder, theirs.generation_config.lang_to_id
    features = np.stack([transcriber._spectrogram(clip) for clip in samples[:3]])
    memory = decoder.encode(features)
    assert decoder.languages(memory) == ["en"] * 3
    inputs = torch.tensor(features.transpose(0, 2, 1))
    assert theirs.detect_language(inputs).tolist() == [tokens["<|en|>"]] * 3
    with torch.no_grad():
        start = torch.full((3, 1), theirs.generation_config.decoder_start_token_id)
        logits = theirs(inputs, decoder_input_ids=start).logits[:, 0]
    assert len(decoder.vocabulary.languages) == len(tokens) == 99
    of_languages = list(decoder.vocabulary.languages.values())
    have = decoder.after_start(memory)[:, of_languages]
    np.testing.assert_allclose(have, logits.softmax(-1)[:, of_languages].numpy(), atol=1e-4)


def test_translations_are_transformers(speech):
    transcriber, theirs, processor, samples, _, language, _ = speech
    if language is None:
        pytest.skip("the model only transcribes")
    vocabulary = transcriber.decoder.vocabulary
    prefix = vocabulary.prefix("en", "translate", times=False)
    assert processor.tokenizer.decode(prefix) == "<|startoftranscript|><|en|><|translate|><|notimestamps|>"
    options = {"language": "en", "task": "translate"}
    clips = samples[2:4]
    ours = transcriber(clips, **options, most=60, fallback=GREEDY)
    for transcript, clip in zip(ours, clips, strict=True):
        assert transcript.tokens == _their_tokens(theirs, processor, clip, language, task="translate"), transcript.text


def test_words_have_times_in_their_order(speech):
    transcriber, _, _, samples, _, language, _ = speech
    for transcript, clip in zip(transcriber(samples[-2:], language=language, words=True), samples[-2:], strict=True):
        assert "".join(word.text for word in transcript.words).strip() == transcript.text
        times = [time for word in transcript.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] <= len(clip) / 16000
        assert all(word.end - word.start < 2 for word in transcript.words)


def test_a_long_recording_is_heard_to_its_end(speech):
    """All clips twice, with silence between them, as one recording of more than two windows: nothing is lost.

    Transformers' errors are those of its `generate` on the whole spectrogram, with times.
    """
    transcriber, _, _, samples, truths, language, errors = speech
    [transcript] = transcriber([_joined(samples * 2)], language=language)
    whole = _spelled(" ".join(truths * 2))
    assert len(transcript.segments) > 4
    assert transcript.segments == sorted(transcript.segments, key=lambda segment: segment.start)
    assert len(whole) == 184
    assert edit_distance(_spelled(transcript.text), whole) <= errors.long


@pytest.mark.parametrize("seconds", [(12.0, None), (20.0, 3.0)], ids=["12", "20-3"])
def test_chunks_are_those_of_transformers_pipeline(speech, seconds):
    transcriber, theirs, processor, samples, truths, language, _ = speech
    transformers = pytest.importorskip("transformers")
    recordings = [_joined(samples), samples[5]]
    pipeline = transformers.pipeline(
        "automatic-speech-recognition",
        model=theirs,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    named = {"language": language, "task": "transcribe"} if language else {}
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": 60, **named}
    chunk, stride = seconds
    want = [
        pipeline(recording.copy(), chunk_length_s=chunk, stride_length_s=stride, generate_kwargs=options)["text"]
        for recording in recordings
    ]
    ours = transcriber.in_chunks(
        recordings, Chunking(chunk, stride), language=language, most=60, fallback=GREEDY, batch_size=3
    )
    for transcript, text in zip(ours, want, strict=True):
        assert transcript.text == text.strip()
        assert "".join(segment.text for segment in transcript.segments).strip() == transcript.text
    whole = _spelled(" ".join(truths))
    assert edit_distance(_spelled(ours[0].text), whole) < len(whole) / 4


def test_a_chunk_longer_than_the_window_is_refused(speech):
    transcriber, _, _, samples, *_ = speech
    with pytest.raises(UserError, match="chunk is 31: the model hears at most 30 s at a time"):
        transcriber.in_chunks(samples[:1], Chunking(31))

import itertools
import math
import string
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from transformers import Wav2Vec2Processor

from material import LAYER_NORM, as_json, recording, run_stage
from speechmill.config.text import TextConfig
from speechmill.core.flac import decode_flac, encode_flac
from speechmill.core.schemas import ROWS, SAMPLE_RATE, clip_schema
from speechmill.core.tables import read_table, write_in_row_groups, write_table
from speechmill.inference import segment as stage
from speechmill.inference.log_probs import ClipOutput
from speechmill.inference.segment import StageSettings, TranscriptEncoder, segment
from speechmill.model.models import model_config, new_model
from speechmill.text.vocab import VocabSettings, processor, vocabulary

FRAME = 320
TEXT = TextConfig(drop=".,—")
SPEAKER = {"speaker_id": "anna", "gender": "female", "age": None, "accent": None}


def settings(**changed: object) -> StageSettings:
    return StageSettings.model_validate(
        {"min_seconds": 0.2, "max_seconds": 4.0, "device": "cpu", "text": TEXT} | changed
    )


def new_processor(characters: str = string.ascii_lowercase) -> Wav2Vec2Processor:
    return processor(vocabulary([characters]), VocabSettings(init=LAYER_NORM), base=None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = new_processor()
    vocab = tokenizer.tokenizer.get_vocab()
    new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def speak(speech: str) -> str:
    """Return one token for each frame; in `speech` a space is a pause of half a second, `_` a space without one."""
    return "".join("-" * 25 if c == " " else "-|-" if c == "_" else f"{c}--" for c in speech)


def store(
    folder: Path, transcripts: list[str], seconds: list[float], silent_from: float = math.inf
) -> tuple[Path, Path]:
    """Write recordings of noise, silent from a time in seconds, as a shard; return it with its table of rows."""
    rows: list[dict[str, Any]] = []
    for i, (sentence, length) in enumerate(zip(transcripts, seconds, strict=True)):
        samples = recording(length, seed=i)
        samples[int(min(silent_from, length) * SAMPLE_RATE) :] = 0
        place = {"shard": 0, "row_group": 0, "row": i, "splits": ["train"], "reason": None}
        clip = {"id": f"talk-{i}", "sentence": sentence, "num_samples": len(samples), "audio_sha256": f"{i:064x}"}
        audio = {"audio": {"bytes": encode_flac(samples), "path": "talk.flac"}}
        rows.append(clip | SPEAKER | place | audio)
    shard, table = (folder / "talks" / "train" / f"{name}-00000.parquet" for name in ("shard", "rows"))
    write_in_row_groups([row | {"sha256": ""} for row in rows], clip_schema(), shard, 16)
    unreadable = {"id": "broken", "sentence": "x", "reason": "unreadable", "detail": "d", "splits": ["train"]}
    write_table([*rows, unreadable], ROWS, table)
    return shard, table


def aligned(
    folder: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    transcripts: list[str],
    speech: list[str],
    text: TextConfig = TEXT,
    silent_from: float = math.inf,
) -> list[dict[str, Any]]:
    """Return the pieces of recordings for a model whose greedy hypotheses are `speech`."""
    tokens = [speak(each) for each in speech]
    shard, rows = store(folder, transcripts, [len(each) * FRAME / SAMPLE_RATE for each in tokens], silent_from)

    def infer(_: Any, processor: Wav2Vec2Processor, clips: list[Any], *args: Any) -> list[ClipOutput]:
        spill: IO[bytes] = args[-1]
        ids = {"-": 0, **processor.tokenizer.get_vocab()}
        outputs = []
        for clip in clips:
            frames = tokens[int(clip["id"].removeprefix("talk-"))]
            log_probs = np.full((len(frames), len(ids) - 1), -15.0, "<f2")
            log_probs[range(len(frames)), [ids[c] for c in frames]] = 0
            offset = spill.tell()
            # In two chunks, of which the second one was computed first.
            second, first = log_probs[5:].tobytes(), log_probs[:5].tobytes()
            spill.write(second + first)
            stored = [(offset + len(second), len(first)), (offset, len(second))]
            outputs.append(ClipOutput(len(frames), "", 0.0, stored))
        return outputs

    monkeypatch.setattr(stage, "infer", infer)
    pieces = folder / "pieces" / "aligned" / "train" / "shard-00000.parquet"
    segment(shard, rows, model, settings(text=text), pieces)
    assert [each.name for each in pieces.parent.iterdir()] == [pieces.name]
    return read_table(pieces).to_pylist()


def kept(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for part in parts if part["reason"] is None]


def test_pieces_have_their_text_as_written(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = aligned(tmp_path, model, monkeypatch, ["Hello, World.\nGood — bye."], [" hello_world  good_bye "])
    assert [part["sentence"] for part in kept(parts)] == ["Hello, World.", "Good — bye."]
    assert all(part["score"] > -0.01 for part in kept(parts))


def test_pieces_have_the_audio_between_their_times(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = aligned(tmp_path, model, monkeypatch, ["good\nbye"], [" good  bye "])
    original = recording(len(speak(" good  bye ")) * FRAME / SAMPLE_RATE, seed=0)
    assert len(kept(parts)) == 2
    for part in kept(parts):
        start, end = (round(part[key] * SAMPLE_RATE) for key in ("start", "end"))
        assert np.array_equal(decode_flac(part["encoded"]), original[start:end])
        assert part["id"] == f"talk-0-{start // 16:08d}-{end // 16:08d}"
        assert part["recording"] == "talk-0"
        assert {key: part[key] for key in SPEAKER} == SPEAKER
        assert part["splits"] == ["train"]


def test_a_piece_ends_where_its_sound_does(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The last token is at 0.68 s.
    (part,) = kept(aligned(tmp_path, model, monkeypatch, ["good"], [" good "], silent_from=1.0))
    assert part["end"] == pytest.approx(1.06)


def test_every_second_and_every_word_is_accounted_for(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcripts = ["one two\nthese words are not spoken\nthree", "four\nfive", ""]
    speech = [" one_two  nobody_wrote_this  three ", " four  ", " six "]
    parts = aligned(tmp_path, model, monkeypatch, transcripts, speech)
    for i, transcript in enumerate(transcripts):
        of_recording = [part for part in parts if part["recording"] == f"talk-{i}"]
        assert " ".join(part["sentence"] for part in of_recording).split() == transcript.split()
        assert of_recording[0]["start"] == 0
        assert of_recording[-1]["end"] == pytest.approx(len(speak(speech[i])) * FRAME / SAMPLE_RATE)
        assert all(a["end"] == b["start"] for a, b in itertools.pairwise(of_recording))
    assert [part["sentence"] for part in kept(parts)] == ["one two", "three", "four"]
    assert all(part["detail"] and part["encoded"] is None for part in parts if part["reason"])


@pytest.mark.parametrize("number", ["twenty_five", "twentyfive"])
def test_a_number_is_aligned_as_it_is_spoken(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    text = TextConfig(digits="en")
    parts = aligned(tmp_path, model, monkeypatch, ["I have 25 cats"], [f" i_have_{number}_cats "], text)
    assert [(part["sentence"], part["score"] > -0.01) for part in kept(parts)] == [("I have 25 cats", True)]


@pytest.mark.parametrize(
    ("transcripts", "seconds"),
    [
        # The second recording is shorter than a frame, the first one has several chunks.
        (["abc de", "a"], [50.0, 0.01]),
        (["hello world", ""], [0.1, 0.1]),
        (["abcdefghij" * 50, "\n".join(["hello world"] * 2000)], [2.0, 1.0]),
    ],
)
def test_a_model_with_random_weights_leaves_nothing_uncounted(
    tmp_path: Path, model: Path, transcripts: list[str], seconds: list[float]
) -> None:
    shard, rows = store(tmp_path, transcripts, seconds)
    pieces = tmp_path / "pieces" / "aligned" / "train" / "shard-00000.parquet"
    segment(shard, rows, model, settings(), pieces)
    parts = read_table(pieces).to_pylist()
    assert sum(part["end"] - part["start"] for part in parts) == pytest.approx(sum(seconds))
    assert " ".join(part["sentence"] for part in parts).split() == " ".join(transcripts).split()


def test_a_shard_without_recordings_has_no_pieces(tmp_path: Path) -> None:
    shard, rows = store(tmp_path, [], [])
    pieces = tmp_path / "pieces" / "aligned" / "train" / "shard-00000.parquet"
    assert segment(shard, rows, tmp_path / "no model", settings(device="gpu"), pieces) == {}
    assert read_table(pieces).num_rows == 0


def test_transcripts_in_another_script_are_left_out(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = aligned(tmp_path, model, monkeypatch, ["привет", "hello world"], [" oh ", " hello_world "])
    assert [(part["recording"], part["sentence"], part["reason"]) for part in parts if part["sentence"]] == [
        ("talk-0", "привет", "vocabulary"),
        ("talk-1", "hello world", None),
    ]
    assert "lacks 37.5% of the characters in the transcripts: 'п' (1 times)" in capsys.readouterr().err


def test_a_shard_in_another_script_has_no_pieces(tmp_path: Path, model: Path) -> None:
    shard, rows = store(tmp_path, ["привет мир", "123"], [1.0, 0.5])
    pieces = tmp_path / "pieces" / "aligned" / "train" / "shard-00000.parquet"
    assert segment(shard, rows, model, settings(), pieces) == {"vocabulary": (1.5, 3)}


@pytest.mark.parametrize(
    ("transcript", "words"),
    [("? ! ...", 0), ("😀 🎉", 0), ("-" * 100 + "\nhello world", 2), ("hello world 😀 שלום", 2)],
)
def test_characters_that_are_not_spoken_do_not_matter(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, transcript: str, words: int
) -> None:
    parts = aligned(tmp_path, model, monkeypatch, [transcript], [" hello_world "])
    assert " ".join(part["sentence"] for part in parts).split() == transcript.split()
    assert len(kept(parts)) == (1 if words else 0)
    assert all("hello world" in part["sentence"] for part in kept(parts))


@pytest.mark.parametrize(("characters", "text"), [("ABC", "abc"), ("abc", "ABC"), ("Aabc", "abc")])
def test_transcripts_get_the_case_of_the_vocabulary(characters: str, text: str) -> None:
    tokenizer = new_processor(characters)
    encoded = TranscriptEncoder(tokenizer, TextConfig(case="keep"))(text)
    assert tokenizer.tokenizer.decode(encoded.ids[0]).lower() == "abc"
    assert not encoded.unknown


def test_characters_outside_the_vocabulary_are_counted_and_have_no_token() -> None:
    encoded = TranscriptEncoder(new_processor("abc"), TEXT)("abd dd, c")
    assert encoded.unknown == {"d": 3}
    assert [len(ids) for ids in encoded.ids] == [2, 0, 1]


def test_the_program_names_every_sum(tmp_path: Path, model: Path) -> None:
    shard, rows = store(tmp_path, ["abc"], [1.0])
    options = {"--settings": as_json(settings().model_dump()), "--gpus": 0, "--model": model}
    files = {"--shard": shard, "--rows": rows, "--pieces": tmp_path / "pieces.parquet"}
    done = run_stage("inference.segment", *itertools.chain(*(options | files).items()))
    assert done.returncode == 0, done.stderr
    assert " words" in done.stdout

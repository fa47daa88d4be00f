import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import BaseModel
from transformers import pipeline

from material import GROUP_NORM, LAYER_NORM, ROOT, as_json, recording, store
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import CLIPS, CTC_OUTPUTS, SAMPLE_RATE
from speechmill.core.tables import clips_digest, read_table, write_table
from speechmill.inference import evaluate, log_probs
from speechmill.inference.evaluate import corpus_scores, score
from speechmill.inference.log_probs import infer
from speechmill.model.models import load_checkpoint, model_config, new_model
from speechmill.scoring.error_rates import count
from speechmill.text.vocab import VocabSettings, vocabulary
from speechmill.text.vocab import processor as new_processor

TEXTS = ["abc de", "a", "ed cb", "b", "", "aa bb", "cabq z", "d", "e a b"]
HYPOTHESES = ["abc ed", "a", "", "b a", "a", "aa bb", "cab d", "d", "e a b"]
LOSSES = [0.5, 0.25, None, 1.0, 0.0, 2.0, 0.5, 0.75, 3.0]


def score_texts(references: list[str], hypotheses: list[str], speakers: Sequence[str | None] = (), **rules: Any) -> Any:
    clips = [
        {"dataset": "corpus", "split": "test", "id": f"{i}", "speaker_id": speakers[i] if speakers else None,
         "sentence": f"{reference}.", "text": reference, "num_samples": 8000}
        for i, reference in enumerate(references)
    ]  # fmt: skip
    return score(clips, hypotheses, [0.5] * len(clips), TextConfig.model_validate(rules))


def test_scores_are_corpus_level() -> None:
    references, hypotheses = ["раз два три", "раз", "четыре пять"], ["раз два", "два", "четыре пять шесть"]
    rows, scores = score_texts(references, hypotheses)
    assert scores["wer"] == jiwer.wer(references, hypotheses) == 0.5
    assert scores["cer"] == pytest.approx(jiwer.cer(references, hypotheses))
    assert (scores["substitutions"], scores["deletions"], scores["insertions"]) == (1, 1, 1)
    assert (scores["reference_words"], scores["clips_scored"], scores["audio_seconds"]) == (6, 3, 1.5)
    assert [row["deletions"] for row in rows] == [1, 0, 0]


def test_hypotheses_are_normalised() -> None:
    rows, scores = score_texts(["раз два"], ["Раз, два"], keep="а-я")
    assert scores["wer"] == 0
    assert (rows[0]["hypothesis"], rows[0]["scored_hypothesis"]) == ("Раз, два", "раз два")
    assert (rows[0]["sentence"], rows[0]["scored_reference"]) == ("раз два.", "раз два")


def test_empty_hypothesis_counts_deletions() -> None:
    _, scores = score_texts(["раз два", "три"], ["", "три"])
    assert (scores["wer"], scores["deletions"], scores["clips_scored"]) == (2 / 3, 2, 2)


def test_empty_reference_is_scored() -> None:
    _, scores = score_texts(["", "три"], ["раз", "три"])
    assert (scores["wer"], scores["insertions"], scores["clips_scored"]) == (1.0, 1, 2)


def test_unknown_speakers_are_separate_groups() -> None:
    references, hypotheses = ["раз"] * 20, ["раз"] * 10 + ["два"] * 10
    _, unknown = score_texts(references, hypotheses)
    _, separate = score_texts(references, hypotheses, speakers=[f"{i}" for i in range(20)])
    _, two = score_texts(references, hypotheses, speakers=["one"] * 10 + ["other"] * 10)
    assert unknown["wer_ci95"] == separate["wer_ci95"]
    assert two["wer_ci95"][1] - two["wer_ci95"][0] > 0.99


@pytest.mark.parametrize(
    ("references", "speakers", "why"),
    [
        (["раз два", "три", ""], ["one"] * 3, "one speaker"),
        (["раз два"], [None], "one clip"),
        (["", ""], ["one", "two"], "the references have no words"),
        (["раз", "два", ""], ["one", "one", "two"], "one speaker with words"),
    ],
)
def test_missing_interval_has_a_reason(references: list[str], speakers: list[str | None], why: str) -> None:
    _, scores = score_texts(references, ["ой"] * len(references), speakers=speakers)
    assert (scores["wer_ci95"], scores["cer_ci95"], scores["no_interval"]) == ([None] * 2, [None] * 2, why)


def test_subset_scores() -> None:
    counts = count(["раз два", "три"], ["раз", "три"])
    assert corpus_scores(counts[1:], ["b"]) | {"wer": 0.0} == corpus_scores(counts[1:], ["b"])
    assert corpus_scores(counts, ["a", "b"])["wer"] == 1 / 3


# Punctuation that the event deletes and that it keeps, unusual white space, and letters with a decomposed form.
SENTENCES = {
    "ru": [
        "Ёлка — это «дерево»… да?",
        "“Раз”,  два!   три",
        "во-первых: 50%\nвсё – т’ак; ‘нет’ \"",
        "по-новому,\n\nи и\u0306 Ы�",
    ],
    "ko": [
        "안녕하세요, 세계!",
        "값은  100%…   입니다",
        "“그래”—라고\n했다: ‘응’",
        "한\u1112\u1161\u11ab 글; 네?\n\n정말-요",
    ],
}  # fmt: skip


def as_in_the_event(sentence: str) -> str:
    # Source: `eval.py` of the Robust Speech Event.
    deleted = dict.fromkeys(map(ord, ',?.!-;:"“%‘”�—’…–'))
    text = sentence.lower().translate(deleted)
    for spaces in ("\n\n", "\n", "   ", "  "):
        text = text.replace(spaces, " ")
    return text


@pytest.mark.parametrize("chunks", [{}, {"chunk_seconds": 1.0, "stride_seconds": 0.2}], ids=["unchunked", "chunked"])
@pytest.mark.parametrize("init", [LAYER_NORM, GROUP_NORM], ids=["layer", "group"])
@pytest.mark.parametrize("language", SENTENCES)
def test_event_scores_match_event_script_and_pipeline(
    tmp_path: Path, language: str, init: dict[str, Any], chunks: dict[str, float]
) -> None:
    sentences = SENTENCES[language] * 2
    recordings = [recording(0.6 + 0.35 * i, seed=i) for i in range(len(sentences))]
    # Models of the event output syllables, so the vocabulary must not contain jamo.
    composed = [unicodedata.normalize("NFC", sentence) for sentence in sentences]
    processor = new_processor(vocabulary(composed), VocabSettings(init=init), base=None)
    vocab = processor.tokenizer.get_vocab()
    torch.manual_seed(0)
    model = new_model(model_config(init, None, {}, len(vocab)), None, vocab)
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    asr = pipeline("automatic-speech-recognition", model=str(tmp_path / "model"), device="cpu")
    options = {"chunk_length_s": 1.0, "stride_length_s": 0.2} if chunks else {}
    hypotheses = [
        asr({"raw": samples.astype(np.float32) / 32768, "sampling_rate": SAMPLE_RATE}, **options)["text"]
        for samples in recordings
    ]
    references = [as_in_the_event(sentence) for sentence in sentences]

    clips, shards = store(tmp_path, recordings, sentences)
    settings = log_probs.LogProbsSettings(device="cpu", batch_seconds=5, **chunks)
    outputs = infer(*load_checkpoint(tmp_path / "model"), clips, shards, settings, torch.device("cpu"))
    rows, scores = score(
        clips,
        [output.hypothesis for output in outputs],
        [output.loss for output in outputs],
        TextConfig(),
        ["robust_speech_event", "plain"],
    )
    assert scores["wer"] == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-9)
    assert scores["cer"] == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-9)
    assert [row["scored_reference"] for row in rows] == references
    assert len({h for h in hypotheses if h}) > 1


def test_first_of_several_protocols_is_primary() -> None:
    clips = [
        {"dataset": "corpus", "split": "test", "id": "1", "speaker_id": None, "num_samples": 8000,
         "sentence": "Раз, «два»!", "text": "раз два"}
    ]  # fmt: skip
    rows, scores = score(clips, ["раз два"], [0.5], TextConfig(keep="а-я"), ["robust_speech_event", "plain"])
    assert (scores["protocol"], scores["wer"], rows[0]["scored_reference"]) == (
        "robust_speech_event",
        0.5,
        "раз «два»",
    )
    assert {name: each["wer"] for name, each in scores["protocols"].items()} == {
        "robust_speech_event": 0.5,
        "plain": 0.0,
    }
    assert scores["protocols"]["plain"].keys() == corpus_scores([], []).keys()


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, Any]:
    """The arguments of the stage for TEXTS, in a set of which one more clip is listed."""
    clips, _ = store(tmp_path, [recording(0.1)] * len(TEXTS), TEXTS, speakers=["s1", "s2", "s3"] * 3)
    write_table(clips, CLIPS, tmp_path / "clips.parquet")
    write_json({"listed": len(clips) + 1, "unavailable": None}, tmp_path / "counts.json")
    rows = [
        {"id": clip["id"], "frames": 4, "hypothesis": hypothesis, "loss": loss}
        for clip, hypothesis, loss in zip(clips, HYPOTHESES, LOSSES, strict=True)
    ]
    metadata = {"step": "30", "checkpoint_sha256": '"abc"', "device": '"cuda:0"', "wall_seconds": "10.0",
                "outside_vocabulary": '{"q": 1, "z": 1}', "special_tokens": '["[UNK]"]'}  # fmt: skip
    write_table(rows, CTC_OUTPUTS.with_metadata(metadata), tmp_path / "ctc_outputs.parquet")
    return {
        "--run": "demo",
        "--settings": as_json({"text": {}}),
        "--threads": 1,
        "--set": "corpus-train",
        "--ctc-outputs": tmp_path / "ctc_outputs.parquet",
        "--clips": tmp_path / "clips.parquet",
        "--counts": tmp_path / "counts.json",
        "--decoder": "greedy",
        "--metrics": tmp_path / "metrics.json",
        "--hypotheses": tmp_path / "hypotheses.parquet",
    }


def run(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **more: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Run the stage; return the metrics and the rows of `hypotheses.parquet`."""
    listed = ([key, *(v if isinstance(v, list) else [v])] for key, v in (arguments | more).items())
    monkeypatch.setattr(sys, "argv", ["evaluate", *(str(each) for words in listed for each in words)])
    evaluate.main()
    return read_json(arguments["--metrics"]), read_table(arguments["--hypotheses"]).to_pylist()


def test_every_clip_is_scored_in_order(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows = run(arguments, monkeypatch)
    assert [row["id"] for row in rows] == [f"clip-{i:03d}" for i in range(len(TEXTS))]
    assert [row["scored_reference"] for row in rows] == TEXTS
    assert [row["hypothesis"] for row in rows] == HYPOTHESES
    assert [row["loss"] for row in rows] == LOSSES


def test_metrics_record_inputs_and_scores(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, rows = run(arguments, monkeypatch)
    assert metrics["wer"] == jiwer.wer(
        [row["scored_reference"] for row in rows if row["scored_reference"]],
        [row["scored_hypothesis"] for row in rows if row["scored_reference"]],
    ) + sum(row["insertions"] for row in rows if not row["scored_reference"]) / metrics["reference_words"]  # fmt: skip
    assert metrics["wer_ci95"][0] <= metrics["wer"] <= metrics["wer_ci95"][1]
    assert (metrics["clips_scored"], metrics["clips_expected"]) == (9, 10)
    assert metrics["audio_seconds"] == pytest.approx(0.9)
    assert (metrics["decoder"], metrics["protocol"], metrics["step"]) == ("greedy", "plain", 30)
    assert list(metrics["protocols"]) == ["plain"]
    assert (metrics["loss"], metrics["clips_without_loss"]) == (1.0, 1)
    assert metrics["characters_outside_vocabulary"] == {"q": 1, "z": 1}
    assert (metrics["checkpoint_sha256"], metrics["device"]) == ("abc", "cuda:0")
    assert (metrics["wall_seconds"], metrics["forward_seconds"], metrics["decoding_seconds"]) == (10, 10, 0)
    assert metrics["eval_set_sha256"] == clips_digest(read_table(arguments["--clips"]).to_pylist())


def test_special_tokens_are_scored_as_wrong(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = read_table(arguments["--ctc-outputs"])
    hypotheses = pa.array(["a[UNK]"] * len(outputs))
    changed = outputs.set_column(outputs.schema.get_field_index("hypothesis"), "hypothesis", hypotheses)
    pq.write_table(changed, arguments["--ctc-outputs"])
    _, rows = run(arguments, monkeypatch, **{"--settings": as_json({"text": {"keep": "a-z"}})})
    assert {(row["hypothesis"], row["scored_hypothesis"]) for row in rows} == {("a[UNK]", "a\ufffd")}


def test_decoder_lm_uses_beam_search(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[object] = []

    class Weights(BaseModel):
        lm_weight: float

    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def decode_all(frames: Path, lm: Path, weights: Weights, processes: int) -> list[str]:
        clock[0] += 4
        received.extend([frames, lm, weights.lm_weight, processes])
        return TEXTS

    decoders = ModuleType("speechmill.inference.decoders")
    vars(decoders).update(Weights=Weights, decode_all=decode_all)
    monkeypatch.setitem(sys.modules, "speechmill.inference.decoders", decoders)
    write_json({"lm_weight": 1.5}, tmp_path / "lm" / "weights.json")
    write_json({}, tmp_path / "lm" / "arpa.json")
    lm_arguments = {"--decoder": "lm", "--lm": [tmp_path / "lm" / "lm.binary"], "--threads": 3}
    metrics, rows = run(arguments, monkeypatch, **lm_arguments)
    assert received == [arguments["--ctc-outputs"], tmp_path / "lm", 1.5, 3]
    assert (metrics["wer"], metrics["decoder"]) == (0, "lm")
    assert (metrics["wall_seconds"], metrics["forward_seconds"], metrics["decoding_seconds"]) == (14, 10, 4)
    assert [row["hypothesis"] for row in rows] == TEXTS


@pytest.mark.parametrize("given", [{"--decoder": "lm"}, {"--lm": "lm/lm.binary"}])
def test_incomplete_lm_arguments_are_rejected(
    arguments: dict[str, Any], given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        run(arguments, monkeypatch, **given)


def test_mismatched_ctc_outputs_are_rejected(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(read_table(arguments["--clips"]).to_pylist()[1:], CLIPS, tmp_path / "clips.parquet")
    with pytest.raises(SpeechmillError, match=r"ctc_outputs\.parquet does not match the clips .*delete it"):
        run(arguments, monkeypatch)


def test_unavailable_set_has_no_scores(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, schema in (("clips", CLIPS), ("ctc_outputs", CTC_OUTPUTS)):
        metadata = read_table(tmp_path / f"{name}.parquet").schema.metadata
        write_table([], schema.with_metadata(metadata), tmp_path / f"{name}.parquet")
    write_json({"listed": 0, "unavailable": "no access"}, tmp_path / "counts.json")
    metrics, rows = run(arguments, monkeypatch, **{"--protocols": ["robust_speech_event", "plain"]})
    assert (metrics["wer"], metrics["unavailable"], metrics["clips_scored"], rows) == (None, "no access", 0, [])
    assert metrics["protocols"]["plain"]["wer"] is None


def test_scoring_does_not_import_torch() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, speechmill.inference.evaluate; print(*sys.modules)"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {"torch", "torchaudio", "transformers"}.isdisjoint(loaded)


def test_clip_without_loss_is_scored() -> None:
    clips = [
        {"dataset": "corpus", "split": "test", "id": name, "speaker_id": None, "sentence": "a", "text": "a",
         "num_samples": 800} for name in "abc"
    ]  # fmt: skip
    rows, scores = score(clips, ["a", "", ""], [0.5, float("inf"), None], TextConfig())
    assert (scores["clips_scored"], scores["clips_without_loss"], scores["loss"]) == (3, 2, 0.5)
    assert [row["loss"] for row in rows] == [0.5, None, None]


def test_infinite_rate_becomes_none() -> None:
    scores = corpus_scores(count(["", ""], ["а", ""]), ["one", "other"])
    assert (scores["wer"], scores["cer"], scores["insertions"]) == (None, None, 1)


def test_set_without_clips_has_no_rates() -> None:
    scores = corpus_scores([], [])
    assert (scores["wer"], scores["cer"], scores["wer_ci95"], scores["reference_words"]) == (
        None,
        None,
        [None] * 2,
        0,
    )


def test_jamo_are_scored_as_syllables() -> None:
    # The syllable and its jamo: The Unicode Standard, section 3.12.
    rows, scores = score_texts(["\u1112\u1161\u11ab"], ["\u1112\u1161\u11ab"], keep="가-힣", units="jamo")
    assert (rows[0]["hypothesis"], rows[0]["scored_reference"], rows[0]["characters"]) == ("한", "한", 1)
    assert scores["cer"] == 0

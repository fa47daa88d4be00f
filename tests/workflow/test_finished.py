"""The results of a finished run over a corpus with planted faults."""

import re
import shutil
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from working_copy import WorkingCopy, faulty_config

from material import run_stage, write_tiny_whisper
from speechmill.transcribe import Transcriber

RUN = Path("results/runs/demo_ru")
DATA = Path("results/data/demo_ru")

pytestmark = pytest.mark.slow


def metrics(finished: WorkingCopy, *, perturbed: bool = False) -> list[dict[str, Any]]:
    """Return the scores on the original sets, or on their perturbed copies."""
    files = (finished.folder / RUN / "evaluation").glob("*/*/*/metrics.json")
    return [finished.read_json(path) for path in files if (path.parts[-4] == "selected") == perturbed]


def test_kept_and_rejected_clips_add_up(finished: WorkingCopy) -> None:
    status = finished.read_json(DATA / "status.json")
    assert status["listed"] == {"train": 42, "dev": 6, "test": 9}
    assert status["kept"] == {"train": 40, "dev": 6, "test": 8}
    assert status["rejected"] == {"train": 2, "dev": 0, "test": 1}


def test_rejected_clips_are_listed_with_reasons(finished: WorkingCopy) -> None:
    rejected = pd.read_parquet(finished.folder / DATA / "rejected.parquet").set_index("id")
    assert rejected["reason"].to_dict() == {
        "absent.mp3": "missing",
        "not_audio.mp3": "unreadable",
        "absent_from_test.mp3": "missing",
    }
    assert "absent.mp3" in rejected.loc["absent.mp3", "detail"]


def test_used_and_excluded_training_clips_add_up(finished: WorkingCopy) -> None:
    used = pd.read_parquet(finished.folder / RUN / "clips" / "train.parquet")
    excluded = pd.read_parquet(finished.folder / RUN / "clips" / "excluded.parquet")
    kept = pd.read_parquet(finished.folder / DATA / "train" / "index.parquet")
    assert sorted([*used["id"], *excluded["id"]]) == sorted(kept["id"])
    assert list(excluded["reason"]) == ["empty"]


def test_every_checkpoint_is_scored_on_every_set(finished: WorkingCopy) -> None:
    plan = finished.read_json(RUN / "plan.json")
    assert len(plan["checkpoints"]) >= 2
    scored = {(m["step"], m["set"], m["decoder"]) for m in metrics(finished)}
    sets, decoders = ("demo_ru-dev", "demo_ru-test"), ("greedy", "lm")
    assert scored == {*product(plan["checkpoints"], sets, decoders)}


def test_perturbed_copy_is_scored_at_selected_step(finished: WorkingCopy) -> None:
    step = finished.read_json(RUN / "selection.json")["step"]
    copies = metrics(finished, perturbed=True)
    name = "demo_ru-test-noise_10db"
    assert {(m["step"], m["set"], m["decoder"]) for m in copies} == {(step, name, "greedy"), (step, name, "lm")}
    clean = {m["step"]: m["eval_set_sha256"] for m in metrics(finished) if m["set"] == "demo_ru-test"}
    assert all(m["clips_scored"] == 8 and m["eval_set_sha256"] != clean[step] for m in copies)
    summary = pd.read_parquet(finished.folder / RUN / "evaluation/summary.parquet")
    steps = pd.read_parquet(finished.folder / RUN / "evaluation/steps.parquet")
    assert set(summary["set"]) - set(steps["set"]) == {name}


def test_lm_weights_are_tuned_at_best_greedy_step(finished: WorkingCopy) -> None:
    dev = {m["step"]: m["wer"] for m in metrics(finished) if (m["set"], m["decoder"]) == ("demo_ru-dev", "greedy")}
    weights = finished.read_json(RUN / "lm/weights.json")
    assert weights["set"] == "demo_ru-dev"
    assert weights["step"] == min(dev, key=lambda step: (dev[step], step))
    assert weights["greedy_wer"] == dev[weights["step"]]


@pytest.mark.parametrize("rule", ["lm_weights", "select_tuning_checkpoint"])
def test_lm_weights_depend_on_nothing_of_test(finished: WorkingCopy, rule: str) -> None:
    logs = "".join(path.read_text() for path in (finished.folder / ".snakemake" / "log").glob("*.log"))
    (inputs,) = re.findall(rf"^(?:local)?rule {rule}:\n +input: (.*)$", logs, re.MULTILINE)
    assert "demo_ru-dev" in inputs
    assert "demo_ru-test" not in inputs


def test_lm_text_has_no_sentence_of_a_scored_set(finished: WorkingCopy) -> None:
    text = set((finished.folder / RUN / "lm/text.txt").read_text(encoding="utf-8").splitlines())
    for role, included in (("train", True), ("demo_ru-dev", False), ("demo_ru-test", False)):
        sentences = set(pd.read_parquet(finished.folder / RUN / f"clips/{role}.parquet")["text"])
        assert bool(text & sentences) == included


def test_model_includes_the_files_for_beam_search(finished: WorkingCopy) -> None:
    for file in ("lm.binary", "lexicon.txt", "tokens.txt", "arpa.json", "weights.json"):
        lm, model = (finished.folder / RUN / folder / "lm" / file for folder in (".", "model"))
        assert model.read_bytes() == lm.read_bytes() != b""


def test_confidence_is_measured_on_every_set_by_every_decoder(finished: WorkingCopy) -> None:
    step = finished.read_json(f"{RUN}/selection.json")["step"]
    found = finished.read_json(f"{RUN}/model/confidence.json")
    assert found["dev"] == "demo_ru-dev"
    assert set(found["calibrators"]) == {"greedy", "lm"}
    assert {(each["set"], each["decoder"]) for each in found["sets"]} == {
        (name, decoder) for name in ("demo_ru-dev", "demo_ru-test") for decoder in ("greedy", "lm")
    }
    for each in found["sets"]:
        folder = finished.folder / RUN / "evaluation" / str(step) / each["set"] / each["decoder"]
        counts = pd.read_parquet(folder / "hypotheses.parquet")[["hits", "substitutions", "insertions"]].sum()
        assert each["clips_left_out"] == 0
        assert (each["words"], each["wrong"]) == (counts.sum(), counts["substitutions"] + counts["insertions"])


def test_ctc_outputs_and_perturbed_audio_are_removed(finished: WorkingCopy) -> None:
    assert not [*(finished.folder / RUN).rglob("ctc_outputs.parquet")]
    assert not [*(finished.folder / RUN).rglob("log_probs.parquet")]
    assert not [*(finished.folder / RUN / "perturbed").rglob("*.parquet")]


def test_each_set_has_worst_clips_and_a_breakdown(finished: WorkingCopy) -> None:
    for name in ("demo_ru-dev", "demo_ru-test"):
        assert "<audio" in (finished.folder / RUN / f"worst/{name}.html").read_text(encoding="utf-8")
    breakdown = finished.read_json(RUN / "evaluation/breakdown.json")
    assert {*breakdown["sets"]} == {"demo_ru-dev", "demo_ru-test"}
    assert "effect" in {each["kind"] for each in breakdown["comparisons"]}


def test_listed_clip_that_cannot_be_scored_is_expected(finished: WorkingCopy) -> None:
    for each in metrics(finished):
        expected, scored = (9, 8) if each["set"] == "demo_ru-test" else (6, 6)
        assert (each["clips_expected"], each["clips_scored"]) == (expected, scored)


def test_characters_outside_the_vocabulary_are_counted(finished: WorkingCopy) -> None:
    outside = {m["set"]: m["characters_outside_vocabulary"] for m in metrics(finished)}
    assert outside["demo_ru-test"] == {"ж": 1, "к": 1, "ё": 1}
    card = (finished.folder / RUN / "model" / "README.md").read_text(encoding="utf-8")
    assert "`ё`" in card


def test_hypotheses_equal_the_transformers_pipeline(finished: WorkingCopy) -> None:
    import pyarrow.parquet as pq
    from transformers import pipeline

    from speechmill.core.flac import decode_flac

    folder = finished.folder / RUN
    step = finished.read_json(RUN / "selection.json")["step"]
    scored = pd.read_parquet(folder / "evaluation" / str(step) / "demo_ru-test" / "greedy" / "hypotheses.parquet")
    shard = pq.read_table(finished.folder / DATA / "test" / "shard-00000.parquet").to_pylist()
    samples = {clip["id"]: decode_flac(clip["audio"]["bytes"]) / 32768 for clip in shard}
    transcriber = pipeline("automatic-speech-recognition", model=str(folder / "model"))
    transcripts = [transcriber({"raw": samples[clip].copy(), "sampling_rate": 16_000})["text"] for clip in scored["id"]]
    assert list(scored["hypothesis"]) == transcripts


def test_card_is_complete_with_a_row_per_checkpoint(finished: WorkingCopy) -> None:
    card = (finished.folder / RUN / "model" / "README.md").read_text(encoding="utf-8")
    assert "More information needed" not in card
    table = card.split("### Training results")[1].split("###")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert [int(row.split("|")[3]) for row in rows] == finished.read_json(RUN / "plan.json")["checkpoints"]
    for plot in ("loss.png", "wer.png", "reliability.png"):
        assert (finished.folder / RUN / "model" / "plots" / plot).stat().st_size > 10_000


def test_report_includes_card_and_evaluations(finished: WorkingCopy) -> None:
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "model card" in report
    assert '"evaluate"' in report


def test_shards_load_as_audio_with_datasets(finished: WorkingCopy, tmp_path: Path) -> None:
    import datasets

    files = str(finished.folder / DATA / "dev" / "shard-*.parquet")
    clips = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert isinstance(clips.features["audio"], datasets.Audio)
    assert clips[0]["audio"].get_all_samples().sample_rate == 16_000


def test_resume_states_are_removed_after_training(finished: WorkingCopy) -> None:
    assert {path.name for path in (finished.folder / "work" / "demo_ru").iterdir()} == {"lock", "tensorboard"}


class Reused(NamedTuple):
    """A copy of `finished` with two more runs that start from its model, and the output of snakemake."""

    copy: WorkingCopy
    config: dict[str, Any]
    targets: list[str]
    output: str


@pytest.fixture(scope="module")
def reused(finished: WorkingCopy, tmp_path_factory: pytest.TempPathFactory) -> Reused:
    """The model, scored by a run without training, compared with it and Whisper, and fine-tuned with other letters."""
    copy = finished.copy(tmp_path_factory.mktemp("reused") / "copy")
    config = faulty_config()
    run = config["runs"]["demo_ru"]
    text = (copy.folder / RUN / "lm/text.txt").read_text(encoding="utf-8")
    (copy.folder / "text.txt").write_text(text.upper(), encoding="utf-8")
    # In another folder, like the model of somebody else: snakemake may write to results again.
    shutil.copytree(copy.folder / RUN / "model", copy.folder / "model")
    lm = run["evaluation"]["lm"] | {"text": "files", "files": ["text.txt"]}
    config["runs"]["scored"] = {key: run[key] for key in ("language", "device", "dev", "text")} | {
        "training": "none",
        "model": {"base": "./model"},
        "evaluation": run["evaluation"] | {"sets": ["demo_ru-test"], "lm": lm},
    }
    write_tiny_whisper(copy.folder / "whisper")
    config["runs"]["whisper"] = {key: run[key] for key in ("language", "device", "text")} | {
        "training": "none",
        "model": {"base": "./whisper"},
        "evaluation": {"sets": ["demo_ru-test"], "generation": {"num_beams": 1}},
    }
    run["evaluation"] = run["evaluation"] | {"compare": ["scored", "whisper"]}
    config["runs"]["tuned"] = run | {
        "evaluation": run["evaluation"] | {"compare": []},
        "model": {"base": "./model", "config": {"hidden_dropout": 0.1}},
        "text": run["text"] | {"case": "upper", "keep": "А-ЯЁ"},
    }
    scored = ("evaluation/summary.parquet", "evaluation/breakdown.json", "worst/demo_ru-test.html")
    targets = [f"results/runs/{name}/{file}" for name in ("scored", "whisper") for file in scored]
    targets += ["results/runs/tuned/checkpoints", f"{RUN}/card.html"]
    return Reused(copy, config, targets, copy.snakemake(config, *targets).output)


def test_scored_model_needs_no_training(reused: Reused) -> None:
    logs = {path.relative_to(reused.copy.folder / "logs").as_posix() for path in reused.copy.folder.glob("logs/*/*")}
    assert "log_probs/scored-0-demo_ru-test-ctc_outputs.log" in logs
    assert not {"finetune/scored.log", "plan/scored.log", "vocab/scored.log", "clips/scored-train.log"} & logs
    assert reused.copy.planned(reused.config, *reused.targets) == {}


def test_scored_model_has_the_scores_of_its_own_run(reused: Reused) -> None:
    again, first = (
        pd.read_parquet(reused.copy.folder / f"results/runs/{name}/evaluation/summary.parquet").set_index(
            ["set", "decoder"]
        )
        for name in ("scored", "demo_ru")
    )
    assert set(again["step"]) == {0}
    selected = first[first["step"] == reused.copy.read_json(RUN / "selection.json")["step"]]
    compared = ["wer", "cer", "loss", "clips_expected", "checkpoint_sha256", "eval_set_sha256"]
    assert len(again) == 4
    pd.testing.assert_frame_equal(again[compared], selected.loc[again.index, compared])
    assert re.search(r"^result  scored, step 0: .*demo_ru-test WER", reused.output, re.MULTILINE)


def test_whisper_is_scored_on_the_same_clips(reused: Reused) -> None:
    runs = reused.copy.folder / "results/runs"
    whisper, ctc = (
        pd.read_parquet(runs / name / "evaluation/summary.parquet").iloc[0] for name in ("whisper", "scored")
    )
    assert whisper["eval_set_sha256"] == ctc["eval_set_sha256"]
    assert whisper["clips_scored"] == ctc["clips_scored"] > 0
    assert whisper["wer"] > 0
    assert pd.isna(whisper["loss"])
    hypotheses = pd.read_parquet(runs / "whisper/evaluation/0/demo_ru-test/greedy/hypotheses.parquet")
    assert hypotheses["hypothesis"].str.contains("[a-e]").any()
    page = (runs / "whisper/worst/demo_ru-test.html").read_text(encoding="utf-8")
    assert "<audio" in page
    assert "forced alignment" not in page


def test_card_compares_with_other_runs_on_the_same_clips(reused: Reused) -> None:
    model = reused.copy.folder / RUN / "model"
    section = (
        (model / "README.md").read_text(encoding="utf-8").split("### Comparison with other runs")[1].split("\n#")[0]
    )
    assert "- `whisper`: whisper, not trained\n" in section
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert [row[1:3] for row in rows[2:]] == [
        ["this model", "greedy"], ["`scored`", "greedy"], ["`whisper`", "greedy"],
        ["this model", "lm"], ["`scored`", "lm"], ["`whisper`", "greedy"],
    ]  # fmt: skip
    # The same model: equal rates, no difference.
    assert rows[2][3:6] == rows[3][3:6]
    assert rows[3][6] == "+0.00"
    assert re.search(r"Not compared:\n- .* dev, `scored`: that run does not score it", section)
    done = run_stage("report.verify", model)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DIFFERS" not in done.stdout


def test_model_is_fine_tuned_with_a_new_vocabulary(reused: Reused) -> None:
    checkpoint = Path("results/runs/tuned/checkpoints/checkpoint-3")
    vocab = reused.copy.read_json(checkpoint / "vocab.json")
    model = reused.copy.read_json(checkpoint / "config.json")
    assert "Д" in vocab
    assert "д" not in vocab
    assert model["vocab_size"] == len(vocab)
    assert model["hidden_dropout"] == 0.1


def test_transcripts_are_the_scored_hypotheses(finished: WorkingCopy, tmp_path: Path) -> None:
    model = finished.folder / RUN / "model"
    audio = pd.read_parquet(finished.folder / DATA / "test" / "shard-00000.parquet").set_index("id")["audio"]
    for decoder in ("greedy", "lm"):
        scored = pd.read_parquet(model / "evidence" / "scored" / "demo_ru-test" / f"{decoder}.parquet")
        transcriber = Transcriber(model, "cpu", greedy=decoder == "greedy")
        assert transcriber.uses_lm == (decoder == "lm")
        for clip, hypothesis in zip(scored["id"], scored["hypothesis"], strict=True):
            (tmp_path / "clip.flac").write_bytes(audio[clip]["bytes"])
            assert transcriber.transcribe(tmp_path / "clip.flac").text == hypothesis

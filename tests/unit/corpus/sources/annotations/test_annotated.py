import unicodedata
from pathlib import Path
from typing import Any

import pytest

from speechmill.config.datasets import Folder
from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.corpus import SourceClip
from speechmill.corpus.sources.folder import open_folder

SRT = "1\n00:00:01,000 --> 00:00:02,000\none\n\n2\n00:00:02,000 --> 00:00:03,500\ntwo\n"


def clips(path: Path, contents: dict[str, str], ending: str, **settings: Any) -> list[SourceClip]:
    """Return the clips of a folder with these files; `settings` are those of `annotations`, and `folder` the others."""
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    section = {"source": "folder", "path": "", "language": "en", "annotations": {"ending": ending}}
    section |= settings.pop("folder", {})
    section["annotations"] |= settings
    with open_folder(path, Folder.model_validate(section), ["train"], path) as corpus:
        return corpus.clips


def textgrid(**tiers: list[tuple[float, float, str]]) -> str:
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "9", "<exists>", str(len(tiers))]
    for name, intervals in tiers.items():
        head += ['"IntervalTier"', f'"{name}"', "0", "9", str(len(intervals))]
        head += [f'{start}\n{end}\n"{text}"' for start, end, text in intervals]
    return "\n".join(head) + "\n"


@pytest.mark.parametrize("ending", [".txt", ".lab", ".wav.trans"])
def test_a_text_file_is_the_transcript_of_its_recording(tmp_path: Path, ending: str) -> None:
    found = clips(tmp_path, {"ann/a.wav": "", f"ann/a{ending}": "one,\r\ntwo\r\n"}, ending)
    assert found == [SourceClip("ann/a.wav", ("train",), "ann/a.wav", "one,\ntwo")]


def test_an_annotation_is_a_piece_of_its_recording(tmp_path: Path) -> None:
    found = clips(tmp_path, {"a.wav": "", "a.srt": SRT}, ".srt")
    assert [(clip.id, clip.file, clip.piece, clip.sentence) for clip in found] == [
        ("a.wav [1.0 s – 2.0 s]", "a.wav", Piece(1.0, 2.0), "one"),
        ("a.wav [2.0 s – 3.5 s]", "a.wav", Piece(2.0, 3.5), "two"),
    ]


def test_a_recording_that_is_not_cut_has_all_texts_in_the_order_of_time(tmp_path: Path) -> None:
    grid = textgrid(ann=[(0, 1, "one"), (3, 4, "three")], bo=[(2, 3, "two"), (4, 5, "")])
    found = clips(tmp_path, {"a.wav": "", "a.TextGrid": grid}, ".TextGrid", tiers=["ann", "bo"], cut=False)
    assert found == [SourceClip("a.wav", ("train",), "a.wav", "one\ntwo\nthree")]


def test_overlapping_annotations_are_clips_of_their_own(tmp_path: Path) -> None:
    grid = textgrid(ann=[(0, 2, "one")], bo=[(0, 2, "two"), (3, 3, "three")])
    folder = {"columns": {"speaker_id": "tier"}}
    found = clips(tmp_path, {"a.wav": "", "a.TextGrid": grid}, ".TextGrid", tiers=["ann", "bo"], folder=folder)
    assert [(clip.id, clip.speaker_id, clip.sentence) for clip in found] == [
        ("a.wav [0.0 s – 2.0 s] ann", "ann", "one"),
        ("a.wav [0.0 s – 2.0 s] bo", "bo", "two"),
        ("a.wav [3.0 s – 3.0 s] bo", "bo", "three"),
    ]


def test_ids_stay_when_annotations_are_added(tmp_path: Path) -> None:
    before = clips(tmp_path, {"a.wav": "", "a.TextGrid": textgrid(ann=[(1, 2, "one")])}, ".TextGrid", tiers=["ann"])
    grid = textgrid(ann=[(0, 1, "zero"), (1, 2, "one")], bo=[(1, 2, "two")])
    after = clips(tmp_path, {"a.TextGrid": grid}, ".TextGrid", tiers=["ann", "bo"])
    assert before[0] in after


def test_subtitles_at_the_same_time_are_one_clip(tmp_path: Path) -> None:
    ((clip),) = clips(
        tmp_path, {"a.wav": "", "a.srt": SRT.replace("2,000 --> 00:00:03,500", "1,000 --> 00:00:02,000")}, ".srt"
    )
    assert clip.sentence == "one two"


def test_several_tiers_without_a_choice_are_listed(tmp_path: Path) -> None:
    grid = textgrid(text=[(0, 1, "one"), (1, 2, "two")], translation=[(0, 1, "eins")], notes=[(0, 1, "")])
    reason = r"a\.TextGrid has several tiers with text, `text` \(2 annotations\), `translation` \(1 annotations\); set"
    with pytest.raises(SpeechmillError, match=reason):
        clips(tmp_path, {"a.wav": "", "a.TextGrid": grid}, ".TextGrid")


def test_the_only_tier_with_text_needs_no_choice(tmp_path: Path) -> None:
    grid = textgrid(notes=[(0, 1, "")], text=[(0, 1, "one")])
    assert [clip.sentence for clip in clips(tmp_path, {"a.wav": "", "a.TextGrid": grid}, ".textgrid")] == ["one"]


def test_tiers_that_no_file_has_are_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"the tiers are `text` \(1 annotations\)"):
        clips(tmp_path, {"a.wav": "", "a.TextGrid": textgrid(text=[(0, 1, "one")])}, ".TextGrid", tiers=["txt"])


def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = {"a.wav": "", "a.txt": "one", "b.wav": "", "c.mp4": "", "c.txt": "three", "d.wav": "", "d.txt": " \n"}
    assert [clip.file for clip in clips(tmp_path, contents, ".txt")] == ["a.wav"]
    printed = capsys.readouterr().err
    assert "1 recordings have no annotations in a file that ends in .txt, such as b.wav; they are left out" in printed
    assert "1 recordings that annotation files name or belong to do not exist, such as 'c' in" in printed
    assert "(there is c.mp4, which differs in ending); they are left out" in printed
    assert f"1 annotations have no text, such as {tmp_path / 'd.txt'}; they are left out" in printed


def test_no_recording_with_annotations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"none of the 1 recordings .* such as b\.txt; there is b\.mp4, which"):
        clips(tmp_path, {"a.wav": "", "b.txt": "one", "b.mp4": ""}, ".txt")


def test_no_annotation_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"no file name ends in \.eaf; check the dataset's `annotations`"):
        clips(tmp_path, {"a.wav": "", "a.txt": "one"}, ".eaf")


@pytest.mark.parametrize(
    ("recording", "file"),
    [
        ("Anna.WAV", "anna.txt"),
        ("anna.wav", "anna.TXT"),
        (unicodedata.normalize("NFD", "Йога.wav"), unicodedata.normalize("NFC", "Йога.txt")),
        (unicodedata.normalize("NFC", "한국어/말.wav"), unicodedata.normalize("NFD", "한국어") + "/말.txt"),
        ("مقابلة.wav", "مقابلة.txt"),
        ("part.1.wav", "part.1.txt"),
    ],
)
def test_names_are_equal_in_any_case_and_normal_form(tmp_path: Path, recording: str, file: str) -> None:
    assert [clip.file for clip in clips(tmp_path, {recording: "", file: "one"}, ".txt")] == [recording]


def test_names_that_differ_in_case_belong_to_their_own_files(tmp_path: Path) -> None:
    found = clips(tmp_path, {"a.wav": "", "A.wav": "", "a.txt": "small", "A.txt": "large"}, ".txt")
    assert {clip.file: clip.sentence for clip in found} == {"a.wav": "small", "A.wav": "large"}


def test_two_recordings_with_the_same_name_need_a_pattern(tmp_path: Path) -> None:
    contents = {"a.wav": "", "a.mp3": "", "a.txt": "one"}
    with pytest.raises(
        SpeechmillError, match=r"a\.mp3 and a\.wav may both be the recording .*set the dataset's `pattern`"
    ):
        clips(tmp_path, contents, ".txt")
    assert [clip.file for clip in clips(tmp_path, contents, ".txt", folder={"pattern": "{name}.wav"})] == ["a.wav"]


def test_a_pattern_gives_fields(tmp_path: Path) -> None:
    contents = {"train/ann/a.wav": "", "train/ann/a.txt": "one", "dev/bo/b.wav": "", "dev/bo/b.txt": "two"}
    folder = {"pattern": "{split}/{speaker_id}/{take}.wav"}
    (clip,) = clips(tmp_path, contents, ".txt", folder=folder)
    assert (clip.file, clip.speaker_id) == ("train/ann/a.wav", "ann")


def test_columns_name_fields_of_annotations(tmp_path: Path) -> None:
    folder = {"columns": {"speaker_id": "folder", "id": "recording"}}
    (clip,) = clips(tmp_path, {"ann/a.wav": "", "ann/a.txt": "one"}, ".txt", folder=folder)
    assert (clip.id, clip.speaker_id) == ("a", "ann")


def test_a_stm_file_names_its_recordings(tmp_path: Path) -> None:
    lines = "talk A ann 0 1 one\ntalk.sph B bo 0 1 two\nlost A ann 0 1 three\n"
    found = clips(tmp_path, {"sph/talk.sph": "", "stm/all.stm": lines}, ".stm")
    assert [(clip.id, clip.file, clip.speaker_id, clip.sentence) for clip in found] == [
        ("sph/talk.sph [0.0 s – 1.0 s, channel 0] ann", "sph/talk.sph", "ann", "one"),
        ("sph/talk.sph [0.0 s – 1.0 s, channel 1] bo", "sph/talk.sph", "bo", "two"),
    ]


def test_a_name_of_two_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"one/talk\.wav and two/talk\.wav may both be the recording"):
        clips(tmp_path, {"one/talk.wav": "", "two/talk.wav": "", "all.ctm": "talk A 0 1 one\n"}, ".ctm")


def test_a_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("one")
    path = tmp_path / "corpus"
    path.mkdir()
    (path / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(SpeechmillError, match=r"a\.txt is outside the directory"):
        clips(path, {"a.wav": ""}, ".txt")


@pytest.mark.parametrize("key", ["path", "start", "channel"])
def test_columns_for_times_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=rf"`columns\.{key}` cannot be set with `annotations`"):
        clips(tmp_path, {"a.wav": "", "a.txt": "one"}, ".txt", folder={"columns": {key: "recording"}})

"""The page of a model, in a browser: without network, it transcribes as the code in the card does."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import Page, new_page

from material import audio_file, language_model, recording
from speechmill.config.lm import BeamConfig
from speechmill.config.text import TextConfig
from speechmill.core.files import write_json
from speechmill.report.usage import UsageSettings, app_code, run_code, usage_code
from speechmill.scoring.reliability import CALIBRATION, Calibration, Calibrator
from speechmill.text.vocab import vocabulary

GRADIO = Path(sys.prefix) / "gradio"
SETTINGS = UsageSettings(text=TextConfig(), lm_unit="words", separated=True)
AUDIO_INPUT = "input[type=file][accept*=audio]"
BUTTON = "[...document.querySelectorAll('button')].find((each) => each.innerText.trim() === 'Transcribe')"
PRESS = f"{BUTTON}.click()"


@pytest.fixture
def model(checkpoints: Path, tmp_path: Path) -> Path:
    """A model with random weights, a language model and the page."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoints / "checkpoint-0", folder)
    language_model(folder / "lm", ["ab ba", "ba cab ab"], tokens=list(vocabulary(["abcde"])))
    weights = {"lm_weight": 0.2, "word_score": 0.3, "vocabulary": "open", "beam": BeamConfig().model_dump()}
    write_json(weights, folder / "lm" / "weights.json")
    # With this calibrator, every confidence is a half.
    calibrator = Calibrator(slope=0.0, intercept=0.0, words=2, wrong=1)
    calibration = Calibration(dev="cv-dev", calibrators={"lm": calibrator}, sets=[])
    write_json(calibration.model_dump(), folder / CALIBRATION)
    (folder / "app.py").write_text(app_code(["greedy", "lm"], SETTINGS))
    return folder


@contextmanager
def running(model: Path) -> Iterator[str]:
    """Run the page of a model until the block ends, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "PYTHONPATH": str(GRADIO), "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1", "GRADIO_TEMP_DIR": str(model.parent / "uploads"),
    }  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=model,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout is not None
        output = ""
        for line in server.stdout:
            output += line
            # Printed when the page can be opened.
            if "To create a public link" in line:
                break
        else:
            raise AssertionError(output)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.kill()
        server.communicate()


def transcribed(page: Page) -> str:
    """Press the button, and return the new transcript."""
    page.evaluate("document.querySelector('textarea').value = ''")
    page.evaluate(PRESS)
    page.until("document.querySelector('textarea').value !== ''")
    return str(page.evaluate("document.querySelector('textarea').value"))


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", ["group"], indirect=True)
def test_page_transcribes_a_file_in_a_browser(model: Path, tmp_path: Path) -> None:
    assert GRADIO.is_dir(), "gradio is not installed: `bash envs/setup.sh gradio` installs it"
    samples = recording(1.0, seed=3)
    (tmp_path / "recording.wav").write_bytes(audio_file(samples))
    (tmp_path / "long.wav").write_bytes(audio_file(recording(61.0)))
    with running(model) as address, new_page() as page:
        page.open(address)
        page.until(f"document.querySelector('{AUDIO_INPUT}')")
        page.until(BUTTON)
        page.evaluate(PRESS)
        page.until("document.body.innerText.includes('Record or upload something first.')")
        page.choose_file(AUDIO_INPUT, tmp_path / "long.wav")
        page.until("document.querySelector('audio')")
        page.evaluate(PRESS)
        page.until("document.body.innerText.includes('The recording has 61.0 seconds; it must have 0.1 to 60.')")
        page.evaluate("document.querySelector('button[aria-label=Clear]').click()")
        page.until(f"document.querySelector('{AUDIO_INPUT}')")
        page.choose_file(AUDIO_INPUT, tmp_path / "recording.wav")
        page.until("document.querySelector('audio')")
        with_lm = transcribed(page)
        cells = page.evaluate("[...document.querySelectorAll('td')].map((cell) => cell.textContent.trim())")
        page.evaluate("document.querySelector('input[type=checkbox]').click()")
        greedy = transcribed(page)
        errors, requests = page.errors, page.requests
    assert with_lm == run_code(usage_code("lm", "characters"), model, samples)
    assert greedy == run_code(usage_code("greedy", "characters"), model, samples)
    assert with_lm != greedy
    # The table renders only the rows that are visible.
    assert set(with_lm.split()) & set(cells)
    assert "0.5" in cells
    assert errors == []
    assert {each for each in requests if not each.startswith((address, "data:", "blob:"))} == set()

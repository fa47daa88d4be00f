"""What a training leaves for its user: checkpoints, the log, TensorBoard, and a bar while it runs."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from speechmill.core.progress import progress
from speechmill.model.models import Processor
from speechmill.training.dev_evaluator import DevEvaluator
from speechmill.training.guards import blanks_warning, only_blanks
from speechmill.training.resume_state import (
    UNFINISHED,
    WEIGHTS,
    append_log,
    commit,
    disk_space_for_state,
    link,
    read_log,
    step_of,
    sync_files,
)

CHECKPOINTS = "checkpoints"
"""The folder of a training's work folder with the checkpoints that are kept so far."""


def kept_steps(rows: Sequence[dict[str, Any]], planned: Sequence[int], best: int | None) -> list[int]:
    """The steps of the checkpoints that are kept: all that are planned, or those with the lowest WERs of the probes.

    `rows` are those of the log; of equal WERs the earlier is the better, and none is the worst.
    """
    if best is None:
        return sorted(planned)
    wers = {row["step"]: row["dev_wer"] for row in rows if "dev_wer" in row}
    order = sorted(wers, key=lambda step: (float("inf") if wers[step] is None else wers[step], step))
    return sorted(order[:best])


class CheckpointCallback(TrainerCallback):
    """Keeps the planned checkpoints and tries them, makes what the Trainer saved a state, and writes the log.

    One process alone has it.
    """

    def __init__(
        self,
        run: str,
        work: Path,
        board: Path,
        plan: dict[str, Any],
        processor: Processor,
        probe: DevEvaluator | None,
        best: int | None,
        warmup_steps: int,
        start: int,
    ) -> None:
        """`start` is the step that training goes on from; with `best`, only so many checkpoints are kept."""
        self._run, self._work, self._plan, self._processor = run, work, plan, processor
        self._probe, self._best, self._warmup_steps = probe, best, warmup_steps
        self._warned = False
        # What an earlier run wrote after the state that this one goes on from is shown no longer.
        self._board = SummaryWriter(str(board), purge_step=start + 1)
        self._progress = progress(total=plan["total_steps"], initial=start, desc="finetune", unit="step")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Show how far training is."""
        self._progress.update(state.global_step - self._progress.n)
        return control

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the model of a planned step and try it; then what was saved is a state."""
        step = state.global_step
        planned = step in self._plan["checkpoints"]
        if planned:
            with disk_space_for_state(self._work, step):
                self._keep(step)
            if self._probe is not None and model is not None:
                self._record({"step": step, **self._probe(model, args.device)})
        with disk_space_for_state(self._work, step):
            commit(self._work, step)
        if planned:
            # Only now: a run that goes on from the state before may need what is dropped here.
            self._drop_worse()
            self._warn_of_blanks(step)

    def _keep(self, step: int) -> None:
        saved = self._work / UNFINISHED / f"checkpoint-{step}"
        kept = self._work / CHECKPOINTS / saved.name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        # A link: older states are dropped, and the weights are the bulk of them.
        link(str(saved / WEIGHTS), str(kept / WEIGHTS))
        shutil.copy(saved / "config.json", kept)
        self._processor.save_pretrained(kept)
        sync_files(kept)

    def _drop_worse(self) -> None:
        kept = kept_steps(read_log(self._work), self._plan["checkpoints"], self._best)
        for folder in (self._work / CHECKPOINTS).iterdir():
            if step_of(folder) not in kept:
                shutil.rmtree(folder)

    def _warn_of_blanks(self, step: int) -> None:
        if not self._warned and only_blanks(read_log(self._work), self._warmup_steps):
            self._warned = True
            print(blanks_warning(self._run, step), file=sys.stderr)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append a line to the log, and the same to TensorBoard and to what is shown."""
        # The Trainer knows one long epoch only.
        epoch = state.global_step * self._plan["epochs"] / self._plan["total_steps"]
        line: dict[str, Any] = {"step": state.global_step, **(logs or {}), "epoch": epoch}
        floor = self._plan["peak_throughput"]
        if "loss" in line and floor:
            line["mfu"] = line["audio_seconds_per_second"] / floor
        self._record(line)
        if "loss" in line:
            of_floor = f" ({line['mfu']:.0%} of an H100's floor)" if "mfu" in line else ""
            self._progress.set_postfix_str(
                f"loss {line['loss']:.3f}, {line['audio_seconds_per_second']:.0f} audio-s/s{of_floor}", refresh=False
            )

    def _record(self, row: dict[str, Any]) -> None:
        append_log(self._work, row)
        for key, value in row.items():
            if key not in ("step", "epoch", "dev_clips") and value is not None:
                self._board.add_scalar(key, value, row["step"])
        self._board.flush()

    def close(self) -> None:
        """End the bar, and what is written for TensorBoard."""
        self._progress.close()
        self._board.close()

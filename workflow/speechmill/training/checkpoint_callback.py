"""The outputs of a training run for its user: checkpoints, log, TensorBoard and progress bar."""

import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from speechmill.core.files import write_digests
from speechmill.core.progress import progress
from speechmill.model.lora import has_lora, merged_lora, save_merged
from speechmill.model.models import Processor
from speechmill.scoring.select import WEIGHTS, deciding_metrics
from speechmill.text.vocab import save_processor
from speechmill.training.dev_evaluator import DevEvaluator
from speechmill.training.guards import blanks_warning, only_blanks
from speechmill.training.resume_state import (
    UNFINISHED,
    TrainingTime,
    append_log,
    commit,
    link,
    read_log,
    resume_states,
    step_of,
    sync_files,
    write_training_time,
    writing_state,
)

CHECKPOINTS = "checkpoints"
"""The folder within the work folder that holds the checkpoints kept so far."""


def kept_steps(rows: Sequence[dict[str, Any]], planned: Sequence[int], best: int | None, metric: str) -> list[int]:
    """Return the steps of the checkpoints to keep: all planned ones, or the `best` ones by `metric` on dev.

    `rows` are the rows of the log, with those of the dev evaluations. Steps rank as in the selection of a checkpoint;
    one without a value of the metric ranks last.
    """
    if best is None:
        return sorted(planned)
    evaluated = {row["step"]: row for row in rows if "dev_clips" in row}

    def rank(step: int) -> tuple[float, ...]:
        values = [evaluated[step].get(f"dev_{each}") for each in deciding_metrics(metric)]
        return (*(math.inf if value is None else value for value in values), -step)

    return sorted(sorted(evaluated, key=rank)[:best])


class CheckpointCallback(TrainerCallback):
    """Keeps and evaluates the planned checkpoints, commits resume states, and writes the log; used by rank 0 only."""

    def __init__(
        self,
        run: str,
        work: Path,
        board: Path,
        plan: dict[str, Any],
        processor: Processor,
        evaluator: DevEvaluator | None,
        best: int | None,
        metric: str,
        warmup_steps: int,
        start: int,
        earlier: TrainingTime,
    ) -> None:
        """Start at step `start`, which took `earlier`; keep only the `best` by `metric` on dev, or all for None."""
        self._run, self._work, self._plan, self._processor = run, work, plan, processor
        self._evaluator, self._best, self._metric, self._warmup_steps = evaluator, best, metric, warmup_steps
        self._warned = False
        self._earlier, self._started = earlier, monotonic()
        # TensorBoard hides points that an interrupted run wrote after the state that this run resumes from.
        self._board = SummaryWriter(str(board), purge_step=start + 1)
        self._progress = progress(total=plan["total_steps"], initial=start, desc="finetune", unit="step")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock of this session: model and state are loaded."""
        self._started = monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Update the progress bar."""
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
        """Keep and evaluate the model of a planned step, then commit the saved files as a resume state."""
        step = state.global_step
        planned = step in self._plan["checkpoints"]
        if planned and model is not None:
            self._keep_and_evaluate(step, model, args.device)
        with writing_state(self._work, step):
            seconds = self._earlier.wall_seconds + monotonic() - self._started
            unfinished = self._work / UNFINISHED / f"checkpoint-{step}"
            write_training_time(TrainingTime(seconds, self._earlier.sessions + 1), unfinished)
            commit(self._work, step)
        if planned:
            # Only after the commit, which deletes the state before the previous one.
            self._delete_worse()
            self._warn_of_blanks(step)

    def _keep_and_evaluate(self, step: int, model: PreTrainedModel, device: torch.device) -> None:
        # What is evaluated is what is kept.
        with merged_lora(model):
            with writing_state(self._work, step):
                self._keep(step, model)
            if self._evaluator is not None:
                self._record({"step": step, **self._evaluator(model, device)})

    def _keep(self, step: int, model: PreTrainedModel) -> None:
        saved = self._work / UNFINISHED / f"checkpoint-{step}"
        kept = self._work / CHECKPOINTS / saved.name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        if has_lora(model):
            save_merged(model, kept)
        else:
            # A hard link: the resume state is deleted later, and the weights make up most of a checkpoint.
            link(str(saved / WEIGHTS), str(kept / WEIGHTS))
            shutil.copy(saved / "config.json", kept)
        save_processor(self._processor, kept)
        write_digests(kept)
        sync_files(kept)

    def _delete_worse(self) -> None:
        rows, kept = read_log(self._work), set[int]()
        # Training may resume from either state. From the older one, it evaluates later checkpoints again, on a GPU with
        # slightly different results, so that another checkpoint may be among the best.
        for state in resume_states(self._work):
            until = [row for row in rows if row["step"] <= step_of(state)]
            kept.update(kept_steps(until, self._plan["checkpoints"], self._best, self._metric))
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
        """Append a row to the log and to TensorBoard, and show it in the progress bar."""
        # The Trainer treats all batches as one epoch.
        epoch = state.global_step * self._plan["epochs"] / self._plan["total_steps"]
        row: dict[str, Any] = {"step": state.global_step, **(logs or {}), "epoch": epoch}
        peak = self._plan["peak_throughput"]
        if "loss" in row and peak:
            row["mfu"] = row["audio_seconds_per_second"] / peak
        self._record(row)
        if "loss" in row:
            mfu = f", MFU {100 * row['mfu']:.1f} % of an H100" if "mfu" in row and args.device.type == "cuda" else ""
            self._progress.set_postfix_str(
                f"loss {row['loss']:.3f}, {row['audio_seconds_per_second']:.0f} audio-s/s{mfu}", refresh=False
            )

    def _record(self, row: dict[str, Any]) -> None:
        append_log(self._work, row)
        for key, value in row.items():
            if key not in ("step", "epoch", "dev_clips") and value is not None:
                self._board.add_scalar(key, value, row["step"])
        self._board.flush()

    def close(self) -> None:
        """Close the progress bar and the TensorBoard file."""
        self._progress.close()
        self._board.close()

"""Training by `finetune.train`, as the stage `finetune` runs it, on the base model and clips of the step `inputs`."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from gpu import inputs
from gpu.step import Step, device_gib
from material import ROOT
from speechmill.config.root import load
from speechmill.core.files import read_json
from speechmill.core.tables import read_table
from speechmill.dag import stage_settings
from speechmill.model.models import load_processor, model_config
from speechmill.training import finetune
from speechmill.training.plan import PlanSettings, make_plan
from speechmill.training.resume_state import read_log

# What the plan reads of the stages before it.
_COUNTS: dict[str, Any] = {
    "speakers": 0, "excluded": {}, "corrected": {}, "marks_dropped": 0, "sets": {}, "seconds": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """A training run that is planned."""

    run: str
    language: str
    settings: finetune.FinetuneSettings
    plan: dict[str, Any]

    def __call__(self, step: Step) -> list[dict[str, Any]]:
        """Train from the beginning, and return the rows of the log."""
        work = step.work / "training"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        table = read_table(inputs.clips(step, self.language))
        processor = load_processor(inputs.vocab(step, self.language))
        material = finetune.TrainingInputs(
            table, inputs.shards(step), processor, inputs.base(step), self.plan, dev=[], dev_shards=[]
        )
        finetune.train(self.run, self.settings, material, work, work / "board", step.device)
        return read_log(work)


def planned(step: Step, recipe: str, steps: int, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Training:
    """Return the training of a published recipe for `steps` steps, of which no checkpoint is saved.

    `changes` replace keys of the sections of its run. Its settings come from the functions that the rules use.
    """
    raw = yaml.safe_load((ROOT / "config" / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    language = raw["runs"][recipe]["language"]
    section = raw["runs"][recipe] | {
        "device": "cpu" if step.small else "gpu",
        "gpu_memory_gib": device_gib(step.device),
    }
    # The second row of the log is that of the second half, without the warm-up of the first steps.
    fixed = {"plan": {"max_steps": steps}, "finetune": {"logging_steps": (steps + 1) // 2}}
    for each in (changes or {}, fixed):
        for name, values in each.items():
            section[name] = section.get(name, {}) | values
    if step.small and section["finetune"]["precision"] == "fp16":
        # A CPU does not train in fp16.
        section["finetune"] |= {"precision": "bf16"}
    config = load(raw | {"runs": {recipe: section}})
    settings = finetune.with_runtime_settings(
        stage_settings.finetune(config, recipe), stage_settings.finetune_runtime(config, recipe)
    )
    size = len(read_json(inputs.vocab(step, language) / "vocab.json"))
    plan = make_plan(
        *(recipe, inputs.clips(step, language), _COUNTS, [_COUNTS], []),
        model_config(None, inputs.base(step), settings.model.config, size),
        PlanSettings.model_validate(json.loads(stage_settings.plan(config, recipe))),
    )
    return Training(recipe, language, settings, plan | {"checkpoints": []})

"""Results that the runs of a sweep share: the language model, which can take hours to estimate."""

from typing import Any

from speechmill.config.root import Config
from speechmill.dag import stage_settings
from speechmill.dag.paths import base, lm_text_files, lm_texts, run_roles, uses_lm


def lm_owners(config: Config) -> dict[str, str]:
    """Return the run whose language model is copied, by each run for which none is estimated.

    It is the first run of the same sweep with the same clips, texts, vocabulary and settings of the language model.
    """
    owners = {}
    for sweep in config.sweeps:
        first: list[tuple[Any, str]] = []
        for run in sweep.points:
            if not (uses_lm(config.runs[run]) and config.runs[run].trains):
                continue
            decisive = _decisive(config, run)
            owner = next((name for known, name in first if known == decisive), None)
            if owner is None:
                first.append((decisive, run))
            else:
                owners[run] = owner
    return owners


def _decisive(config: Config, run: str) -> list[Any]:
    """Return all that decides on the language model of a run."""
    return [
        *(stage(config, run) for stage in (stage_settings.lm_text, stage_settings.lm, stage_settings.vocab)),
        *((role, stage_settings.clips(config, run, role)) for role in run_roles(config.runs[run])),
        lm_text_files(config, run),
        lm_texts(config, run),
        base(config, run),
    ]

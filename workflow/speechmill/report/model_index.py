"""Evaluation results in the two formats of the Hugging Face Hub: a card's front matter, and files in `.eval_results`.

The client `huggingface_hub` defines both formats: `EvalResult` for the `model-index` of a card, and `EvalResultEntry`
for the newer result files, see https://huggingface.co/docs/hub/eval-results.
"""

from collections.abc import Sequence

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

_ORDER = ["language", "license", "library_name", "base_model", "tags", "datasets", "metrics"]


def front_matter(
    *,
    title: str,
    language: str | list[str] | None,
    licence: str | None,
    base: str | None,
    tags: Sequence[str],
    datasets: Sequence[str],
    metrics: Sequence[str],
    results: Sequence[EvalResult],
    library: str | None = "transformers",
) -> str:
    """Return the YAML front matter of a card, without keys whose value is None or empty.

    `huggingface_hub.ModelCard` loads it and writes it back unchanged, byte for byte. The client groups results of the
    same task and the same dataset, configuration, split and revision into one entry.

    Args:
        title: The model's name in the `model-index`.
        language: The code of its language, or of several.
        licence: The identifier of its licence on the Hub.
        base: The name of the base model on the Hub.
        tags: The tags of the model on the Hub.
        datasets: The names of its datasets on the Hub.
        metrics: The identifiers of its metrics.
        results: The entries of the `model-index`; WER and CER in percent.
        library: The library that loads the model.
    """
    data = ModelCardData(
        language=language,
        license=licence,
        library_name=library,
        base_model=base,
        tags=list(tags) or None,
        datasets=list(datasets) or None,
        metrics=list(metrics) or None,
        # Without results the client would write the name as a top-level key, which the Hub does not know.
        model_name=title if results else None,
        eval_results=list(results) or None,
    )
    return data.to_yaml(original_order=_ORDER)


def result_files(results: Sequence[EvalResult]) -> dict[str, str]:
    """Return the results in the Hub's newer format: the text of one file for each split of a dataset, by file name.

    The task of a result is `{config}_{split}_{metric}`. The Hub shows it on a leaderboard if the dataset's `eval.yaml`
    has a task with this identifier. The notes contain the name of the result, which distinguishes the decoders.

    Args:
        results: Results on sets that are on the Hub; the dataset type is the name of the dataset there.
    """
    files: dict[str, list[EvalResultEntry]] = {}
    for each in results:
        subset = [part for part in (each.dataset_config, each.dataset_split) if part]
        entry = EvalResultEntry(
            dataset_id=each.dataset_type,
            task_id="_".join([*subset, each.metric_type]),
            value=each.metric_value,
            dataset_revision=each.dataset_revision,
            notes=each.metric_name,
        )
        name = "--".join([*each.dataset_type.split("/"), *subset])
        files.setdefault(f"{name}.yaml", []).append(entry)
    return {
        name: yaml.safe_dump(eval_result_entries_to_yaml(entries), allow_unicode=True, sort_keys=False)
        for name, entries in files.items()
    }

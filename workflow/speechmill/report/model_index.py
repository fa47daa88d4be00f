"""The results of a model as the Hugging Face Hub reads them: a card's front matter, and the files of `.eval_results`.

The client `huggingface_hub` defines both forms: `EvalResult` for the older one, the `model-index` of a card, and
`EvalResultEntry` for the newer files, see https://huggingface.co/docs/hub/eval-results.
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
    """The YAML between the dashes of a card; what is None or empty is left out.

    `huggingface_hub.ModelCard` writes what it has read of it in the same bytes. It makes one entry of the results with
    the same task and the same id, configuration, split and revision of the dataset.

    Args:
        title: The model's name in the `model-index`.
        language: Its language's code, or several.
        licence: Its licence, as the Hub spells it.
        base: The id of the model that it was made of.
        tags: What it is found by.
        datasets: The ids of its datasets on the Hub.
        metrics: The ids of its metrics.
        results: The `model-index`; WER and CER in percent.
        library: What loads it.
    """
    data = ModelCardData(
        language=language,
        license=licence,
        library_name=library,
        base_model=base,
        tags=list(tags) or None,
        datasets=list(datasets) or None,
        metrics=list(metrics) or None,
        # Without results, the client would write the name as a key that the Hub does not know.
        model_name=title if results else None,
        eval_results=list(results) or None,
    )
    return data.to_yaml(original_order=_ORDER)


def eval_results(results: Sequence[EvalResult]) -> dict[str, str]:
    """The same results in the Hub's newer form: the names of the files, one a dataset's split, and their texts.

    A result's task is `{config}_{split}_{metric}`. The Hub puts it on a leaderboard where the dataset's `eval.yaml` has
    a task with this id. The notes have the result's name, which tells those of two decoders apart.

    Args:
        results: Results on sets that the Hub has, with the dataset's id there as the dataset's type.
    """
    files: dict[str, list[EvalResultEntry]] = {}
    for each in results:
        of_set = [part for part in (each.dataset_config, each.dataset_split) if part]
        entry = EvalResultEntry(
            dataset_id=each.dataset_type,
            task_id="_".join([*of_set, each.metric_type]),
            value=each.metric_value,
            dataset_revision=each.dataset_revision,
            notes=each.metric_name,
        )
        name = "--".join([*each.dataset_type.split("/"), *of_set])
        files.setdefault(f"{name}.yaml", []).append(entry)
    return {
        name: yaml.safe_dump(eval_result_entries_to_yaml(entries), allow_unicode=True, sort_keys=False)
        for name, entries in files.items()
    }

"""card: write the model card, its plots and the evidence for its figures into the model folder."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from speechmill.core.command import run_command
from speechmill.core.files import check_files, corrupt_file_error, file_digest, holds_digest, read_json, write_text
from speechmill.core.page import STYLE, content_policy, data_url
from speechmill.core.tables import read_table
from speechmill.report import evidence, manifest
from speechmill.report.breakdown import load_compared_runs
from speechmill.report.card_context import card_context, hub_result_files, render, unperturbed_scores
from speechmill.report.card_settings import CardSettings
from speechmill.report.card_tables import dev_rates
from speechmill.report.evidence import Evidence
from speechmill.report.plots import plot_breakdown, plot_error_rates, plot_loss
from speechmill.scoring.error_rates import both_rates
from speechmill.scoring.systems import selected_systems
from speechmill.text.lexicon import ABOUT

CARD = "README.md"
"""The name of the card in the model folder."""

_PLOT = re.compile(r"plots/\w+\.png")

# A paragraph of the configuration or a line of a transcription runs in the direction of its own first letter.
_DIRECTION_STYLE = "<style>p, li, pre code { unicode-bidi: plaintext }</style>"

HUB_RESULTS = ".eval_results"
"""The folder of the Hugging Face Hub's result files in the model folder."""


def card_files(found: Evidence) -> dict[str, str]:
    """Return the text of the card and of each of the Hub's result files, by the path in the model folder."""
    files = {f"{HUB_RESULTS}/{name}": text for name, text in hub_result_files(found).items()}
    return {CARD: render(card_context(found)), **files}


def plot(found: Evidence, model: Path) -> None:
    """Write the plots of the card into the model folder."""
    scores, title, folder = unperturbed_scores(found.summary), found.settings.set_title, model / "plots"
    plot_loss(found.log, scores, title, folder / "loss.png")
    metric = found.settings.metric
    by_step = {rate: dev_rates(found.log, rate) for rate in both_rates(metric)}
    plot_error_rates(scores, by_step, title, found.selection, folder / "wer.png")
    plot_breakdown(found.breakdown["sets"], title, folder / "breakdown.png", metric)


def page(card: str, folder: Path) -> str:
    """Return the body of a card as a self-contained HTML page, with the plots in `folder` embedded.

    HTML in the card is shown as text, and images other than the plots by their alternative text, so that the page
    neither runs scripts nor contains or loads other files.
    """

    def image(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        source, alternative = str(tokens[index].attrs["src"]), escapeHtml(tokens[index].content)
        if _PLOT.fullmatch(source) and (folder / source).is_file():
            return f'<img src="{data_url((folder / source).read_bytes())}" alt="{alternative}">'
        return alternative

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("image", image)
    # The comment at the top is not part of the text.
    body = markdown.render(re.sub(r"\A\s*<!--.*?-->", "", card.split("\n---\n", 1)[1], flags=re.DOTALL))
    policy = f'<meta http-equiv="Content-Security-Policy" content="{content_policy()}">'
    return f'<!doctype html>\n<meta charset="utf-8">\n{policy}\n{STYLE}\n{_DIRECTION_STYLE}\n{body}'


def check_inputs(args: argparse.Namespace) -> None:
    """Compare the inputs that have no digest of their own with what other stages recorded.

    Raises:
        SpeechmillError: A file has changed since it was written.
    """
    training = read_json(args.training)
    check_files(args.training_log.parent, training.get("sha256", {}))
    for source in args.base_source:
        if training.get("base_source_sha256") not in (None, file_digest(source)):
            raise corrupt_file_error(source, "has changed since the training: its sha256 is another one")
    check_files(args.model, read_json(args.selection)["sha256"])
    for path in args.lm:
        if path.name == ABOUT:
            check_files(args.model / "lm", read_json(path).get("sha256", {}))
    (counts,) = (read_json(path) for path in args.counts if path.stem == "train")
    digest = counts.get("sha256")
    if digest is not None and not holds_digest(args.train_digest, digest):
        raise corrupt_file_error(args.train_digest, "has changed since it was written: the counts have another digest")
    # Its copy among the evidence would be named otherwise.
    for summary in (args.summary, *args.seed_summaries, *args.compared_summaries):
        read_table(summary)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=CardSettings.model_validate_json, required=True)
    parser.add_argument("--configuration", type=json.loads, required=True, help="the configuration of the run")
    parser.add_argument("--model", type=Path, required=True, help="the model folder, where all but --page is written")
    parser.add_argument("--page", type=Path, required=True, help="the card as a self-contained HTML page")
    inputs = ("summary", "selection", "breakdown", "training", "plan", "leakage", "usage")
    for name in (*inputs, "training-log"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--train-digest", type=Path, required=True, help="the digest of the training clips")
    parser.add_argument("--counts", type=Path, nargs="+", required=True, help="the counts of the clips of each role")
    parser.add_argument("--status", type=Path, nargs="+", required=True, help="the status of each dataset")
    parser.add_argument("--clips", type=Path, nargs="+", required=True, help="the clips of each scored set")
    parser.add_argument("--hypotheses", type=Path, nargs="+", required=True, help="of every set, step and decoder")
    parser.add_argument("--confidence", type=Path, nargs="+", required=True, help="the confidence of words in each set")
    parser.add_argument("--lm", type=Path, nargs="*", default=[], help="text.json, arpa.json, weights.json, if any")
    parser.add_argument("--exports", type=Path, nargs="*", default=[], help="scores of the exported models, if any")
    parser.add_argument("--base-source", type=Path, nargs="*", default=[], help="the source of the base model, if any")
    parser.add_argument("--base-card", type=Path, nargs="*", default=[], help="what the card of the base says, if any")
    parser.add_argument("--label-errors", type=Path, nargs="*", default=[], help="how many sentences were scored")
    parser.add_argument("--seed-summaries", type=Path, nargs="*", default=[], help="scores of runs with other seeds")
    parser.add_argument("--seed-selections", type=Path, nargs="*", default=[], help="the selections of these runs")
    parser.add_argument("--compared-summaries", type=Path, nargs="*", default=[], help="scores of compared runs")
    parser.add_argument("--compared-selections", type=Path, nargs="*", default=[], help="the selections of these runs")
    parser.add_argument("--compared-hypotheses", type=Path, nargs="*", default=[], help="of these runs, on shared sets")
    args = parser.parse_args()
    check_inputs(args)
    files: dict[str, Path] = {path.name: path for path in (getattr(args, name) for name in inputs)}
    files |= {"training.jsonl": args.training_log, "train.sha256": args.train_digest}
    files |= {f"counts/{path.name}": path for path in args.counts} | {f"lm/{path.name}": path for path in args.lm}
    files |= {f"export/{path.parent.name}.json": path for path in args.exports}
    files |= {f"status/{path.parent.name}.json": path for path in args.status}
    others = {
        "seeds": zip(args.seed_summaries, args.seed_selections, strict=True),
        "compared": zip(args.compared_summaries, args.compared_selections, strict=True),
    }
    for kind, pairs in others.items():
        for summary, selection in pairs:
            files |= {f"{kind}/{selection.parent.name}/{path.name}": path for path in (summary, selection)}
    optional = {"base": args.base_source, "base_card": args.base_card, "label_errors": args.label_errors}
    files |= {f"{name}.json": path for name, paths in optional.items() for path in paths}
    evidence.write(args.model, args.settings, args.configuration, files)
    selection = read_json(args.selection)
    selected = selected_systems(args.hypotheses, selection)
    evidence.write_scored(args.model, args.settings, selected, args.clips)
    runs = load_compared_runs(args.compared_summaries, args.compared_selections, args.compared_hypotheses)
    evidence.write_compared(args.model, read_json(args.breakdown), runs)
    evidence.write_confidence(args.model, args.settings, args.confidence)
    found = evidence.read(args.model)
    plot(found, args.model)
    # The folder is an output of the rule, so it must exist even if none of the sets is on the Hub.
    (args.model / HUB_RESULTS).mkdir(exist_ok=True)
    texts = card_files(found)
    for name, text in texts.items():
        write_text(text, args.model / name)
    write_text(page(texts[CARD], args.model), args.page)
    manifest.write(args.model)


if __name__ == "__main__":
    run_command(main)

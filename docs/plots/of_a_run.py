"""Draw the two pictures that README.md begins with from a finished run: `python docs/plots/of_a_run.py RUN`.

learnt.svg is the picture of the report's first screen, funnel.svg what is left of the pages behind each stage up to the
tokens. Both are on white, with text as outlines, so they look the same on light and dark pages without any font.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cluster import storage
from ray_jobs.report import plots, summary
from ray_jobs.run.graph import CRAWL, DECONTAMINATE, DEDUP, EXTRACT, LANGUAGE, POLICY, TOKENIZE
from ray_jobs.run.run import open_run

HERE = Path(__file__).parent
IN_WORDS = {
    CRAWL: "read",
    EXTRACT: "main text",
    LANGUAGE: "in a language of the recipe",
    POLICY: "past the filters",
    DEDUP: "without duplicates",
    DECONTAMINATE: "without test questions",
}


def main(uri: str, folder: Path = HERE) -> list[Path]:
    """Write both pictures of the run at `uri`; returns their paths. Raises SystemExit for a run without an evaluation."""
    run = open_run(uri)
    found = summary.of(uri, run.recipe, [stage.name for stage in run.stages])
    if not found.learnt or not found.tokens:
        raise SystemExit(f"{uri} has no evaluated model; finish it first: pinisi run {found.name}")
    rows = []
    for stage, words in IN_WORDS.items():
        if manifest := run.manifest(stage):
            rows.append((words, manifest["docs_out"], sum(manifest["bytes_per_lang"].values())))
    tokenized = run.manifest(TOKENIZE)
    assert tokenized
    rows.append(("tokens to train on", tokenized["docs_out"] - heldout(uri), tokenized["bytes"]))
    drawn = {
        "learnt.svg": plots.dumbbells(found.learnt, alone=True),
        "funnel.svg": plots.page_to_token(rows, found.tokens, alone=True),
    }
    for name, svg in drawn.items():
        (folder / name).write_text(svg, "utf-8")
    return [folder / name for name in drawn]


def heldout(uri: str) -> int:
    """Documents that are kept for evaluation."""
    return storage.read_table(storage.join(uri, TOKENIZE, "heldout.parquet"), ["doc_id"]).num_rows


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("python docs/plots/of_a_run.py RUN")
    for path in main(sys.argv[1]):
        print(path)

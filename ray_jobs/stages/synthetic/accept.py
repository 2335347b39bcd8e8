"""Whether a text that a model made may stay: what a page must be, and what only texts of models are.

First what can be said of a text beside its document, each a rule of the ledger:

    no_answer         the model refused, was cut off, or its endpoint gave nothing that can be read
    chatter           the text talks to whoever asked, as in "Sure! Here is the translation:"
    copy_of_prompt    it has passages of the instructions
    copy_of_document  too much of it stands in the document word for word
    length            as much text as the prompt lets it be, measured alike in every script
    round_trip        translated back, too little of the document is there again (chrF, Popović 2015)

Then what is said of pages: the language by the identifier, which must be the one that was asked for (`language_other`), the
bounds of the language (repetition, stop words, perplexity where there is a model), passages of evaluation sets.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.shards import LEDGER, Kernel, ledger_rows
from curation import decontaminate
from curation.lid.identify import identify
from curation.policy import policy
from curation.signals import word_lists
from curation.signals.measure import Measure
from curation.signals.own_signals import OwnSignals
from ray_jobs.config.recipe import Recipe
from ray_jobs.run import files, identifier
from ray_jobs.stages.filter_policy import own_names, with_perplexity
from ray_jobs.stages.filter_signals import kinds

STAGE = "synthesize"
RUN_CHARS = 24  # in a row, without spaces: a passage that was copied
COPIED_PROMPT = 0.2  # of the passages of the instructions
HAN, UNSPACED = 3.7, 1.3  # letters of a spaced script that say as much as one character of these
CHRF_LENGTHS = range(1, 7)
CHRF_BETA = 2.0
_CHATTER = re.compile(
    r"\A\W*(?:sure|certainly|of course|okay|here(?:’s|'s| is| are))\b[^\n]{0,120}:\s*$|\bas an ai\b|\bi(?: am|’m|'m) an ai\b",
    re.IGNORECASE | re.MULTILINE,
)

TEXTS = pa.schema(
    [
        *[(name, pa.string()) for name in ("doc_id", "url", "source", "source_id", "crawl", "fetched_at", "published")],
        *[(name, pa.string()) for name in ("licence", "lang", "text")],
        ("quality", pa.float32()),
        *[(name, pa.string()) for name in ("made_from", "made_from_lang", "made_by", "prompt", "prompt_hash")],
        ("model_licence", pa.string()),
    ]
)
"""One row per text. `licence` and `published` are those of the document, `url` is empty: the text was published nowhere."""


class Made(TypedDict):
    """A text with its document and what is wrong with its reply."""

    row: dict  # of TEXTS
    document: str
    problem: str
    back: str | None
    length: tuple[float, float]
    instructions: list[str]


class Task(TypedDict):
    """Texts of one part."""

    made: list[Made]
    recipe: Recipe
    kernels: list[Kernel]  # made where the run was started, so that files and functions of the user are found
    sets: list[str]  # of evaluation
    scoring: tuple[Callable[..., Kernel], tuple]  # what makes the kernel of quality scores, and its arguments
    out: str
    ledger: str


def shard(task: Task) -> dict:
    """Write the texts that may stay, and ledger rows of the others."""
    if storage.exists(task["ledger"]):
        return {}
    recipe = task["recipe"]
    own = recipe.synthesize
    assert own is not None, "only then there is this stage"
    refused, left = [], []
    for made in task["made"]:
        why = _alone(made, own.accept.max_copied, own.accept.round_trip)
        if why:
            refused.append({**{name: made["row"][name] for name in ("doc_id", "url", "lang")}, **why})
        else:
            left.append(made["row"])
    batch = pa.RecordBatch.from_pylist(left, schema=TEXTS)
    drops = [ledger_rows(STAGE, refused)]
    for kernel in (*task["kernels"], *_without_items(recipe, task["sets"])):
        batch, gone = kernel(batch) if batch.num_rows else (batch, ledger_rows(STAGE, []))
        drops.append(_ours(gone))
    if batch.num_rows:
        make, arguments = task["scoring"]
        batch, _ = make(*arguments)(batch.drop_columns(["quality"]))
    storage.write_table(task["out"], pa.Table.from_batches([batch]).select(TEXTS.names).cast(TEXTS))
    storage.write_table(task["ledger"], pa.Table.from_batches(drops, LEDGER))
    return {}


def _alone(made: Made, max_copied: float, round_trip: float | None) -> dict | None:
    """The first rule that a text breaks beside its document and prompt."""
    text, document = made["row"]["text"], made["document"]
    if made["problem"] or not text:
        return {"rule": "no_answer", "detail": (made["problem"] or "the model said nothing")[:300]}
    if found := _CHATTER.search(text):
        return {"rule": "chatter", "detail": found.group().strip()[:300]}
    told = [copied(piece, text) for piece in made["instructions"]]
    if told and max(told) > COPIED_PROMPT:
        return {"rule": "copy_of_prompt", "value": max(told), "threshold": COPIED_PROMPT}
    share = copied(text, document)
    if share > max_copied:
        return {"rule": "copy_of_document", "value": share, "threshold": max_copied}
    ratio = size(text) / max(1.0, size(document))
    least, most = made["length"]
    if not least <= ratio <= most:
        return {"rule": "length", "value": ratio, "threshold": least if ratio < least else most}
    if round_trip is not None and made["back"] is not None:
        score = chrf(made["back"], document)
        if score < round_trip:
            return {"rule": "round_trip", "value": score, "threshold": round_trip}
    return None


def size(text: str) -> float:
    """How much a text says, in letters of a spaced script: a run of 13 words is as much as 48 letters of a script without
    spaces, with their marks 60, or 21 Han characters (docs/curation.md, decontamination).

    >>> size("abc de"), size("小船")
    (5.0, 7.4)
    """
    one = pa.array([text])
    every = pc.count_substring_regex(one, r"\S")[0].as_py()
    han = pc.count_substring_regex(one, r"[\p{Han}\p{Hiragana}\p{Katakana}]")[0].as_py()
    unspaced = pc.count_substring_regex(one, r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")[0].as_py()
    return round(every + (HAN - 1) * han + (UNSPACED - 1) * unspaced, 1)


def copied(text: str, other: str) -> float:
    """The share of the stretches of `RUN_CHARS` characters of `text` that stand in `other`, spaces and capitals apart."""
    mine, theirs = _runs(text), _runs(other)
    return len(mine & theirs) / len(mine) if mine else 0.0


def _runs(text: str) -> set[str]:
    plain = "".join(text.split()).lower()
    return {plain[i : i + RUN_CHARS] for i in range(len(plain) - RUN_CHARS + 1)}


def chrf(text: str, reference: str) -> float:
    """Character n-gram F-score of Popović (2015) with beta 2, 0 to 1: the mean over lengths 1 to 6, spaces left out."""
    mine, theirs = "".join(text.split()), "".join(reference.split())
    scores = []
    for n in CHRF_LENGTHS:
        ours, wanted = (Counter(of[i : i + n] for i in range(len(of) - n + 1)) for of in (mine, theirs))
        both = sum((ours & wanted).values())
        precision, recall = both / max(1, ours.total()), both / max(1, wanted.total())
        weight = CHRF_BETA**2
        scores.append((1 + weight) * precision * recall / (weight * precision + recall) if both else 0.0)
    return sum(scores) / len(scores)


def _in_language(recipe: Recipe) -> Kernel:
    """The identifier as pages meet it; of what it lets through, only texts in the language that was asked for."""
    kernel = identify(
        identifier.of(recipe), list(recipe.languages), dict(recipe.language.min_score),
        min_share=dict(recipe.language.min_share),
    )  # fmt: skip

    def check(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        wanted = dict(zip(batch["doc_id"].to_pylist(), batch["lang"].to_pylist(), strict=True))
        bare = batch.drop_columns(["lang"]).append_column("lang_hint", pa.array([""] * batch.num_rows))
        kept, drops = kernel(bare)
        found = zip(kept["doc_id"].to_pylist(), kept["lang"].to_pylist(), kept["lang_score"].to_pylist(), strict=True)
        other = {
            doc_id: {"doc_id": doc_id, "url": "", "rule": "language_other", "value": float(score), "detail": lang}
            for doc_id, lang, score in found
            if lang != wanted[doc_id]
        }
        gone = [*drops.to_pylist(), *other.values()]
        for row in gone:
            row["lang"] = wanted[row["doc_id"]]
        stays = set(kept["doc_id"].to_pylist()) - other.keys()
        left = pc.is_in(batch["doc_id"], pa.array(sorted(stays), pa.string()))
        return batch.filter(left), ledger_rows(STAGE, [{**row, "stage": STAGE} for row in gone])

    return check


def kernels(recipe: Recipe, thresholds: dict[str, dict]) -> list[Kernel]:
    """What pages meet too: the identifier, masking and signals, the bounds of each language with the `thresholds` of
    `filter/policy`."""
    config = recipe.filter
    langs = list(recipe.languages)
    lists = word_lists.read(config.word_lists) if config.word_lists else {}
    found: list[Kernel] = [
        _in_language(recipe),
        Measure(
            langs,
            lists or None,
            masked=kinds(config),
            perplexity_models=config.perplexity_models,
            own=OwnSignals(config.signals, os.getcwd()),
            folder=config.language_files,
        ),
    ]
    assert recipe.synthesize is not None
    if recipe.synthesize.accept.policy:
        # nobody has annotated what a model has just written, so no bound on annotations decides
        annotated = {name for one in recipe.annotations for name in one.columns}
        asked = with_perplexity(config.policy, config.perplexity_models, langs)
        rules = {lang: _but(annotated, bounds) for lang, bounds in asked.items()}
        thresholds = {lang: _but(annotated, bounds) for lang, bounds in thresholds.items()}
        names = own_names(recipe.model_copy(update={"annotations": []}))
        found.append(policy.policy_kernel(langs, rules, lists, thresholds, names, config.language_files))
    return found


def _but(names: set[str], bounds: Any) -> Any:
    """`bounds` by signal without those of `names`; what is no mapping, as a language that is off, as it is."""
    return {name: bound for name, bound in bounds.items() if name not in names} if isinstance(bounds, dict) else bounds


def _without_items(recipe: Recipe, sets: list[str]) -> list[Kernel]:
    given = recipe.decontaminate
    lengths = decontaminate.Lengths(given.words, given.letters, given.han)
    return [decontaminate.decontaminate_kernel(sets, given.fields, lengths)] if sets else []


def _ours(gone: pa.RecordBatch) -> pa.RecordBatch:
    """Ledger rows of a kernel as rows of this stage."""
    rows = [{**row, "stage": STAGE} for row in gone.to_pylist()]
    return pa.RecordBatch.from_pylist(rows, schema=LEDGER)


def evaluation_sets(recipe: Recipe) -> list[str]:
    given = recipe.decontaminate.against
    return files.named(given, "decontaminate.against") if given else []


def names(recipe: Recipe) -> Mapping[str, str]:
    """Language -> what it is called in a prompt."""
    folder = recipe.filter.language_files
    return {lang: policy.load(lang, folder=folder).name for lang in recipe.languages}

"""What a run came to in a few numbers: the lines that end `pinisi run`, and the first sentences and picture of the report.

Both read the same `Summary`, so they agree. A run that ended well never fails for this: what cannot be read is left out.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from cluster import storage, terminal
from ray_jobs.config.recipe import Recipe
from ray_jobs.report import intervals, notices, verdict
from ray_jobs.report.intervals import Change
from ray_jobs.report.names import UNKNOWN, language
from ray_jobs.run import adopted
from ray_jobs.run.graph import (
    BASE,
    CONTROL_2,
    CRAWL,
    DECONTAMINATE,
    DEDUP,
    DPO_WATCH,
    EVALUATE,
    EXTRACT,
    LANGUAGE,
    POLICY,
    PRETRAIN_1,
    PRETRAIN_2,
    REPORT,
    REWARD,
    TOKENIZE,
)
from ray_jobs.run.run import read_manifest
from train.scores import reward_quality

CORPUS = (CRAWL, EXTRACT, LANGUAGE, POLICY, DEDUP, DECONTAMINATE)
INTERESTING = (
    (DEDUP, "near_duplicate", "a near-duplicate"),
    (DECONTAMINATE, None, "a page that quotes a test"),
    (POLICY, None, "a page that broke a rule"),
    (DEDUP, None, "a duplicate"),
    (LANGUAGE, None, "a page in no language of the recipe"),
    (EXTRACT, None, "a page without main text"),
)
"""Why a page may have been dropped: stage, rule (None: any), in words; what says most about the chain first."""
ORDER = (
    "order.json"  # beside a stage that reads the mixture (ray_jobs/training/data_order.py, which no report depends on)
)
LOOKED_AT = 50  # parts of a ledger, until another reason is looked for


@dataclass(frozen=True)
class Learnt:
    """A language's bits per byte of held-out text under the base, the final model and the control (None: there is none)."""

    lang: str
    replay: bool
    before: float
    after: float
    control: float | None
    change: Change

    @property
    def name(self) -> str:
        return language(self.lang)


@dataclass
class Summary:
    """None or empty: the run has no such thing, or not yet."""

    name: str
    uri: str
    pages: tuple[int, int] | None = None  # read, kept
    languages: int = 0  # of the kept pages
    tokens: int = 0
    learnt: list[Learnt] = field(default_factory=list)  # best first, replay languages behind
    compared: Change | None = None  # with expansion less without, mean over replay languages
    chat: tuple[str, str] | None = None  # a measure; more about it
    warnings: int = 0
    kinds: int = 0
    page: tuple[str, str] | None = None  # URL or id of a page to explain; what is interesting about it
    trained: tuple[str, int] | None = None  # stage and step to trace
    report: str | None = None

    @property
    def new(self) -> list[Learnt]:
        return [one for one in self.learnt if not one.replay]

    @property
    def replay(self) -> list[Learnt]:
        return [one for one in self.learnt if one.replay]


def of(uri: str, recipe: Recipe, stages: list[str]) -> Summary:
    """The summary of what is done of `stages` of the run at `uri`."""
    manifests = {name: found for name in stages if (found := _tried(read_manifest, uri, name))}
    found = Summary(recipe.name, uri)
    for part in (_corpus, _models, _chat, _warnings, _traced, _report):
        _tried(part, found, manifests, recipe)
    found.page = _tried(_page, uri, manifests)
    return found


def _tried(function: Callable, *arguments: Any) -> Any:
    """None for whatever is not there or not as it should be: a summary is no reason for a run to fail."""
    try:
        return function(*arguments)
    except Exception:
        return None


def _corpus(found: Summary, manifests: dict, recipe: Recipe) -> None:
    stages = [name for name in CORPUS if name in manifests]
    if not stages:
        return
    last = manifests[stages[-1]]
    found.languages = len([lang for lang, n in last["docs_per_lang"].items() if n and lang != UNKNOWN])
    found.pages = int(manifests[CRAWL]["docs_in"]), int(last["docs_out"])
    found.tokens = int(manifests.get(TOKENIZE, {}).get("tokens") or 0)


def _models(found: Summary, manifests: dict, recipe: Recipe) -> None:
    evaluation = storage.read_json(adopted.path(found.uri, EVALUATE, "metrics.json"))
    bpb = evaluation["bits_per_byte"]
    if PRETRAIN_2 not in bpb:
        return
    documents = _tried(intervals.read, found.uri) or intervals.Documents([])
    replay, new = verdict.split(bpb[BASE], recipe)
    control = bpb.get(CONTROL_2, {})
    rows = [
        Learnt(
            lang,
            lang in replay,
            bpb[BASE][lang],
            bpb[PRETRAIN_2][lang],
            control.get(lang),
            intervals.change(evaluation, documents, BASE, PRETRAIN_2, [lang]),
        )
        for lang in [*new, *replay]
    ]
    found.learnt = sorted(rows, key=lambda one: (one.replay, one.change.value))
    if control and replay:
        found.compared = intervals.change(evaluation, documents, CONTROL_2, PRETRAIN_2, replay)


def _chat(found: Summary, manifests: dict, recipe: Recipe) -> None:
    if manifests.get(DPO_WATCH, {}).get("prompts"):
        last, n = manifests[DPO_WATCH]["last"], manifests[DPO_WATCH]["prompts"]
        by, key = ("judge", "judge_win_rate") if "judge_win_rate" in last else ("reward model", "win_rate")
        low, high = reward_quality.interval(last[key], n)
        found.chat = (
            f"preferred to the SFT model in {last[key]:.0%} of {n:,} questions ({low:.0%} to {high:.0%})",
            f"judged by the {by}, the interval is one of 95 %; {last['language_consistency']:.0%} of its answers are in the "
            "question's language",
        )
    elif "heldout_accuracy" in manifests[REWARD]:
        made = manifests[REWARD]
        found.chat = (
            f"its reward model is right on {made['heldout_accuracy']:.0%} of {made['heldout_pairs']:,} held-out pairs",
            f"95 % interval {made['heldout_accuracy_from']:.0%} to {made['heldout_accuracy_to']:.0%}",
        )


def _warnings(found: Summary, manifests: dict, recipe: Recipe) -> None:
    said = [warning for manifest in manifests.values() for warning in manifest.get("warnings", [])]
    found.warnings, found.kinds = len(said), len(notices.grouped(said))


def _traced(found: Summary, manifests: dict, recipe: Recipe) -> None:
    """A step in the middle of a training stage that reads the mixture."""
    stage = next(name for name in (PRETRAIN_1, BASE) if name in manifests)
    if storage.exists(adopted.path(found.uri, stage, ORDER)):
        found.trained = stage, max(1, manifests[stage]["steps"] // 2)


def _report(found: Summary, manifests: dict, recipe: Recipe) -> None:
    target = storage.join(found.uri, REPORT, "index.html")
    found.report = target if storage.exists(target) else None


def _page(uri: str, manifests: dict) -> tuple[str, str] | None:
    """A page that was dropped for a reason that says something, else one that was kept."""
    for stage, rule, words in INTERESTING:
        counts = manifests.get(stage, {}).get("rules", {})
        if counts.get(rule) if rule else sum(counts.values()):
            for part in storage.glob(adopted.ledger(uri, stage, "*.parquet"))[:LOOKED_AT]:
                for row in storage.read_table(part, ["doc_id", "url", "rule"]).to_pylist():
                    if row["doc_id"] and rule in (None, row["rule"]):
                        return _named(row), words
    for part in storage.glob(adopted.path(uri, CRAWL, "part-*.parquet"))[:LOOKED_AT] if CRAWL in manifests else ():
        if rows := storage.read_table(part, ["doc_id", "url"]).slice(0, 1).to_pylist():
            return _named(rows[0]), "a page that was read"
    return None


def _named(row: dict) -> str:
    """A URL that can be printed and copied and names no mailbox, else the id."""
    url = row["url"]
    return url if url and terminal.clean(url) == url and "@" not in url and len(url) < 500 else row["doc_id"]


def commands(found: Summary, program: str) -> list[tuple[str, str]]:
    """(what it shows, the command) of three commands that work on this run."""
    run, made = shlex.quote(found.uri), []
    if found.page:
        made.append((found.page[1], f"{program} explain {run} {shlex.quote(found.page[0])}"))
    if found.trained:
        stage, step = found.trained
        other = "" if stage == PRETRAIN_1 else f" --stage {stage}"
        made.append((f"the pages of step {step:,}", f"{program} trace {run} {step}{other}"))
    made.append(("every stage", f"{program} status {run}"))
    if len(made) < 3:
        made.append(("a report of what there is", f"{program} report {run}"))
    return made


def sentences(found: Summary) -> list[str]:
    """At most three: what became of the pages, what the model learnt, what became of what it knew."""
    said = []
    if found.pages:
        said.append(f"{_pages(found)}.")
    if new := found.new:
        better = sum(one.change.value < 0 for one in new)
        least = f", least in {_change(new[-1])}" if len(new) > 1 else ""
        where = f"{better:,} of {len(new):,} new languages, most in {_change(new[0])}{least}"
        said.append(f"The model learnt: it needs fewer bits per byte of held-out text than before in {where}.")
    if found.replay:
        known = ", ".join(f"{_change(one)} ({_fate(one.change, short=False)})" for one in found.replay)
        said.append(
            f"Of what it knew before: {known}{f'; expansion {_expansion(found.compared)}' if found.compared else ''}."
        )
    return [one.replace("->", "→") for one in said]


def lines(found: Summary, program: str = "pinisi") -> list[Text]:
    """About ten lines for a terminal; a command has a line of its own however long."""
    shown: list[Text] = [Text()]

    def say(title: str, text: str) -> None:
        first, *others = terminal.paragraph(f"{title}: {text}", columns_wide=terminal.width() - terminal.INDENT)
        shown.extend([first, *(Text(" " * terminal.INDENT + line.plain) for line in others)])

    if found.pages:
        say(found.name, _pages(found))
    if new := found.new:
        least = f", least {_change(new[-1])}" if len(new) > 1 else ""
        say("learnt", f"most {_change(new[0])}{least} bits per byte")
    if found.replay:
        say("known before", ", ".join(f"{_change(one)} ({_fate(one.change)})" for one in found.replay))
    if found.compared:
        say("expansion", _expansion(found.compared))
    if found.chat:
        say("chat model", found.chat[0])
    if found.warnings:
        kinds = "one kind" if found.kinds == 1 else f"{found.kinds} kinds"
        say("warnings", f"{found.warnings:,}, of {kinds}; the report says what to do")
    if found.report:
        shown += terminal.verbatim(f"report: {found.report}")
    asked = commands(found, program)
    say("try next", "; ".join(what for what, _ in asked))
    for _, command in asked:
        shown += terminal.verbatim(command, 2 * terminal.INDENT)
    return shown


def _pages(found: Summary) -> str:
    assert found.pages
    read, kept = found.pages
    where = f" in {found.languages:,} languages" if found.languages else ""
    tokens = f": {terminal.short(found.tokens)} tokens" if found.tokens else ""
    return f"{read:,} pages read, {kept:,} kept{where}{tokens}"


def _change(one: Learnt) -> str:
    return f"{one.name} {one.before:.2f} -> {one.after:.2f}"


def _fate(one: Change, short: bool = True) -> str:
    if not one.certain:
        return ("the same" if one.small else "unsure") if short else verdict.nothing(one, "change")
    return "forgotten" if one.value > 0 else "better"


def _expansion(one: Change) -> str:
    """With expansion against without it, after the same tokens, on the replay languages."""
    if not one.certain:
        return f"makes {verdict.nothing(one, 'difference')}"
    return f"{'protected them' if one.value < 0 else 'did them harm'}: {one}"

"""`pinisi tokens`: what each training stage would read of every language: weight, tokens, bytes, epochs, beside Sailor2's tables;
and what the next megabyte of a language is worth, new or read again.

Without arguments it is for Sailor2's own pools; a file or a finished run names others. Nothing is read but counts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from cluster import storage, strict_yaml, terminal
from cluster.terminal import Column
from mixture import readings, sailor2, weights
from mixture.readings import Asked
from mixture.weights import Auto, Beside, Pool, Stage
from ray_jobs.errors import UserError
from ray_jobs.run import adopted
from ray_jobs.run.graph import WEIGHTS
from ray_jobs.training import budget, data_order

if TYPE_CHECKING:
    from ray_jobs.config.parallel import Parallel

HIGH_QUALITY = 0.2  # of a pool, the best by quality score
UPDATE = {"stage1": 1024 * 4096, "stage2": 4096 * 4096}  # tokens of one, Sailor2 section 4.4


class Pools(NamedTuple):
    """Pools by language: those of stage 1, the high-quality ones of stage 2, instructions (one, of any languages), and those of
    parallel text by pair of languages (`parallel/en-id`)."""

    stage1: dict[str, Pool]
    high_quality: dict[str, Pool]
    instructions: dict[str, Pool]
    notes: list[str]
    parallel: dict[str, Pool]


class Plan(NamedTuple):
    """`read` says how often both stages together read the best documents of each language: those of both its pools."""

    pools: Pools
    stages: dict[str, Stage]
    read: dict[str, float]
    warnings: list[str]


class Worth(NamedTuple):
    """What a megabyte more of a language does. `pool_bytes`: of its whole pool; `epochs`: tokens that both stages read / those
    of the pool. `new` and `again`: relative change of the excess loss, the part that data can still remove, when the pool grows
    by a megabyte at the same tokens read, and when a megabyte more is read of it (mixture/readings.py)."""

    language: str
    pool_bytes: float
    epochs: float
    new: float
    again: float

    @property
    def ratio(self) -> float:
        return self.new / self.again if self.again else 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--pools", metavar="FILE", help="YAML: language: {tokens, bytes, high_quality, stage1} (docs/mixture.md)"
    )
    source.add_argument(
        "--run", metavar="RUN", help="the pools and the mixture keys of this run, after its stage tokenize"
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="JSON, language: weight of stage 1, as in RUN/regmix/weights/weights.json"
    )
    for stage, text in (("stage1", "450e9"), ("stage2", "60e9, 0 for none")):
        parser.add_argument(
            f"--{stage}", type=float, metavar="TOKENS", help=f"of {stage} (default: the run's, else {text})"
        )
    parser.add_argument(
        "--temperature", type=float, help="weights ~ tokens^(1/temperature) (default: the run's, else 2)"
    )
    parser.add_argument(
        "--max-epochs",
        type=_readings,
        metavar="N",
        help="cap and warning: a number, auto, or lo=16,default=4 (default: the run's, else 4)",
    )
    parser.add_argument("--replay-share", type=float, help="of en and zh in stage 1 (default: the run's, else 0.2)")
    parser.add_argument(
        "--parallel-share", type=float, help="of parallel text in stage 1 (default: the run's, else 0.05)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for a program")


def main(options: argparse.Namespace) -> None:
    from ray_jobs.config.mixture import Mixture
    from ray_jobs.config.parallel import Parallel

    mixture, parallel = Mixture(), Parallel()
    budgets: dict[str, int | Auto] = {"stage1": int(sailor2.STAGE1_TOKENS), "stage2": int(sailor2.STAGE2_TOKENS)}
    update, chosen = UPDATE, options.weights
    try:
        if options.run:
            from ray_jobs.run.run import open_run

            recipe = open_run(options.run).recipe
            mixture, parallel, pools = recipe.mixture, recipe.parallel, of_run(options.run)
            if recipe.train and (pretrain := recipe.train.pretrain):
                budgets = {
                    "stage1": budget.asked(recipe.train, "stage1"),
                    "stage2": budget.asked(recipe.train, "stage2"),
                }
                update = {name: getattr(pretrain, name).rows_per_step * recipe.train.context for name in budgets}
            measured = adopted.path(options.run, WEIGHTS, "weights.json")
            if not (chosen or options.temperature or options.replay_share) and storage.exists(measured):
                chosen = measured
                pools.notes.append(
                    "weights of stage 1 are the run's, from RegMix; --temperature 2 shows those of token counts"
                )
        else:
            pools = of_file(options.pools) if options.pools else of_sailor2()
        given = {
            "temperature": options.temperature,
            "max_epochs": options.max_epochs,
            "replay_share": options.replay_share,
        }
        named = set(options.max_epochs) if isinstance(options.max_epochs, dict) else set()
        if absent := sorted(named - {*pools.stage1, *pools.high_quality, *pools.instructions, "default"}):
            raise ValueError(f"--max-epochs: languages without a pool: {', '.join(absent)}")
        mixture = mixture.model_copy(update={key: value for key, value in given.items() if value is not None})
        budgets |= {stage: int(value) for stage in budgets if (value := getattr(options, stage)) is not None}
        fixed = _weights(chosen) if chosen else None
        beside = _beside(pools, parallel, options.parallel_share)
        plan = make(pools, budgets["stage1"], budgets["stage2"], mixture, fixed, beside)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    auto = {name: stage for name, stage in plan.stages.items() if stage.bound != "the recipe"}
    pools.notes.extend(f"{name}: {weights.sentence(stage)}" for name, stage in auto.items())
    published = not (options.run or options.pools)
    print(json.dumps(as_json(plan, published, update), indent=1)) if options.json else show(plan, published, update)


def _beside(pools: Pools, parallel: Parallel, share: float | None) -> dict[str, Beside]:
    """What parallel text has of each stage."""
    if not pools.parallel:
        if share is not None:
            raise ValueError("--parallel-share: these pools have no parallel text")
        return {}
    asked = {name: parallel.weights.get(name.split("/")[-1], 0.0) for name in pools.parallel}
    total = sum(asked.values())
    asked = {name: weight / total for name, weight in asked.items()} if total else {}
    shares = {"stage1": parallel.share if share is None else share, "stage2": parallel.stage2_share}
    return {stage: Beside(pools.parallel, value, asked) for stage, value in shares.items()}


def of_sailor2() -> Pools:
    """Sailor2's pools: nine languages in stage 1, six more with their best fifth in stage 2."""
    replay = dict.fromkeys(("en", "zh"), sailor2.REPLAY_POOL)
    first = {lang: pool for lang, pool in sailor2.POOLS.items() if lang not in sailor2.STAGE2_ONLY}
    instructions = Pool(int(sailor2.STAGE2_INSTRUCTIONS), int(4 * sailor2.STAGE2_INSTRUCTIONS))
    notes = [
        "pools of en and zh: not public, 100 B tokens each assumed",
        "high-quality pools: the best fifth of each language",
    ]
    return Pools(first | replay, _best(sailor2.POOLS), {"instructions": instructions}, notes, {})


def of_file(path: str) -> Pools:
    """The pools of a YAML file. `bytes` is 4 a token and `high_quality` a fifth of `tokens` where it is not said."""
    values = strict_yaml.read(Path(path), "file of pools")
    if not all(isinstance(value, dict) for value in values.values()):
        raise ValueError(f"{path}: a file of pools maps languages to {{tokens: 61e9, bytes: 242e9}}")
    first: dict[str, Pool] = {}
    best: dict[str, Pool] = {}
    instructions: dict[str, Pool] = {}
    parallel: dict[str, Pool] = {}
    for lang, value in values.items():
        unknown = sorted(set(value) - {"tokens", "bytes", "high_quality", "stage1"})
        if unknown or "tokens" not in value:
            what = f"unknown key {unknown[0]!r}" if unknown else "no tokens"
            raise ValueError(f"{path}: {lang}: {what}; known are tokens, bytes, high_quality and stage1")
        if lang.startswith("parallel/") and (apart := sorted({"high_quality", "stage1"} & set(value))):
            raise ValueError(
                f"{path}: {lang}: parallel text has no {apart[0]!r}; take it out, --parallel-share is its share"
            )
        try:
            tokens = float(value["tokens"])
            pool = Pool(int(tokens), int(float(value.get("bytes", 4 * tokens))))
            quality = float(value.get("high_quality", HIGH_QUALITY * tokens))
        except (TypeError, ValueError):
            raise ValueError(f"{path}: {lang}: tokens, bytes and high_quality are numbers, such as 61e9") from None
        if min(pool) < 0 or not 0 <= quality <= tokens:
            raise ValueError(f"{path}: {lang}: counts may not be negative, nor high_quality more than tokens")
        if lang == "instructions" or lang.startswith("parallel/"):
            (instructions if lang == "instructions" else parallel)[lang] = pool
            continue
        if value.get("stage1", True):
            first[lang] = pool
        if quality:
            best[lang] = _part(pool, quality / max(tokens, 1))
    return Pools(first, best, instructions, [f"pools of {path}"], parallel)


def of_run(uri: str) -> Pools:
    """The pools that a run's stage tokenize has written."""
    from ray_jobs.stages.mixture import pools_below

    root = data_order.pools_uri(uri)
    first, best, instructions = (
        {name.split("/")[-1]: pool for name, pool in pools_below(root, kind).items()}
        for kind in ("all", "high_quality", "instructions")
    )
    if not first:
        raise ValueError(f"{uri}: no pools of tokens below {root}; `pinisi run` writes them in its stage tokenize")
    return Pools(first, best, instructions, [f"pools of {uri}"], pools_below(root, "parallel"))


def make(  # noqa: PLR0917
    pools: Pools,
    stage1: int | Auto,
    stage2: int | Auto,
    mixture,
    fixed: dict[str, float] | None = None,
    beside: dict[str, Beside] | None = None,
) -> Plan:
    """The plan of both stages by the settings `mixture` (a recipe's section). `fixed` are weights of stage 1 by language,
    `beside` what parallel text has of each stage.

    `stage2` may be 0. Warns about what is read more often than `mixture.max_epochs` allows, in a stage and over both.
    """
    limits = {"temperature": mixture.temperature, "max_epochs": mixture.max_epochs}
    replay = [lang for lang in pools.stage1 if lang in mixture.replay_languages]
    share = mixture.replay_share if len(replay) < len(pools.stage1) else 1.0
    if fixed is not None:
        unknown = sorted(set(fixed) - set(pools.stage1))
        if unknown:
            raise ValueError(f"weights of languages without a pool in stage 1: {', '.join(unknown)}")
        total = sum(fixed.values())
        if total <= 0 or min(fixed.values()) < 0:
            raise ValueError("weights may not be negative, nor all 0")
        fixed = {lang: weight / total for lang, weight in fixed.items()}
    apart = beside or {}
    first = weights.stage1(
        pools.stage1, stage1, **limits, replay=replay, replay_share=share, fixed=fixed, beside=apart.get("stage1")
    )
    stages = {"stage1": first}
    read = {row.pool: row.epochs for row in first.rows if row.pool in pools.stage1}
    if stage2:
        best = {f"high_quality/{n}": p for n, p in pools.high_quality.items() if n not in mixture.replay_languages}
        shares = {
            "replay_share": mixture.stage2_replay_share,
            "instruction_share": mixture.stage2_instruction_share,
        }
        stages["stage2"] = weights.stage2(
            best,
            pools.instructions,
            pools.stage1 | pools.parallel,
            first.weights,
            stage2,
            **limits,
            **shares,
            beside=apart.get("stage2"),
        )
        for row in stages["stage2"].rows:  # the replay, and the best part of a language once more
            lang = row.pool.removeprefix("high_quality/")
            if lang in pools.stage1 or lang in pools.high_quality:
                read[lang] = read.get(lang, 0.0) + row.epochs
    warnings = [f"{name}: {text}" for name, stage in stages.items() for text in stage.warnings]
    caps: dict[str, float] = {}
    for pool, cap in (cap for stage in stages.values() for cap in stage.caps.items()):
        caps[readings.language(pool)] = max(cap, caps.get(readings.language(pool), 0.0))
    if stage2 and (
        often := [f"{lang} ({e:.1f})" for lang, e in sorted(read.items()) if e > caps.get(lang, 0.0) + 1e-6]
    ):
        times = f"more than {readings.times(caps)} times"
        warnings.append(f"over both stages the best documents of these languages are read {times}: {', '.join(often)}")
    return Plan(pools, stages, read, warnings)


MEGABYTE = 1e6


def worths(plan: Plan) -> list[Worth]:
    """What the next megabyte of each language is worth, where new text is worth most first."""
    pools, read = plan.pools, dict.fromkeys(sorted({*plan.pools.stage1, *plan.pools.high_quality}), 0.0)
    for stage in plan.stages.values():
        for row in stage.rows:
            if (lang := readings.language(row.pool)) in read:
                read[lang] += row.tokens
    found = []
    for lang, tokens in read.items():
        pool = max(each[lang] for each in (pools.stage1, pools.high_quality) if lang in each)
        if pool.tokens and pool.bytes:
            more = MEGABYTE * pool.tokens / pool.bytes
            new = readings.gain(pool.tokens, tokens, more_unique=more)
            again = readings.gain(pool.tokens, tokens, more_read=more)
            found.append(Worth(lang, pool.bytes, tokens / pool.tokens, new, again))
    return sorted(found, key=lambda one: (one.new, one.language))


def as_json(plan: Plan, beside: bool, update: dict[str, int]) -> dict:
    """For a program; with `beside` each row has Sailor2's tokens and epochs. `update`: tokens of an update of each stage."""
    found: dict = {"notes": plan.pools.notes, "warnings": plan.warnings, "epochs_both_stages": plan.read}
    for name, stage in plan.stages.items():
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in _rows(plan, name, beside)]
        found[name] = {"tokens": stage.tokens, "updates": round(stage.tokens / update[name]), "rows": rows}
        found[name]["max_epochs"] = stage.caps
    found["next_megabyte"] = [{**one._asdict(), "new_over_again": one.ratio} for one in worths(plan)]
    return found


def show(plan: Plan, beside: bool, update: dict[str, int]) -> None:
    """Print a table of each stage, then what to mind; arguments as of `as_json`."""
    from ray_jobs.plan.cost import amount

    columns = [
        Column("pool"),
        Column("has", terminal.short, right=True),
        Column("weight", "{:.4f}".format, right=True),
        Column("tokens", terminal.short, right=True),
        terminal.sizes("bytes"),
        Column("epochs", "{:.2f}".format, right=True),
        Column("Sailor2", terminal.short, right=True),
        Column("epochs", "{:.2f}".format, right=True),
    ]
    lines = []
    for name, stage in plan.stages.items():
        updates = f"{amount(stage.tokens, 'tokens')}, {stage.tokens / update[name]:,.0f} updates of {amount(update[name], '')}"
        rows = _rows(plan, name, beside)
        lines += [*terminal.table(columns if beside else columns[:6], rows, title=f"{name}: {updates}"), Text()]
    value = [
        Column("language"),
        terminal.sizes("has"),
        Column("epochs", "{:.2f}".format, right=True),
        Column("1 MB new", "{:+.2g} %".format, right=True),
        Column("1 MB again", "{:+.2g} %".format, right=True),
        Column("new : again", "{:.2g}".format, right=True),
    ]
    table = [(w.language, w.pool_bytes, w.epochs, 100 * w.new, 100 * w.again, w.ratio) for w in worths(plan)]
    title = "the next megabyte: change of the part of a language's loss that data can still remove, both stages"
    lines += [*terminal.table(value, table, title=title), Text()]
    for text in plan.warnings:
        lines += terminal.paragraph(f"warning: {text}", style="yellow")
    for text in plan.pools.notes:
        lines += terminal.paragraph(text, style="dim")
    terminal.show(lines)


COLUMNS = ("pool", "pool_tokens", "weight", "tokens", "bytes", "epochs", "sailor2_tokens", "sailor2_epochs")
Line = tuple[str, float, float, float, float, float, float | None, float | None]


def _rows(plan: Plan, name: str, beside: bool) -> list[Line]:
    """Rows of a stage, what is read most first, then the total. The replay of stage 1 in stage 2 is one row."""
    stage, pools = plan.stages[name], plan.pools
    published = {}
    if beside:
        second = {f"high_quality/{lang}": count for lang, count in sailor2.STAGE2.items()}
        second |= {"stage-1 blend": sailor2.STAGE2_REPLAY, "instructions": sailor2.STAGE2_INSTRUCTIONS}
        published = sailor2.STAGE1 if name == "stage1" else second
    sizes = {f"high_quality/{lang}": pool for lang, pool in pools.high_quality.items()} | pools.instructions
    own = pools.stage1 | pools.parallel if name == "stage1" else sizes
    lines = [(r.pool, own[r.pool].tokens, r.weight, r.tokens, r.bytes, r.epochs) for r in stage.rows if r.pool in own]
    lines.sort(key=lambda line: (-line[3], line[0]))
    if name == "stage2":
        blended = pools.stage1 | pools.parallel
        blend = [row for row in stage.rows if row.pool in blended]
        has = sum(pool.tokens for pool in blended.values())
        sums = [sum(getattr(row, key) for row in blend) for key in ("weight", "tokens", "bytes")]
        lines.append(("stage-1 blend", has, *sums, sums[1] / has if has else 0.0))
    held, weight, read, size = (sum(numbers[k] for _, *numbers in lines) for k in range(4))
    theirs = [published.get(line[0]) for line in lines]
    rows = [
        (*line, count, count / line[1] if count is not None and line[1] else None)
        for line, count in zip(lines, theirs, strict=True)
    ]
    theirs_in_all = sum(published.values()) if beside else None
    return [
        *rows,
        ("total", held, weight, read, size, read / held if held else 0.0, theirs_in_all, None),
    ]


def _readings(text: str) -> Asked:
    """`4`, `auto` or `lo=16,default=4`. Raises ValueError."""
    if text == "auto":
        return "auto"
    if "=" not in text:
        return float(text)
    found = {lang.strip(): float(number) for lang, _, number in (part.partition("=") for part in text.split(","))}
    if min(found.values()) <= 0:
        raise ValueError(weights.ABOVE_0)
    return found


def _best(pools: dict[str, Pool]) -> dict[str, Pool]:
    return {lang: _part(pool, HIGH_QUALITY) for lang, pool in pools.items()}


def _part(pool: Pool, share: float) -> Pool:
    return Pool(round(pool.tokens * share), round(pool.bytes * share))


def _weights(path: str) -> dict[str, float]:
    found = storage.read_json(path)
    found = found.get("weights", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(v, int | float) for v in found.values()):
        raise ValueError(f"{path}: weights are a JSON object of language: number")
    return {name.split("/")[-1]: float(weight) for name, weight in found.items()}

"""`pinisi weights` and `pinisi takedown`: change what a training stage reads from one of its steps on.

A change is a line in the stage's ledger, and holds from the next start of `pinisi run` on. While a run is being trained it
is refused: all its workers must know of it before they reach the step, so the run is stopped (it writes a checkpoint),
changed and continued.
"""

from __future__ import annotations

import argparse
import json
from contextlib import AbstractContextManager

from cluster import storage, terminal
from cluster.terminal import Column
from mixture.order import ledger
from mixture.store.long_documents import SIGN, LongDocuments, open_pool
from mixture.store.token_store import TokenStore
from ray_jobs.commands import explain, pairs
from ray_jobs.errors import UserError
from ray_jobs.run import lock, made_from
from ray_jobs.run.graph import LONG_CONTEXT, PRUNE
from ray_jobs.run.run import Run, open_run
from ray_jobs.training import data_order

SHOWN = 3  # changes of weights side by side


def weights(options: argparse.Namespace) -> None:
    """Without a change asked for, only show the schedule."""
    run = open_run(options.run)
    stage = data_order.stage_named(run.recipe, options.stage)
    if options.set or options.grow:
        if options.from_step is None:
            raise UserError("--from-step N is missing: the first step with the change")
        with _alone(run):
            change_weights(
                run, stage, options.from_step, _shares(options.set), grow=options.grow, reason=options.reason
            )
    elif options.from_step is not None:
        raise UserError("--from-step changes nothing by itself; add --set POOL=SHARE or --grow")
    print(json.dumps(as_json(run, stage), indent=1)) if options.json else show(run, stage)


def change_weights(
    run: Run, stage: str, step: int, shares: dict[str, float], *, grow: bool = False, reason: str = ""
) -> dict:
    """Add a change of weights at `step` to the ledger of `stage`, and return its line.

    `shares`: pool -> its share of the rows; the other pools share the rest in the proportions that they had. `grow`: all
    that the pools hold now is read, also what was appended since the plan. Raises UserError for a step that has been trained.
    """
    schedule = _schedule(run, stage)
    before = schedule[-1]["weights"]
    now = {_pool(run, before, name): share for name, share in shares.items()}
    rest = {name: weight for name, weight in before.items() if name not in now}
    left, had = 1.0 - sum(now.values()), sum(rest.values())
    if any(share < 0 for share in now.values()) or left < -1e-9 or (left > 1e-9 and not had):
        raise UserError(f"--set: shares must lie in 0..1 and leave the others the rest; these sum to {1 - left:g}")
    after = {name: max(0.0, left) * weight / had for name, weight in rest.items() if had} | now
    line = {"from_step": step, **_at(run, stage, step), "weights": dict(sorted(after.items()))}
    read = {name for entry in schedule for name in entry["tokens"]}
    grown = {name: _store(run, name).n_tokens for name in sorted(after) if grow or name not in read}
    line |= {"tokens": grown} if grown else {}
    _check_ahead(run, stage, step)
    return _append(run, stage, {**line, "reason": reason})


def takedown(options: argparse.Namespace) -> None:
    run = open_run(options.run)
    stage = data_order.stage_named(run.recipe, options.stage) if options.stage else None
    with _alone(run):
        said = take_down(run, options.document, stage, options.from_step, options.reason)
    print(*said, sep="\n")


def take_down(run: Run, document: str, stage: str | None, step: int | None, reason: str = "") -> list[str]:
    """Take a document down from `step` of `stage` on, and from all stages after it; returns sentences that say so.

    Its tokens stay where they are; what is read there has end tokens and no labels. Stages that are trained already have
    it in their ledger as well, from step 1, which counts when they are trained again.
    """
    ids = _ids(run, document)
    where = _where(run, ids)
    if not where:
        raise UserError(f"{document}: no token of it is in the token stores; `pinisi explain` tells what became of it")
    names = data_order.stages(run.recipe)
    if stage is None:
        stage = next((name for name in names if run.manifest(name) is None), names[-1])
    firsts = {}
    for name in names:
        if run.manifest(name) is not None:
            firsts[name] = 1
        elif names.index(name) >= names.index(stage):
            firsts[name] = step if name == stage and step is not None else trained(run, name) + 1
            _check_ahead(run, name, firsts[name])
    said = [f"{doc_id}: {n:,} tokens in {pool}" for doc_id, pool, n in where]
    for name, first in firsts.items():
        for doc_id in ids:
            _append(run, name, {"from_step": first, **_at(run, name, first), "remove": doc_id, "reason": reason})
        if run.manifest(name) is not None:
            said.append(f"{name} is trained and may have read it; `pinisi run … --from {name}` trains it without")
        else:
            said.append(f"{name} does not read it from step {first:,} on")
    return said


def trained(run: Run, stage: str) -> int:
    """Steps of `stage` whose rows are settled: those up to the newest checkpoint. Raises UserError when all are."""
    if run.manifest(stage) is not None:
        raise UserError(f"{stage} has been trained to its end; a change would come too late for it")
    if stage == PRUNE and storage.exists(storage.join(run.uri, stage, data_order.FILE)):
        raise UserError("prune has begun; its rows can be changed only before it does")
    from train.checkpoint import checkpoint

    newest = checkpoint.latest(storage.join(run.uri, stage, "checkpoints"))
    return newest.step if newest else 0


def show(run: Run, stage: str) -> None:
    """Print the weights of `stage` from each of its newest changes on."""
    found = as_json(run, stage)
    changes = found["changes"][-SHOWN:]
    columns = [Column(f"{change['from_step']:,} on", "{:.4f}".format, right=True) for change in changes]
    pools = sorted({name for change in changes for name in change["shares"]})
    rows = [(name, *(change["shares"].get(name, 0.0) for change in changes)) for name in pools]
    lines = terminal.table([Column("pool"), *columns], rows, title=f"{stage}: share of rows, from step")
    if earlier := len(found["changes"]) - len(changes):
        lines += terminal.paragraph(f"{earlier} earlier changes: --json")
    if found["taken_down"]:
        lines += terminal.paragraph(f"{len(found['taken_down']):,} documents are taken down")
    terminal.show(lines)


def as_json(run: Run, stage: str) -> dict:
    """`changes`: from_step and the share of rows of each pool from there on; `taken_down`: ids of documents."""
    rows, changes = data_order.rows_per_step(run.recipe, stage), []
    for entry in _schedule(run, stage):
        total = sum(entry["weights"].values())
        shares = {name: weight / total for name, weight in sorted(entry["weights"].items())}
        changes.append({"from_step": entry["from_sample"] // rows + 1, "shares": shares})
    lines = ledger.read(data_order.ledger_uri(run.uri, stage))
    return {"stage": stage, "changes": changes, "taken_down": sorted({x["remove"] for x in lines if "remove" in x})}


def _shares(given: list[str]) -> dict[str, float]:
    shares = {}
    for text in given:
        name, _, value = text.rpartition("=")  # a name may have a = in it: all/th>=8192
        try:
            shares[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise UserError(f"--set {text}: write POOL=SHARE, such as th=0.3")
    return shares


def _pool(run: Run, weights: dict[str, float], name: str) -> str:
    """The pool that a user calls `name`: a language stands for the pool of that language that has a weight."""
    if name in weights:
        return name
    same = sorted(pool for pool in weights if pool.split("/")[-1] == name)
    whole, sign, limit = name.partition(SIGN)
    if sign and not same:
        return _pool(run, weights, whole) + sign + limit
    if len(same) == 1:
        return same[0]
    if same:
        raise UserError(f"--set {name}: which of {', '.join(same)}?")
    _store(run, name)
    return name


def _store(run: Run, pool: str) -> TokenStore | LongDocuments:
    try:
        return open_pool(data_order.pools_uri(run.uri), pool)
    except ValueError as error:
        raise UserError(str(error)) from None


def _schedule(run: Run, stage: str) -> list[dict]:
    """What the stage reads by its plan and its ledger."""
    path = data_order.plan_uri(run.uri, stage)
    if not storage.exists(path):
        if stage == LONG_CONTEXT:
            raise UserError(f"{run.uri}: long_context plans what it reads when it begins; change it then")
        raise UserError(f"{run.uri}: there is no mixture to change yet; `pinisi run … --until mixture` makes it")
    return data_order.schedule(run.uri, stage, run.recipe, ledger.read(data_order.ledger_uri(run.uri, stage)))


def _at(run: Run, stage: str, step: int) -> dict[str, int]:
    return {"from_sample": (step - 1) * data_order.rows_per_step(run.recipe, stage)}


def _check_ahead(run: Run, stage: str, step: int) -> None:
    """Raises UserError unless `step` lies ahead of what has been trained, and nobody trains now."""
    if lock.alive(run.uri):
        raise UserError(
            f"{run.uri} is running: stop it (Ctrl-C or `ray job stop`; it writes a checkpoint), say this again, and continue it"
        )
    done = trained(run, stage)
    if step <= done:
        raise UserError(f"{stage} is trained up to step {done:,}; the first step that can be changed is {done + 1:,}")


def _alone(run: Run) -> AbstractContextManager[None]:
    """One change at a time: each reads the ledger and writes all of it."""
    return lock.held(storage.join(run.uri, data_order.LEDGER))


def _append(run: Run, stage: str, line: dict) -> dict:
    try:
        ledger.append(data_order.ledger_uri(run.uri, stage), line)
    except ValueError as error:
        raise UserError(f"{stage}: {error}") from None
    return line


def _ids(run: Run, document: str) -> list[str]:
    """Ids of what the user names: documents of the crawl with the texts that models made of them, and those that hold a pair of
    parallel text; else the row of a pool (an instruction, or a text of a model) with that id."""
    held = pairs.holding(run, document)
    try:
        found = {doc_id for doc_id, _ in explain.documents(run, document)}
    except UserError:
        if held:
            return held
        if _where(run, [document]):
            return [document]
        raise
    return sorted({*found, *held, *(row["doc_id"] for row in made_from.of(run.uri, "made_from", found))})


def _where(run: Run, ids: list[str]) -> list[tuple[str, str, int]]:
    """(id, pool, tokens) of each place in the token stores."""
    root = data_order.pools_uri(run.uri)
    found = []
    for uri in [*storage.glob(f"{root}/*/store.json"), *storage.glob(f"{root}/*/*/store.json")]:
        store = TokenStore(uri.removesuffix("/store.json"))
        pool = store.uri[store.uri.index("/pools/") + len("/pools/") :]
        for row, doc_id in store.rows_of(ids).items():
            found.append((doc_id, pool, int(store.starts[row + 1] - store.starts[row])))
    return sorted(found)

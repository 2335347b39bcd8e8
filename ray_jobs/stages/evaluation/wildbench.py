"""wildbench: answers of the run's models to rows with a checklist, compared with reference answers by one judge or more.

items.parquet        the rows as they were asked
answers/DIGEST/      greedy answers of a model, a file of sixteen prompts each; the next run makes only those that are missing
rewards/DIGEST/      rewards of such answers
pairs.jsonl          answers side by side, for `pinisi inspect RUN --pairs`; what people choose there is a judge too
results.parquet      each verdict of each judge, with its reason or what is wrong with it
metrics.json         scores with intervals per language and category, invalid verdicts, agreement of the judges

Replies of an endpoint lie in RUN/judge by a hash of the request. So whatever is paid is paid once, by a killed run and one with
other rows or another judge too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from cluster import storage
from ray_jobs.alignment import chats, generate, judged
from ray_jobs.alignment.judged import key
from ray_jobs.config.given import given
from ray_jobs.config.wildbench import PEOPLE, Wildbench
from ray_jobs.errors import UserError
from ray_jobs.inspect import pairs
from ray_jobs.run import bases, wildbench_choice
from ray_jobs.run.fingerprint import code_of, digest
from ray_jobs.run.job import Job
from ray_jobs.stages.evaluation import judges
from ray_jobs.stages.evaluation.judges import PAIRS, Pair, Said
from ray_jobs.training.tokenizer import load_tokenizer, tokenizer_of
from ray_jobs.work.rows import write_ledger
from train.chat.conversations import encode_prompts
from train.generation import judge, win_rate
from train.scores.agreement import agreement
from train.tasks import judged as scores
from train.tasks.checklist_rows import Asked

RESULTS, METRICS = "results.parquet", "metrics.json"
REFERENCE = "reference"  # what the column's answers are called
MOST_INVALID = 0.1  # of the verdicts, without a warning

ITEMS = pa.schema(
    [
        *[(name, pa.string()) for name in ("lang", "id")],
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        *[(name, pa.list_(pa.string())) for name in ("categories", "checklist")],
        ("reference", pa.string()),
    ]
)
COLUMNS = pa.schema(
    [
        *[(name, pa.string()) for name in ("judge", "model", "lang", "id")],
        ("categories", pa.list_(pa.string())),
        *[(name, pa.float64()) for name in ("verdict", "reward")],
        *[(name, pa.string()) for name in ("how", "problem", "reply")],
        ("answer_first", pa.bool_()),
        *[(name, pa.string()) for name in ("answer", "reference")],
        *[(name, pa.int64()) for name in ("answer_chars", "reference_chars")],
    ]
)


def run(job: Job) -> dict:
    own = given(job.recipe.evaluate.wildbench)
    for sentence in wildbench_choice.faults(job.recipe, job.stage.inputs):
        raise UserError(sentence)
    names = wildbench_choice.models(job.recipe, job.stage.inputs)
    other = wildbench_choice.reference(job.recipe, job.stage.inputs)
    speakers = {name: _model(job, name) for name in [*names, *([other] if other else [])]}
    found = judged.read(job.recipe)
    room, most = _room(list(speakers.values()), own.max_new_tokens)
    rows, long = _fitting(found.kept, list(speakers.values()), room)
    write_ledger(job, [*found.rejects, *long], "part-rows")
    if not rows:
        raise UserError(f"{judged.none_left([*found.rejects, *long])}; {job.ledger} says what is wrong with each")
    storage.write_table(job.path("items.parquet"), pa.Table.from_pylist([dict(row) for row in rows], ITEMS))
    for line in judged.announced(job.recipe, job.run_uri, rows, names):
        job.progress.say(line)
    answers = _answers(job, speakers, rows, room, most)
    compared = _pairs(rows, names, other, answers)
    _write_pairs(job, compared, other or REFERENCE, ())
    verdicts = judges.verdicts(job, own, compared, other or REFERENCE)
    machines = [of for name, of in verdicts.items() if name != PEOPLE]
    if machines:
        _write_pairs(job, compared, other or REFERENCE, machines[0])
    results = [
        _result(own, name, pair, one) for name, of in verdicts.items() for pair, one in zip(compared, of, strict=True)
    ]
    storage.write_table(job.path(RESULTS), pa.Table.from_pylist(results, COLUMNS))
    about = {"reference": other or REFERENCE, "models": names, "rows": len(rows), "weights": own.weights}
    metrics = about | _metrics(own, names, compared, verdicts, results)
    storage.write_json(job.path(METRICS), metrics)
    notes = []
    if most < own.max_new_tokens:
        notes.append(f"answers have {most:,} tokens at most, as the context is {room + most:,}")
    if metrics["without_weight"] and results:
        notes.append(f"categories without a weight in the macro score: {', '.join(metrics['without_weight'])}")
    rules = Counter(one["rule"] for one in (*found.rejects, *long))
    return {
        "models": len(names),
        "reference": other or "column",
        "judges": list(verdicts),
        "verdicts": sum(one["verdict"] is not None for one in results),
        "invalid": sum(one["problem"] is not None for one in results),
        "beyond_limit": found.beyond,
        **chats.account(found.read - found.beyond, rules),
        "notes": notes,
        "warnings": _warnings(metrics),
    }


# Answers


class Speaker(NamedTuple):
    """A model that answers: its place, its tokenizer's, the positions that it has, and what its answers depend on."""

    model: str
    tokenizer: str
    context: int
    fingerprint: str


def _model(job: Job, name: str) -> Speaker:
    if name in job.stage.inputs:
        place, made = job.input(name, "model"), job.manifest(name)["fingerprint"]
        tokenizer = tokenizer_of(job, name)["tokenizer"]
    else:
        place = os.path.abspath(storage.local(name)) if storage.is_local(name) and storage.exists(name) else name
        tokenizer, made = place, place
    config = bases.config_of(place)
    if config is None:
        raise UserError(f"evaluate.wildbench.reference: {name} cannot be read here")
    return Speaker(place, tokenizer, int(getattr(config.get_text_config(), "max_position_embeddings", 1 << 30)), made)


def _room(speakers: Sequence[Speaker], wanted: int) -> tuple[int, int]:
    """(tokens of a prompt, tokens of an answer) at most: an answer gets what it is to have, and half of the context at most."""
    context = min(one.context for one in speakers)
    most = min(wanted, context // 2)
    return context - most, most


def _fitting(rows: list[Asked], speakers: Sequence[Speaker], room: int) -> tuple[list[Asked], list[dict]]:
    """The rows whose prompt leaves every model room for an answer, and ledger rows of the others."""
    longest = [0] * len(rows)
    for place in {one.tokenizer for one in speakers}:
        tokenizer = load_tokenizer({"tokenizer": place})
        lengths = map(len, encode_prompts(tokenizer, [row["prompt"] for row in rows]))
        longest = [max(pair) for pair in zip(longest, lengths, strict=True)]
    long = [
        {
            **{"doc_id": row["id"], "lang": row["lang"], "rule": "too_long", "value": n, "threshold": room},
            "detail": f"its prompt has {n:,} tokens; beside an answer there is room for {room:,}",
        }
        for row, n in zip(rows, longest, strict=True)
        if n > room
    ]
    return [row for row, n in zip(rows, longest, strict=True) if n <= room], long


def _answers(
    job: Job, speakers: Mapping[str, Speaker], rows: list[Asked], room: int, most: int
) -> dict[str, dict[str, dict]]:
    """Model -> key of a row -> {answer, tokens, finished}. Judges are looked for before hours are spent on answers."""
    own = given(job.recipe.evaluate.wildbench)
    prompts = [{"id": key(row), "lang": row["lang"], "prompt": row["prompt"]} for row in rows]
    same = [code_of("ray_jobs.alignment.generate"), [row["prompt"] for row in rows], most, own.engine]
    folders = {name: job.path("answers", digest([one.fingerprint, same])) for name, one in speakers.items()}
    for folder in {path.split("/")[-2] for path in storage.glob(job.path("answers", "*", "settings.json"))}:
        if folder not in {kept.rsplit("/", 1)[1] for kept in folders.values()}:
            storage.remove(job.path("answers", folder))
    if any(not storage.exists(folder) for folder in folders.values()):
        for one in own.judge:
            judge.reach(judges.endpoint(one))
    policies = {folders[name]: (one.model, one.tokenizer) for name, one in speakers.items()}
    found = generate.greedy(job, policies, prompts, own, most=most, context=room + most)
    return {name: {row["id"]: row for row in found[folder]} for name, folder in folders.items()}


def _pairs(
    rows: list[Asked], names: Sequence[str], other: str | None, answers: Mapping[str, Mapping[str, dict]]
) -> list[Pair]:
    made: list[Pair] = []
    for name in names:
        for row in rows:
            said = answers[name][key(row)]
            beside: dict = {"answer": row["reference"], "finished": True} if other is None else answers[other][key(row)]
            made.append(
                {
                    "model": name,
                    "row": row,
                    "answer": said["answer"],
                    "reference": str(beside["answer"]),
                    "finished": said["finished"],
                    "reference_finished": beside["finished"],
                }
            )
    return made


def _write_pairs(job: Job, compared: Sequence[Pair], reference: str, said: Sequence[Said]) -> None:
    """The pairs that a judge is needed for, with the choice of one where it has made it."""
    rows = []
    for i, pair in enumerate(compared):
        if judges.without_asking(pair["answer"], pair["reference"]) is None:
            row: dict = {"id": pair["row"]["id"], "lang": pair["row"]["lang"], "prompt": pair["row"]["prompt"]}
            row["answers"] = {pair["model"]: pair["answer"], reference: pair["reference"]}
            verdict = said[i].verdict if said else None
            if verdict is not None:
                row["judge"] = pair["model"] if verdict > 0 else reference if verdict < 0 else pairs.TIE
            rows.append(row)
    chats.write_rows(job.path(PAIRS), rows)


# Results


def _result(own: Wildbench, name: str, pair: Pair, said: Said) -> dict:
    reward, how = said.verdict, said.how
    if said.verdict is not None:
        reward = win_rate.with_length_rule(
            said.verdict, pair["answer"].strip(), pair["reference"].strip(), own.longer_chars
        )
        how = scores.BY_LENGTH if reward != said.verdict else how
    return {
        **{"judge": name, "model": pair["model"], "lang": pair["row"]["lang"], "id": pair["row"]["id"]},
        **{"categories": pair["row"]["categories"], "verdict": said.verdict, "reward": reward},
        **{"how": how, "problem": said.problem, "reply": said.reply, "answer_first": said.first},
        **{"answer": pair["answer"], "reference": pair["reference"]},
        **{"answer_chars": len(pair["answer"]), "reference_chars": len(pair["reference"])},
    }


def _metrics(
    own: Wildbench,
    names: list[str],
    compared: Sequence[Pair],
    verdicts: Mapping[str, Sequence[Said]],
    results: list[dict],
) -> dict:
    by_judge: dict[str, list[dict]] = {name: [] for name in verdicts}
    for one in results:
        by_judge[one["judge"]].append(one)
    answers = {}
    for name in names:
        of = [pair for pair in compared if pair["model"] == name]
        answers[name] = {
            "rows": len(of),
            "empty": sum(not pair["answer"].strip() for pair in of),
            "unfinished": sum(not pair["finished"] for pair in of),
            "chars": sum(len(pair["answer"]) for pair in of) / len(of),
        }
    return {
        "without_weight": scores.without_weight([pair["row"]["categories"] for pair in compared], own.weights),
        "answers": answers,
        "judges": {name: _judge(own, of, names, verdicts[name]) for name, of in by_judge.items()},
        "agreement": list(_agreements(compared, verdicts)),
    }


def _judge(own: Wildbench, results: list[dict], names: list[str], verdicts: Sequence[Said]) -> dict:
    of_model = {name: [one for one in results if one["model"] == name] for name in names}
    shown = [
        one.verdict if one.first else 0.0 - one.verdict
        for one in verdicts
        if one.verdict is not None and one.first is not None
    ]
    return {
        "models": {name: scores.table(of, own.weights) for name, of in of_model.items()},
        "differences": {
            name: {scores.ALL: scores.plain(whole), "macro": scores.plain(macro)}
            for name in names[1:]
            for whole, macro in [scores.differences(of_model[names[0]], of_model[name], own.weights)]
        },
        "first_shown": scores.plain(scores.score(shown)),
    }


def _agreements(compared: Sequence[Pair], verdicts: Mapping[str, Sequence[Said]]) -> Iterator[dict]:
    """Of each two judges per language, on the pairs that both were asked about."""
    names = list(verdicts)
    langs = sorted({pair["row"]["lang"] for pair in compared})
    for a, b in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        for lang in (*langs, scores.ALL):
            both = [
                (one.verdict, other.verdict)
                for pair, one, other in zip(compared, verdicts[a], verdicts[b], strict=True)
                if lang in (scores.ALL, pair["row"]["lang"])
                and one.how == other.how == scores.ASKED
                and one.verdict is not None
                and other.verdict is not None
            ]
            if found := agreement([one for one, _ in both], [other for _, other in both]):
                bounded = {
                    name: value and value._asdict()
                    for name, value in (("alike", found.alike), ("kappa", found.kappa), ("weighted", found.weighted))
                }
                yield {"judges": [a, b], "lang": lang, "pairs": found.pairs, **bounded}


def _warnings(metrics: dict) -> list[str]:
    said = []
    for name, of in metrics["judges"].items():
        for model, table_of in of["models"].items():
            asked = metrics["rows"] - table_of["empty"] - table_of["equal"] - table_of["not_judged"]
            if asked and table_of["invalid"] / asked > MOST_INVALID:
                said.append(
                    f"wildbench: the judge gave no valid verdict on {table_of['invalid'] / asked:.0%} of {model}'s answers "
                    f"({name}); they count nowhere."
                )
        place = of["first_shown"]
        if place and place["certain"]:
            which = "first" if place["value"] > scores.TIE else "second"
            said.append(
                f"wildbench: {name} likes the answer that stands {which}: the first one gets {place['value']:.0f} of 100 points "
                f"({place['low']:.0f} to {place['high']:.0f}). Chance decides which that is, so scores are drawn to 50."
            )
    return said

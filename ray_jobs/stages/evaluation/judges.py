"""The judges of `wildbench`: endpoints, a reward model, people. Each has a verdict on every pair of answers, or says why not."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from cluster import storage
from ray_jobs.alignment import judged, reward_model
from ray_jobs.alignment.judged import key
from ray_jobs.config.wildbench import PEOPLE, REWARD, Endpoint, RewardJudge, Wildbench
from ray_jobs.inspect import judgements, pairs
from ray_jobs.run import files, graph
from ray_jobs.run.fingerprint import code_of, digest
from ray_jobs.run.job import Job
from ray_jobs.work import device
from ray_jobs.work.tasks import map_on_ray, written
from train.generation import checklist, judge
from train.tasks.checklist_rows import Asked
from train.tasks.judged import ASKED, EMPTY, EQUAL, NOT_JUDGED

PAIRS = "pairs.jsonl"
REWARD_ROWS = 64  # of a shard
REWARD_SHARDS = 16  # of a task, which loads the model once


class Said(NamedTuple):
    """What a judge says of a pair of answers.

    `verdict`: how much better the answer is than the reference; None where `problem` says why, or nobody has judged. `how` is
    one of `train.tasks.judged.HOWS`. `first`: whether the answer was shown as A."""

    verdict: float | None
    how: str = ASKED
    problem: str | None = None
    reply: str | None = None
    first: bool | None = None


class Pair(TypedDict):
    """An answer of a model beside the reference answer, as a judge sees them."""

    model: str
    row: Asked
    answer: str
    reference: str
    finished: bool
    reference_finished: bool


class RewardTask(TypedDict):
    reward: reward_model.RewardModel
    shards: list[tuple[list[list[dict]], str]]  # conversations, and where their rewards go


def verdicts(job: Job, own: Wildbench, compared: Sequence[Pair], reference: str) -> dict[str, list[Said]]:
    """Judge -> what it says of each pair, the endpoints first. `reference`: what the reference answers are called."""
    settled = [without_asking(pair["answer"], pair["reference"]) for pair in compared]
    waiting = [pair for pair, one in zip(compared, settled, strict=True) if one is None]
    said = {one.called: _by_endpoint(job, own, one, waiting) for one in own.judge}
    if own.reward:
        said[REWARD] = _by_reward(job, own.reward, waiting)
    if own.people:
        said[PEOPLE] = _by_people(job, own.people, waiting, reference)
    found = {}
    for name, of_waiting in said.items():
        left = iter(of_waiting)
        found[name] = [one or next(left) for one in settled]
        if any(one.how == NOT_JUDGED for one in of_waiting):  # what needs no judge is no sample of the others
            found[name] = [
                Said(None, NOT_JUDGED) if early else one for early, one in zip(settled, found[name], strict=True)
            ]
    return found


def without_asking(answer: str, reference: str) -> Said | None:
    """The verdict on answers of which one is empty, or which are equal; None where a judge is needed."""
    answer, reference = answer.strip(), reference.strip()
    if answer == reference:
        return Said(0.0, EQUAL if answer else EMPTY)
    return None if answer and reference else Said(1.0 if answer else -1.0, EMPTY)


def endpoint(one: Endpoint) -> judge.Judge:
    return judge.Judge(**one.model_dump(exclude={"name", "input_per_million", "output_per_million"}))


def _by_endpoint(job: Job, own: Wildbench, one: Endpoint, waiting: Sequence[Pair]) -> list[Said]:
    line, cache = endpoint(one), storage.join(job.run_uri, "judge")
    first = [checklist.answer_first(pair["row"]["lang"], pair["row"]["id"]) for pair in waiting]
    requests = [
        checklist.messages({**pair, **pair["row"], "reference": pair["reference"]}, before, own.max_answer_chars)
        for pair, before in zip(waiting, first, strict=True)
    ]
    new = judge.unanswered(line, requests, cache)
    count = judged.counter(job.recipe, job.run_uri)
    job.progress.say(f"wildbench: judge {judged.cost(one, [requests[i] for i in new], count)}")
    if new:
        judge.reach(line)
    job.progress.start(len(requests), "verdicts", len(requests) - len(new))
    said = []
    for (reply, problem), before in zip(judge.ask(line, requests, cache, job.progress.set), first, strict=True):
        verdict = None if reply is None else checklist.parse(reply)
        if reply is not None and verdict is None:
            problem = "no verdict: the reply does not end with one, or has several"
        said.append(Said(verdict if verdict is None or before else 0.0 - verdict, ASKED, problem, reply, before))
    return said


def _by_reward(job: Job, setting: RewardJudge, waiting: Sequence[Pair]) -> list[Said]:
    """By the difference of rewards; those of a text are measured once, a shard at a time. An answer that was cut off loses to
    one that ended."""
    model: reward_model.RewardModel = (
        {"model": setting.model, "precision": job.train.precision} if setting.model else (reward_model.settings(job))
    )
    known = setting.model or job.manifest(graph.REWARD)["fingerprint"]
    talks = {
        (key(pair["row"]), text): [*pair["row"]["prompt"], {"role": "assistant", "content": text}]
        for pair in waiting
        for text in (pair["answer"], pair["reference"])
    }
    places = list(talks)
    same = [code_of("ray_jobs.alignment.reward_model"), [talks[place] for place in places]]
    folder = job.path("rewards", digest([known, same]))
    for stale in {path.split("/")[-2] for path in storage.glob(job.path("rewards", "*", "part-*.json"))}:
        if not folder.endswith(stale):
            storage.remove(job.path("rewards", stale))
    shards = [
        (
            [talks[place] for place in places[i : i + REWARD_ROWS]],
            storage.join(folder, f"part-{i // REWARD_ROWS:05d}.json"),
        )
        for i in range(0, len(places), REWARD_ROWS)
    ]
    tasks: list[RewardTask] = [
        {"reward": model, "shards": shards[i : i + REWARD_SHARDS]} for i in range(0, len(shards), REWARD_SHARDS)
    ]
    before = written([out for _, out in task["shards"]] for task in tasks)
    map_on_ray(job, _score, tasks, "groups of answers to score", gpus=device.wants_gpus(job), finished=before)
    values = [value for task in tasks for _, out in task["shards"] for value in storage.read_json(out)["rewards"]]
    reward_of = dict(zip(places, values, strict=True))
    said = []
    for pair in waiting:
        if not (pair["finished"] and pair["reference_finished"]):  # a reward model sees an end behind any text
            verdict = float(pair["finished"]) - float(pair["reference_finished"])
            said.append(Said(verdict, ASKED, None, "cut off at its limit"))
            continue
        above = reward_of[key(pair["row"]), pair["answer"]] - reward_of[key(pair["row"]), pair["reference"]]
        if math.isnan(above):
            said.append(Said(None, ASKED, "the reward model gave no number"))
            continue
        size = 0.0 if abs(above) <= setting.slight else 0.5 if abs(above) <= setting.strong else 1.0
        said.append(Said(size if above > 0 else 0.0 - size, ASKED, None, f"{above:+.4f}"))
    return said


def _score(task: RewardTask) -> dict:
    """Rewards of shards of conversations; those that are there are not measured again."""
    left = [(talks, out) for talks, out in task["shards"] if not storage.exists(out)]
    if left:
        rewards_of = reward_model.scorer(task["reward"])
        for talks, out in left:
            storage.write_json(out, {"rewards": [float(value) for value in rewards_of(talks)]})
    return {}


def _by_people(job: Job, pattern: str, waiting: Sequence[Pair], reference: str) -> list[Said]:
    """What most people chose on the page of `pinisi inspect RUN --pairs`: 1, 0 or -1, for a choice has no strength; "both bad" is
    a tie. A pair that nobody judged has no verdict."""
    places: dict[tuple, list[str]] = defaultdict(list)  # models that say the same share what people say of it
    for name, row in (pairs.read(job.path(PAIRS)) if waiting else {}).items():
        texts = {model == reference: text for model, text in row["answers"]}
        places[row["id"], texts[False], texts[True]].append(name)  # rows of two languages may be one to people
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for uri in files.named([pattern], "evaluate.wildbench.people"):
        for name, row in judgements.read(uri).items():
            if row["label"] != pairs.UNSURE:
                winner = row.get("winner")
                votes[name]["tie" if winner is None else "reference" if winner == reference else "answer"] += 1
    said = []
    for pair in waiting:
        here = places[pair["row"]["id"], pair["answer"], pair["reference"]]
        counts = sum((votes[name] for name in here if name in votes), Counter())
        if not counts:
            said.append(Said(None, NOT_JUDGED))
            continue
        ahead = counts["answer"] - counts["reference"]
        shown = ", ".join(f"{n} for {what}" for what, n in sorted(counts.items()) if n)
        said.append(Said(float((ahead > 0) - (ahead < 0)), ASKED, None, shown))
    return said

"""What models say to requests, whatever runs them: our own generation, vLLM, an endpoint, a translation model.

    synthesize/_replies/             replies of endpoints, each by a hash of its request, written when it comes
    synthesize/_drawn/DIGEST.json(l) replies of models, a file of sixteen requests or documents each, by a hash of what was asked

So whatever has been answered is not asked again: by a killed run, or by one that accepts other texts of the same requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cluster import storage
from ray_jobs.alignment import chats, generate
from ray_jobs.config.given import given
from ray_jobs.config.synthesis import SynthesisTask
from ray_jobs.run import bases
from ray_jobs.run.files import MODELS_OF_TASKS, location, state
from ray_jobs.run.fingerprint import digest
from ray_jobs.run.job import Job
from ray_jobs.stages.synthetic import sentences
from ray_jobs.stages.synthetic.prompts import Prompt
from ray_jobs.training.tokenizer import load_tokenizer
from ray_jobs.work import device
from ray_jobs.work.tasks import map_on_ray, written
from train.chat.conversations import encode_prompts
from train.generation import judge
from train.generation.generate import Drawn, answers

SIXTEEN = 16  # requests, or documents of a translation model, whose replies are one file
PAUSE_SECONDS = 1.0  # before an endpoint is asked again, doubled each time
REPLIES, DRAWN = "_replies", "_drawn"


class Source(NamedTuple):
    """A document that a text is made of, and what the text is to be. `names`: language -> its English name."""

    id: str  # of the text
    text: str
    from_lang: str
    lang: str


class Reply(NamedTuple):
    """A text, or what is wrong; of a translation maybe what it is, translated back."""

    text: str | None
    problem: str = ""
    back: str | None = None


def requests(
    task: SynthesisTask, prompt: Prompt, rows: Sequence[Source], names: dict[str, str]
) -> list[list[tuple[str, str]]]:
    """Of each document its requests, with what parts a reply from the next."""
    return [
        [
            (prompt.filled(piece, names[row.lang], names[row.from_lang]), gap)
            for piece, gap in sentences.pieces(row.text, task.piece_chars)
        ]
        for row in rows
    ]


def replies(
    job: Job, task: SynthesisTask, prompt: Prompt | None, rows: Sequence[Source], names: dict[str, str]
) -> list[Reply]:
    """One reply to each of `rows`. Raises ValueError when the engine cannot work here, or an endpoint is gone."""
    if prompt is None:
        return _translated(job, task, rows)
    asked = requests(task, prompt, rows, names)
    texts = [[{"role": "user", "content": text}] for of in asked for text, _ in of]
    said = iter(_of_endpoint(job, task, texts) if task.endpoint else _of_model(job, task, texts))
    found = []
    for of in asked:
        each = [next(said) for _ in of]
        wrong = next((one.problem for one in each if one.text is None), "")
        whole = "".join((one.text or "").strip() + gap for one, (_, gap) in zip(each, of, strict=True))
        found.append(Reply(None, wrong) if wrong else Reply(whole.strip()))
    return found


def line(task: SynthesisTask) -> judge.Judge:
    """How an endpoint is asked."""
    own = given(task.endpoint)
    asked = {"temperature": task.temperature, "top_p": task.top_p, "max_tokens": task.max_new_tokens}
    settings = own.model_dump(exclude={"name", "input_per_million", "output_per_million"})
    if "request" not in own.model_fields_set:
        settings["request"] = asked
    return judge.Judge(**settings, pause_seconds=PAUSE_SECONDS, called="model", asks="requests", whole=True)


def _of_endpoint(job: Job, task: SynthesisTask, texts: list[list[dict]]) -> list[Reply]:
    own, kept = line(task), job.path(REPLIES)
    new = judge.unanswered(own, texts, kept)
    if new:
        judge.reach(own)
    job.progress.start(len(texts), "requests", len(texts) - len(new))
    return [Reply(text, problem or "") for text, problem in judge.ask(own, texts, kept, job.progress.set)]


def _of_model(job: Job, task: SynthesisTask, texts: list[list[dict]]) -> list[Reply]:
    gpus = device.wants_gpus(job)
    if task.engine == "vllm" and not gpus:
        raise ValueError(f"synthesize: task {task.name}: vllm needs a GPU, and this cluster has none; hf runs without.")
    place, precision = _place(task), job.recipe.train.precision if job.recipe.train else "bf16"
    tokenizer = load_tokenizer({"tokenizer": place})
    config = bases.config_of(place)
    context = int(getattr(config.get_text_config(), "max_position_embeddings", 1 << 30)) if config else 1 << 30
    room = context - min(task.max_new_tokens, context // 2)
    lengths = list(map(len, encode_prompts(tokenizer, texts)))
    fitting = [i for i, n in enumerate(lengths) if n <= room]
    common: generate.Policy = {
        "tokenizer": place,
        "policy": place,
        "reward": None,
        "engine": task.engine,
        "python": task.vllm_python,
        "dtype": "float32" if task.engine == "hf" and not (gpus and precision != "fp32") else "bfloat16",
        "max_gap": 0.0,
        "max_model_len": context,
        "sampling": {
            **{"n": 1, "temperature": task.temperature, "top_p": task.top_p, "seed": job.recipe.seed},
            "max_new_tokens": context - room,
        },
    }
    depends, weights = {name: value for name, value in common.items() if name != "python"}, _weights(task)
    shards: list[generate.Shard] = []
    for some in (fitting[i : i + SIXTEEN] for i in range(0, len(fitting), SIXTEEN)):
        # an id decides what is sampled, so it is not that of a prompt of another file
        prompts = [{"id": f"{n}-{digest(texts[i])}", "lang": "", "prompt": texts[i]} for n, i in enumerate(some)]
        name = digest([depends, weights, [texts[i] for i in some]])
        out = job.path(DRAWN, f"{name}.jsonl")
        shards.append({"prompts": prompts, "drawn": out, "out": out})  # nothing is scored
    n = generate.SHARDS_PER_TASK[task.engine]
    tasks: list[generate.Task] = [{**common, "shards": shards[i : i + n]} for i in range(0, len(shards), n)]
    before = written([shard["drawn"] for shard in one["shards"]] for one in tasks)
    map_on_ray(job, generate.draw, tasks, f"groups of requests of {task.name}", gpus=gpus, finished=before)
    found = [Reply(None, f"a request of {n:,} tokens leaves no room for an answer") for n in lengths]
    for number, shard in enumerate(shards):
        drawn = {row["id"]: [Drawn(row["ids"], row["logprobs"])] for row in chats.read_rows(shard["drawn"])}
        ids = encode_prompts(tokenizer, [row["prompt"] for row in shard["prompts"]])
        rows = answers(tokenizer, shard["prompts"], ids, [drawn[row["id"]] for row in shard["prompts"]])
        for n, row in enumerate(rows, SIXTEEN * number):
            cut = f"cut off at {row['tokens']:,} tokens"
            found[fitting[n]] = Reply(row["answer"]) if row["finished"] else Reply(None, cut)
    return found


def _place(task: SynthesisTask) -> str:
    """A folder absolute, because workers have other working directories, or a name of the hub."""
    model = given(task.model)
    return location(model) if storage.exists(model) else model


def _weights(task: SynthesisTask) -> str:
    """What tells the model of a folder from a later one there; empty for a name of the hub."""
    model = given(task.model)
    return state([model], MODELS_OF_TASKS) if storage.exists(model) else ""


def _translated(job: Job, task: SynthesisTask, rows: Sequence[Source]) -> list[Reply]:
    """By a translation model, pairs of languages apart; with `round_trip` back again too."""
    back = given(job.recipe.synthesize).accept.round_trip is not None
    common = {"model": _place(task), "beams": task.beams, "back": back}
    weights = _weights(task)
    tasks: list[dict] = []
    for source, target in sorted({(row.from_lang, row.lang) for row in rows}):
        mine = [i for i, row in enumerate(rows) if (row.from_lang, row.lang) == (source, target)]
        for chosen in (mine[i : i + SIXTEEN] for i in range(0, len(mine), SIXTEEN)):
            name = digest([common, weights, source, target, [rows[i].text for i in chosen]])
            out = job.path(DRAWN, f"{name}.json")
            of = {"source": source, "target": target, "numbers": chosen, "texts": [rows[i].text for i in chosen]}
            tasks.append({**common, **of, "out": out})
    before = written([task["out"]] for task in tasks)
    map_on_ray(job, translate_shard, tasks, "shards of documents", gpus=device.wants_gpus(job), finished=before)
    found = [Reply(None)] * len(rows)
    for one in tasks:
        for number, reply in zip(one["numbers"], storage.read_json(one["out"])["replies"], strict=True):
            found[number] = Reply(*reply)
    return found


def translate_shard(task: dict) -> dict:
    """One shard's replies to `task["out"]`."""
    from train.chat import translate

    if storage.exists(task["out"]):
        return {}
    where = device.here()

    def translated(texts: list[str], source: str, target: str) -> list[tuple[str, str]]:
        one = translate.load(task["model"], source, target, device.dtype("auto", where))
        one.model.to(where)
        return translate.translate(one, texts, beams=task["beams"], split=sentences.split)

    done = translated(task["texts"], task["source"], task["target"])
    back: list[str | None] = [None] * len(done)
    if task["back"]:
        back = [text for text, _ in translated([text for text, _ in done], task["target"], task["source"])]
    replies = [(None if why else text, why, again) for (text, why), again in zip(done, back, strict=True)]
    storage.write_json(task["out"], {"replies": replies})
    return {}

"""synthesize: texts that models make of the best documents (translated, simplified, retold), beside the documents.

made.parquet             each text that is asked for, with its document, model and prompt
part-synthetic-*.parquet the texts that stay
_replies/, _drawn/       what models said (`ray_jobs.stages.synthetic.engines`), so that it is paid once
_drafts/                 texts before copies and shares are counted over all of them

Documents stay where they are, in the result of `quality`. Each text that does not stay is a row of the ledger, with its rule.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from cluster import storage, terminal
from cluster.shards import Marker, Shard, ledger_rows, write_shard
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.synthesis import SynthesisTask
from ray_jobs.errors import UserError
from ray_jobs.run import adopted, bases, made_from
from ray_jobs.run.graph import POLICY, QUALITY
from ray_jobs.run.job import Job
from ray_jobs.stages import quality
from ray_jobs.stages.synthetic import accept, engines, prompts, sentences
from ray_jobs.stages.synthetic.choose import Asked, choose, room
from ray_jobs.stages.synthetic.engines import Source
from ray_jobs.stages.synthetic.prompts import Prompt
from ray_jobs.work.shards import shard, totals
from ray_jobs.work.tasks import map_on_ray

TEXTS_PER_PART = 1024
PARTS_PER_WAVE = 16  # that are asked for together, whose documents are in memory
DRAFTS = "_drafts"
BYTES_PER_TOKEN = 3.0  # assumed of a model of which only an address is known


def run(job: Job) -> dict:
    own = given(job.recipe.synthesize)
    read = _prompts(job.recipe)
    asked, beyond = choose(job.recipe, job.run_uri, [prompt.digest if prompt else "" for prompt in read])
    parts = _parts(asked)
    _clear(job, list(parts))
    rows = [_provenance(own.tasks[one.task], read[one.task], one, name) for name, of in parts.items() for one in of]
    made_from.write(job.path(made_from.FILE), rows)
    for line in announced(job.run_uri, own.tasks, read, asked, beyond):
        job.progress.say(line)
    waiting = [name for name in parts if not storage.exists(_draft(job, name, "dropped"))]
    for wave in _waves(parts, waiting):
        _make(job, {name: parts[name] for name in wave}, read)
    gone, share = _over_all(job, list(parts))
    tasks = [
        (
            shard(job, name, _draft(job, name, "texts")),
            _draft(job, name, "dropped"),
            {one.id: gone[one.id] for one in of if one.id in gone},
            [one.id for one in of],
        )
        for name, of in parts.items()
    ]
    markers = map_on_ray(job, _commit, tasks, "parts")
    result = totals(markers, docs_in=len(asked))
    storage.remove(job.path(DRAFTS))
    return {
        **result,
        "dropped": len(asked) - result["docs_out"],
        "beyond_share": beyond,
        "share": share,
        "tasks": _by_task(job, own.tasks, read, asked, list(parts)),
        "warnings": [
            *_warnings(asked, beyond, job.manifest(QUALITY)["bytes_per_lang"], result),
            *_unscored(job, list(parts)),
        ],
    }


def check(recipe: Recipe) -> None:
    """Raises UserError or ValueError for a prompt, model or licence that a run would miss after all the crawling."""
    from train.chat import translate

    own = given(recipe.synthesize)
    _prompts(recipe)
    for task in own.tasks:
        where = f"synthesize: task {task.name}"
        if task.model and not storage.exists(task.model) and not task.licence:
            raise UserError(
                f"{where}: {task.model} is no folder here; name the `licence` of this model of others, or correct the path"
            )
        if task.engine == "seq2seq":
            model = given(task.model)
            tokenizer = translate.load_tokenizer(storage.localize(model) if storage.exists(model) else model)
            for lang in (*(task.languages or recipe.languages), *task.to):
                try:
                    translate.code(tokenizer, lang)
                except ValueError as error:
                    raise UserError(f"{where}: {error}") from None
        elif task.model and bases.config_of(task.model) is None:
            raise UserError(f"{where}: the model {task.model} cannot be read here; correct the path or name")


def before(recipe: Recipe, run_uri: str | None) -> list[str]:
    """`announced` before the stage runs; where the documents are not there yet, what is asked for at most. Raises UserError."""
    own, read = given(recipe.synthesize), _prompts(recipe)
    if run_uri and storage.exists(adopted.path(run_uri, QUALITY, "_manifest.json")):
        asked, beyond = choose(recipe, run_uri, [prompt.digest if prompt else "" for prompt in read])
        return announced(run_uri, own.tasks, read, asked, beyond)
    said = []
    for task in own.tasks:
        langs = task.languages or recipe.languages
        pairs = sum(len([to for to in task.to or [lang] if not task.to or to != lang]) for lang in langs)
        most = task.documents * pairs
        said.append(f"synthesize: task {task.name}: at most {most:,} texts by {task.made_by}, counted after quality")
    return said


def announced(
    uri: str,
    tasks: Sequence[SynthesisTask],
    read: Sequence[Prompt | None],
    asked: Sequence[Asked],
    beyond: dict[str, int],
) -> list[str]:
    """Sentences that say what will be asked of whom, and at which price. `uri`: of the run, whose documents are read."""
    said = []
    for number, (task, prompt) in enumerate(zip(tasks, read, strict=True)):
        mine = [one for one in asked if one.task == number]
        size = sum(one.bytes for one in mine)
        langs = ", ".join(f"{lang} {n:,}" for lang, n in sorted(Counter(one.lang for one in mine).items())) or "none"
        line = f"synthesize: task {task.name}: {len(mine):,} texts of {size / 1e6:,.1f} MB by {task.made_by} ({langs})"
        if prompt:
            requests = _requests(uri, task, mine)
            tokens = (size + requests * len(prompt.text.encode())) / BYTES_PER_TOKEN
            line += f"; at most {requests:,} requests, about {terminal.short(tokens)} tokens in"
            line += (
                f" (at {BYTES_PER_TOKEN:g} bytes a token), at most {terminal.short(requests * task.max_new_tokens)} out"
            )
            if task.endpoint and (one := task.endpoint).input_per_million is not None:
                out = requests * task.max_new_tokens * (one.output_per_million or 0.0)
                line += f", about {(tokens * (one.input_per_million or 0.0) + out) / 1e6:,.2f} at the recipe's prices"
        said.append(line)
    if beyond:
        named = ", ".join(f"{lang} {n:,}" for lang, n in sorted(beyond.items()))
        said.append(f"synthesize: not asked for, as synthesize.max_share would not let them stay: {named}")
    return said


def _requests(uri: str, task: SynthesisTask, asked: Sequence[Asked]) -> int:
    """Pieces of the documents, which are read part by part: all may not fit into memory."""
    found = 0
    for _, some in groupby(sorted(asked, key=lambda one: one.part), lambda one: one.part):
        of = list(some)
        count = {
            doc_id: len(sentences.pieces(document["text"], task.piece_chars))
            for doc_id, document in _documents(uri, of).items()
        }
        found += sum(count[one.made_from] for one in of)
    return found


def _prompts(recipe: Recipe) -> list[Prompt | None]:
    """The prompt of each task."""
    own = given(recipe.synthesize)
    known = prompts.read(own.prompts)
    return [
        prompts.named(task.prompt, known, task.name, translates=bool(task.to)) if task.prompt else None
        for task in own.tasks
    ]


def _parts(asked: Sequence[Asked]) -> dict[str, list[Asked]]:
    """Name -> texts, of one task each."""
    found: dict[str, list[Asked]] = {}
    for number in sorted({one.task for one in asked}):
        mine = [one for one in asked if one.task == number]
        for i in range(0, len(mine), TEXTS_PER_PART):
            found[f"part-synthetic-{len(found):05d}"] = mine[i : i + TEXTS_PER_PART]
    return found


def _waves(parts: dict[str, list[Asked]], waiting: list[str]) -> list[list[str]]:
    """Parts that are made together: neighbours of one task. The same ones whatever is done, as replies are kept by what was
    asked together."""
    names = list(parts)
    found: list[list[str]] = []
    for name in names:
        same = found and parts[found[-1][0]][0].task == parts[name][0].task
        if same and len(found[-1]) < PARTS_PER_WAVE:
            found[-1].append(name)
        else:
            found.append([name])
    return [wave for wave in found if set(wave) & set(waiting)]


def _clear(job: Job, names: list[str]) -> None:
    """Remove what an earlier fingerprint left, but for the replies."""
    for uri in [*storage.glob(job.path("part-*.parquet")), *storage.glob(storage.join(job.ledger, "part-*.parquet"))]:
        if uri.rsplit("/", 1)[1].removesuffix(".parquet") not in names:
            storage.remove(uri)
    for uri in storage.glob(job.path(DRAFTS, "*", "*.parquet")):
        if uri.split("/")[-2] != job.fingerprint:
            storage.remove(uri)


def _draft(job: Job, name: str, kind: str) -> str:
    return job.path(DRAFTS, job.fingerprint, f"{name}.{kind}.parquet")


def _provenance(task: SynthesisTask, prompt: Prompt | None, one: Asked, part: str) -> dict:
    return {
        **{"doc_id": one.id, "made_from": one.made_from, "lang": one.lang, "task": task.name},
        **{"made_by": task.made_by, "prompt": prompt.name if prompt else "", "part": f"{part}.parquet"},
        "prompt_hash": prompt.digest if prompt else "",
    }


def _make(job: Job, wave: dict[str, list[Asked]], read: list[Prompt | None]) -> None:
    """Ask for the texts of a wave and judge them."""
    asked = [one for of in wave.values() for one in of]
    task, prompt = given(job.recipe.synthesize).tasks[asked[0].task], read[asked[0].task]
    documents = _documents(job.run_uri, asked)
    sources = [Source(one.id, documents[one.made_from]["text"], one.from_lang, one.lang) for one in asked]
    replies = iter(engines.replies(job, task, prompt, sources, dict(accept.names(job.recipe))))
    least, most = prompt.length if prompt else prompts.LENGTH
    bounds = given(job.recipe.synthesize).accept
    length = (least if bounds.min_length is None else bounds.min_length, bounds.max_length or most)
    thresholds = job.input(POLICY, "_thresholds.json")
    kernels = accept.kernels(job.recipe, storage.read_json(thresholds) if storage.exists(thresholds) else {})
    sets = accept.evaluation_sets(job.recipe)
    models = quality.models(job.recipe, job.input(QUALITY), job.manifest(QUALITY).get("classifiers", {}))
    scoring = quality.scoring(job.recipe, models)
    tasks: list[accept.Task] = []
    for name, of in wave.items():
        made: list[accept.Made] = []
        for one in of:
            document, reply = documents[one.made_from], next(replies)
            made.append(
                {
                    "row": _row(task, prompt, one, document, reply.text or ""),
                    "document": document["text"],
                    "problem": reply.problem,
                    "back": reply.back,
                    "length": length,
                    "instructions": prompt.instructions if prompt else [],
                }
            )
        tasks.append(
            {
                "made": made,
                "recipe": job.recipe,
                "kernels": kernels,
                "sets": sets,
                "scoring": scoring,
                "out": _draft(job, name, "texts"),
                "ledger": _draft(job, name, "dropped"),
            }
        )
    map_on_ray(job, accept.shard, tasks, "parts", gpus=quality.wants_gpus(job))


def _row(task: SynthesisTask, prompt: Prompt | None, one: Asked, document: dict, text: str) -> dict:
    """Of `accept.TEXTS`."""
    return {
        **{"doc_id": one.id, "url": "", "source": f"synthesize:{task.name}", "source_id": "", "crawl": ""},
        **{name: document.get(name) for name in ("fetched_at", "published", "licence")},
        **{"lang": one.lang, "text": text, "quality": None},
        **{"made_from": one.made_from, "made_from_lang": one.from_lang, "made_by": task.made_by},
        **{"prompt": prompt.name if prompt else "", "prompt_hash": prompt.digest if prompt else ""},
        "model_licence": task.licence,
    }


def _documents(uri: str, asked: Sequence[Asked]) -> dict[str, dict]:
    """doc_id -> the document, of those that texts are made of."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for one in asked:
        wanted[one.part].add(one.made_from)
    found: dict[str, dict] = {}
    for part, ids in sorted(wanted.items()):
        with storage.open_parquet(adopted.path(uri, QUALITY, part)) as parquet:
            names = ("doc_id", "text", "licence", "fetched_at", "published")
            table = parquet.read([name for name in names if name in parquet.schema_arrow.names])
        found |= {
            row["doc_id"]: row for row in table.filter(pc.is_in(table["doc_id"], pa.array(sorted(ids)))).to_pylist()
        }
    return found


def _over_all(job: Job, names: list[str]) -> tuple[dict[str, dict], dict[str, dict]]:
    """doc_id -> rule of the texts that copies and shares cost, and the share of each language."""
    own, native = given(job.recipe.synthesize), job.manifest(QUALITY)["bytes_per_lang"]
    drafts = [_draft(job, name, "texts") for name in names]
    rows = []
    for uri in drafts:
        for row in storage.read_table(uri, ["doc_id", "lang", "text"]).to_pylist():
            plain = " ".join(row["text"].split())
            rows.append(
                (xxhash.xxh3_128_hexdigest(plain.encode()), row["doc_id"], row["lang"], len(row["text"].encode()))
            )
    gone: dict[str, dict] = {}
    first: dict[tuple[str, str], str] = {}
    used: Counter[str] = Counter()
    for key, doc_id, lang, size in sorted(rows):
        if winner := first.get((lang, key)):
            gone[doc_id] = {"rule": "same_text", "detail": winner}
            continue
        first[lang, key] = doc_id
        limit = room(native, own.bound(lang), lang)
        if used[lang] + size > limit:
            gone[doc_id] = {"rule": "share", "value": float(used[lang] + size), "threshold": limit}
            continue
        used[lang] += size
    share = {
        lang: {
            "bytes": n,
            "native_bytes": native.get(lang, 0),
            "share": n / (n + native.get(lang, 0)),
            "bound": own.bound(lang),
        }
        for lang, n in sorted(used.items())
        if n
    }
    return gone, share


def _commit(task: tuple[Shard, str, dict[str, dict], list[str]]) -> Marker:
    one, dropped, gone, ids = task
    table = storage.read_table(one.input)
    mine = [row for row in table.select(["doc_id", "url", "lang"]).to_pylist() if row["doc_id"] in gone]
    later = ledger_rows("synthesize", [{**row, **gone[row["doc_id"]]} for row in mine])
    kept = table.filter(pc.invert(pc.is_in(table["doc_id"], pa.array([row["doc_id"] for row in mine], pa.string()))))
    before = storage.read_table(dropped).combine_chunks().to_batches()
    empty = pa.RecordBatch.from_pylist([], schema=accept.TEXTS)
    batches = [(batch, ledger_rows("synthesize", [])) for batch in kept.combine_chunks().to_batches()]
    batches += [(empty, rows) for rows in (*before, later)]
    return write_shard(iter(batches), one, ids)


def _by_task(
    job: Job, tasks: Sequence[SynthesisTask], read: list[Prompt | None], asked: Sequence[Asked], names: list[str]
) -> list[dict]:
    """Of each task its model, prompt, and how many texts of each language were asked for and stayed."""
    kept: Counter[tuple[str, str]] = Counter()
    for name in names:
        table = storage.read_table(job.path(f"{name}.parquet"), ["source", "lang"])
        kept.update(zip(table["source"].to_pylist(), table["lang"].to_pylist(), strict=True))
    found = []
    for number, (task, prompt) in enumerate(zip(tasks, read, strict=True)):
        wanted = Counter(one.lang for one in asked if one.task == number)
        about = {"name": task.name, "engine": task.engine, "model": task.made_by, "licence": task.licence}
        hashed = {"prompt": prompt.name, "prompt_hash": prompt.digest} if prompt else {}
        counts = {
            lang: {"asked": n, "kept": kept[f"synthesize:{task.name}", lang]} for lang, n in sorted(wanted.items())
        }
        found.append({**about, **hashed, "languages": counts})
    return found


def _warnings(asked: Sequence[Asked], beyond: dict[str, int], native: dict[str, int], result: dict) -> list[str]:
    said = [] if asked or beyond else ["synthesize: no document meets what the tasks ask for, so no text is made"]
    said += [
        f"synthesize: no text in {lang} is made, as there is no document in {lang} that it could be a share of"
        for lang in sorted(beyond)
        if not native.get(lang)
    ]
    lost = result["rules"].get("no_answer", 0)
    if lost > len(asked) / 10:
        said.append(f"synthesize: {lost:,} of {len(asked):,} texts were not made (rule no_answer in the ledger)")
    return said


def _unscored(job: Job, names: list[str]) -> list[str]:
    """A sentence where texts lack the signal that is the score of documents."""
    own = job.recipe.quality
    if own.engine != "signal":
        return []
    scores = [storage.read_table(job.path(f"{name}.parquet"), ["quality"])["quality"] for name in names]
    without = sum(column.null_count for column in scores)
    return [
        f"synthesize: {without:,} of {sum(map(len, scores)):,} texts have no {own.signal} (quality.signal), so they are not "
        "among the best of their language"
    ] * bool(without)

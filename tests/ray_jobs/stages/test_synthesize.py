"""The stage `synthesize` without Ray: sample pages as documents; a model on loopback that answers, fails and talks nonsense, a
tiny NLLB, a tiny Qwen2 of noise."""

import gzip
import hashlib
import json
import re
from collections import Counter

import pyarrow as pa
import pytest
from model_server import one_of, say, serving
from silent import Silent

from cluster import storage
from curation import quality as classifiers
from ray_jobs.config import reader as recipes
from ray_jobs.config.reader import SAMPLE
from ray_jobs.errors import UserError
from ray_jobs.run import files as run_files
from ray_jobs.run import made_from
from ray_jobs.run.graph import enabled
from ray_jobs.run.job import Job
from ray_jobs.stages import quality, tokenize
from ray_jobs.stages.synthetic import accept, engines, prompts, sentences, synthesize
from train import model
from train.generation import judge


def gold(lang):
    """Pages of the sample that are good text."""
    with gzip.open(f"{SAMPLE}/gold/{lang}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return [row["text"] for row in rows if row["fate"] == "kept" and row["lang"] == lang and not row["near"]]


ENGLISH, INDONESIAN = gold("en"), gold("id")
NATIVE, TRANSLATIONS = INDONESIAN[::2], INDONESIAN[1::2]


def document(lang, text, quality=None):
    made = hashlib.md5(text.encode()).hexdigest()
    return {"doc_id": made, "lang": lang, "text": text, "quality": quality, "licence": f"licence of {made}", "url": "u"}


@pytest.fixture
def server():
    with serving(lambda n, text: say(translation(text))) as found:
        yield found


def translation(text):
    """An Indonesian page, the same for the same request."""
    return one_of(TRANSLATIONS, text)


def by_endpoint(server, **settings):
    own = {"base_url": server.url, "model": "big-1", "attempts": 1, "key_variable": "", "timeout_seconds": 5}
    task = {"name": "en-id", "engine": "endpoint", "prompt": "translate", "licence": "apache-2.0", "endpoint": own}
    return {**task, "languages": ["en"], "to": ["id"], "piece_chars": 100_000, **settings}


WIDE = {"min_length": 0.0, "max_length": 1000.0}  # the fake translations are of other pages


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """`asked(tasks, documents, …)`: a job of the stage in a run that is done up to `quality`."""
    for module in (synthesize, engines):
        monkeypatch.setattr(module, "map_on_ray", lambda job, do, items, *_, **__: [do(item) for item in items])
    monkeypatch.setattr(judge, "REACH_SECONDS", 2.0)
    made = [document("en", text) for text in ENGLISH] + [document("id", text) for text in NATIVE]

    def job(tasks, *more, rows=made, fingerprint="f", **settings):
        uri = str(tmp_path / "run")
        quality = f"{uri}/quality"
        schema = pa.schema([(name, pa.string()) for name in ("doc_id", "lang", "text", "licence", "url")])
        schema = schema.append(pa.field("quality", pa.float32()))
        sizes = Counter()
        for i in range(3):
            storage.write_table(f"{quality}/part-{i:05d}.parquet", pa.Table.from_pylist(rows[i::3], schema))
            langs = Counter(row["lang"] for row in rows[i::3])
            storage.write_json(f"{quality}/_shards/part-{i:05d}.json", {"docs_per_lang": langs})
        for row in rows:
            sizes[row["lang"]] += len(row["text"].encode())
        counts = Counter(row["lang"] for row in rows)
        storage.write_json(
            f"{quality}/_manifest.json",
            {"bytes_per_lang": sizes, "docs_per_lang": counts, "docs_out": len(rows), "classifiers": {}},
        )
        own = {"tasks": tasks, "accept": WIDE, "max_share": {"default": 0.9}, **settings}
        recipe = recipes.load("demo", [f"synthesize={json.dumps(own)}", "train.device=cpu", *more])
        stage = next(stage for stage in enabled(recipe) if stage.name == "synthesize")
        progress = Silent()
        progress.said = []
        progress.say = progress.said.append
        return Job(recipe, uri, stage, fingerprint, progress)

    return job


def texts(job):
    return [row for part in storage.glob(job.path("part-*.parquet")) for row in storage.read_table(part).to_pylist()]


def ledger(job):
    parts = storage.glob(storage.join(job.ledger, "part-*.parquet"))
    return [row for part in parts for row in storage.read_table(part).to_pylist()]


def files(job):
    paths = [*storage.glob(job.path("*.parquet")), *storage.glob(storage.join(job.ledger, "*.parquet"))]
    return {path: storage.read_bytes(path) for path in paths}


def test_translations_with_their_provenance(asked, server):
    job = asked([by_endpoint(server)])
    made = synthesize.run(job)
    rows, gone = texts(job), ledger(job)
    assert made["docs_in"] == len(ENGLISH) == len({row["doc_id"] for row in rows} | {row["doc_id"] for row in gone})
    assert made["docs_out"] == len(rows) > 5 and made["dropped"] == len({row["doc_id"] for row in gone})
    assert {row["rule"] for row in gone} >= {"same_text"}  # there are fewer translations than documents
    assert len({row["text"] for row in rows}) == len(rows)
    of = {row["doc_id"]: row for row in map(lambda text: document("en", text), ENGLISH)}
    prompt = prompts.read([])["translate"]
    for row in rows:
        source = of[row["made_from"]]
        assert row["licence"] == source["licence"] and (row["lang"], row["made_from_lang"]) == ("id", "en")
        assert (row["made_by"], row["model_licence"]) == ("big-1", "apache-2.0") and row["url"] == ""
        assert (row["prompt"], row["prompt_hash"]) == ("translate", prompt.digest)
        request = prompt.filled(source["text"].strip(), "Indonesian", "English")
        said = translation(request)  # then masked and edited as pages are
        assert re.sub(r"\W", "", row["text"])[:60] == re.sub(r"\W", "", said)[:60]
    assert server.bodies[0]["max_tokens"] == 2048 and server.bodies[0]["temperature"] == 0
    known = made_from.of(job.run_uri, "made_from", {rows[0]["made_from"]})
    assert [(one["doc_id"], one["made_by"]) for one in known] == [(rows[0]["doc_id"], "big-1")]
    assert made["tasks"][0]["languages"] == {"id": {"asked": len(ENGLISH), "kept": len(rows)}}
    assert made["share"]["id"]["share"] <= made["share"]["id"]["bound"]
    # again: nothing is asked twice and the bytes are the same; other bounds need no new request either
    before, sent = files(job), len(server.bodies)
    synthesize.run(job)
    assert files(job) == before and len(server.bodies) == sent == len(ENGLISH)
    strict = synthesize.run(asked([by_endpoint(server)], accept={**WIDE, "max_length": 0.01}, fingerprint="g"))
    assert strict["docs_out"] == 0 and strict["rules"]["length"] > 0 and len(server.bodies) == sent


def test_a_model_that_is_slow_busy_or_talks_nonsense(asked, server, monkeypatch):
    """Each costs its own text at most; what comes at last is as if it had come at once."""
    whole = asked([by_endpoint(server)])
    synthesize.run(whole)
    fine = files(whole)
    storage.remove(whole.path())
    storage.remove(whole.ledger)

    def behave(n, text):
        kind = int(hashlib.md5(text.encode()).hexdigest()[:4], 16) % 4
        if n > 2 or kind == 3:
            return say(translation(text))
        return [(429, {"Retry-After": "0"}, b"slow down"), (200, {}, b"<html>"), (None, {}, b"")][kind]

    server.behave = behave
    monkeypatch.setattr(engines, "PAUSE_SECONDS", 0.001)
    own = by_endpoint(server)
    own["endpoint"] |= {"attempts": 4}
    server.seen.clear()
    job = asked([own])
    synthesize.run(job)
    assert files(job) == fine and max(server.seen.values()) == 3

    storage.remove(job.path())
    server.behave = lambda n, text: (200, {}, b'{"choices": []}') if "ferry" in text else say(translation(text))
    lost = sum("ferry" in text for text in ENGLISH)
    assert 0 < lost < judge.GIVE_UP, "the sample has other pages now; look for another word"
    made = synthesize.run(asked([by_endpoint(server)]))
    assert made["rules"]["no_answer"] == lost
    assert all(row["detail"].startswith("IndexError") for row in ledger(job) if row["rule"] == "no_answer")

    storage.remove(job.path())
    server.bodies.clear()  # of which all but one are too long for the model
    server.behave = lambda n, text: say("\ud800 x") if len(server.bodies) == 1 else (413, {}, b"too long")
    own = by_endpoint(server)
    own["endpoint"] |= {"concurrency": 1}
    made = synthesize.run(asked([own]))
    assert made["rules"]["no_answer"] == len(ENGLISH) - 1 and made["docs_out"] == 0
    storage.remove(job.path())
    server.behave = lambda n, text: (400, {}, b"unknown key top_p")
    with pytest.raises(ValueError, match=r"gave no reply to 5 requests in a row \(HTTP 400: unknown key top_p\)"):
        synthesize.run(asked([own]))


def test_a_dead_endpoint_ends_the_stage_and_the_next_run_goes_on(asked, server):
    server.behave = lambda n, text: say(translation(text)) if len(server.bodies) <= 12 else (500, {}, b"oops")
    own = by_endpoint(server)
    own["endpoint"] |= {"concurrency": 1}
    job = asked([own])
    with pytest.raises(
        ValueError, match=r"The model at http.* gave no reply to 5 requests in a row \(HTTP 500: oops\)"
    ):
        synthesize.run(job)
    assert not texts(job)
    server.behave = lambda n, text: say(translation(text))
    answered = {body["messages"][-1]["content"] for body in server.bodies[:12]}
    server.seen.clear()
    synthesize.run(job)
    assert not answered & server.seen.keys() and max(server.seen.values()) == 1
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"The model at .* cannot be reached"):
        synthesize.run(asked([by_endpoint(server, prompt="simplify", to=[], name="other")], fingerprint="h"))


BAD = {
    "no_answer": lambda text: say("half of it", finish_reason="length"),
    "chatter": lambda text: say("Sure! Here is the translation:\n\n" + translation(text)),
    "copy_of_prompt": lambda text: say(text[:500] + translation(text)),
    "copy_of_document": lambda text: say(next(one for one in ENGLISH if one.strip() in text)),
    "language_other": lambda text: say(ENGLISH[len(text) % 7]),
    "language_outside": lambda text: say("Le bateau est arrivé très tard parce que le vent avait tourné. " * 9),
    "char_repetition_max": lambda text: say(translation(text)[:300] + "makan lagi " * 200),
    "contaminated": lambda text: say(translation(text) + "\n" + QUIZ),
}
QUIZ = "Mengapa kapal tua di pelabuhan itu tidak pernah berlayar lagi setelah musim hujan panjang dan angin kencang berlalu?"


@pytest.mark.parametrize("rule", BAD)
def test_each_refused_text_has_a_rule(rule, asked, server, tmp_path):
    server.behave = lambda n, text: BAD[rule](text)
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"id": "q", "question": QUIZ}))
    job = asked([by_endpoint(server, documents=6)], f"decontaminate.against=['{tmp_path}/quiz.jsonl']")
    made = synthesize.run(job)
    assert made["docs_in"] == 6 and made["docs_out"] <= 1
    assert made["rules"][rule] >= 5, made["rules"]
    assert {row["lang"] for row in ledger(job)} == {"id"} and {row["stage"] for row in ledger(job)} == {"synthesize"}


def test_no_language_has_more_than_its_share(asked, server):
    job = asked([by_endpoint(server)], max_share={"default": 0.9, "id": 0.2})
    made = synthesize.run(job)
    assert 0.1 < made["share"]["id"]["share"] <= 0.2
    kept = sum(len(row["text"].encode()) for row in texts(job))
    native = sum(len(text.encode()) for text in NATIVE)
    assert made["share"]["id"]["share"] == kept / (kept + native) and made["rules"]["share"] > 0
    tiny = asked([by_endpoint(server)], max_share={"id": 0.01}, fingerprint="g")
    (said, left_out) = synthesize.before(tiny.recipe, tiny.run_uri)
    assert "texts of 0.0 MB by big-1" in said and "at most" in said and "id 46" in left_out
    own = by_endpoint(server)
    own["endpoint"] |= {"input_per_million": 1e6, "output_per_million": 0}
    (said,) = synthesize.before(asked([own]).recipe, tiny.run_uri)
    assert re.search(
        r"46 texts .* at most 46 requests, about [\d.]+ k tokens in .*, about [\d,.]+ at the recipe's", said
    )
    long = "\n\n".join(["kapal " * 350] * 20)  # whole paragraphs, of which no two fit into a request
    rows = [document("en", long), document("id", long)]
    (said,) = synthesize.before(asked([{**own, "piece_chars": 4000}], rows=rows).recipe, tiny.run_uri)
    assert "at most 20 requests" in said
    asked([own])
    (said,) = synthesize.before(tiny.recipe, None)
    assert said == "synthesize: task en-id: at most 1,000 texts by big-1, counted after quality"
    sent = len(server.bodies)
    tiny = asked([by_endpoint(server)], max_share={"id": 0.01}, fingerprint="g")
    made = synthesize.run(tiny)
    assert made["beyond_share"]["id"] > 30 and len(server.bodies) == sent  # what cannot stay is not paid for
    assert made["docs_in"] + made["beyond_share"]["id"] == len(ENGLISH)
    none = synthesize.run(asked([by_endpoint(server, to=["th"])], fingerprint="h"))
    assert none["warnings"] == [
        "synthesize: no text in th is made, as there is no document in th that it could be a share of"
    ]


def test_the_best_by_quality_and_the_same_whatever_the_parts(asked, server):
    rows = [document("en", text, i / 100) for i, text in enumerate(ENGLISH)]
    rows += [document("id", text) for text in NATIVE]
    job = asked([by_endpoint(server, top_share=0.25, documents=5)], rows=rows)
    synthesize.run(job)
    chosen = {one["made_from"] for one in storage.read_table(job.path(made_from.FILE)).to_pylist()}
    best = {row["doc_id"] for row in rows[: len(ENGLISH)] if row["quality"] >= 0.735 * len(ENGLISH) / 100}
    assert len(chosen) == 5 and chosen <= best
    job = asked([by_endpoint(server, top_share=0.25, documents=8)], rows=rows[::-1], fingerprint="g")
    synthesize.run(job)
    more = {one["made_from"] for one in storage.read_table(job.path(made_from.FILE)).to_pylist()}
    assert chosen < more <= best  # a larger number keeps the smaller


def test_texts_have_the_score_of_the_recipes_engine(asked, server, monkeypatch):
    read = []
    monkeypatch.setattr(classifiers, "load", read.append)
    monkeypatch.setattr(classifiers, "score", lambda model, some, lang: [0.25] * len(some))
    job = asked([by_endpoint(server, documents=4)], "quality.pooled=true")
    manifest = storage.read_json(f"{job.run_uri}/quality/_manifest.json")
    storage.write_json(f"{job.run_uri}/quality/_manifest.json", {**manifest, "classifiers": {"id": {}, "en": {}}})
    synthesize.run(job)
    assert {row["quality"] for row in texts(job)} == {0.25}
    assert read == [f"{job.run_uri}/quality/models/all.bin"]  # one for all languages
    own = by_endpoint(server, documents=4)
    signal = asked([own], "quality.engine=signal", "quality.signal=word_count", fingerprint="g")
    assert not any("quality.signal" in said for said in synthesize.run(signal)["warnings"])
    assert all(10 < row["quality"] < 5000 for row in texts(signal)) and texts(signal)
    signal = asked([own], "quality.engine=signal", "quality.signal=perplexity", fingerprint="h")
    (said,) = synthesize.run(signal)["warnings"]
    assert "have no perplexity (quality.signal), so they are not among the best" in said
    monkeypatch.setattr(
        quality,
        "_of_encoder",
        lambda *where: lambda batch: (batch.append_column("quality", pa.array([0.5] * batch.num_rows)), 0),
    )
    encoder = asked([own], "quality.engine=encoder", "quality.model=somewhere", fingerprint="i")
    synthesize.run(encoder)
    assert {row["quality"] for row in texts(encoder)} == {0.5}


WORDS = ["boat", "fish", "rice", "sea", "sun", "moon"]


def test_whole_documents_by_a_translation_model(asked, nllb, monkeypatch):
    """Paragraphs, headings and lists stay; of 20 documents a killed run keeps the shards that are there."""
    documents = [
        f"# {WORDS[i % 6]}\n\n" + "\n\n".join(f"{w}. {WORDS[(i + n) % 6]}. {w}" for n, w in enumerate(WORDS * 3))
        for i in range(18)
    ]
    rows = [document("en", f"{text}\n\n{i}") for i, text in enumerate(documents)] + [document("id", t) for t in NATIVE]
    task = {"name": "nllb", "engine": "seq2seq", "model": nllb, "languages": ["en"], "to": ["id", "th"], "beams": 1}
    monkeypatch.setattr(accept, "_in_language", lambda recipe: lambda batch: (batch, accept.ledger_rows("x", [])))
    rows += [document("th", "เรือ" * 2000)]
    settings = {"accept": {"policy": False}, "rows": rows}
    job = asked([task], **settings)
    made = synthesize.run(job)
    assert made["docs_in"] == 36 and made["docs_out"] > 30, made["rules"]
    by_source = {row["doc_id"]: row["text"] for row in rows}
    for row in texts(job):
        source = by_source[row["made_from"]]
        assert row["text"].count("\n\n") == source.count("\n\n") and row["text"].startswith("# ")
        assert row["text"].rsplit("\n", 1)[1] == source.rsplit("\n", 1)[1]
        assert {"id": "perahu", "th": "เรือ"}[row["lang"]] in row["text"] and row["prompt"] == ""
    before = files(job)
    drawn = storage.glob(job.path("_drawn", "*.json"))
    storage.remove(drawn[0])
    calls = []
    shard = engines.translate_shard
    monkeypatch.setattr(engines, "translate_shard", lambda task: calls.append(task["out"]) or shard(task))
    for path in before:
        storage.remove(path)
    job = asked([task], **settings)
    synthesize.run(job)
    assert files(job) == before and len(drawn) == 4
    assert len(calls) == 4  # each looks, and only the one that is missing is made
    again = asked([{**task, "documents": 2}], rows=rows, accept={"policy": False, "round_trip": 0.99}, fingerprint="g")
    assert synthesize.run(again)["rules"]["round_trip"] > 0


def test_a_chat_model_of_our_own(asked, chat_tokenizer, tmp_path, monkeypatch):
    """A model of noise gives no text that stays; each is named, and what was drawn is not drawn again."""
    folder = str(tmp_path / "model")
    shape = {
        **{"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048},
    }
    model.save(model.build(shape, 0), chat_tokenizer, folder, 2048)
    task = {"name": "simple", "model": folder, "prompt": "simplify", "languages": ["en"], "documents": 20}
    job = asked([{**task, "max_new_tokens": 8, "piece_chars": 600, "temperature": 0.9}])
    synthesize.check(job.recipe)
    made = synthesize.run(job)
    assert made["docs_in"] == 20 and made["docs_out"] == 0 and made["rules"]["no_answer"] > 10
    assert any("were not made" in warning for warning in made["warnings"])
    drawn = storage.glob(job.path("_drawn", "*.jsonl"))
    assert len(drawn) > 1
    stamps = {path: storage.read_bytes(path) for path in drawn}
    before = files(job)
    storage.remove(drawn[1])
    for path in before:
        storage.remove(path)
    synthesize.run(job)
    assert {path: storage.read_bytes(path) for path in drawn} == stamps and files(job) == before
    asked_for = []
    monkeypatch.setattr(engines, "map_on_ray", lambda job, do, items, *_, **__: asked_for.extend(items))
    texts = [[{"role": "user", "content": f"Say {n}"}] for n in range(40)]
    own = job.recipe.synthesize.tasks[0]
    for some in (texts[:33], texts):
        with pytest.raises(FileNotFoundError):
            engines._of_model(job, own, some)
    names = [shard["drawn"] for one in asked_for for shard in one["shards"]]
    assert len(names) == 6 and names[:2] == names[3:5] and names[2] != names[5]  # more requests: the first files stand
    listed = run_files.listing(job.recipe, run_files.MODELS_OF_TASKS)
    storage.write_text(f"{folder}/model.safetensors", "other weights")
    with pytest.raises(FileNotFoundError):
        engines._of_model(job, own, texts)
    assert not {shard["drawn"] for one in asked_for[6:] for shard in one["shards"]} & set(names)
    assert run_files.listing(job.recipe, run_files.MODELS_OF_TASKS) != listed


def test_texts_are_trained_on_and_never_held_out(asked, server):
    job = asked([by_endpoint(server)])
    synthesize.run(job)
    (part,) = storage.glob(job.path("part-*.parquet"))
    batch = storage.read_table(part).combine_chunks().to_batches()[0]
    left, held, gone = tokenize._apart(batch, {"en": 0.5, "id": 1.0})
    assert not any(held.to_pylist()) and 0 < left.num_rows < batch.num_rows
    assert left.num_rows + gone.num_rows == batch.num_rows
    of = pa.table({"doc_id": left["made_from"], "lang": left["made_from_lang"]})
    assert not any(tokenize.heldout(of, {"en": 0.5}))
    assert {row["rule"] for row in gone.to_pylist()} == {"of_heldout"}


def test_plain_recipes_know_nothing_of_it():
    plain = recipes.load("demo")
    stages = {stage.name: stage for stage in enabled(plain)}
    assert "synthesize" not in stages and "synthesize" not in stages["tokenize"].inputs
    assert not any("synthesize" in key for stage in stages.values() for key in (*stage.config, *stage.inputs))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "translat"}, r"there is no prompt 'translat' \(did you mean 'translate'\?\); there are"),
        ({"prompt": "own"}, r"own\.yaml has no \{text\}"),
        ({"prompt": "odd"}, r"odd\.yaml: nothing is known of \{txt\}"),
        ({"prompt": "mute"}, r"the prompt mute has no \{language\}"),
        ({"licence": None}, r"a model behind an endpoint needs its `licence`"),
        ({"engine": "hf"}, r"`engine: endpoint` and `endpoint` \(base_url, model\) go together"),
        ({"to": ["xx"]}, r"task en-id: 'xx' is not in `languages`"),
        ({"engine": "hf", "endpoint": None, "model": "/nowhere", "licence": "x"}, r"the model /nowhere cannot be read"),
        ({"engine": "hf", "endpoint": None, "model": "/nowhere", "licence": None}, r"/nowhere is no folder here"),
        ({"engine": "seq2seq", "endpoint": None, "model": "m"}, r"engine seq2seq reads no prompt"),
    ],
)
def test_errors_are_one_sentence(change, said, asked, server, tmp_path):
    for name, text in {"own": "Say it.", "odd": "{txt} {text}", "mute": "Again: {text}"}.items():
        if name == change.get("prompt"):
            (tmp_path / f"{name}.yaml").write_text(f"prompt: '{text}'\n")
    own = [str(tmp_path / f"{change.get('prompt')}.yaml")]
    extra = {"prompts": own} if storage.exists(own[0]) else {}
    with pytest.raises((UserError, ValueError), match=said) as error:
        synthesize.check(asked([by_endpoint(server, **change)], **extra).recipe)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "One. Two! " * 100,
        "สวัสดีครับ วันนี้อากาศดี " * 60,
        "เรือเล็กจอดนิ่งอยู่ที่ท่าเรือ" * 40,
        "ເຮືອນ້ອຍຈອດຢູ່ທ່າເຮືອ" * 40,
        "小船停在港口，风停了" * 60,
        "word " * 10 + "x" * 900,
        "İ" * 700,
        "",
    ],
)
def test_sentences_are_short_and_nothing_is_lost(text):
    found = sentences.split(text)
    assert "".join(piece for piece, _ in found) == text
    unbroken = "x" * 900 in text or "İ" in text
    assert max((len(piece) for piece, wanted in found if wanted), default=0) <= (900 if unbroken else sentences.LONGEST)
    parts = sentences.pieces(text, 500)
    assert "".join(piece + gap for piece, gap in parts).strip() == text.strip()
    assert all(len(piece) <= (900 if unbroken else 500) for piece, _ in parts)


def test_paragraphs_stay_whole():
    text = "\n\n".join(f"Paragraph {i} " + "goes on " * 10 for i in range(9)).strip()
    parts = sentences.pieces(text, 250)
    assert "".join(piece + gap for piece, gap in parts).replace(" \n", "\n") == text.replace(" \n", "\n")
    assert len(parts) == 5
    assert all(piece.startswith("Paragraph") for piece, _ in parts)


def test_measures_by_hand():
    assert accept.copied("abc " * 20, "ABC" * 40) == 1.0 and accept.copied("x" * 10, "y") == 0.0
    assert accept.chrf("perahu itu", "perahu  itu") == 1.0 and accept.chrf("abc", "xyz") == 0.0
    assert 0 < accept.chrf("perahu itu", "perahu ini") < 1
    one = prompts.Prompt("p", "In {language}: {text}", prompts.LENGTH)
    assert one.filled("a {language} {x}", "Lao", "English") == "In Lao: a {language} {x}" and one.instructions == [
        "In ",
        ": ",
    ]

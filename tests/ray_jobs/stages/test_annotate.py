"""Annotations in a run: in the manifest, as columns, in the ledger and in `pinisi explain`; what is wrong is said before."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import storage
from curation.policy import policy
from ray_jobs import cli
from ray_jobs.commands import explain, travel
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import annotation_choice
from ray_jobs.run.run import Run

TEXT = "Sebuah perahu kecil berlayar di laut yang tenang, dan para nelayan pulang dengan ikan yang banyak. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight documents, and what others say of six of them, one of these twice."""
    folder = tmp_path_factory.mktemp("annotated")
    rows = {"id": [f"i{n}" for n in range(8)], "url": [f"http://www.x.example/{n}/" for n in range(8)]}
    texts = [f"{TEXT * 3}Ini cerita nomor {n} dari desa." for n in range(8)]
    pq.write_table(pa.table({**rows, "text": texts, "lang": ["id"] * 8}), folder / "documents.parquet")
    notes = {
        "url": [f"https://x.example/{n}" for n in (0, 1, 2, 3, 4, 5, 0)],
        "content_type": ["spam", "blog", "blog", "blog", None, "blog", "blog"],
        "edu": [{"score": score, "by": "m"} for score in (0.9, 0.1, 0.9, None, 0.9, 0.9, 0.9)],
        "tags": [["a"]] * 7,
    }
    pq.write_table(pa.table(notes), folder / "notes-0.parquet")
    pq.write_table(pa.table({"id": ["i2", "i5"], "safe": [False, True]}), folder / "safe.parquet")
    return folder


def recipe(folder, *changes):
    notes = f"{{path: {folder}/notes-*.parquet, key: url, columns: {{kind: content_type, edu: edu.score}}}}"
    safe = f"{{path: {folder}/safe.parquet, key: source_id, columns: [safe]}}"
    own = {"kind": {"forbidden": ["spam"]}, "edu": {"min": 0.5}, "safe": {"allowed": [True]}}
    rules = json.dumps({**dict.fromkeys(policy.load("id").rules, False), **own})
    source = f"[{{name: s, type: parquet, path: {folder}/documents.parquet, trust_language: true}}]"
    sets = [f"sources={source}", "quality={}", "languages=[id]", "train=null", "mixture={}", "cluster.engine=local"]
    sets += [f"annotations=[{notes}, {safe}]", f"filter.policy.id={rules}"]
    return recipes.load("demo", [*sets, *changes])


def test_what_others_say_decides_and_is_told(folder, capsys):
    run = Run(str(folder / "run"), recipe(folder))
    run.execute(until="filter", ray=False, say=lambda line: None)
    first, second = run.manifest("annotate")["annotations"]
    assert (first["rows"], first["matched"], first["columns"]) == (7, {"id": 6}, {"kind": "string", "edu": "number"})
    assert (second["rows"], second["matched"], second["columns"]) == (2, {"id": 2}, {"safe": "boolean"})
    measured = storage.read_table(storage.join(run.uri, "filter/signals", "part-00000.parquet"))
    by_id = {row["source_id"]: (row["kind"], row["edu"], row["safe"]) for row in measured.to_pylist()}
    assert by_id == {
        **{
            "i0": ("spam", 0.9, None),
            "i1": ("blog", 0.1, None),
            "i2": ("blog", 0.9, False),
            "i3": ("blog", None, None),
        },
        **{"i4": (None, 0.9, None), "i5": ("blog", 0.9, True), "i6": (None, None, None), "i7": (None, None, None)},
    }
    kept = storage.read_table(storage.join(run.uri, "filter/policy", "part-00000.parquet"))
    assert kept["source_id"].to_pylist() == ["i3", "i4", "i5", "i6", "i7"], "what is unknown is no reason"
    assert run.manifest("filter/policy")["rules"] == {"edu_min": 1, "kind_forbidden": 1, "safe_allowed": 1}
    found = {event["stage"]: event for event in explain.events(run, "http://x.example/2")}
    assert found["annotate"]["detail"] == "kind blog, edu 0.9, safe False"
    assert (found["filter/policy"]["rule"], found["filter/policy"]["detail"]) == (
        "safe_allowed",
        "false: allowed is true",
    )
    assert {event["url"] for event in found.values()} == {"http://www.x.example/2/"}
    assert explain.events(run, "i7")[3]["detail"] == "nobody has annotated it"
    tried = folder / "tried.yaml"
    tried.write_text("id: {kind: {allowed: [news]}, edu: {max: 0.5}}\n")
    with pytest.raises(SystemExit):
        cli.main(["policy", run.uri, "--try", str(tried)])
    said = capsys.readouterr().out
    assert "kind_allowed" in said and "kind_allowed (blog: allowed is news)" in said


def test_a_cluster_is_not_sent_to_without_the_tables(folder):
    said = [sentence.partition(":")[0] for sentence in travel.left_behind(recipe(folder), shared_disk=False)]
    assert said == ["annotations", "annotations", "sources"]


def test_only_what_reads_annotations_depends_on_them(folder):
    plain = recipe(folder, "annotations=[]", "filter.policy={}")
    assert "annotate" not in [stage.name for stage in Run("x", plain).stages]
    before, after = (Run(str(folder / "other"), one).fingerprints() for one in (plain, recipe(folder)))
    same = {"crawl", "extract", "language"}
    assert {name for name in before if before[name] == after[name]} == same
    pq.write_table(pa.table({"id": ["i2"], "safe": [True]}), folder / "more-0.parquet")
    more = recipe(folder, f"annotations.1.path={folder}/more-*.parquet")
    assert Run(str(folder / "other"), more).fingerprints()["annotate"] != after["annotate"]


@pytest.mark.parametrize(
    "change, said",
    [
        ("annotations.0.path=FOLDER/none-*", "annotations: no file matches"),
        (
            "annotations.0.columns={kind: content}",
            "notes-0.parquet has no column 'content': it has url, content_type, edu, tags",
        ),
        ("annotations.0.columns={kind: tags}", "name one of its items, such as tags[0]"),
        ("annotations.0.key_column=edu", "the key 'edu' is of type struct"),
        ("annotations.0.columns={word_count: edu.score}", "'word_count' is a column already; give it another name"),
        ("annotations.0.columns={made_by: content_type}", "'made_by' is a column already; give it another name"),
        ("annotations.0.columns=[edu.score]", "'edu.score' is no name of a signal"),
        ("annotations.1.columns={kind: safe}", "'kind' is a column already"),
        ("annotations.0.path=FOLDER/run/recipe.yaml", "is no Parquet file"),
        ("filter.policy.id.kind={min: 1}", "kind is a string and has no min; write allowed or forbidden"),
        ("filter.policy.id.edu={allowed: [a]}", "edu is a number; write min or max"),
        ("filter.policy.id.safe={max: 1}", "safe is a boolean and has no max; write allowed: [true]"),
        ("filter.policy.id.safe={allowed: ['yes']}", "'yes' is listed, and the values of safe are true or false"),
        (
            "filter.policy.id.kind={forbidden: [true]}",
            "True is listed, and the values of kind are strings: write 'true'",
        ),
    ],
)
def test_what_cannot_be_used_is_one_sentence(folder, change, said):
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "recipe.yaml").touch()
    [sentence] = annotation_choice.faults(recipe(folder, change.replace("FOLDER", str(folder))))
    assert said in sentence and "\n" not in sentence


def test_files_of_one_entry_must_be_alike_and_sources_known(folder):
    pq.write_table(pa.table({"id": ["i2"], "safe": ["yes"]}), folder / "safe-2.parquet")
    [sentence] = annotation_choice.faults(recipe(folder, f"annotations.1.path={folder}/safe*.parquet"))
    assert "the column 'safe' is a" in sentence
    with pytest.raises(UserError, match=r"annotations\.sources names the source 'web', which is not in `sources`"):
        recipe(folder, "annotations.0.sources=[web]")
    with pytest.raises(UserError, match="input should be 'doc_id', 'source_id', 'url' or 'text_hash'"):
        recipe(folder, "annotations.0.key=id")

"""`pinisi push`: what goes out, to whom, and what stays here. The hub is one of this machine (tests/hub_server.py)."""

import io
import json
import time
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub_server import Hub

from cluster import storage
from curation.schema import RAW, raw
from ray_jobs import cli
from ray_jobs.errors import UserError
from ray_jobs.publish import corpus, hub, rights
from ray_jobs.run.fingerprint import digest
from ray_jobs.run.run import open_run

RESERVED = b'<html><head><meta name="tdm-reservation" content="1"></head></html>'
NOAI = b'<meta name="robots" content="noai, noimageai">'
NOARCHIVE = b'<meta name="robots" content="noarchive">'
PLAIN = b"<html><body>rice and fish</body></html>"
PII = pa.struct([("email", pa.int32()), ("phone", pa.int32())])
DOCUMENTS = [  # id, language, licence, page, masked
    ("a", "km", "CC BY 4.0", PLAIN, {"email": 2, "phone": 0}),
    ("b", "km", "", NOARCHIVE, {"email": 0, "phone": 1}),
    ("c", "en", "CC BY-NC 4.0", None, {"email": 0, "phone": 0}),
    ("d", "en", "", PLAIN, {"email": 0, "phone": 0}),
    ("e", "en", "CC BY-NC-ND 4.0", None, {"email": 0, "phone": 0}),
    ("f", "km", "", RESERVED, {"email": 0, "phone": 0}),
    ("g", "km", "", NOAI, {"email": 0, "phone": 0}),
    ("h", "en", "CC0", PLAIN, {"email": 0, "phone": 0}),  # taken down
]
RECIPE = {
    "name": "boats",
    "languages": ["km", "en"],
    "sources": [{"name": "web", "type": "warc", "path": "warc/*.warc.gz"}],
    "train": {
        "base": {"model": "islands/base"},
        "pretrain": {f"stage{n}": {"tokens": 1, "rows_per_step": 1} for n in "12"},
    },
}


@pytest.fixture
def run(tmp_path) -> str:
    """A run of two parts up to `quality`, with a chat model exported."""
    uri = str(tmp_path / "run")
    storage.write_text(storage.join(uri, "recipe.yaml"), yaml.safe_dump(RECIPE))
    for number, docs in enumerate((DOCUMENTS[:5], DOCUMENTS[5:])):
        pages = [raw(doc_id, f"https://a.example/{doc_id}") | {"payload": page} for doc_id, *_, page, _ in docs]
        pages = [page | {"doc_id": doc[0]} for page, doc in zip(pages, docs, strict=True)]
        storage.write_table(f"{uri}/crawl/part-0000{number}.parquet", pa.Table.from_pylist(pages, RAW))
        schema = pa.schema(
            [*((n, pa.string()) for n in ("doc_id", "text", "title", "lang", "url", "source", "licence")), ("pii", PII)]
        )
        rows = [
            {
                "doc_id": doc_id,
                "lang": lang,
                "licence": licence,
                "text": f"ត្រី {doc_id}" if lang == "km" else f"fish {doc_id}",
                "title": "call Sok",
                "url": f"https://a.example/{doc_id}",
                "source": "web",
                "pii": masked,
            }
            for doc_id, lang, licence, _, masked in docs
        ]
        storage.write_table(f"{uri}/quality/part-0000{number}.parquet", pa.Table.from_pylist(rows, schema))
    rules = {
        "crawl": {},
        "filter/policy": {"word_count_min": 3},
        "dedup": {"near_duplicate": 2},
        "quality": {},
        "export": {},
    }
    opened, prints = open_run(uri), {}
    for stage in opened.stages:
        parts = opened.parts(stage, prints)
        prints[stage.name] = digest(parts)
        if stage.name in rules:
            made = {
                "docs_in": 20,
                "docs_out": 8,
                "rules": rules[stage.name],
                "fingerprint": prints[stage.name],
                **parts,
            }
            storage.write_json(storage.join(uri, stage.name, "_manifest.json"), made)
    storage.write_text(
        f"{uri}/ledger/pretrain-stage1.jsonl", json.dumps({"from_step": 1, "from_sample": 0, "remove": "h"}) + "\n"
    )
    for name, content in (("config.json", "{}"), ("README.md", "# boats\n"), ("model.safetensors", "w" * 5000)):
        storage.write_text(f"{uri}/export/chat/{name}", content)
    return uri


@pytest.fixture
def site(monkeypatch, tmp_path):
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    here = Hub({"good": {"islands"}})
    monkeypatch.setattr(constants, "ENDPOINT", here.url)
    template = here.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(
        _http, "time", SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    )  # between its tries
    monkeypatch.setenv("HF_TOKEN", "good")
    yield here
    here.close()


def said(capsys, *arguments) -> tuple[int, str, str]:
    try:
        cli.main(["push", *arguments])
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_model_goes_out_private_and_whole(run, site, capsys):
    code, out, err = said(capsys, run, "--to", "hf:islands/boats")
    assert code == 0 and f"{site.url}/islands/boats" in out and "export.licence" in err
    made = site.repositories["model", "islands/boats"]
    assert made["private"] and made["files"].keys() == {
        *(".gitattributes", "config.json", "README.md", "model.safetensors", "pinisi.json")
    }
    assert made["files"]["model.safetensors"] == b"w" * 5000


def test_the_file_for_llama_cpp_goes_along_when_asked(run, site, capsys):
    """The Modelfile that `export` writes is of use beside that file alone."""
    storage.write_text(f"{run}/export/chat/Modelfile", "FROM ./boats-chat.gguf\n")
    assert said(capsys, run, "--to", "hf:islands/boats")[0] == 0
    files = site.repositories["model", "islands/boats"]["files"]
    assert "Modelfile" not in files
    code, _, err = said(capsys, run, "--to", "hf:islands/boats", "--gguf")
    assert code == 2 and "pinisi gguf" in err
    for name in ("Modelfile", "boats-chat.gguf"):
        storage.write_text(f"{run}/gguf/chat/{name}", name)
    assert said(capsys, run, "--to", "hf:islands/boats", "--gguf")[0] == 0
    assert (files["Modelfile"], files["boats-chat.gguf"]) == (b"Modelfile", b"boats-chat.gguf")


def test_what_is_of_another_recipe_stays(run, site, capsys):
    """The run was started again with other settings, and has not come so far as to make it."""
    to, corpus_to = ("--to", "hf:islands/boats"), ("--to", "hf:islands/corpus", "--what", "corpus", "--leave-out")
    for changes, kind, sentence in (
        ({"dedup": {"threshold": 0.5}}, "dataset", "there is no corpus yet as its recipe asks for one: quality is"),
        ({"quality": {"per_side": 7}}, "dataset", "there is no corpus yet as its recipe asks for one: quality is"),
        ({"export": {"licence": "cc0-1.0"}}, "model", "the model chat is not what its recipe asks for now"),
    ):
        storage.write_text(f"{run}/recipe.yaml", yaml.safe_dump(RECIPE | changes))
        code, _, err = said(capsys, run, *(to if kind == "model" else corpus_to))
        assert code == 2 and sentence in err and err.count("\n") == 1 and site.asked == [], err
    storage.write_text(f"{run}/recipe.yaml", yaml.safe_dump(RECIPE))
    assert said(capsys, run, *corpus_to)[0] == 0
    storage.remove(f"{run}/quality/_manifest.json")
    assert "there is no corpus yet" in said(capsys, run, *corpus_to)[2]


def test_public_is_asked_for(run, site, capsys):
    assert said(capsys, run, "--to", "hf:islands/boats", "--public")[0] == 0
    made = site.repositories["model", "islands/boats"]
    assert not made["private"]
    for files in (dict(made["files"]), {".gitattributes": b""}):  # pushed before, or made by hand
        made |= {"files": files, "commits": []}
        code, _, err = said(capsys, run, "--to", "hf:islands/boats")
        assert code == 2 and "hf:islands/boats is public; say --public if that is meant" in err
        assert made["commits"] == []
        assert said(capsys, run, "--to", "hf:islands/boats", "--public")[0] == 0 and made["commits"]
    site.repositories["dataset", "islands/corpus"] = {"private": False, "files": {}, "commits": []}
    code, _, err = said(capsys, run, "--to", "hf:islands/corpus", "--what", "corpus", "--leave-out")
    assert code == 2 and "is public; say --public" in err
    assert not site.repositories["dataset", "islands/corpus"]["commits"]
    made["private"] = True  # an existing one stays as it is
    assert said(capsys, run, "--to", "hf:islands/boats", "--public")[0] == 0 and made["private"]


def test_a_dry_run_lists_and_asks_nobody(run, site, capsys):
    code, out, _ = said(capsys, run, "--to", "hf:islands/boats", "--dry-run")
    assert code == 0 and "model.safetensors" in out and "5 kB" in out and "private" in out
    code, out, _ = said(capsys, run, "--to", "hf:islands/corpus", "--what", "corpus", "--leave-out", "--dry-run")
    assert code == 0 and "data/km/part-00000.parquet" in out and "croissant.json" in out
    assert site.asked == []


def test_what_was_sent_is_not_sent_again(run, site, capsys):
    """A push that breaks off says so, and goes on: the second sends the objects that are not there, the third none."""
    site.break_after = 1
    arguments = (run, "--to", "hf:islands/corpus", "--what", "corpus", "--leave-out")
    code, _, err = said(capsys, *arguments)
    assert code == 2 and "broke off" in err and "goes on where it was" in err and len(site.objects) == 1
    site.break_after, before = None, len(site.asked)
    assert said(capsys, *arguments)[0] == 0
    assert len([one for one in site.asked[before:] if one.startswith("PUT /objects")]) == 1
    before = len(site.asked)
    assert said(capsys, *arguments)[0] == 0
    assert [one for one in site.asked[before:] if one.startswith("PUT /objects")] == []


def test_what_is_gone_here_goes_there(run, site, capsys):
    """Withdrawn documents, of which a language or a file may have had no others, and weights of a former push; what people put
    there by hand stays."""
    to = ("--to", "hf:islands/corpus", "--what", "corpus", "--leave-out")
    assert said(capsys, run, *to)[0] == 0
    files = site.repositories["dataset", "islands/corpus"]["files"]
    files |= {"data/en/part-00001.parquet": b"of a longer corpus", "paper.pdf": b"by hand"}
    withdrawn = [{"from_step": 1, "from_sample": 0, "remove": doc_id} for doc_id in "abh"]  # a and b: all of km
    storage.write_text(f"{run}/ledger/pretrain-stage1.jsonl", "".join(f"{json.dumps(one)}\n" for one in withdrawn))
    assert said(capsys, run, *to)[0] == 0
    ours = {".gitattributes", "README.md", "croissant.json", "pinisi.json", "data/en/part-00000.parquet"}
    assert files.keys() == ours | {"paper.pdf"}
    for name in ("Modelfile", "boats-chat.gguf"):
        storage.write_text(f"{run}/gguf/chat/{name}", name)
    assert said(capsys, run, "--to", "hf:islands/boats", "--gguf")[0] == 0
    files = site.repositories["model", "islands/boats"]["files"]
    files |= {"model-00001-of-00002.safetensors": b"w", "model.safetensors.index.json": b"{}", "paper.pdf": b"by hand"}
    assert said(capsys, run, "--to", "hf:islands/boats")[0] == 0
    ours = {".gitattributes", "README.md", "config.json", "pinisi.json", "model.safetensors"}
    assert files.keys() == ours | {"paper.pdf"}


def test_a_sentence_for_each_no(run, site, capsys, monkeypatch):
    to = ("--to", "hf:islands/boats")
    taken = {"private": True, "files": {"theirs.txt": b"theirs"}, "commits": []}
    site.repositories["model", "islands/boats"] = taken
    assert "hf:islands/boats is taken" in said(capsys, run, *to)[2] and taken["commits"] == []
    taken["files"] = {"pinisi.json": b'{"recipe": "canoes/chat"}'}
    assert "is taken" in said(capsys, run, *to)[2] and taken["commits"] == []
    taken["files"] = {".gitattributes": b""}  # made by hand, empty
    assert said(capsys, run, *to)[0] == 0
    assert "may not write to hf:others/boats" in said(capsys, run, "--to", "hf:others/boats")[2]
    monkeypatch.setenv("HF_TOKEN", "bad")
    assert "does not know this token" in said(capsys, run, *to)[2]
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = said(capsys, run, *to)
    assert code == 2 and "no token" in err and "HF_TOKEN" in err
    for wrong in ("islands/boats", "hf:boats", "hf:a/b/c", "hf:../boats", "s3:a/b", "hf:a/b.git", "hf:a b/c"):
        assert "write hf:OWNER/NAME" in said(capsys, run, "--to", wrong)[2], wrong
    assert "is not exported" in said(capsys, run, *to, "--what", "long")[2]
    assert "go with --what corpus" in said(capsys, run, *to, "--leave-out")[2]


def test_documents_that_may_not_go_out_stop_a_push_or_stay(run, site, capsys):
    code, _, err = said(capsys, run, "--to", "hf:islands/corpus", "--what", "corpus")
    assert code == 2 and "licence forbids it: 1" in err and "page reserves its use: 2" in err and site.asked == []
    code, _, err = said(capsys, run, "--to", "hf:islands/corpus", "--what", "corpus", "--leave-out", "--public")
    assert code == 0 and "2 of 4 documents state no licence and would be public" in err and "no commercial use" in err
    files = site.repositories["dataset", "islands/corpus"]["files"]
    tables = {name.split("/")[1]: pq.read_table(io.BytesIO(body)) for name, body in files.items() if "parquet" in name}
    assert {lang: table["doc_id"].to_pylist() for lang, table in tables.items()} == {"km": ["a", "b"], "en": ["c", "d"]}
    assert tables["km"]["text"].to_pylist() == ["ត្រី a", "ត្រី b"] and tables["km"].column_names == list(corpus.COLUMNS)


def test_texts_made_of_what_stays_here_stay_too(run, tmp_path):
    recipe = {**RECIPE, "synthesize": {"tasks": [{"name": "t", "model": "islands/base", "prompt": "simplify"}]}}
    recipe["synthesize"]["tasks"][0]["licence"] = "mit"
    storage.write_text(f"{run}/recipe.yaml", yaml.safe_dump(recipe))
    rows = [
        {"doc_id": f"made of {doc_id}", "text": "x", "lang": lang, "url": "", "source": "synthesize:t", "licence": ""}
        | {"made_from": doc_id, "made_by": "base", "prompt": "simplify", "prompt_hash": "", "model_licence": "mit"}
        for doc_id, lang, *_ in DOCUMENTS
    ]
    storage.write_table(f"{run}/synthesize/part-synthetic-00000.parquet", pa.Table.from_pylist(rows))
    opened = open_run(run)
    opened.stands = lambda stage: True
    (tmp_path / "out").mkdir()
    counted = corpus.write(opened, str(tmp_path / "out"), name="c", url="u", licence=None, leave_out=True)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out").rglob("*.parquet"))]
    ids = {one for table in tables for one in table["doc_id"].to_pylist()}
    assert ids == {"a", "b", "c", "d"} | {f"made of {one}" for one in "abcd"}
    assert counted.left_out == {corpus.NO_RIGHT: 2, corpus.RESERVED: 4, corpus.TAKEN: 2}


def test_the_card_counts(run, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    at = {"name": "corpus", "url": "https://hub.example/datasets/islands/corpus", "licence": "cc-by-nc-4.0"}
    counted = corpus.write(open_run(run), str(folder), **at, leave_out=True)
    card = (folder / "README.md").read_text("utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["language"] == ["en", "km"] and head["license"] == "cc-by-nc-4.0"
    assert {one["config_name"]: one["data_files"] for one in head["configs"]} == {
        "en": "data/en/*.parquet",
        "km": "data/km/*.parquet",
    }
    for line in (
        *("| km | 2 | 0.00 | 3 |", "| web | 4 |", "| CC BY 4.0 | 1 |", "| not stated | 2 |", "| email | 2 |"),
        *("| `dedup` | 20 | 8 |", "`word_count_min` (3)", "| robots tag: noindex or noarchive | 1 |", "taken down (1)"),
        *("page reserves its use (2)", "licence forbids it (1)", "3 places in 2 documents", "3 pages were looked at"),
    ):
        assert line in card, line
    assert corpus.warnings(counted, "cc-by-nc-4.0", False) == ["2 of 4 documents state no licence"]
    made = json.loads((folder / "croissant.json").read_text("utf-8"))
    assert made["conformsTo"].endswith("/croissant/1.0") and made["license"] == "cc-by-nc-4.0"
    ids = {one["@id"] for one in made["distribution"]}
    for records in made["recordSet"]:
        names = {one["@id"] for one in records["field"]}
        assert records["key"]["@id"] in names
        for one in records["field"]:
            assert one["source"]["fileSet"]["@id"] in ids
            assert one["source"]["extract"]["column"] in corpus.COLUMNS
    assert {one.get("includes") for one in made["distribution"]} == {None, "data/en/*.parquet", "data/km/*.parquet"}


def test_the_same_documents_give_the_same_bytes(run, tmp_path):
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        corpus.write(open_run(run), str(tmp_path / name), name="c", url="u", licence=None, leave_out=True)
        made.append({path: (tmp_path / name / path).read_bytes() for path, _ in hub.files(str(tmp_path / name))})
    assert made[0] == made[1] and len(made[0]) == 4


def test_a_long_corpus_is_cut_into_files(run, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "FILE_BYTES", 6)
    corpus.write(open_run(run), str(tmp_path), name="c", url="u", licence=None, leave_out=True)
    assert [path for path, _ in hub.files(str(tmp_path / "data"))] == [
        f"{lang}/part-0000{number}.parquet" for lang in ("en", "km") for number in (0, 1)
    ]


@pytest.mark.parametrize(
    ("licence", "forbidden", "restricted"),
    [
        ("CC BY-ND 4.0", True, False),
        ("cc-by-nc-nd-4.0", True, True),
        ("CC BY-NC-SA 3.0", False, True),
        ("© 2024 Kampuchea Daily. All Rights Reserved", True, False),
        ("Proprietary", True, False),
        ("for research use only", False, True),
        ("non commercial", False, True),
        ("No Derivatives", True, False),
        ("https://creativecommons.org/licenses/by-nd/4.0/", True, False),
        ("Attribution-NonCommercial-NoDerivatives", True, True),
        ("Redistribution is strictly prohibited", True, False),
        ("may not be redistributed", True, False),
        ("Hak Cipta Dilindungi Undang-Undang", True, False),
        ("สงวนลิขสิทธิ์ พ.ศ. 2567", True, False),
        ("Bảo lưu mọi quyền", True, False),
        ("版权所有 © 2024", True, False),
        ("not for commercial use", False, True),
        ("BSD-2-Clause", False, False),
        ("Redistribution and use in source and binary forms are permitted", False, False),
        ("Commercial use allowed; attribution", False, False),
        ("CC BY 4.0", False, False),
        ("CC0", False, False),
        ("apache-2.0", False, False),
        ("public domain", False, False),
        ("Open Government Licence Indonesia", False, False),
        ("", False, False),
    ],
)
def test_what_licences_say(licence, forbidden, restricted):
    assert (rights.forbids(licence), rights.non_commercial(licence)) == (forbidden, restricted)


def test_a_run_without_documents(tmp_path):
    storage.write_text(f"{tmp_path}/recipe.yaml", yaml.safe_dump(RECIPE))
    with pytest.raises(UserError, match="there is no corpus yet"):
        corpus.write(open_run(str(tmp_path)), str(tmp_path), name="c", url="u", licence=None, leave_out=False)

import multiprocessing
import os
import pickle
import subprocess
import sys

import pyarrow as pa
import pytest

from curation.extract.extractor import Extractor
from curation.extract.page import ENGINES
from curation.schema import DOCUMENT, RAW, raw

NAVIGATION = "<nav><ul><li><a href=/>{home}</a></li><li><a href=/a>{about}</a></li></ul></nav>"
PAGES = {
    "th": ("หน้าแรก", "ชาวประมงออกเรือก่อนรุ่งสาง พวกเขากลับมาพร้อมปลาเต็มลำในตอนเย็น และแบ่งให้เพื่อนบ้านทุกบ้าน"),
    "lo": ("ໜ້າຫຼັກ", "ຊາວປະມົງອອກເຮືອກ່ອນຮຸ່ງແຈ້ງ ພວກເຂົາກັບມາພ້ອມປາເຕັມລຳໃນຕອນແລງ ແລະ ແບ່ງໃຫ້ເພື່ອນບ້ານ"),
    "km": ("ទំព័រដើម", "អ្នកនេសាទចេញទូកមុនព្រះអាទិត្យរះ ហើយត្រឡប់មកវិញនៅពេលល្ងាចជាមួយត្រីពេញទូក"),
    "my": ("ပင်မစာမျက်နှာ", "တံငါသည်များသည် နေမထွက်မီ လှေထွက်ကြပြီး ညနေတွင် ငါးအပြည့်ဖြင့် ပြန်လာကြသည်"),
    "vi": (
        "Trang chủ",
        "Ngư dân ra khơi trước bình minh và trở về vào buổi chiều với khoang thuyền đầy cá, chia cho hàng xóm.",
    ),
    "zh": ("首页", "渔民在黎明前出海，傍晚带着满舱的鱼回来，分给村里的每一户人家。孩子们在码头上等着他们。"),
    "id": (
        "Beranda",
        "Nelayan melaut sebelum fajar dan pulang pada sore hari dengan perahu penuh ikan untuk para tetangga.",
    ),
}


def page(lang: str, home: str, text: str) -> bytes:
    body = "".join(f"<p>{text} {i}</p>" for i in range(4))
    head = f"<html lang={lang}><head><title>{home} | P&amp;P</title><script>var x = '{home}';</script></head>"
    return f"{head}<body>{NAVIGATION.format(home=home, about='X')}<article>{body}</article><footer>©</footer>".encode()


def table(*payloads: bytes | None, **columns) -> pa.RecordBatch:
    rows = [raw(f"r{i}", f"http://x/{i}", payload=payload, **columns) for i, payload in enumerate(payloads)]
    return pa.RecordBatch.from_pylist(rows, schema=RAW)


@pytest.fixture(scope="module")
def extract():
    kernel = Extractor(timeout_seconds=5)
    yield kernel
    kernel.close()


def rules(ledger: pa.RecordBatch) -> list[str]:
    return ledger["rule"].to_pylist()


@pytest.mark.parametrize("engine", ENGINES)
def test_main_text_title_and_language_in_every_script(engine: str):
    kernel = Extractor(engine)
    documents, ledger = kernel(table(*(page(lang, home, text) for lang, (home, text) in PAGES.items())))
    kernel.close()
    assert documents.schema == DOCUMENT and ledger.num_rows == 0
    assert documents["lang_hint"].to_pylist() == list(PAGES)
    for row, (home, text) in zip(documents.to_pylist(), PAGES.values(), strict=True):
        assert row["title"] == f"{home} | P&P"
        assert all(f"{text} {i}" in row["text"] for i in range(4))
        assert home not in row["text"] and "var x" not in row["text"]


def test_legacy_encodings(extract):
    home, text = PAGES["th"]
    thai = page("th", home, text).decode().replace("©", "").encode("cp874")
    home, text = PAGES["zh"]
    chinese = page("zh", home, text).decode().replace("<head>", "<head><meta charset=gbk>").encode("gb18030")
    documents, _ = extract(table(thai, chinese, charset_hint="windows-874"))
    assert PAGES["th"][1] in documents["text"][0].as_py()
    documents, _ = extract(table(chinese))
    assert PAGES["zh"][1] in documents["text"][0].as_py()


def test_paragraphs_stay_apart(extract):
    documents, _ = extract(table(b"<body><p>first line of text</p><p>second line of text</p><p>third<br>fourth"))
    lines = [line for line in documents["text"][0].as_py().split("\n") if line]
    assert lines == ["first line of text", "second line of text", "third", "fourth"]


def test_text_rows_pass_through_untouched(extract):
    rows = [
        raw("a", "u", text="  <b>as it is</b>\r\n", title="T", lang_hint="jv"),
        raw("b", "u", payload=page("th", *PAGES["th"]), lang_hint="su"),
        raw("c", "u", text=" \n"),
        raw("d", "u"),
    ]
    documents, ledger = extract(pa.RecordBatch.from_pylist(rows, schema=RAW))
    first, second = documents.to_pylist()
    assert (first["text"], first["title"], first["lang_hint"]) == ("  <b>as it is</b>\r\n", "T", "jv")
    assert second["lang_hint"] == "su", "the row's own language comes before the page's"
    assert rules(ledger) == ["empty", "empty"]
    assert ledger["doc_id"].to_pylist() == [rows[2]["doc_id"], rows[3]["doc_id"]]


def test_day_of_publication_comes_from_the_page_unless_the_row_has_one(extract):
    html = b"<meta name=date content=2019-11-20><p>some text"
    assert extract(table(html))[0]["published"].to_pylist() == ["2019-11-20"]
    assert extract(table(html, published="2001-01-01"))[0]["published"].to_pylist() == ["2001-01-01"]
    assert extract(table(b"<p>some text", None, text="x"))[0]["published"].to_pylist() == ["", ""]


def test_a_crawl_of_before_a_column_is_read(extract):
    batch = table(None, text="A plain text of some words.")
    documents, _ = extract(batch.drop_columns(["truncated"]))
    assert documents["truncated"].to_pylist() == [""]


def test_empty_batch(extract):
    documents, ledger = extract(table())
    assert documents.schema == DOCUMENT and documents.num_rows == ledger.num_rows == 0


def test_limits_are_ledgered_with_value_and_threshold():
    kernel = Extractor(max_bytes=2000, max_nodes=100)
    documents, ledger = kernel(table(b"<p>fine text", b"x" * 2001, b"<p>a" * 101, b"<p>fine again", b"<p> </p>"))
    kernel.close()
    assert documents["text"].to_pylist() == ["fine text", "fine again"]
    found = {row["rule"]: (row["value"], row["threshold"]) for row in ledger.to_pylist()}
    assert found == {"too_large": (2001, 2000), "too_many_nodes": (101, 100), "empty": (0, 1)}


def test_a_crash_costs_one_page_and_an_innocent_page_is_tried_again():
    kernel = Extractor("resiliparse", max_nodes=10**9, memory_bytes=60_000_000)
    documents, ledger = kernel(table(b"<p>one", b"<table><tr><td>" * 120_000, b"<p>two", b"<p>three"))
    kernel.close()
    assert documents["text"].to_pylist() == ["one", "two", "three"]
    assert rules(ledger) == ["extract_crash"]


def test_the_worker_is_kept_and_replaced_when_it_is_gone(extract):
    extract(table(b"<p>a"))
    process = extract._sandbox._process
    extract(table(b"<p>b"))
    assert extract._sandbox._process is process
    process.kill()
    process.wait()
    assert extract(table(b"<p>c"))[0]["text"].to_pylist() == ["c"]


def test_more_pages_than_one_message(extract):
    pages = [f"<p>page {i} of many".encode() for i in range(600)]
    documents, _ = extract(table(*pages))
    assert documents["text"].to_pylist() == [f"page {i} of many" for i in range(600)]


def test_can_be_sent_to_another_process_and_ends_with_it():
    kernel = Extractor()
    kernel(table(b"<p>a"))
    code = (
        "import pickle, sys, os, pyarrow as pa\n"
        "from curation.schema import RAW, raw\n"
        "kernel = pickle.loads(sys.stdin.buffer.read())\n"
        "batch = pa.RecordBatch.from_pylist([raw('a', 'u', payload=b'<p>far away')], schema=RAW)\n"
        "print(kernel(batch)[0]['text'][0], kernel._sandbox._process.pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(kernel), capture_output=True, check=True)
    kernel.close()
    *words, pid = done.stdout.decode().split()
    assert words == ["far", "away"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_unknown_engine():
    with pytest.raises(ValueError, match=r"'lynx'.*cascade, lines, resiliparse, trafilatura"):
        Extractor("lynx")


def test_same_input_same_output(extract):
    batch = table(*(page(lang, *both) for lang, both in PAGES.items()))
    assert extract(batch)[0].equals(extract(batch)[0])


def _in_a_daemon(queue) -> None:
    queue.put(Extractor()(table(b"<p>from a daemon"))[0]["text"].to_pylist())


def test_works_where_child_processes_are_forbidden():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_in_a_daemon, args=(queue,), daemon=True)  # as the workers of Spark and others
    process.start()
    assert queue.get(timeout=240) == ["from a daemon"]
    process.join(10)
    assert process.exitcode == 0


def test_a_text_of_which_much_has_no_meaning_is_named():
    """A row that says so, and no document of replacement characters; a few of them are no reason."""
    extractor = Extractor("lines")
    lost = "<p>H\ufffdm nay ch\ufffdng ta n\ufffdi v\ufffd tr\ufffdng l\ufffda.</p>".encode()  # by the server, long ago
    pages = [
        lost,
        "<p>Kapal berlayar pada pagi hari \ufffd jauh ke laut lepas, dan pulang.</p>".encode(),
    ]
    rows = [
        raw(str(i), "http://e.id", source="s", content_type="text/html", payload=one) for i, one in enumerate(pages)
    ]
    kept, ledger = extractor(pa.RecordBatch.from_pylist(rows, RAW))
    extractor.close()
    assert kept.num_rows == 1 and ledger["rule"].to_pylist() == ["undecodable"] and ledger["value"][0].as_py() > 0.05

import bz2
import gzip
import io
import random
import tarfile
import time
import zipfile

import pytest

from curation.schema import RAW, Limits
from curation.subtitles import lines
from curation.subtitles.reader import read_subtitles, windows

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Selamat pagi,
semuanya.</i>

2
00:00:03,000 --> 00:00:04,000
- Apa kabar?
- [mengetuk pintu] Baik.

3
00:00:05,000 --> 00:00:06,000
{\\an8}JOHN: ♪ Rindu serindu-rindunya ♪

4
00:00:06,000 --> 00:00:07,000
Diterjemahkan oleh: Budi
www.opensubtitles.org

5
00:00:08,000 --> 00:00:09,000
(menghela napas)

6
00:00:08,000 --> 00:00:09,000
2001
"""
SAID = ["Selamat pagi, semuanya.", "Apa kabar?", "Baik.", "Rindu serindu-rindunya", "2001"]
OPUS = """<?xml version="1.0" encoding="utf-8"?>
<document id="1"><meta><conversion><encoding>utf-8</encoding></conversion></meta>
<s id="1"><time id="T1S" value="00:00:01,000" /><w id="1.1">Selamat</w> <w id="1.2">pagi</w><w id="1.3">,</w>
<w id="1.4">semuanya</w><w id="1.5">.</w><time id="T1E" value="00:00:02,500" /></s>
<s id="2"><time id="T2S" value="0"/>- Apa kabar?</s><s id="3">&lt;b&gt;Baik.&lt;/b&gt;</s></document>"""
OTHERS = {
    "WEBVTT\n\nNOTE by us\nmore\n\nintro\n00:01.000 --> 00:02.000 align:start\nSelamat <c.red>pagi</c>,\n"
    "semuanya.\n\n00:03.000 --> 00:04.000\nApa kabar?\n": SAID[:2],
    "[Script Info]\n[Events]\nFormat: a\nDialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\i1}Selamat pagi,\\Nsemuanya.\n"
    "Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,Apa kabar?\n": SAID[:2],
    "{0}{25}Selamat pagi,|semuanya.\n{26}{50}{y:i}Apa kabar?\n": SAID[:2],
    OPUS: SAID[:3],
    "Selamat pagi, semuanya.\nApa kabar?\nApa kabar?\n": SAID[:2],
}


def read(path, **options):
    pages, drops = [], []
    for kept, ledger in read_subtitles(str(path), source="film", **options):
        assert kept.schema == RAW
        pages += kept.to_pylist()
        drops += ledger.to_pylist()
    return pages, drops


def test_only_what_is_said_stays():
    assert lines.kind(SRT) == "cues"
    assert list(lines.spoken(SRT, "cues")) == SAID
    assert list(lines.spoken(SRT.replace("\n\n", "\n"), "cues")) == SAID  # without empty lines
    for text, said in OTHERS.items():
        assert list(lines.spoken(text, lines.kind(text))) == said, text


@pytest.mark.parametrize(
    ("credit", "is_one"),
    [
        ("Subtitles by Anna", True),
        ("Sync and corrections by elderman", True),
        ("แปลโดย สมชาย", True),
        ("Biên dịch: Minh", True),
        ("翻译：小明", True),
        ("Mereka datang dari Jakarta.", False),
        ("The book was written by her.", False),
        ("Dia sudah diterjemahkan.", False),
    ],
)
def test_lines_that_name_those_who_made_them(credit, is_one):
    assert lines.credit(credit) is is_one


def test_every_line_is_in_a_window():
    for n in (1, 99, 149, 150, 305):
        for size, step in ((100, 100), (100, 50), (1, 1), (7, 3)):
            found = list(windows(map(str, range(n)), size, step))
            assert {line for _, some in found for line in some} == set(map(str, range(n)))
            assert all(some[0] == str(begin) for begin, some in found)
    assert [len(some) for _, some in windows(map(str, range(305)), 100, 100)] == [100, 100, 105]


def test_a_cue_of_many_lines_takes_no_long_time():
    cue = "\n".join(["perahu kecil berlayar jauh " * 9] * 20_000)
    start = time.process_time()
    (line,) = lines._speakers(cue)
    assert line == cue.replace("\n", " ") and time.process_time() - start < 3  # joined one by one: 17 s


def test_files_of_any_kind_give_the_same_documents(tmp_path):
    raw = SRT.encode()
    (tmp_path / "a.srt").write_bytes(raw)
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("id/a.srt", raw)
        archive.writestr("id/b.srt.gz", gzip.compress(SRT.encode("utf-16")))
        archive.writestr("__MACOSX/._a", b"\0")
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("id/a.srt")
        member.size = len(raw)
        archive.addfile(member, io.BytesIO(raw))
    (tmp_path / "b.srt.bz2").write_bytes(bz2.compress(raw))
    texts = {}
    for path in sorted(tmp_path.iterdir()):
        pages, drops = read(path, language="id", licence="CC0", name=path.name)
        assert drops == []
        texts[path.name] = [page["text"] for page in pages]
        assert {(page["lang_hint"], page["licence"], page["url"]) for page in pages} == {("id", "CC0", "")}
    assert texts.pop("packed.zip") == ["\n".join(SAID)] * 2
    assert set(map(tuple, texts.values())) == {("\n".join(SAID),)}


def test_thai_of_before_unicode_and_long_files_of_lines(tmp_path):
    said = "สวัสดีครับ วันนี้อากาศดีมาก เราไปเที่ยวทะเลกันเถอะ"
    (tmp_path / "th.srt").write_bytes(f"1\n00:00:01,000 --> 00:00:02,000\n{said}\n".encode("cp874"))
    assert [page["text"] for page in read(tmp_path / "th.srt")[0]] == [said]
    path = tmp_path / "OpenSubtitles.id.gz"
    path.write_bytes(gzip.compress("".join(f"Baris nomor {n}.\n" for n in range(2_030)).encode()))
    pages, drops = read(path)
    assert drops == [] and len(pages) == 20 and pages[1]["source_id"] == "OpenSubtitles.id.gz:101"
    assert len({page["doc_id"] for page in pages}) == 20


def test_damage_costs_rows_and_never_the_run(tmp_path):
    """Cut, changed, empty: each file gives documents or a row of the ledger."""
    noise = random.Random(7)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.srt", SRT * 3)
    for kind in (whole.getvalue(), gzip.compress(SRT.encode()), OPUS.encode(), SRT.encode("utf-16"), b""):
        for _ in range(25):
            data = bytearray(kind[: noise.randrange(len(kind) + 1)] if noise.random() < 0.5 else kind)
            for _ in range(noise.randrange(8) if data else 0):
                data[noise.randrange(len(data))] = noise.randrange(256)
            path = tmp_path / "damaged"
            path.write_bytes(data)
            pages, drops = read(path)
            assert pages or drops
    (tmp_path / "bomb.xml").write_text('<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaa">]><s>&a;</s>')
    assert [row["rule"] for row in read(tmp_path / "bomb.xml")[1]] == ["bad_record"]
    (tmp_path / "large.srt").write_text(SRT * 100)
    pages, drops = read(tmp_path / "large.srt", limits=Limits(max_record_bytes=1000))
    assert {row["rule"] for row in drops} == {"record_too_large"} and not pages

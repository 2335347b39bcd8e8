import io
import random
import time
import zipfile
from collections import Counter

import pyarrow as pa
import pytest
from fpdf import FPDF

from curation.extract.extractor import Extractor
from curation.pdf import document, fonts
from curation.pdf.document import extract
from curation.pdf.files import read_pdf
from curation.pdf.layout import lines, runs
from curation.pdf.paragraphs import glue, paragraphs
from curation.pdf.words import Word
from curation.schema import PDF, RAW, Limits, raw

WORDS = [
    "pembangunan",
    "perekonomian",
    "daerah",
    "tetap",
    "berjalan",
    "walaupun",
    "musim",
    "hujan",
    "tiba",
    "lebih",
    "cepat",
    "tahun",
    "ini",
]
WIDTH = 200


def sentences(noise, n):
    return [" ".join(noise.choice(WORDS) for _ in range(9)).capitalize() + f" ke{number}." for number in range(n)]


def wrapped(pdf, text, divide):
    """The lines of a text in a column, with the last word of some divided."""
    line = ""
    for word in text.split():
        cut = len(word) // 2
        if pdf.get_string_width(f"{line} {word}") <= WIDTH:
            line = f"{line} {word}".strip()
        elif divide and cut > 3 and pdf.get_string_width(f"{line} {word[:cut]}-") <= WIDTH:
            yield f"{line} {word[:cut]}-"
            line = word[cut:]
        else:
            yield line
            line = word
    yield line


def paper(noise, pages=4, columns=2, *, by_row=False):
    """(PDF, its paragraphs) of a journal: a title over two columns, running heads, page numbers, divided words."""
    pdf = FPDF(unit="pt", format=(500, 500))
    pdf.set_auto_page_break(False)
    gold = []
    for page in range(pages):
        pdf.add_page()
        pdf.set_font("Times", size=9)
        pdf.text(40, 30, "JURNAL CONTOH" if page % 2 else "Budi dan Ani 2020")
        pdf.text(240, 480, str(page + 11))
        pdf.set_font("Times", size=18)
        pdf.text(40, 70, f"Judul bagian {page} yang ditulis lebar melintasi kolom")
        gold.append(f"Judul bagian {page} yang ditulis lebar melintasi kolom")
        pdf.set_font("Times", size=10)
        drawn = []
        for column in range(columns):
            y = 100
            for text in sentences(noise, 5):
                gold.append(text)
                for line in wrapped(pdf, text, divide=True):
                    drawn.append((y, 40 + column * 220, line))
                    y += 13
                y += 9
        for y, x, line in sorted(drawn) if by_row else drawn:
            pdf.text(x, y, line)
    return bytes(pdf.output()), gold


def read(data, **options):
    return extract({}, data, **{"max_pages": 100, **options})


@pytest.mark.parametrize("by_row", [False, True])
def test_two_columns_running_heads_and_divided_words(by_row):
    for seed, columns in ((1, 2), (2, 2), (3, 1)):
        data, gold = paper(random.Random(seed), columns=columns, by_row=by_row)
        assert read(data)["text"].split("\n\n") == gold


def test_hyphens_that_stay():
    words = Counter({"e-mail": 3, "anak-anak": 1})
    cases = {
        ("anak-", "anak bermain"): "anak-anak bermain",
        ("rumah-", "rumahan"): "rumah-rumahan",
        ("kirim e-", "mail ini"): "kirim e-mail ini",
        ("Jakarta-", "Bandung"): "Jakarta-Bandung",
        ("peker-", "jaan"): "pekerjaan",
        ("ประเทศ", "ไทย"): "ประเทศไทย",
        ("satu", "dua"): "satu dua",
    }
    assert {pair: "".join(glue(*pair, words)) + pair[1] for pair in cases} == cases


def test_a_page_of_many_words_takes_no_long_time():
    """Each step is near linear, so that a map or a plot is no timeout."""
    noise = random.Random(2)
    scattered = [Word("kata", x, y, x + 20, y + 9, n, "F", False) for n in range(6000)
                 for x, y in [(noise.random() * 900, noise.random() * 900)]]  # fmt: skip
    column = [Word("kata-", 10, 12.0 * n, 200, 12.0 * n + 9, n, "F", False) for n in range(20_000)]
    start = time.process_time()
    for words in (scattered, column):
        assert len("".join(paragraphs([lines(runs(words))]))) > 10_000
    assert time.process_time() - start < 6


def test_title_day_and_what_is_no_title():
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Times", size=12)
    pdf.text(50, 50, "Isi dokumen.")
    pdf.set_title("Laporan Tahunan")
    pdf.set_lang("id-ID")
    found = read(bytes(pdf.output()))
    assert (found["title"], found["text"], found["lang"]) == ("Laporan Tahunan", "Isi dokumen.", "id-ID")
    assert len(found["published"]) == 10 and found["truncated"] == ""
    assert document.NO_TITLE.match("Microsoft Word - laporan.doc") and not document.NO_TITLE.match("Laporan")


def scan(n_text):
    from PIL import Image

    pdf = FPDF(unit="pt", format=(300, 300))
    picture = Image.effect_noise((60, 60), 90)
    for number in range(3):
        pdf.add_page()
        pdf.set_font("Times", size=12)
        if number < n_text:
            pdf.text(20, 50, f"Halaman {number} yang berisi teks biasa.")
        else:
            pdf.image(picture, 0, 0, 300, 300)
    return bytes(pdf.output())


def ocr(picture, language):
    assert picture.dtype == "uint8" and picture.shape[2] == 3
    return f"teks dari gambar {picture.shape[0]}"


def test_scans_are_counted_and_left_to_a_function_of_the_users():
    assert read(scan(0))["rule"] == "scanned" and read(scan(0))["value"] == 3
    assert read(scan(1))["truncated"] == "scanned: 2 of 3 pages"
    found = read(scan(1), ocr=f"{__name__}:ocr", folder="")
    assert found["truncated"] == "" and found["text"].count("teks dari gambar 834") == 2


def failing(picture, language):
    raise RuntimeError("no model for " + language)


def test_a_page_that_cannot_be_read_costs_itself_alone(monkeypatch):
    found = read(scan(1), ocr=f"{__name__}:failing", folder="")
    assert found["truncated"] == "scanned: 2 of 3 pages (extract.pdf.ocr raised RuntimeError: no model for )"
    assert found["text"] == "Halaman 0 yang berisi teks biasa."
    found = read(scan(0), ocr=f"{__name__}:failing", folder="")
    assert found["rule"] == "scanned" and "RuntimeError: no model for" in found["detail"]

    def broken(page, **_):
        raise document.pdfium.PdfiumError("Failed to create bitmap.")

    monkeypatch.setattr(document.pdfium.PdfPage, "render", broken)
    found = read(scan(1), ocr=f"{__name__}:ocr", folder="")
    assert found["truncated"] == "broken: 2 of 3 pages" and found["text"] == "Halaman 0 yang berisi teks biasa."


def test_encodings_of_fonts():
    garbled = "kñúgRbeTskm<úCa manRbCaCnRbmaN " * 9
    assert fonts.fault(garbled, Counter({"LimonS1": len(garbled)}), 0) == "Khmer in the encoding of LimonS1"
    assert "WinInnwa" in fonts.fault("jrefrmEdkifiH " * 9, Counter({"WinInnwa": 100}), 0)
    assert fonts.fault("\ue001\ue002\ue045" * 40, Counter({"Own": 120}), 0) == "an encoding of its own, of Own"
    for text, font in (
        ("ประเทศไทยมีประชากร", "AngsanaUPC"),
        ("ប្រទេសកម្ពុជា", "KhmerOS"),
        ("Nước Việt Nam là một", "VnTimes"),
        ("Ça va très bien, où êtes-vous ?", "Times"),
    ):
        assert fonts.fault(text * 9, Counter({font: 9 * len(text)}), 0) == ""
        assert fonts.in_unicode(text, font) == text and fonts.respelled(text * 9) is None
    thai = "ประเทศไทยมีประชากรหกสิบหกล้านคน และมีภาษาไทยเป็นภาษาประจำชาติ"
    assert fonts.respelled(thai.encode("cp874").decode("latin-1") * 3) == thai * 3
    assert fonts.in_unicode("\u0e17\uf70a\u0e35\u0e43\u0e2b\u0e0d\uf70b", "x") == "ท่ีใหญ้"
    assert fonts.in_unicode("N\xad\xedc Vi\xd6t Nam", ".VnTime") == "Nước Việt Nam"


def test_what_cannot_be_read_is_a_row_and_the_next_is_read(tmp_path):
    """Through the sandbox: cut, changed, empty, locked, with too many pages or too slow."""
    noise = random.Random(5)
    whole, _ = paper(noise, pages=1)
    locked = FPDF()
    locked.add_page()
    locked.set_encryption("a", "b")
    many, _ = paper(noise, pages=4, columns=1)
    payloads = [whole, bytes(locked.output()), b"%PDF-1.4", many]
    for _ in range(30):
        data = bytearray(whole[: noise.randrange(len(whole))] if noise.random() < 0.4 else whole)
        for _ in range(noise.randrange(1, 40)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        payloads.append(bytes(data))
    rows = [raw(f"a:{n}", f"u{n}", source="a", content_type=PDF, payload=data) for n, data in enumerate(payloads)]
    kernel = Extractor(pdf={"max_pages": 3, "timeout_seconds": 20.0})
    documents, ledger = kernel(pa.RecordBatch.from_pylist(rows, schema=RAW))
    kernel.close()
    assert documents.num_rows + ledger.num_rows == len(rows) and documents["url"][0].as_py() == "u0"
    assert ledger["rule"].to_pylist()[:3] == ["encrypted", "bad_pdf", "too_many_pages"]


def test_files_archives_and_warcs_give_the_same_pdfs(tmp_path):
    data, _ = paper(random.Random(1), pages=1)
    (tmp_path / "a.pdf").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("sub/a.pdf", data)
        archive.writestr("b.txt", "no pdf")
    http = b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\n\r\n"
    block = io.BytesIO()
    for body in (data, b"<html>no pdf"):
        head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://x.id/a.pdf\r\nContent-Type: application/http\r\n"
        block.write(head + b"Content-Length: %d\r\n\r\n" % len(http + body) + http + body + b"\r\n\r\n")
    (tmp_path / "c.warc").write_bytes(block.getvalue())
    found = {}
    for path in sorted(tmp_path.iterdir()):
        pages, drops = [], []
        for kept, ledger in read_pdf(str(path), source="s", language="id", name=path.name):
            pages += kept.to_pylist()
            drops += ledger.to_pylist()
        assert [(one["payload"], one["lang_hint"], one["content_type"]) for one in pages] == [(data, "id", PDF)]
        found[path.name] = pages[0]["url"], [row["rule"] for row in drops]
    urls = {"a.pdf": "a.pdf", "b.zip": "b.zip/sub/a.pdf", "c.warc": "https://x.id/a.pdf"}
    assert found == {name: (url, [] if name == "a.pdf" else ["not_pdf"]) for name, url in urls.items()}
    (_, drops), *_ = read_pdf(str(tmp_path / "a.pdf"), source="s", limits=Limits(max_record_bytes=100))
    assert drops["rule"].to_pylist() == ["record_too_large"]

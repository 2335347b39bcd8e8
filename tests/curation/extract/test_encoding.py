import random
import unicodedata

import pytest

from curation.extract import legacy
from curation.extract.encoding import decode

THAI = "เรือพินิสิแล่นผ่านช่องแคบในยามเช้า ลูกเรือร้องเพลงเก่าของหมู่บ้าน และทุกคนมองไปที่ขอบฟ้าสีทอง"
LAO = "ເຮືອໃບແລ່ນໄປຕາມແມ່ນ້ຳ ແລະ ຊາວບ້ານຮ້ອງເພງຕ້ອນຮັບຕອນເຊົ້າ"
KHMER = "ទូកក្ដោងបើកឆ្លងកាត់ច្រកសមុទ្រនៅពេលព្រឹក"
BURMESE = "ရွက်လှေသည် မနက်ခင်းတွင် ရေလက်ကြားကို ဖြတ်သန်းသွားသည်"
VIETNAMESE = "Chiếc thuyền buồm lướt qua eo biển vào buổi sáng, thủy thủ cất tiếng hát bài ca cũ của làng."
CHINESE = "清晨，一艘帆船穿过海峡，水手们唱着村里的老歌，望着金色的地平线。"


@pytest.mark.parametrize("text", [THAI, LAO, KHMER, BURMESE, VIETNAMESE, CHINESE])
@pytest.mark.parametrize("hint", ["", "utf-8", "iso-8859-1", "windows-874", "no-such-charset"])
def test_utf8_wins_over_a_wrong_header(text: str, hint: str):
    assert decode(f"<p>{text}".encode(), hint) == f"<p>{text}"


@pytest.mark.parametrize(
    ("text", "codec", "label"),
    [
        (THAI, "cp874", "windows-874"),
        (THAI, "cp874", "TIS-620"),
        (THAI, "cp874", "tis620"),
        (CHINESE, "gb18030", "gb2312"),
        (CHINESE, "gb18030", "GB18030"),
        ("颱風過後，漁船回到港口，村民分送晚餐。", "big5", "big5"),
        ("Màu xanh của biển", "utf-16-le", "utf-16le"),
    ],
)
def test_declared_legacy_encodings(text: str, codec: str, label: str):
    page = f"<p>{text}</p>"
    assert decode(page.encode(codec), label) == page
    if not codec.startswith("utf-16"):
        page = f'<html><head><meta http-equiv="Content-Type" content="text/html; charset={label}">{page}'
        assert decode(page.encode(codec)) == page
        assert decode(page.encode(codec), "utf-8") == page, "the bytes are not UTF-8, whatever the header says"


@pytest.mark.parametrize(("text", "codec"), [(THAI, "cp874"), (CHINESE, "gb18030")])
def test_detection_without_any_declaration(text: str, codec: str):
    page = f"<html><body><p>{text} {text}</p>"
    assert decode(page.encode(codec)) == page


def test_smart_quotes_of_windows_874():
    assert decode("<p>“สวัสดี” – ลาก่อน".encode("cp874"), "iso-8859-11") == "<p>“สวัสดี” – ลาก่อน"


def test_byte_order_marks():
    assert decode("\ufeff<p>ก".encode()) == "<p>ก"
    assert decode("\ufeff<p>ก".encode("utf-16-le"), "iso-8859-1") == "<p>ก"


def test_one_broken_character_does_not_change_the_encoding():
    cut = f"<p>{THAI}".encode()[:-1]
    assert decode(cut, "windows-1252") == f"<p>{THAI[:-1]}�"


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b"\x00" * 10, bytes(range(256)), b"<meta charset=rot13>\xff", b"\xfe\xff\xd8"]
)
def test_never_raises(payload: bytes):
    assert isinstance(decode(payload, "punycode"), str)


TRADITIONAL = "颱風過後，漁船回到港口，村民分送晚餐。他們說這個國家的人都沒有看見過這樣大的風，學校也關了三天。"
SIMPLIFIED = "台风过后，渔船回到港口，村民分送晚餐。他们说这个国家的人都没有看见过这样大的风，学校也关了三天。"
VIET = "Hôm nay chúng ta sẽ nói về việc trồng lúa ở đồng bằng sông Cửu Long. Nông dân làm việc rất vất vả để có được hạt gạo."
FRENCH = "L'été dernier, les élèves de la forêt ont découvert où se cachaient les hérissons, près du château. Ça leur a plu !"
GERMAN = "Die Bürger möchten, daß die Straßen im Süden für Fußgänger geöffnet werden; die Mühe wäre nicht groß. Schöne Grüße!"


def in_viscii(text: str) -> bytes:
    codes = {letter: code for code, letter in legacy.VISCII.items()}
    return bytes(codes.get(letter, ord(letter) & 127) for letter in text)


def in_tcvn3(text: str) -> bytes:
    codes = {letter: code for code, letter in legacy.TCVN3.items()}
    return bytes(codes.get(letter) or codes.get(letter.lower()) or ord(letter) & 127 for letter in text)


def in_vni(text: str) -> bytes:
    pairs = {letter: pair for pair, letter in legacy._ALONE.items()} | {v: k for k, v in legacy.VNI.items()}
    return "".join(pairs.get(letter, letter) for letter in text).encode("cp1252")


LEGACY = {
    "thai": (THAI, lambda text: text.encode("cp874"), ["windows-874", "tis-620", "iso-8859-11"]),
    "gb": (SIMPLIFIED, lambda text: text.encode("gb18030"), ["gb2312", "gbk", "gb18030"]),
    "big5": (TRADITIONAL, lambda text: text.encode("big5"), ["big5"]),
    "viscii": (VIET, in_viscii, ["viscii", "x-viscii"]),
    "tcvn3": (VIET.lower(), in_tcvn3, ["tcvn", "x-viet-tcvn5712"]),
    "vni": (VIET, in_vni, ["x-viet-vni"]),
    "cp1258": (
        VIET,
        lambda text: b"".join(_cp1258(letter) for letter in text),
        ["windows-1258"],
    ),
    "french": (FRENCH, lambda text: text.encode("cp1252"), ["windows-1252", "iso-8859-1"]),
    "german": (GERMAN, lambda text: text.encode("cp1252"), ["iso-8859-1"]),
}
WRONG = ["", "utf-8", "iso-8859-1", "windows-1252", "no-such", "windows-874", "big5", "gb2312", "viscii"]


def _cp1258(letter: str) -> bytes:
    """The letter, or the longest beginning of its parts that is one letter there, and the marks that are left."""
    for form in (letter, unicodedata.normalize("NFD", letter)):
        for cut in range(len(form), 0, -1):
            try:
                head = unicodedata.normalize("NFC", form[:cut]).encode("cp1258")
                return head + form[cut:].encode("cp1258")
            except UnicodeEncodeError:
                continue
    # a hat or horn with a tone below it: the other order
    parts = unicodedata.normalize("NFD", letter)
    tone = next(mark for mark in parts[1:] if mark in "\u0300\u0301\u0303\u0309\u0323")
    return unicodedata.normalize("NFC", parts.replace(tone, "")).encode("cp1258") + tone.encode("cp1258")


@pytest.mark.parametrize("name", LEGACY)
@pytest.mark.parametrize("header", WRONG)
def test_what_is_said_of_an_encoding_does_not_make_nonsense_of_it(name, header):
    """The text, whatever header and meta say of it; a wrong label that reads as well is beyond what can be known."""
    text, encode, labels = LEGACY[name]
    for said in [*labels, *WRONG]:
        meta = f'<meta charset="{said}">' if said else ""
        page = f"<html><head>{meta}<title>x</title></head><body><p class=a>{text}</p><p>{text}</p></body></html>"
        data = encode(page)
        found = unicodedata.normalize("NFC", decode(data, header))
        assert text[:40] in found, (header, said, found[:120])


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("header", ["", "utf-16", "utf-16le", "UTF-16BE", "utf-8", "iso-8859-1", "unicode"])
def test_utf_16_by_its_zeros(codec, header):
    for text in (THAI, LAO, BURMESE, CHINESE, VIETNAMESE, "plain"):
        page = f"<html><body><p>{text}</p></body></html>"
        assert decode(page.encode(codec), header) == page


def test_letters_alone_are_not_taken_for_another_encoding():
    """Short pages: a few accents say little, and the label stays."""
    for text in ("café", "naïve résumé", "déjà vu à côté", "£5 – €6", "Zürich, Köln"):
        assert decode(f"<p>{text}</p>".encode("cp1252"), "iso-8859-1") == f"<p>{text}</p>"


@pytest.mark.parametrize("text", [THAI, LAO, KHMER, BURMESE, VIETNAMESE, CHINESE, VIET])
def test_utf_8_that_was_encoded_twice(text):
    page = f"<html><body><p>{text}</p><p>{text}</p></body></html>"
    seen = "".join(
        chr(byte) if 0x80 <= byte < 0xA0 and byte in {0x81, 0x8D, 0x8F, 0x90, 0x9D} else bytes([byte]).decode("cp1252")
        for byte in page.encode()
    )
    assert decode(seen.encode(), "utf-8") == page
    assert decode(page.encode(), "") == page


def test_french_is_not_taken_for_utf_8_twice():
    text = "<p>" + "Où ça ? Ã l'été, â peine. Ã© " * 3 + FRENCH + "</p>"
    assert decode(text.encode(), "utf-8") == text


def test_any_bytes_under_any_label():
    rng = random.Random(3)
    labels = [
        *WRONG,
        "tcvn",
        "vni",
        "utf-16",
        "utf-7",
        "hz-gb-2312",
        "iso-2022-jp",
        "x-user-defined",
        "\x00",
        "utf-8; x",
    ]
    for _ in range(300):
        data = rng.randbytes(rng.randrange(200)) + rng.choice([b"", b"<meta charset=", b"<p>\0", b"\xff\xfe"])
        assert isinstance(decode(data, rng.choice(labels)), str)

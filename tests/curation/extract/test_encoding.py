import pytest

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

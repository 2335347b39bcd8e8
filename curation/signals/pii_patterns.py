"""What personal data look like in the languages of the region, as patterns with the checks that their issuers define.

A pattern sees text in which digits of every script are ASCII digits and typographic spaces, dashes and brackets are plain
ones, each in the place of one character (`PLAIN`). A number is taken only as a whole: no digit, Latin letter or `_` touches
it; letters of Thai, Lao, Khmer, Burmese and Han may, as these scripts set no space there. Where the issuer defines a
check digit it decides; else a date of birth, a region code, the grouping of the digits or a word before the number must
speak for it, so that prices, dates, ISBNs, versions, coordinates and numbers of laws stay.

Sources: national numbering plans (ITU-T E.164, E.129); Permendagri 72/2022 (NIK); JPN (MyKad); ICA (NRIC, FIN); Thailand's
Ministry of Interior (mod 11); Circular 59/2021/TT-BCA (CCCD); GB 11643-1999 with ISO 7064 mod 11-2; PSA, SSS, BIR,
PhilHealth (formats only). Laos publishes no format, Cambodia's nine digits have no check: a word must name them.
"""

from __future__ import annotations

import ipaddress
import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

KINDS = ("email", "phone", "ip", "id")

PLAIN = {
    code: str(value)
    for code in range(0x80, sys.maxunicode)
    if (value := unicodedata.decimal(chr(code), None)) is not None
}
PLAIN |= dict.fromkeys([0xA0, 0x3000, 0x202F, *range(0x2000, 0x200B)], " ")
PLAIN |= dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFF0D], "-")
PLAIN |= {ord(a): b for a, b in zip("（）＋．／：＠", "()+./:@", strict=True)}
"""Table for `str.translate` that keeps the number of characters."""


class Pattern(NamedTuple):
    """A kind, its expression, a check of the digits found, and the expression that must end the text before it."""

    kind: str
    regex: re.Pattern
    check: Callable[[str], bool] | None = None
    after: re.Pattern | None = None


LEFT = r"(?:(?<![0-9A-Za-z_+(])(?<![0-9][.,:-])|(?<=[Tt][Ee][Ll])|(?<=HP)|(?<=WA)|(?<=ĐT))"
RIGHT = r"(?![0-9A-Za-z_])(?![.,:-][0-9])(?! ?%)"
ENDS = RIGHT + r"(?! [0-9]{3}(?![0-9]))"  # a group of three that follows belongs to a longer number

NAMED_OTHERWISE = re.compile(r"(?:ISBN|ISSN|EAN|DOI|doi|arXiv|SKU|OID|UUID|NPWP)(?:-1[03])?[:.]?[ ]?[0-9. -]*\Z")
"""Ends the text before a number that is something else by name."""

CALL = re.compile(
    r"(?:\b(?:tel|telp|tele?(?:pon|fono|fon|phone)|phones?|call|hp|wa|whatsapp|hotline|fax|mobile|cell|hubungi|tawagan|"
    r"(?:nomor|no\.?) ?(?:hp|wa|tel\w*)|điện thoại|đt|sđt|liên hệ|gọi)|โทร\w*|เบอร์\w*|ໂທ\w*|ទូរស័ព្ទ\w*|ទូរសព្ទ\w*|"
    r"ဖုန်း\S*|电话|電話|手机|手機|热线|传真)[^0-9\n]{0,12}\Z",
    re.IGNORECASE,
)
"""Ends the text before a number that is a telephone's by name."""

DATE = re.compile(
    r"(?:19|20)[0-9]{2}[ .-]+(?:(?:19|20)[0-9]{2}|[0-9]{1,2}[ .-]+[0-9]{1,2})|[0-9]{1,2}[ .-][0-9]{1,2}[ .-][0-9]{4}"
)


def _sep(*sizes: int | str, sep: str = "[ .-]") -> str:
    """Groups of digits with a separator between each two."""
    return sep.join(f"[0-9]{{{size}}}" for size in sizes)


# Area codes are followed by a separator or stand in brackets; mobile numbers may be written without any.
NATIONAL = {
    "ID": (
        r"08[1-9][0-9]{7,10}",
        rf"08[1-9][0-9][ .-]{_sep('3,4', '3,5')}",
        r"\(0(?:2[1-9]|31|[2-79][0-9]{2})\) ?[0-9]{3,4}[ -]?[0-9]{3,4}",
        r"0(?:2[1-9]|31|[2-79][0-9]{2})[ -][0-9]{3,4}[ -]?[0-9]{3,4}",
    ),
    "MY": (
        r"01[0-9][ -]?[0-9]{3,4}[ -]?[0-9]{4}",
        r"\(0(?:3|[4-79]|8[1-9])\) ?[0-9]{3,4}[ -]?[0-9]{4}",
        r"0(?:3|[4-79]|8[1-9])[ -][0-9]{3,4}[ -]?[0-9]{4}",
    ),
    "TH": (
        r"0[689][0-9]{8}",
        rf"0[689][0-9][ .-]{_sep(3, 4)}",
        rf"0[689][0-9][ .-]{_sep(4, 3)}",
        rf"0[ -][2-9][0-9]{{3}}[ -]{_sep(4)}",
        rf"0[689][ -]{_sep(4, 4)}",
        r"\(?02\)?[ -][0-9]{3}[ -]?[0-9]{4}",
        r"\(?0[3-7][0-9]\)?[ -][0-9]{3}[ -]?[0-9]{3}",
    ),
    "VN": (
        r"0[35789][0-9]{8}",
        *(rf"0[35789]{_sep(*sizes)}" for sizes in ((2, 3, 3), (1, 3, 4), (1, 4, 3), (2, 2, 2, 2), (2, 6))),
        r"\(02[0-9]{1,2}\) ?[0-9]{3,4}[ .-]?[0-9]{4}",
        r"02[0-9]{1,2}[ .-][0-9]{3,4}[ .-]?[0-9]{4}",
    ),
    "PH": (
        r"09[0-9]{9}",
        rf"09{_sep(2, 3, 4)}",
        r"\(0[2-8][0-9]?\) ?[0-9]{3,4}[ -]?[0-9]{4}",
        r"0[2-8][0-9]?[ -][0-9]{3,4}-[0-9]{4}",
    ),
    "MM": (
        r"09[0-9]{7,9}",
        r"09[ -][0-9]{7,9}",
        r"09[ -]?[0-9]{1,4}[ -][0-9]{3,4}[ -][0-9]{3,4}",
        r"09[ -][0-9]{3,4}[ -]?[0-9]{4,6}",
        r"0[1-8][0-9]?[ -][0-9]{5,7}",
    ),
    "KH": (r"0[1-9][0-9][ -]?[0-9]{3}[ -]?[0-9]{3,4}", r"0[1-9][0-9][ -][0-9]{2}[ -][0-9]{2}[ -][0-9]{2,3}"),
    "LA": (
        r"020[ -]?[2-9][0-9]{3}[ -]?[0-9]{4}",
        rf"020[ -]{_sep(2, 3, 3)}",
        r"030[ -]?[0-9]{3}[ -]?[0-9]{4}",
        r"0[2-8]1[ -][0-9]{3}[ -]?[0-9]{3}",
    ),
    "CN": (
        r"1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4}",
        r"\(0(?:10|2[0-9]|[3-9][0-9]{2})\) ?[0-9]{7,8}",
        r"0(?:10|2[0-9]|[3-9][0-9]{2})[ -][0-9]{7,8}",
        r"[48]00-[0-9]{3}-?[0-9]{4}",
    ),
    "US": (r"(?:1[ .-])?\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-][0-9]{4}", r"(?:1-)?[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1[0-9]{4}"),
}  # fmt: skip

COUNTRIES = {
    **{"id": ("ID",), "jv": ("ID",), "su": ("ID",), "ms": ("MY",), "th": ("TH",), "vi": ("VN",), "my": ("MM",)},
    **{"tl": ("PH",), "ceb": ("PH",), "ilo": ("PH",), "war": ("PH",), "km": ("KH",), "lo": ("LA", "TH"), "zh": ("CN",)},
    "en": ("US",),
}
"""Whose national numbers are masked in a language. International forms are masked in every language."""

# Country code -> lengths of the number after it; others are taken with 8 to 12 digits.
ABROAD = {
    **{"62": (8, 12), "60": (8, 10), "65": (8, 8), "66": (8, 9), "84": (9, 10), "63": (8, 10), "95": (7, 10)},
    **{"855": (8, 9), "856": (8, 10), "86": (10, 11), "852": (8, 8), "853": (8, 8), "886": (8, 9), "673": (7, 7)},
    **{"670": (7, 8), "1": (10, 10), "7": (10, 10), "81": (9, 10), "82": (8, 10), "61": (9, 9), "44": (9, 10), "91": (10, 10)},
}  # fmt: skip
OTHER_CODES = re.compile(
    r"2(?:0|7|[1-689][0-9])|3(?:[0-469]|[578][0-9])|4(?:[013-9]|2[013])|5(?:[1-8]|[09][0-9])|64|6(?:7[1-9]|[89][0-9])|"
    r"80[08]|85[03]|87[08]|88[0-36]|9(?:[02-48]|[679][0-9])"
)
ABROAD_REGEX = re.compile(
    r"(?:(?<![0-9A-Za-z_+])\+|(?<![0-9A-Za-z_.,-])00(?=6[0-6]|84|95|85[256]|86|886))[ ]?[1-9][0-9]{0,14}"
    r"(?:[ .-]?\(?[0-9]{1,9}\)?){0,6}" + RIGHT
)


def abroad(found: str) -> int:
    """How many characters of an international number are one; 0 when it is none.

    `found` may run on into numbers that follow: groups are taken away from its end until the length fits the country.
    """
    groups = list(re.finditer(r"[0-9]+", found))
    for last in range(len(groups), 0, -1):
        text = found[: groups[last - 1].end()].replace("(0)", "")
        text += ")" if text.count("(") > text.count(")") else ""
        digits = re.sub(r"[^0-9]", "", text).removeprefix("00")
        for size in (3, 2, 1):
            code, rest = digits[:size], digits[size:]
            if code in ABROAD:
                low, high = ABROAD[code]
            elif OTHER_CODES.fullmatch(code):
                low, high = 8, 12
                if re.fullmatch(r"\+[0-9]{1,3}([.,][0-9]{3})+", text):  # a growth of so many thousands
                    return 0
            else:
                continue
            if low <= len(rest) - (rest[:1] == "0") and len(rest) <= high + (rest[:1] == "0"):
                return len(found) if last == len(groups) else groups[last - 1].end()
            break
    return 0


def _date(year: int, month: int, day: int) -> bool:
    days = (31, 29 if year % 4 == 0 else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    return 1 <= month <= 12 and 1 <= day <= days[month - 1]


def nik(digits: str) -> bool:
    """Indonesia: province, regency and district, date of birth DDMMYY (women: day + 40), serial number."""
    day = int(digits[6:8])
    date = _date(int(digits[10:12]), int(digits[8:10]), day - 40 if day > 40 else day)
    return digits[:2] in _PROVINCES and digits[2:4] != "00" and digits[4:6] != "00" and date and digits[12:] != "0000"


_PROVINCES = {
    str(n)
    for first, last in ((11, 19), (31, 36), (51, 53), (61, 65), (71, 76), (91, 96))
    for n in range(first, last + 1)
}
_PROVINCES |= {"21", "81", "82"}


def mykad(digits: str) -> bool:
    """Malaysia: date of birth YYMMDD, place of birth."""
    place = int(digits[6:8])
    born = (
        1 <= place <= 16 or 21 <= place <= 59 or place in (60, 61, 62, 63, 64, 65, 66, 67, 68, 71, 72, 74, 82, 98, 99)
    )
    return born and _date(int(digits[:2]), int(digits[2:4]), int(digits[4:6]))


def nric(found: str) -> bool:
    """Singapore: seven digits weighted 2 7 6 5 4 3 2 modulo 11 give the last letter."""
    total = sum(int(d) * w for d, w in zip(found[1:8], (2, 7, 6, 5, 4, 3, 2), strict=True))
    total += {"S": 0, "F": 0, "T": 4, "G": 4, "M": 3}[found[0]]
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "M": "XWUTRQPNJLK"}.get(found[0], "XWUTRQPNMLK")
    return letters[total % 11] == found[8]


def thai_id(digits: str) -> bool:
    """Thailand: twelve digits weighted 13 to 2 modulo 11."""
    total = sum(int(d) * w for d, w in zip(digits[:12], range(13, 1, -1), strict=True))
    return (11 - total % 11) % 10 == int(digits[12])


def cccd(digits: str) -> bool:
    """Vietnam: province of birth 001 to 096, century and sex 0 to 3, year of birth."""
    return 1 <= int(digits[:3]) <= 96 and digits[3] in "0123"


def china_id(found: str) -> bool:
    """China: region, date of birth YYYYMMDD, ISO 7064 mod 11-2."""
    digits = found.upper()
    year = int(digits[6:10])
    born = 1900 <= year <= 2099 and _date(year, int(digits[10:12]), int(digits[12:14]))
    total = sum(int(d) * pow(2, 17 - i, 11) for i, d in enumerate(digits[:17]))
    return born and 11 <= int(digits[:2]) <= 82 and "10X98765432"[total % 11] == digits[17]


def myanmar_state(found: str) -> bool:
    """Myanmar: the number of the state or region, 1 to 14."""
    return 1 <= int(found.partition("/")[0]) <= 14


def _ids() -> list[tuple[str, Callable | None, re.Pattern | None, tuple[str, ...] | None]]:
    philippine = ("tl", "ceb", "ilo", "war", "en")
    named = {
        "my": r"(?:\bIC|MyKad|[Kk]ad [Pp]engenalan|K/P|身份证)\D{0,12}\Z",
        "vn": r"(?:CMND|CMTND|CCCD|[Cc]hứng minh|[Cc]ăn cước)\D{0,24}\Z",
        "ph": r"(?:PhilSys|PSN|PCN|PhilID|National ID)\D{0,16}\Z",
        "tin": r"\bTIN\D{0,12}\Z",
        "kh": r"(?:អត្តសញ្ញាណ\S*|\b[Nn]ational ID)\D{0,16}\Z",
    }
    word = {key: re.compile(value) for key, value in named.items()}
    return [
        (r"[1-9][0-9]{15}", nik, None, None),
        (_sep(6, 6, 4), nik, None, None),
        (_sep(4, 4, 4, 4), nik, None, ("id", "jv", "su")),
        (_sep(6, 2, 4, sep="-"), mykad, None, None),
        (r"[0-9]{12}", mykad, word["my"], None),
        (r"[STFGM][0-9]{7}[A-Z]", nric, None, None),
        (r"[1-8][ -]" + _sep(4, 5, 2, 1, sep="[ -]"), thai_id, None, None),
        (r"[1-8][0-9]{12}", thai_id, None, ("th",)),
        (r"0[0-9]{11}", cccd, None, ("vi",)),
        (_sep(3, 3, 3, 3, sep=" "), cccd, word["vn"], ("vi",)),
        (r"[0-9]{9}", None, word["vn"], ("vi",)),
        (_sep(4, 4, 4, 4, sep="-?"), None, word["ph"], philippine),
        (r"[0-9]{12}", None, word["ph"], philippine),
        (_sep(3, 3, 3, sep="-") + r"(?:-[0-9]{3,5})?", None, word["tin"], None),
        (_sep(3, 3, 3, sep="-") + "-0[0-9]{2}(?:[0-9]{2})?", None, None, philippine),
        (_sep(2, 7, 1, sep="-"), None, None, philippine),
        (_sep(2, 9, 1, sep="-"), None, None, philippine),
        (_sep(4, 7, 1, sep="-"), None, None, philippine),
        (r"[0-9]{1,2} ?/ ?[A-Za-z]{5,18} ?\((?:N|E|P|T|C|F|NAING|Naing|naing)\) ?[0-9]{6}", myanmar_state, None, None),
        (r"[0-9]{1,2} ?/ ?[\u1000-\u109f]{2,30} ?\((?:နိုင်|ဧည့်|ပြု|စ|သ|သီ|N)\) ?[0-9]{6}", myanmar_state, None, None),
        (r"[0-9]{9}|" + _sep(3, 3, 3, sep=" "), None, word["kh"], None),
        (r"[1-9][0-9]{16}[0-9Xx]", china_id, None, None),
    ]


EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"(?!(?:png|jpe?g|gif|svg|webp|css|js|json|html?|php|py|service|socket|local|localhost|test|invalid|example)\b)"
    r"[A-Za-z]{2,24}(?![A-Za-z0-9_])(?!:[^\s\d])"
)
DOCUMENTATION = re.compile(r"@(?:[^@]*\.)?example\.(?:com|net|org)$", re.IGNORECASE)

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4 = re.compile(rf"(?<![0-9A-Za-z_.+-])(?<![^/]/)(?:{_OCTET}\.){{3}}{_OCTET}(?![0-9A-Za-z_])(?!\.[0-9])")
IPV6 = re.compile(r"(?<![0-9A-Za-z_:.])[0-9A-Fa-f]{1,4}(?:::?[0-9A-Fa-f]{1,4}){2,7}(?:::)?(?![0-9A-Za-z_:])")
VERSION = re.compile(
    r"(?:\b(?:v|ver|versi(?:on|ón)?|version|bersyon|phiên bản|release|rilis|firmware|build)|版本|版|เวอร์ชัน|รุ่น|ເວີຊັນ|កំណែ|ဗားရှင်း|§|"
    r"\b(?:section|bagian|pasal|bab|mục|điều))[ .:]{0,3}\Z",
    re.IGNORECASE,
)
NAMED_IP = re.compile(r"\bIP\S{0,10}[ :=]{0,3}\Z")


def not_a_date(found: str) -> bool:
    return not DATE.fullmatch(found)


def is_email(found: str) -> bool:
    return not DOCUMENTATION.search(found) and ".." not in found


def is_public_ip(found: str) -> bool:
    """A public address of a machine; private, loopback and documentation ranges name nobody."""
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False


@cache
def patterns(lang: str | None, kinds: tuple[str, ...]) -> tuple[re.Pattern, tuple[Pattern, ...]]:
    """The patterns of numbers for texts of a language, ids before phones, and one that finds whatever any of them could.

    Most places hold none of them: the one search instead of twenty makes masking six times as fast.
    """
    found: list[tuple[str, Pattern]] = []
    if "id" in kinds:
        for regex, check, after, langs in _ids():
            if langs is None or lang in langs:
                found.append((regex, Pattern("id", re.compile(rf"{LEFT}(?:{regex}){RIGHT}"), check, after)))
    if "phone" in kinds:
        for country in COUNTRIES.get(lang or "", ()):
            for regex in NATIONAL[country]:
                left = rf"(?:{LEFT}|(?<![0-9A-Za-z_+])(?=\())"
                found.append((regex, Pattern("phone", re.compile(rf"{left}(?:{regex}){ENDS}"))))
    every = "|".join(f"(?:{regex.replace(chr(92) + '1', '[.-]')})" for regex, _ in found) or "(?!)"
    return re.compile(rf"(?<![0-9])(?:{every})"), tuple(pattern for _, pattern in found)


NAMED_PHONE = Pattern("phone", re.compile(rf"{LEFT}\(?[0-9](?:[ .()-]{{0,2}}[0-9]){{6,11}}{ENDS}"), not_a_date, CALL)
"""Any seven to twelve digits that a word before them calls a telephone number."""

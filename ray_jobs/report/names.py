"""Languages in words, as curation/languages names them; and others that pages are often in."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

from cluster import terminal

FOLDER = Path(__file__).parents[2] / "curation" / "languages"
UNKNOWN = "?"  # the language of a page before it is identified
_OTHERS = (
    "af Afrikaans, ar Arabic, az Azerbaijani, be Belarusian, bg Bulgarian, bn Bengali, bs Bosnian, ca Catalan, "
    "cs Czech, cy Welsh, da Danish, de German, el Greek, eo Esperanto, es Spanish, et Estonian, eu Basque, fa Persian, "
    "fi Finnish, fr French, ga Irish, gl Galician, gu Gujarati, he Hebrew, hi Hindi, hr Croatian, hu Hungarian, "
    "hy Armenian, is Icelandic, it Italian, ja Japanese, ka Georgian, kk Kazakh, kn Kannada, ko Korean, la Latin, "
    "lt Lithuanian, lv Latvian, mg Malagasy, mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, ne Nepali, nl Dutch, "
    "no Norwegian, pa Punjabi, pl Polish, pt Portuguese, ro Romanian, ru Russian, si Sinhala, sk Slovak, sl Slovenian, "
    "so Somali, sq Albanian, sr Serbian, sv Swedish, sw Swahili, ta Tamil, te Telugu, tr Turkish, uk Ukrainian, ur Urdu, "
    "uz Uzbek, yue Cantonese, ban Balinese, min Minangkabau, bug Buginese, ace Acehnese, bjn Banjar, mad Madurese, "
    "pam Kapampangan, pag Pangasinan, bcl Bikol, shn Shan"
)
OTHERS = {code: name for code, name in (one.strip().split(" ", 1) for one in _OTHERS.split(","))}


@cache
def language(code: str) -> str:
    """
    >>> language("th"), language("de"), language("xyz")
    ('Thai', 'German', 'xyz')
    """
    file = FOLDER / f"{code}.yaml"
    return str(yaml.safe_load(file.read_text("utf-8")).get("name", code)) if file.is_file() else OTHERS.get(code, code)


def named(code: str) -> str:
    """
    >>> named("th"), named("xyz"), named("?")
    ('Thai (th)', 'xyz', 'not identified')
    """
    if code == UNKNOWN:
        return "not identified"
    name = language(code)
    return terminal.clean(code if name == code else f"{name} ({code})")

"""Common Crawl's layout: the names of its snapshots, where a snapshot lists its files, how it writes languages.

https://commoncrawl.org/get-started and the announcements of the snapshots. All paths are below the base, which may be
https://data.commoncrawl.org, s3://commoncrawl, or a mirror.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Sequence

WEEKS = {
    2013: "20 48",
    2014: "10 15 23 35 41 42 49 52",
    2015: "06 11 14 18 22 27 32 35 40 48",
    2016: "07 18 22 26 30 36 40 44 50",
    2017: "04 09 13 17 22 26 30 34 39 43 47 51",
    2018: "05 09 13 17 22 26 30 34 39 43 47 51",
    2019: "04 09 13 18 22 26 30 35 39 43 47 51",
    2020: "05 10 16 24 29 34 40 45 50",
    2021: "04 10 17 21 25 31 39 43 49",
    2022: "05 21 27 33 40 49",
    2023: "06 14 23 40 50",
    2024: "10 18",
}
SNAPSHOTS = tuple(f"CC-MAIN-{year}-{week}" for year, weeks in WEEKS.items() for week in weeks.split())
"""The 96 snapshots from summer 2013 to April 2024 that Sailor2 read (section 3.1)."""

NAME = re.compile(r"CC-MAIN-\d{4}-\d{2}")
LANGUAGES_SINCE = "CC-MAIN-2018-39"
"""The first snapshot whose index says the languages of a page (CDXJ one earlier)."""

LISTS = {
    "columnar": "cc-index-table.paths.gz",
    "cdx": "cc-index.paths.gz",
    "files": "warc.paths.gz",
    "wet": "wet.paths.gz",
}
SUBSET = "/subset=warc/"  # of the columnar index: successful answers; the others are redirects, errors and robots.txt

# ISO 639-3 codes, as in the index, of those languages that have a two-letter code. Where ISO 639 has a macrolanguage,
# that is what CLD2, Common Crawl's identifier, writes.
ISO_639_3 = dict(
    re.findall(
        r"(\w{2}):(\w{3})",
        """
    aa:aar ab:abk af:afr ak:aka am:amh ar:ara as:asm ay:aym az:aze ba:bak be:bel bg:bul bi:bis bn:ben bo:bod br:bre bs:bos
    ca:cat co:cos cs:ces cy:cym da:dan de:deu dv:div dz:dzo ee:ewe el:ell en:eng eo:epo es:spa et:est eu:eus fa:fas fi:fin
    fj:fij fo:fao fr:fra fy:fry ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv ha:hau he:heb hi:hin hr:hrv ht:hat hu:hun hy:hye
    ia:ina id:ind ie:ile ig:ibo ik:ipk is:isl it:ita iu:iku ja:jpn jv:jav ka:kat kk:kaz kl:kal km:khm kn:kan ko:kor ks:kas
    ku:kur ky:kir la:lat lb:ltz lg:lug ln:lin lo:lao lt:lit lv:lav mg:mlg mi:mri mk:mkd ml:mal mn:mon mr:mar ms:msa mt:mlt
    my:mya na:nau ne:nep nl:nld no:nor ny:nya oc:oci om:orm or:ori pa:pan pl:pol ps:pus pt:por qu:que rm:roh rn:run ro:ron
    ru:rus rw:kin sa:san sd:snd sg:sag si:sin sk:slk sl:slv sm:smo sn:sna so:som sq:sqi sr:srp ss:ssw st:sot su:sun sv:swe
    sw:swa ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk tl:tgl tn:tsn to:ton tr:tur ts:tso tt:tat tw:twi ug:uig uk:ukr ur:urd
    uz:uzb ve:ven vi:vie vo:vol wo:wol xh:xho yi:yid yo:yor za:zha zh:zho zu:zul
    """,
    )
)


class Unreadable(ValueError):
    """Bytes that are not what they should be. They may be on a second try, when the fault lay on the way."""


def snapshots(wanted: Sequence[str], known: Sequence[str] = SNAPSHOTS) -> list[str]:
    """The snapshots of names and ranges (`A..B`, both ends included), in order of time, each once.

    A range runs over `known`; a single name need not be in it. Raises ValueError for what is neither.
    """
    found: set[str] = set()
    for item in wanted:
        first, dots, last = item.partition("..")
        for name in (first, last) if dots else (first,):
            if not NAME.fullmatch(name):
                raise ValueError(f"snapshots: {item!r} is no snapshot; write CC-MAIN-2024-18 or A..B")
            if dots and name not in known:
                raise ValueError(
                    f"snapshots: {name} is not among the {len(known)} known snapshots ({known[0]} to {known[-1]}); "
                    "give `collinfo` for newer ones, or name each snapshot"
                )
        inside = [name for name in known if first <= name <= last] if dots else [first]
        if not inside:
            raise ValueError(f"snapshots: {item} holds nothing; the earlier snapshot comes first")
        found.update(inside)
    return sorted(found)


def known_snapshots(collinfo: bytes) -> tuple[str, ...]:
    """Names in a `collinfo.json`, as index.commoncrawl.org serves it, in order of time. Raises ValueError when it is none."""
    try:
        names = sorted({entry["id"] for entry in json.loads(collinfo)} & set(NAME.findall(collinfo.decode())))
    except (ValueError, TypeError, KeyError, UnicodeDecodeError):
        names = []
    if not names:
        raise ValueError("collinfo: this is no collinfo.json with the ids of snapshots")
    return tuple(names)


def list_path(snapshot: str, kind: str) -> str:
    """Where `snapshot` lists its files of a kind: a key of `LISTS`."""
    return f"crawl-data/{snapshot}/{LISTS[kind]}"


def listed(data: bytes, kind: str) -> list[str]:
    """Paths in a list of files, without the parts of the columnar index that hold no pages. Raises Unreadable."""
    try:
        paths = gzip.decompress(data).decode().split()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise Unreadable(f"{LISTS[kind]} is not a gzip file of paths: {error}") from None
    return [path for path in paths if kind != "columnar" or SUBSET in path]


def iso_639_3(codes: Iterable[str]) -> tuple[str, ...]:
    """Our language codes as three letters. Raises ValueError for a two-letter code that ISO 639-1 does not have."""
    unknown = [code for code in codes if len(code) == 2 and code not in ISO_639_3]
    if unknown:
        raise ValueError(f"select.languages: {unknown[0]!r} is no ISO 639-1 code; write its three letters of ISO 639-3")
    return tuple(ISO_639_3.get(code, code) for code in codes)

"""What is spoken in a subtitle file, line by line: SubRip, WebVTT, SubStation, MicroDVD, the XML of OPUS.

One line is one cue, or one speaker of it, or one sentence of OPUS. Timing, markup, notes for the hard of hearing (`[door
slams]`, `(sighs)`, `JOHN:`), music signs, and lines that name translators, sites and sponsors are gone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from xml.parsers import expat

TIMING = re.compile(r"^\s*\d{1,3}:\d{2}(?::\d{2})?[,.:]\d{1,3}\s*-+>\s*\d{1,3}:\d{2}")
FRAMES = re.compile(r"^\{\d+\}\{\d*\}")
DIALOGUE = re.compile(r"^Dialogue:", re.IGNORECASE)
XML = re.compile(r"\s*(?:<\?xml\b|<document\b|<!DOCTYPE\b|<s\b)", re.IGNORECASE)
SNIFFED_LINES = 60

TAGS = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|\{[^{}]{0,200}\}|<\d{1,2}:\d{2}[^<>]{0,20}>")
NOTES = re.compile(r"\[[^\[\]]{0,300}\]|\([^()]{0,300}\)|（[^（）]{0,300}）|【[^【】]{0,300}】|［[^［］]{0,300}］")
CUT_NOTES = re.compile(r"^[^\[\]()]{0,60}[\])]|[\[(][^\[\]()]{0,60}$")
MUSIC = re.compile(r"[♪♫♬♩🎵🎶]+|(?:^|\s)#+(?=\s|$)|(?:^|\s)[*~]+(?=\s|$)")
SPEAKER = re.compile(r"^(?:-\s*)?[A-ZÀ-ỸĐ][A-ZÀ-ỸĐ0-9 .'#&-]{0,30}:(?=\s|$)")
DASH = re.compile(r"^\s*(?:[-‐‑–—]+|>>+)\s*")
SPACE = re.compile(r"\s+")
BEFORE = re.compile(r"\s+([,.!?:;…%)\]}»”、。，！？：；）」』])")
AFTER = re.compile(r"([(\[{«“¿¡（「『])\s+")

CREDITS = re.compile(
    r"""https?://|\bwww\.|\b[\w-]{2,}\.(?:com|org|net|info|tv|vn|co\.id)\b|@\w+\.\w
    |open\s?subtitles|sub(?:scene|dl|divx|titles?\.(?:at|de))|addic7ed|podnapisi|\bYIFY\b|\bIDFL\b|shooter\.cn
    |\b(?:sub(?:title[sd]?|s)?|sync(?:ed|hroni[sz]ed|hroni[sz]ation)?|corrections?|captions?|captioned|ripped|transcripts?|
        re-?sync(?:ed)?|encoded|timing|transla(?:ted|tions?))\b[\w\s,&/-]{0,40}\bby\b
    |\b(?:support\ us\ and\ become\ vip|advertise\ your\ product|please\ rate\ this\ subtitle|remove\ all\ ads)
    |\b(?:diterjemahkan|penerjemah|alih\ bahasa|terjemahan|sari\ kata|teks\ (?:oleh|terjemahan)|subtitel|resync)\b\s*(?:oleh|:|by)
    |(?:phụ\ đề|biên\ dịch|người\ dịch|dịch\ (?:bởi|phụ\ đề)|chuyển\ ngữ)\b.{0,20}(?::|bởi|\bby\b)
    |(?:คำบรรยาย|บทบรรยาย|แปล|ซับไทย|ซับ|ปรับแต่ง|ถอดเสียง)\s*(?:โดย|:|by)
    |(?:字幕|翻译|翻譯|校对|校對|时间轴|時間軸|后期|後期|压制|壓制|总监|監製|听译|聽譯)\s*(?:组|組|制作|製作)?\s*[:：]
    |(?:字幕组|字幕組|人人影视|人人影視|射手网)
    |(?:បកប្រែ|ដោយ\s*៖)|(?:ဘာသာပြန်(?:သူ|ဆို)?|စာတန်းထိုး)\s*(?::|-|by)|(?:ແປໂດຍ|ຄຳບັນຍາຍໂດຍ)""",
    re.IGNORECASE | re.VERBOSE,
)
CREDIT_CHARS = 160  # a line of a credit is no longer


def kind(begin: str) -> str:
    """`cues`, `script`, `frames`, `xml` or `plain`, by the begin of a file as text."""
    if XML.match(begin):
        return "xml"
    for line in begin.lstrip().splitlines()[:SNIFFED_LINES]:
        if TIMING.match(line) or line.startswith("WEBVTT"):
            return "cues"
        if line.lower().startswith("[script info]") or DIALOGUE.match(line):
            return "script"
        if FRAMES.match(line):
            return "frames"
    return "plain"


def spoken(text: str, form: str) -> Iterator[str]:
    """The clean lines of a whole file of that `kind`.

    Raises ValueError behind the last line before the place where XML breaks."""
    return clean(CUES[form](text))


def clean(cues: Iterable[str]) -> Iterator[str]:
    """Lines of cues (a cue's own lines are divided by newlines) without what nobody says. A line that says again what the one
    before did, as captions do that roll, is left out."""
    last = ""
    for cue in cues:
        for line in _speakers(NOTES.sub(" ", TAGS.sub("", cue))):
            line = SPEAKER.sub("", MUSIC.sub(" ", CUT_NOTES.sub(" ", line)))
            line = SPACE.sub(" ", DASH.sub("", line)).strip()
            if not any(map(str.isalnum, line)) or line == last or credit(line):
                continue
            last = line
            yield line


def credit(line: str) -> bool:
    """Whether a line names those who made the subtitles, or a site."""
    return len(line) <= CREDIT_CHARS and CREDITS.search(line) is not None


def _speakers(cue: str) -> list[str]:
    """The lines of a cue put together, but a new one where another speaker begins."""
    found: list[list[str]] = []
    for line in cue.split("\n"):
        if found and not DASH.match(line) and not SPEAKER.match(line):
            found[-1].append(line)
        else:
            found.append([line])
    return list(map(" ".join, found))


def _timed(text: str) -> Iterator[str]:
    """The cues of SubRip and WebVTT: what stands below a line of times, up to the name or number of the next ones."""
    cue: list[str] = []
    named = within = blank = note = (
        False  # behind the first times; behind an empty line; in what WebVTT has beside cues
    )
    for line in text.splitlines():
        if TIMING.match(line):
            if cue and (named or cue[-1].strip().isdigit()):
                cue.pop()
            if cue:
                yield "\n".join(cue)
            cue, within, note = [], True, False
        elif not line.strip():
            note = False
        elif within and not note:
            note = blank and line.startswith(("NOTE", "STYLE", "REGION")) and text.lstrip().startswith("WEBVTT")
            cue += [] if note else [line]
        named, blank = bool(blank and line.strip()), not line.strip()
    if cue:
        yield "\n".join(cue)


def _script(text: str) -> Iterator[str]:
    """The texts of SubStation Alpha: the tenth field of a `Dialogue`; drawings are none."""
    for line in text.splitlines():
        if DIALOGUE.match(line) and len(fields := line.split(",", 9)) == 10 and "\\p1" not in fields[9]:
            yield fields[9].replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")


def _framed(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if found := FRAMES.match(line):
            yield line[found.end() :].replace("|", "\n")


def _sentences(text: str) -> Iterator[str]:
    """The sentences of OPUS: the text of each `<s>`, or its `<w>` put together."""
    done: list[str] = []
    pieces: list[str] | None = None
    words = False
    parser = expat.ParserCreate("utf-8")

    def begin(name: str, _: dict) -> None:
        nonlocal pieces, words
        if name == "s":
            pieces, words = [], False
        elif name == "w" and pieces is not None:
            words = True
            pieces.append(" ")

    def end(name: str) -> None:
        nonlocal pieces
        if name == "s" and pieces is not None:
            line = SPACE.sub(" ", "".join(pieces)).strip()
            done.append(AFTER.sub(r"\1", BEFORE.sub(r"\1", line)) if words else line)
            pieces = None

    def data(value: str) -> None:
        if pieces is not None:
            pieces.append(value)

    def declares(*_: object) -> None:
        raise ValueError("the XML declares entities of its own")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = begin, end, data
    parser.EntityDeclHandler = declares
    raw = text.encode("utf-8", "replace")
    size = 1 << 16
    for at in range(0, len(raw) + 1, size):
        problem = ""
        try:
            parser.Parse(raw[at : at + size], at + size > len(raw))
        except expat.ExpatError as error:
            problem = str(error)
        yield from done
        done.clear()
        if problem:
            raise ValueError(problem)


CUES: dict[str, Callable[[str], Iterable[str]]] = {
    "cues": _timed,
    "script": _script,
    "frames": _framed,
    "xml": _sentences,
    "plain": str.splitlines,
}

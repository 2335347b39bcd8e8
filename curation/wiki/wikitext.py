"""Wikitext to text: what a reader of the page sees of its prose, by mwparserfromhell.

Kept are paragraphs, headings, lists, the labels of links, formulas as TeX, code, and the words in templates that only set a
word (`{{lang}}`, `{{nowrap}}`, `{{convert}}`). Other templates, tables, references, files, galleries, categories, language
links and comments go, and so do the headings of sections of which nothing is left. Runs inside the sandbox of
`curation.extract.extractor`, so it lets errors out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import mwparserfromhell
from mwparserfromhell import nodes
from mwparserfromhell.wikicode import Wikicode

FILE = {"file", "image", "media"}
CATEGORY = {"category"}
LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple|[a-z]{2,3}-[a-z-]{2,12}|be-x-old)")
DROPPED_TAGS = {
    *(
        "ref",
        "references",
        "table",
        "gallery",
        "timeline",
        "score",
        "imagemap",
        "graph",
        "templatedata",
        "templatestyles",
    ),
    *("mapframe", "maplink", "inputbox", "categorytree", "dynamicpagelist", "section", "indicator", "hiero", "style"),
    *("script", "noinclude", "phonos", "charinsert", "languages"),
}
BLOCKS = {
    "p",
    "div",
    "blockquote",
    "center",
    "poem",
    "li",
    "dd",
    "dt",
    "ul",
    "ol",
    "dl",
    "pre",
    "syntaxhighlight",
    "source",
}
LISTS = {"li", "dd", "dt"}
INLINE = {
    # template: the number of the argument that is shown, from the end where negative
    **dict.fromkeys(("lang", "transl", "transliteration", "translit", "langx", "color", "font color", "tooltip"), 2),
    **dict.fromkeys(
        ("nowrap", "nobr", "nobold", "noitalic", "small", "smaller", "big", "larger", "sc", "smallcaps"), 1
    ),
    **dict.fromkeys(
        ("em", "strong", "mvar", "math", "var", "code", "tt", "abbr", "ill", "interlanguage link", "sup"), 1
    ),
    **dict.fromkeys(
        ("quote", "blockquote", "cquote", "quotation", "sub", "unicode", "script", "khmer", "my", "ruby"), 1
    ),
}
LANG_OF_NAME = re.compile(r"lang-[a-z]{2,3}(?:-\w+)?")
ENTITIES = {
    "ndash": "–",
    "mdash": "—",
    "spaced ndash": " – ",
    "snd": " – ",
    "·": " · ",
    "dot": " · ",
    "!": "|",
    "=": "=",
    "'": "'",
}
SWITCH = re.compile(r"__[A-Z_]{3,30}__")
VARIANT = re.compile(r"-\{(?:[A-Za-z;-]{1,40}\|)?([^{}]{0,2000})\}-")
VARIANT_HIDDEN = re.compile(r"-\{[HTD-]\|[^{}]{0,2000}\}-")
BARE_URL = re.compile(r"^https?://\S+$")
EMPTY = re.compile(r"[(（][,;:，；：、\s]*[)）]|\[\s*\]")
NEWLINES = re.compile(r"\n{3,}")
CUT_OPEN = re.compile(r"([(（])\s*[,;:，；：、]\s*")
CUT_CLOSE = re.compile(r"\s*[,;:，；：、]\s*([)）])")
SPACES = re.compile(r"[ \t\u00a0]{2,}")
BEFORE = re.compile(r"[ \t]+([,.;:!?)\]，。；：！？）])")
LAST_SECTIONS = {
    *("references", "external links", "notes", "further reading", "see also", "bibliography", "sources", "citations"),
    *("อ้างอิง", "แหล่งข้อมูลอื่น", "ดูเพิ่ม", "เชิงอรรถ", "หมายเหตุ", "บรรณานุกรม", "ดูเพิ่มเติม"),
    *(
        "referensi",
        "pranala luar",
        "lihat pula",
        "lihat juga",
        "catatan kaki",
        "rujukan",
        "pautan luar",
        "catatan",
        "daftar pustaka",
    ),
    *("tham khảo", "liên kết ngoài", "xem thêm", "chú thích", "ghi chú", "thư mục", "nguồn"),
    *("ឯកសារយោង", "តំណភ្ជាប់ក្រៅ", "មើលផងដែរ", "ကိုးကား", "ပြင်ပလင့်ခ်များ", "ကိုးကားချက်များ", "ອ້າງອີງ", "ແຫຼ່ງຂໍ້ມູນອື່ນ"),
    *("参考文献", "參考文獻", "外部链接", "外部連結", "参见", "參見", "注释", "註釋", "参考资料", "參考資料"),
    *(
        "mga sanggunian",
        "sanggunian",
        "mga panlabas na link",
        "panlabas na kawing",
        "mga kawing panlabas",
        "tingnan din",
    ),
    *(
        "mga gikanan",
        "mga sumpay sa gawas",
        "cathetan suku",
        "pranala njaba",
        "uga delengen",
        "tumbu ka luar",
        "dagiti nagibasaran",
    ),
}


def extract(header: dict, payload: bytes, markup: str = "") -> dict:
    """`{"text", "title", "published", "lang"}` of a page in UTF-8. `header["type"]` is the content type that
    `curation.wiki.dump` gives it. markup: `markdown`, or none for plain text."""
    names = dict(re.findall(r"(file|category)=([^;]+)", header["type"]))
    files = FILE | {names.get("file", "file").strip().lower()}
    categories = CATEGORY | {names.get("category", "category").strip().lower()}
    text = _text(payload.decode("utf-8", "replace"), files, categories, markup == "markdown")
    return {"text": text, "title": "", "published": "", "lang": ""}


def _text(wikitext: str, files: set[str], categories: set[str], marked: bool = False) -> str:
    wikitext = VARIANT.sub(_variant, VARIANT_HIDDEN.sub("", wikitext))
    shown = _Shown(files, categories)
    return _sections(_tidy("".join(shown.of(mwparserfromhell.parse(wikitext)))), marked)


def _variant(found: re.Match[str]) -> str:
    """Of words that are given for several scripts of Chinese the first."""
    first = found[1].split(";")[0]
    return first.partition(":")[2] if re.match(r"\s*zh(?:-\w+)?:", first) else found[1]


class _Shown:
    """What is seen of parsed wikitext. HEADING stands before a heading and its depth, and behind it."""

    def __init__(self, files: set[str], categories: set[str]) -> None:
        self.files, self.categories = files, categories

    def of(self, code: Wikicode | None) -> Iterator[str]:
        for node in code.nodes if code else ():
            yield from self._node(node)

    def text(self, code: Wikicode | None) -> str:
        return "".join(self.of(code))

    def _node(self, node: nodes.Node) -> Iterator[str]:
        if isinstance(node, nodes.Text):
            yield SWITCH.sub("", node.value)
        elif isinstance(node, nodes.Wikilink):
            yield self._link(node)
        elif isinstance(node, nodes.Template):
            yield self._template(node)
        elif isinstance(node, nodes.Tag):
            yield from self._tag(node)
        elif isinstance(node, nodes.Heading):
            title = self.text(node.title).strip()
            yield f"\n\n{HEADING}{node.level}{title}{HEADING}\n\n" if title else ""
        elif isinstance(node, nodes.ExternalLink):
            title = self.text(node.title).strip() if node.title else ""
            yield title if title or node.brackets else str(node.url)
        elif isinstance(node, nodes.HTMLEntity):
            yield _entity(node)
        elif isinstance(node, nodes.Argument) and node.default is not None:
            yield from self.of(node.default)

    def _link(self, node: nodes.Wikilink) -> str:
        title = str(node.title).strip()
        prefix, colon, rest = title.partition(":")
        space = prefix.strip().lower()
        if colon and title[:1] != ":":
            if space in self.files or space in self.categories:
                return ""
            if LANGUAGE.fullmatch(space) and node.text is None and rest[:1] != " ":
                return ""
        if node.text is not None and (label := self.text(node.text)).strip():
            return label
        return self.text(node.title).strip().removeprefix(":").partition("#")[0] or title.partition("#")[2]

    def _template(self, node: nodes.Template) -> str:
        name = str(node.name).strip().lower().replace("_", " ")
        if name in ENTITIES:
            return ENTITIES[name]
        shown = [param for param in node.params if not param.showkey]
        if name in ("convert", "cvt") and len(shown) > 1:
            return " ".join(self.text(param.value).strip() for param in shown[:2])
        at = 1 if LANG_OF_NAME.fullmatch(name) else INLINE.get(name)
        if at is None or not node.params:
            return ""
        numbered = {str(param.name).strip(): param for param in node.params}
        param = numbered.get(str(at)) or numbered.get("text")
        return self.text(param.value).strip() if param else ""

    def _tag(self, node: nodes.Tag) -> Iterator[str]:
        name = str(node.tag).strip().lower()
        if name in DROPPED_TAGS:
            return
        if name in LISTS and node.wiki_markup:
            yield LIST[str(node.wiki_markup)]
        elif name == "br":
            yield "\n"
        elif name == "hr":
            yield "\n\n"
        elif name in ("math", "chem", "ce"):
            yield f"${str(node.contents or '').strip()}$"
        elif name in ("nowiki", "code", "syntaxhighlight", "source", "pre") and node.contents is not None:
            inside = "".join(_entity(n) if isinstance(n, nodes.HTMLEntity) else str(n) for n in node.contents.nodes)
            yield f"\n\n{inside.strip()}\n\n" if name in BLOCKS else inside
        elif name in BLOCKS:
            yield "\n\n" if name not in LISTS else "\n"
            yield from self.of(node.contents)
            yield "\n\n" if name not in LISTS else "\n"
        else:
            yield from self.of(node.contents)


HEADING = "\x01"  # characters that XML cannot hold, so that no page has them
LIST = {"*": "\x02", "#": "\x03", ":": "\x04", ";": "\x04"}
MARKED = {"\x02": "- ", "\x03": "1. ", "\x04": ""}
ITEM = re.compile("^[\x02\x03\x04]+[ \t]*", re.MULTILINE)


def _entity(node: nodes.HTMLEntity) -> str:
    try:
        return node.normalize()
    except (ValueError, OverflowError, KeyError):
        return ""


def _tidy(text: str) -> str:
    """Without the holes that templates leave: empty brackets, double spaces, spaces before punctuation."""
    text = SPACES.sub(" ", NEWLINES.sub("\n\n", text))  # first, as the next ones look back over spaces
    for _ in range(3):
        text, found = EMPTY.subn("", CUT_CLOSE.sub(r"\1", CUT_OPEN.sub(r"\1", text)))
        if not found:
            break
    text = BEFORE.sub(r"\1", SPACES.sub(" ", text))
    return "\n".join([line.strip(" \t\u00a0") for line in text.split("\n")])


def _item(found: re.Match[str], marked: bool) -> str:
    marks = found[0].strip()
    return "  " * (len(marks) - 1) + MARKED[marks[-1]] if marked else ""


def _sections(text: str, marked: bool) -> str:
    """Put together without headings below which nothing is, and without the sections of links at the end."""
    out: list[str] = []
    waiting: list[tuple[int, str]] = []  # headings below which nothing has come
    hidden = 0  # the depth of a section that is left out
    for number, piece in enumerate(re.split(f"{HEADING}(\\d[^{HEADING}]*){HEADING}", text)):
        if number % 2:  # what the parentheses of the expression hold
            depth, title = int(piece[0]), piece[1:].strip()
            waiting = [one for one in waiting if one[0] < depth]
            if hidden and depth > hidden:
                continue
            hidden = depth if title.lower() in LAST_SECTIONS else 0
            if not hidden:
                waiting.append((depth, title))
        elif not hidden and (body := _body(piece, marked)):
            out += [f"{'#' * depth} {title}" if marked else title for depth, title in waiting]
            waiting = []
            out.append(body)
    return "\n\n".join(out)


def _body(piece: str, marked: bool) -> str:
    lines = []
    for line in piece.split("\n"):
        item = ITEM.match(line)
        words = line[item.end() :].strip() if item else line
        if item and (not words or BARE_URL.match(words)):
            continue
        lines.append((_item(item, marked) if item else "") + words)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

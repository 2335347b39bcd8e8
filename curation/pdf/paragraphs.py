"""From lines in reading order to paragraphs: words that were divided are joined, and so are lines of scripts without spaces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from curation.pdf.layout import NO_SPACE, Line

HYPHEN = re.compile(r"(\w+)[-\u2010\u00ad]$")
BULLET = re.compile(r"^(?:[•◦▪●○■□‣⁃·∙*–—-]|\(?(?:\d{1,3}|[a-zA-Z])[.)])\s")
SENTENCE_END = re.compile(r"[.!?:;…。！？：；။៕។ฯๆ]['\"”’)\]»]*$")
WITHOUT_SPACES = re.compile(f"[{NO_SPACE}]")
WORD = re.compile(r"\w+(?:-\w+)+|\w+")
LEAD = 1.3  # times the usual distance of lines: a new paragraph
SIZE = 1.15  # times the height of the line before: a heading
INDENT = 0.8  # heights
LONGEST_WORD = 60
FEW = 3  # lines of a region, of which the whole page is asked
SHORT, HALF = 0.85, 0.6  # of the width of a region


def paragraphs(pages: Sequence[Sequence[Line]]) -> list[str]:
    """The paragraphs of a document. What goes on in the next column or on the next page is one."""
    words = Counter(word for page in pages for line in page for word in WORD.findall(line.text.lower()))
    found: list[list[str]] = []  # pieces of each
    last: Line | None = None
    for page in pages:
        leads = _leads(page)
        for number, line in enumerate(page):
            same = number > 0 and last is not None and last.region == line.region
            if last is None or (_begins(last, line, leads[line.region]) if same else not _goes_on(last, line)):
                found.append([line.text])
            elif same and (_own_line(last) or "\t" in line.text + last.text):
                found[-1] += "\n", line.text
            else:
                end, between = glue(found[-1][-1], line.text, words)
                found[-1][-1:] = end, between, line.text
            last = line
    return [text for pieces in found if (text := "".join(pieces).strip())]


def glue(before: str, line: str, words: Counter[str]) -> tuple[str, str]:
    """(the line before without a hyphen that goes, what stands between it and the next) of two lines of a paragraph. `words`
    counts those of the document, which tell hyphens that stay."""
    if line[:1].isalpha() and (divided := HYPHEN.search(before[-LONGEST_WORD:])):
        first, second = divided[1], WORD.match(line)
        follows = second[0].split("-")[0] if second else ""
        whole = f"{first}{follows}".lower()
        written = f"{first}-{follows}".lower()
        doubled = len(first) > 2 and follows.lower().startswith(first.lower()[:4]) and before[-1] != "\u00ad"
        stays = doubled or words[written] > words[whole] or not line[0].islower() or any(map(str.isdigit, first))
        return (before if stays and before[-1] != "\u00ad" else before[:-1]), ""
    return before, "" if WITHOUT_SPACES.match(before[-1:]) and WITHOUT_SPACES.match(line[:1]) else " "


def _leads(page: Sequence[Line]) -> dict[int, float]:
    """The usual distance from a line to the next in each region."""
    steps: dict[int, list[float]] = {}
    for line, after in pairwise(page):
        if line.region == after.region and after.top > line.top:
            steps.setdefault(line.region, []).append(after.top - line.top)
    every = [step for some in steps.values() for step in some] or [0.0]
    few = {line.region for line in page if len(steps.get(line.region, ())) < FEW}
    return {line.region: _low(every if line.region in few else steps[line.region]) for line in page}


def _low(steps: list[float]) -> float:
    """The step that a quarter does not reach: more than half may be those between paragraphs."""
    return sorted(steps)[len(steps) // 4]


def _begins(last: Line, line: Line, lead: float) -> bool:
    """Whether a line begins a paragraph within its region."""
    step = line.top - last.top
    size = line.height / last.height
    if step > LEAD * max(lead, last.height) or not 1 / SIZE < size < SIZE or BULLET.match(line.text):
        return True
    left, right = line.edges
    ended = SENTENCE_END.search(last.text) is not None
    short = last.right < left + SHORT * (right - left)
    indented = line.left > last.left + INDENT * line.height
    return (ended and short) or (indented and (ended or short) and not BULLET.match(last.text))


def _own_line(last: Line) -> bool:
    """Whether a line ends so early, and amid a sentence, that the next one was not to be joined: verse, code, an address."""
    left, right = last.edges
    return last.right < left + HALF * (right - left)


def _goes_on(last: Line, line: Line) -> bool:
    """Whether a line in another column or on another page continues a paragraph."""
    left, right = last.edges
    full = last.right > left + SHORT * (right - left)
    alike = 1 / SIZE < line.height / last.height < SIZE
    begins = BULLET.match(line.text) or line.text[:1].isupper() or line.text[:1].isdigit()
    return full and alike and not SENTENCE_END.search(last.text) and not begins

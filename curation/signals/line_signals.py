"""filter/signals: what kinds of lines a text has, its sentences, and lines and paragraphs that repeat, in one scan.

C4's phrases (Raffel et al. 2020) are English, so their signals are about English notices, in whatever language the page is.
"""

from __future__ import annotations

import numba
import numpy as np

from curation.policy.signal_schema import SIGNALS
from curation.text.characters import ALPHABETIC, BULLET, IGNORED, MARK, SPACE, SPECIAL, TERMINAL, UNSPACED
from curation.text.ngrams import number
from curation.text.units import mix

SHORT_LINE_CHARS, LONG_LINE_CHARS, FEW_WORDS = 30, 200, 3
BASE = np.uint64(0x9E3779B97F4A7C15)
NEWLINE, DOT, ELLIPSIS = 0x0A, 0x2E, 0x2026
BEFORE_SPACE, ANYWHERE = 1, 2  # where a mark ends a sentence

(BULLET_LINES, ELLIPSIS_LINES, TERMINAL_LINES, SHORT_LINES, FEW_WORD_LINES, JAVASCRIPT_LINES, POLICY_LINES) = map(
    SIGNALS.index,
    (
        *("bullet_line_share", "ellipsis_line_share", "terminal_line_share", "short_line_share", "few_word_line_share"),
        *("javascript_line_share", "policy_line_share"),
    ),
)
N_LINES, SENTENCES, LONG_LINES, LOREM_IPSUM, MENU_LETTERS = map(
    SIGNALS.index, ("n_lines", "sentence_count", "long_line_count", "lorem_ipsum", "menu_letter_share")
)

# An item of a menu: so few words (of one syllable: in Vietnamese and unspaced scripts) and characters; a menu: so many in a row.
ITEM_WORDS, ITEM_SYLLABLES, ITEM_CHARS, MENU_ITEMS = 3, 5, 32, 5
PARTS = np.zeros(0x2100, np.bool_)
"""Signs between the items of a menu that stands in one line."""
PARTS[[ord(sign) for sign in "|•·›»‹«>\n"]] = True
IN_ITEM = np.zeros(0x2100, np.bool_)
"""Signs that an item of a menu may have in it."""
IN_ITEM[[ord(sign) for sign in "&'()-/\N{RIGHT SINGLE QUOTATION MARK}\""]] = True
DUPLICATE_LINES, DUPLICATE_LINE_CHARS, DUPLICATE_PARAGRAPHS, DUPLICATE_PARAGRAPH_CHARS = map(
    SIGNALS.index,
    (
        *("duplicate_line_share", "duplicate_line_char_share"),
        *("duplicate_paragraph_share", "duplicate_paragraph_char_share"),
    ),
)

_JAVASCRIPT, _POLICY, _LOREM_IPSUM = range(3)
# A phrase is looked for where a letter stands that is rare in other text:
_PHRASES = (
    ("javascript", "j", _JAVASCRIPT),
    ("privacy policy", "v", _POLICY),
    ("terms of use", "f", _POLICY),
    ("cookie policy", "k", _POLICY),
    ("uses cookies", "k", _POLICY),
    ("use of cookies", "k", _POLICY),
    ("use cookies", "k", _POLICY),
    ("lorem ipsum", "m", _LOREM_IPSUM),
)
PHRASES = np.array([list(text.ljust(16, "\0").encode()) for text, _, _ in _PHRASES], np.uint32)
PHRASE_CHARS = np.array([len(text) for text, _, _ in _PHRASES])
PHRASE_AT = np.array([text.index(letter) for text, letter, _ in _PHRASES])
PHRASE_KIND = np.array([kind for _, _, kind in _PHRASES])
RARE = np.zeros(128, np.bool_)
RARE[[ord(letter) for _, small, _ in _PHRASES for letter in (small, small.upper())]] = True


@numba.njit(inline="always")
def _share(part, whole):
    return part / whole if whole else 0.0


@numba.njit(inline="always")
def _ends_sentence(code):
    if code < 0x80:
        return BEFORE_SPACE if code in (0x2E, 0x21, 0x3F) else 0
    if code == ELLIPSIS:
        return BEFORE_SPACE
    return ANYWHERE if code in (0x3002, 0xFF01, 0xFF1F, 0xFF61, 0x17D4, 0x17D5, 0x104B) else 0


@numba.njit(cache=True)
def _phrase(codes, n, i):
    """Kind of the phrase whose rare letter is `codes[i]`, or -1."""
    for p in range(len(PHRASE_KIND)):
        start = i - PHRASE_AT[p]
        if start < 0 or start + PHRASE_CHARS[p] > n:
            continue
        same = True
        for j in range(PHRASE_CHARS[p]):
            code = codes[start + j]
            if (code | 0x20 if 0x41 <= code <= 0x5A else code) != PHRASES[p, j]:
                same = False
                break
        if same:
            return PHRASE_KIND[p]
    return -1


@numba.njit(inline="always")
def _stands_apart(codes, n, bits, i):
    """Whether whitespace, or nothing, is on one side of `codes[i]`."""
    return i == 0 or i + 1 == n or bits[codes[i - 1]] & SPACE != 0 or bits[codes[i + 1]] & SPACE != 0


@numba.njit(cache=True)
def line_signals(codes, n, bits, spans, n_words, item_words, hashes, lengths, keys, slots, ids, out):  # noqa: PLR0917
    """Write the signals of lines of `codes[:n]` to `out`. `spans[:n_words]`: first index of each word, and one after its last.

    A menu is a run of `MENU_ITEMS` or more items, one a line or between signs (`PARTS`). An item has at most `item_words` words,
    no digit, and no punctuation but `IN_ITEM`. A line of a poem ends with a mark or has more words; one of a glossary, a table
    or a recipe has a colon, a figure or a sentence.

    `hashes`, `lengths`, `keys`, `slots` and `ids` are scratch. Lines are written to `hashes` and `lengths` from the front,
    paragraphs from the back: there are never more of both than characters, since a paragraph after the first needs an empty
    line before it.
    """
    n_lines = n_paragraphs = bullet = ellipsis = terminal = short = few = long = 0
    sentences = javascript = policy = lorem_ipsum = word = 0
    paragraph, paragraph_chars = np.uint64(0), 0
    running, kept = np.uint64(0), np.uint64(0)  # hash of the line so far, and up to its last character that is no space
    length, kept_length, dots, kept_dots = 0, 0, 0, 0
    starts_bullet = has_javascript = has_policy = in_sentence = False
    ended = 0  # whether the sentence ended, or will at the next space
    last = np.uint32(0)
    line_word = part_word = part_start = 0  # first word of the line; of the part of it, and its first character
    part_letters, part_kinds, plain = 0, np.uint8(0), True
    letters = in_menus = run = run_letters = 0
    for i in range(n + 1):
        code = codes[i] if i < n else np.uint32(NEWLINE)
        kind = bits[code]
        if kind & ALPHABETIC:
            part_letters += 1
            part_kinds |= kind
        elif code < len(PARTS) and PARTS[code] and (code == NEWLINE or _stands_apart(codes, n, bits, i)):
            while word < n_words and spans[word, 0] < i:
                word += 1
            if word > part_word:
                letters += part_letters
                most = ITEM_SYLLABLES if part_kinds & UNSPACED else item_words
                if plain and i - part_start <= ITEM_CHARS and word - part_word <= most:
                    run += 1
                    run_letters += part_letters
                else:
                    in_menus += run_letters if run >= MENU_ITEMS else 0
                    run = run_letters = 0
            part_word, part_start = word, i + 1
            part_letters, part_kinds, plain = 0, np.uint8(0), True
        elif kind & SPECIAL and not kind & SPACE and (code >= len(IN_ITEM) or not IN_ITEM[code]):
            plain = False
        if code == NEWLINE:
            if kept_length:
                bullet += starts_bullet
                ellipsis += last == ELLIPSIS or kept_dots >= 3
                terminal += bits[last] & TERMINAL != 0
                short += kept_length <= SHORT_LINE_CHARS
                long += kept_length >= LONG_LINE_CHARS
                few += word - line_word < FEW_WORDS
                javascript += has_javascript
                policy += has_policy
                sentences += in_sentence
                hashes[n_lines], lengths[n_lines] = mix(kept), kept_length
                n_lines += 1
                paragraph = mix(paragraph + kept)
                paragraph_chars += kept_length
            if paragraph_chars and (not kept_length or i == n):
                n_paragraphs += 1
                hashes[n - n_paragraphs], lengths[n - n_paragraphs] = paragraph, paragraph_chars
                paragraph, paragraph_chars = np.uint64(0), 0
            running, kept, length, kept_length, dots = np.uint64(0), np.uint64(0), 0, 0, 0
            has_javascript = has_policy = in_sentence = False
            ended = 0
            line_word = word
            continue
        if kind & SPACE:
            if not length:
                continue
            if ended:
                ended = ANYWHERE
        elif kind & SPECIAL and not 0x30 <= code <= 0x39:
            ended = max(ended, _ends_sentence(code))
        elif not kind & (MARK | IGNORED):
            if ended == ANYWHERE:
                sentences += in_sentence
            ended, in_sentence = 0, True
            if code < 0x80 and RARE[code]:
                found = _phrase(codes, n, i)
                has_javascript = has_javascript or found == _JAVASCRIPT
                has_policy = has_policy or found == _POLICY
                lorem_ipsum += found == _LOREM_IPSUM
        if not length:
            starts_bullet = kind & BULLET != 0
        running = (running ^ np.uint64(code)) * BASE
        length += 1
        dots = dots + 1 if code == DOT else 0
        if not kind & SPACE:
            kept, kept_length, kept_dots, last = running, length, dots, code
    in_menus += run_letters if run >= MENU_ITEMS else 0
    out[N_LINES] = n_lines
    out[BULLET_LINES] = _share(bullet, n_lines)
    out[ELLIPSIS_LINES] = _share(ellipsis, n_lines)
    out[TERMINAL_LINES] = _share(terminal, n_lines)
    out[SHORT_LINES] = _share(short, n_lines)
    out[LONG_LINES] = long
    out[FEW_WORD_LINES] = _share(few, n_lines)
    out[JAVASCRIPT_LINES] = _share(javascript, n_lines)
    out[POLICY_LINES] = _share(policy, n_lines)
    out[LOREM_IPSUM] = lorem_ipsum
    out[MENU_LETTERS] = _share(in_menus, letters)
    out[SENTENCES] = sentences
    first = n - n_paragraphs
    repeated, chars, total = _repeated(hashes[first:n], lengths[first:n], n_paragraphs, keys, slots, ids)
    out[DUPLICATE_PARAGRAPHS], out[DUPLICATE_PARAGRAPH_CHARS] = _share(repeated, n_paragraphs), _share(chars, total)
    repeated, chars, total = _repeated(hashes, lengths, n_lines, keys, slots, ids)
    out[DUPLICATE_LINES], out[DUPLICATE_LINE_CHARS] = _share(repeated, n_lines), _share(chars, total)


@numba.njit(cache=True)
def _repeated(hashes, lengths, n, keys, slots, ids):  # noqa: PLR0917
    """(Values equal to an earlier one, sum of their lengths, sum of all lengths) of `hashes[:n]`."""
    distinct = number(hashes, n, keys, slots, ids)
    chars = total = met = 0
    for i in range(n):
        total += lengths[i]
        if ids[i] < met:  # numbers come in order of appearance
            chars += lengths[i]
        else:
            met += 1
    return n - distinct, chars, total

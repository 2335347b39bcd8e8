"""filter/signals: every signal of every document in one numba pass over the Arrow buffers of the texts.

No signal is skipped because another already condemns a document, so that any policy can be applied, changed and explained
afterwards. What is measured: `curation.signal_schema`. How, per document: decode UTF-8 once, then scan the code points for
characters and lines, for words (`curation.words`), for repetition (`curation.ngrams`) and for listed words
(`curation.phrases`).

Cost: time linear in the text; scratch memory up to about 60 bytes per character of the largest document of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

from cluster.shards import LEDGER
from curation.characters import ALPHABETIC, BITS, BULLET, SCRIPT, SPACE, SPECIAL, TERMINAL, script_number
from curation.edit import normalise
from curation.ngrams import char_repetition, number, table_size, word_ngrams
from curation.phrases import count_phrases, follow, phrase_tables
from curation.policy import Policy, load, of_language
from curation.signal_schema import FIELDS, MEASURED, SIGNALS
from curation.units import LOWER, mix, text_buffers
from curation.words import decode_text, read_words

SHORT_LINE_CHARS = 30
BASE = np.uint64(0x9E3779B97F4A7C15)
NEWLINE, HASH_SIGN, DOT, ELLIPSIS = 0x0A, 0x23, 0x2E, 0x2026
KEYS = ("doc_id", "url", "lang")

# Columns of the kernel's output.
(WORD_COUNT, CHAR_REPETITION, WORD_REPETITION, SPECIAL_RATIO, STOPWORD_RATIO, FLAGGED_RATIO, MEAN_WORD_LENGTH) = range(
    7
)
(SYMBOL_WORD_RATIO, BULLET_LINES, ELLIPSIS_LINES, ALPHABETIC_WORDS, DUPLICATE_LINES) = range(7, 12)
TOP_2GRAM, DUPLICATE_5GRAM = SIGNALS.index("top_2gram_char_share"), SIGNALS.index("duplicate_5gram_char_share")
TERMINAL_LINES = SIGNALS.index("terminal_line_share")
(SHORT_LINES, NEWLINE_WORDS, SCRIPT_SHARE, N_CHARS, N_BYTES, N_LINES) = range(TERMINAL_LINES + 1, TERMINAL_LINES + 7)
assert SIGNALS.index("duplicate_line_share") == DUPLICATE_LINES and SIGNALS.index("n_lines") == N_LINES


class Settings(NamedTuple):
    """What differs by language, as arrays [languages]."""

    char_n: np.ndarray
    word_n: np.ndarray
    script: np.ndarray  # number of the language's script, 0 for none
    roots: np.ndarray  # int32 [languages, 2]: root of stop and flagged words, -1 without a list


def signals(batch: pa.RecordBatch, policies: Mapping[str, Policy] | None = None) -> pa.RecordBatch:
    """Signals of a batch with columns doc_id, url, lang, text: a batch [doc_id, url, lang, *SIGNALS].

    `policies` give each language's n of n-grams, word lists and script, by default those of its file. Documents of another
    language are measured as `default`. The text is measured as it is: see `curation.edit.normalise`.
    """
    if policies is None:
        policies = {lang: of_language(lang) for lang in dict.fromkeys(batch["lang"].to_pylist())}
    schema = pa.schema([*(batch.schema.field(name) for name in KEYS), *FIELDS])
    return pa.record_batch([*(batch[name] for name in KEYS), *Meter(policies).columns(batch)], schema=schema)


def signals_kernel(languages: list[str]) -> Callable[[pa.RecordBatch], tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Kernel of filter/signals: documents -> (documents with edited text and the signal columns, empty ledger)."""
    policies = {lang: load(lang) for lang in languages}
    return partial(_edit_and_measure, Meter(policies), policies)


def _edit_and_measure(
    meter: Meter, policies: Mapping[str, Policy], batch: pa.RecordBatch
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    edited = normalise(batch, policies)
    schema = pa.schema([*edited.schema, *FIELDS], edited.schema.metadata)
    return pa.record_batch([*edited.columns, *meter.columns(edited)], schema=schema), _NO_DROPS


_NO_DROPS = pa.RecordBatch.from_pylist([], schema=LEDGER)


class Meter:
    """Measures texts by the settings of some languages and, for all others, of `default`. Can be pickled."""

    def __init__(self, policies: Mapping[str, Policy]):
        every = {"default": load("default"), **policies}
        self.index = {lang: i for i, lang in enumerate(every)}
        lists = [words for policy in every.values() for words in (policy.stop_words, policy.flagged_words)]
        self.phrases, roots = phrase_tables(lists)
        self.settings = Settings(
            char_n=np.array([p.ngram["char_repetition"] for p in every.values()], np.int64),
            word_n=np.array([p.ngram["word_repetition"] for p in every.values()], np.int64),
            script=np.array([script_number(p.script) if p.script else 0 for p in every.values()], np.uint8),
            roots=roots.reshape(-1, 2),
        )

    def columns(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The signal columns of a batch with `lang` and `text`, in the order of `SIGNALS`."""
        data, offsets = text_buffers(batch["text"])
        langs = np.array([self.index.get(lang, 0) for lang in batch["lang"].to_pylist()], np.int64)
        values_SN = np.zeros((len(SIGNALS), len(langs)))
        values_SN[len(MEASURED) :] = np.nan
        _measure(data, offsets, langs, self.settings, self.phrases, BITS, SCRIPT, LOWER, values_SN)
        return [
            pa.array(values.astype(field.type.to_pandas_dtype()), field.type, mask=np.isnan(values))
            for values, field in zip(values_SN, FIELDS, strict=True)
        ]


@numba.njit(inline="always")
def _share(part, whole):
    return part / whole if whole else 0.0


@numba.njit(cache=True)
def _measure(data, offsets, langs, settings, phrases, bits, script_of, lower, values_SN):  # noqa: PLR0917
    size = 0
    for d in range(len(langs)):
        size = max(size, offsets[d + 1] - offsets[d])
    codes, word_hash, word_chars = np.empty(size, np.uint32), np.empty(size, np.uint64), np.empty(size, np.int32)
    keys, slots = np.empty(table_size(size), np.uint64), np.empty(table_size(size), np.int32)
    by_count = np.zeros(size + 2, np.int32)
    ids, ends, gram = np.empty(size + 1, np.int32), np.zeros(size + 1, np.int64), np.empty(size + 1, np.int32)
    counts, positions, depth = np.empty(size + 1, np.int32), np.empty(size + 1, np.int32), np.empty(size + 1, np.int32)
    met = np.empty(size + 1, np.int32)
    hash_of_id = np.empty(size, np.uint64)
    entries_met = np.full(phrases.n_entries, -1, np.int64)
    ngram_chars = np.zeros(11)
    for d in range(len(langs)):
        out = values_SN[:, d]
        lang = langs[d]
        n = decode_text(data, offsets[d], offsets[d + 1], codes)
        out[N_CHARS], out[N_BYTES] = n, offsets[d + 1] - offsets[d]

        n_words = read_words(codes, n, bits, lower, word_hash, word_chars)
        for i in range(n_words):
            ends[i + 1] = ends[i] + word_chars[i]
        out[WORD_COUNT] = n_words
        out[MEAN_WORD_LENGTH] = _share(ends[n_words], n_words)
        n_ids = number(word_hash, n_words, keys, slots, ids)
        for i in range(n_words):
            hash_of_id[ids[i]] = word_hash[i]

        for which, column in ((0, STOPWORD_RATIO), (1, FLAGGED_RATIO)):
            root = settings.roots[lang, which]
            if root < 0:
                out[column] = np.nan
                continue
            for i in range(n_ids):
                gram[i] = follow(phrases.keys, phrases.nexts, root, hash_of_id[i])
            stamp = 2 * d + which
            covered, distinct = count_phrases(
                ids, n_words, gram, hash_of_id, phrases.keys, phrases.nexts, phrases.entry, entries_met, stamp
            )
            out[column] = min(1.0, _share(covered + (distinct if which else 0), n_words))

        ngram_chars[:] = 0
        out[WORD_REPETITION] = word_ngrams(
            ids,
            n_words,
            n_ids,
            ends,
            settings.word_n[lang],
            keys,
            slots,
            gram,
            counts,
            positions,
            depth,
            met,
            ngram_chars,
        )
        for k in range(2, 5):
            out[TOP_2GRAM + k - 2] = min(1.0, _share(ngram_chars[k], n))
        for k in range(5, 11):
            out[DUPLICATE_5GRAM + k - 5] = _share(ngram_chars[k], n)
        out[CHAR_REPETITION] = char_repetition(codes, n, settings.char_n[lang], keys, slots, by_count)

        _characters(codes, n, n_words, bits, script_of, settings.script[lang], out)
        # The arrays of words are free now: they take the lines.
        _lines(codes, n, bits, word_hash, word_chars, keys, slots, ids, out)


@numba.njit(cache=True)
def _characters(codes, n, n_words, bits, script_of, script, out):  # noqa: PLR0917
    """Special characters, letters by script, symbols, and whitespace-delimited tokens with a letter."""
    special = letters = of_script = hashes = ellipses = newlines = tokens = alphabetic_tokens = dots = 0
    in_token = has_letter = False
    for i in range(n):
        code = codes[i]
        kind = bits[code]
        special += kind & SPECIAL != 0
        if kind & ALPHABETIC:
            letters += 1
            of_script += script_of[code] == script
        if kind & SPACE:
            alphabetic_tokens += has_letter
            in_token = has_letter = False
            newlines += code == NEWLINE
        else:
            tokens += not in_token
            in_token = True
            has_letter = has_letter or kind & ALPHABETIC != 0
        hashes += code == HASH_SIGN
        dots = dots + 1 if code == DOT else 0
        ellipses += code == ELLIPSIS or (dots > 0 and dots % 3 == 0)
    alphabetic_tokens += has_letter
    out[SPECIAL_RATIO] = _share(special, n)
    out[SYMBOL_WORD_RATIO] = _share(max(hashes, ellipses), n_words)
    out[ALPHABETIC_WORDS] = _share(alphabetic_tokens, tokens)
    out[NEWLINE_WORDS] = _share(newlines, n_words)
    out[SCRIPT_SHARE] = _share(of_script, letters) if script else 1.0


@numba.njit(cache=True)
def _lines(codes, n, bits, hashes, lengths, keys, slots, ids, out):  # noqa: PLR0917
    """Kinds of lines, and lines and paragraphs that repeat. Everything but `codes`, `bits` and `out` is scratch.

    Lines are written to `hashes` and `lengths` from the front, paragraphs from the back: there are never more of both than
    characters, since a paragraph after the first needs an empty line before it.
    """
    n_lines = n_paragraphs = bullet = ellipsis = terminal = short = 0
    paragraph, paragraph_chars = np.uint64(0), 0
    running, kept = np.uint64(0), np.uint64(0)  # hash of the line so far, and up to its last character that is no space
    length, kept_length, dots, kept_dots = 0, 0, 0, 0
    starts_bullet = False
    last = np.uint32(0)
    for i in range(n + 1):
        code = codes[i] if i < n else np.uint32(NEWLINE)
        if code == NEWLINE:
            if kept_length:
                bullet += starts_bullet
                ellipsis += last == ELLIPSIS or kept_dots >= 3
                terminal += bits[last] & TERMINAL != 0
                short += kept_length <= SHORT_LINE_CHARS
                hashes[n_lines], lengths[n_lines] = mix(kept), kept_length
                n_lines += 1
                paragraph = mix(paragraph + kept)
                paragraph_chars += kept_length
            if paragraph_chars and (not kept_length or i == n):
                n_paragraphs += 1
                hashes[n - n_paragraphs], lengths[n - n_paragraphs] = paragraph, paragraph_chars
                paragraph, paragraph_chars = np.uint64(0), 0
            running, kept, length, kept_length, dots = np.uint64(0), np.uint64(0), 0, 0, 0
            continue
        kind = bits[code]
        if kind & SPACE and not length:
            continue
        if not length:
            starts_bullet = kind & BULLET != 0
        running = (running ^ np.uint64(code)) * BASE
        length += 1
        dots = dots + 1 if code == DOT else 0
        if not kind & SPACE:
            kept, kept_length, kept_dots, last = running, length, dots, code
    out[N_LINES] = n_lines
    out[BULLET_LINES] = _share(bullet, n_lines)
    out[ELLIPSIS_LINES] = _share(ellipsis, n_lines)
    out[TERMINAL_LINES] = _share(terminal, n_lines)
    out[SHORT_LINES] = _share(short, n_lines)
    first = n - n_paragraphs
    repeated, chars, total = _repeated(hashes[first:n], lengths[first:n], n_paragraphs, keys, slots, ids)
    out[DUPLICATE_LINES + 2], out[DUPLICATE_LINES + 3] = _share(repeated, n_paragraphs), _share(chars, total)
    repeated, chars, total = _repeated(hashes, lengths, n_lines, keys, slots, ids)
    out[DUPLICATE_LINES], out[DUPLICATE_LINES + 1] = _share(repeated, n_lines), _share(chars, total)


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

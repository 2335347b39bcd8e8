"""filter/signals: every signal of every document in one numba pass over the Arrow buffers of the texts.

No signal is skipped because another already condemns a document, so that any policy can be applied, changed and explained
afterwards. What is measured: `curation.policy.signal_schema`. How, per document: decode UTF-8 once, then scan the code points for
characters, for words (`curation.text.words`), for repetition (`curation.text.ngrams`), for listed words
(`curation.signals.phrases`) and for lines (`curation.signals.line_signals`).

Cost: time linear in the text; scratch memory up to about 70 bytes per character of the largest document of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

from cluster.shards import LEDGER
from curation.policy.keys import Policy
from curation.policy.policy import load, of_language
from curation.policy.signal_schema import FIELDS, MEASURED, SIGNALS
from curation.signals.edit import normalise
from curation.signals.line_signals import ITEM_SYLLABLES, ITEM_WORDS, line_signals
from curation.signals.phrases import count_phrases, follow, phrase_tables
from curation.signals.word_order import Order, together, word_order
from curation.text.characters import ALPHABETIC, BITS, SCRIPT, SPACE, SPECIAL, script_number
from curation.text.ngrams import char_repetition, number, table_size, word_ngrams
from curation.text.units import text_buffers
from curation.text.words import alphabet, decode_text, read_words

SYLLABLES = ("vi",)  # languages that write a space after each syllable
NEWLINE, HASH_SIGN, DOT, ELLIPSIS, CURLY_BRACKET = 0x0A, 0x23, 0x2E, 0x2026, 0x7B
KEYS = ("doc_id", "url", "lang")

# Columns of the kernel's output.
WORD_COUNT, MEAN_WORD_LENGTH, LONGEST_WORD = map(SIGNALS.index, ("word_count", "mean_word_length", "longest_word"))
CHAR_REPETITION, WORD_REPETITION = map(SIGNALS.index, ("char_repetition", "word_repetition"))
STOPWORD_RATIO, STOPWORD_KINDS, FLAGGED_RATIO = map(
    SIGNALS.index, ("stopword_ratio", "stopword_kinds", "flagged_ratio")
)
SPECIAL_RATIO, SYMBOL_WORD_RATIO, ALPHABETIC_WORDS, NEWLINE_WORDS, SCRIPT_SHARE, CURLY_BRACKETS, CURLY_WORDS = map(
    SIGNALS.index,
    (
        *("special_ratio", "symbol_word_ratio", "alphabetic_word_share", "newline_word_ratio"),
        *("script_share", "curly_brackets", "curly_bracket_word_ratio"),
    ),
)
TOP_2GRAM, DUPLICATE_5GRAM = map(SIGNALS.index, ("top_2gram_char_share", "duplicate_5gram_char_share"))
NOTICE_WORDS, ODD_WORDS, WORD_ORDER, N_CHARS, N_BYTES = map(
    SIGNALS.index, ("notice_word_share", "odd_word_share", "word_order", "n_chars", "n_bytes")
)

MIN_NOTICES = 4  # different phrases: a text about passwords has many of one; one less in a text of few words
FEW_WORDS, FEW_CLUSTERS = 40, 100
LONG = 500  # words of a text that is no notice, however many phrases of one it has
ODD_AMONG = 1_000  # the first words
NOTICE_REACH, NOTICE_REACH_CLUSTERS = 6, 10


ODD = (BITS[:128] & SPECIAL != 0) & (BITS[:128] & SPACE == 0)
"""Signs but those that stand in words, addresses, numbers and names of files."""
ODD[[ord(sign) for sign in "-'./@_:&+=#%,~0123456789"]] = False


class Settings(NamedTuple):
    """What differs by language, as arrays [languages]."""

    char_n: np.ndarray
    word_n: np.ndarray
    script: np.ndarray  # number of the language's script, 0 for none
    item_words: np.ndarray  # the most words of an item of a menu
    roots: np.ndarray  # int32 [languages, 3]: root of stop words, flagged words and notices, -1 without a list


def signals(batch: pa.RecordBatch, policies: Mapping[str, Policy] | None = None) -> pa.RecordBatch:
    """Signals of a batch with columns doc_id, url, lang, text: a batch [doc_id, url, lang, *SIGNALS].

    `policies` give each language's n of n-grams, word lists and script, by default those of its file. Documents of another
    language are measured as `default`. The text is measured as it is: see `curation.signals.edit.normalise`.
    """
    if policies is None:
        policies = {lang: of_language(lang) for lang in dict.fromkeys(batch["lang"].to_pylist())}
    schema = pa.schema([*(batch.schema.field(name) for name in KEYS), *FIELDS])
    return pa.record_batch([*(batch[name] for name in KEYS), *Meter(policies).columns(batch)], schema=schema)


def signals_kernel(
    languages: list[str],
    lists: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    orders: Mapping[str, Order] | None = None,
    folder: str | None = None,
) -> Callable[[pa.RecordBatch], tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Kernel of filter/signals: documents -> (documents with edited text and the signal columns, empty ledger).

    `lists` by language (`curation.signals.word_lists.read`) replace those of the language files; `orders` by language are what
    was learnt for the signal `word_order`; `folder` has files of the user.
    """
    policies = {lang: load(lang, lists=(lists or {}).get(lang), folder=folder) for lang in languages}
    return partial(_edit_and_measure, Meter(policies, orders), policies)


def _edit_and_measure(
    meter: Meter, policies: Mapping[str, Policy], batch: pa.RecordBatch
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    edited = normalise(batch, policies)
    schema = pa.schema([*edited.schema, *FIELDS], edited.schema.metadata)
    return pa.record_batch([*edited.columns, *meter.columns(edited)], schema=schema), _NO_DROPS


_NO_DROPS = pa.RecordBatch.from_pylist([], schema=LEDGER)


class Meter:
    """Measures texts by the settings of some languages and, for all others, of `default`. Can be pickled."""

    def __init__(self, policies: Mapping[str, Policy], orders: Mapping[str, Order] | None = None):
        every = {"default": load("default"), **policies}
        self.index = {lang: i for i, lang in enumerate(every)}
        stop, flagged = [p.stop_words for p in every.values()], [p.flagged_words for p in every.values()]
        notices = [p.notice_phrases for p in every.values()]
        segmented = [True] * len(stop) + [False] * 2 * len(stop)
        self.phrases, roots = phrase_tables([*stop, *flagged, *notices], segmented)
        self.orders = together(orders or {}, list(every))
        self.settings = Settings(
            char_n=np.array([p.ngram["char_repetition"] for p in every.values()], np.int64),
            word_n=np.array([p.ngram["word_repetition"] for p in every.values()], np.int64),
            script=np.array([script_number(p.script) if p.script else 0 for p in every.values()], np.uint8),
            item_words=np.array([ITEM_SYLLABLES if lang in SYLLABLES else ITEM_WORDS for lang in every]),
            roots=roots.reshape(3, -1).T.copy(),
        )

    def columns(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The signal columns of a batch with `lang` and `text`, in the order of `SIGNALS`."""
        data, offsets = text_buffers(batch["text"])
        langs = np.array([self.index.get(lang, 0) for lang in batch["lang"].to_pylist()], np.int64)
        values_SN = np.zeros((len(SIGNALS), len(langs)))
        values_SN[len(MEASURED) :] = np.nan
        tables = self.settings, self.phrases, self.orders, alphabet(), alphabet(False), SCRIPT
        _measure(data, offsets, langs, *tables, values_SN)
        return [
            pa.array(np.nan_to_num(values).astype(field.type.to_pandas_dtype()), field.type, mask=np.isnan(values))
            for values, field in zip(values_SN, FIELDS, strict=True)
        ]


@numba.njit(inline="always")
def _share(part, whole):
    return part / whole if whole else 0.0


@numba.njit(cache=True)
def _measure(data, offsets, langs, settings, phrases, orders, by_word, by_cluster, script_of, values_SN):  # noqa: PLR0917
    size = 0
    for d in range(len(langs)):
        size = max(size, offsets[d + 1] - offsets[d])
    codes, word_hash, word_chars = np.empty(size, np.uint32), np.empty(size, np.uint64), np.empty(size, np.int32)
    spans = np.empty((size, 2), np.int32)
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

        n_words, by_dictionary = read_words(codes, n, by_word, keys, gram, counts, word_hash, word_chars, spans)
        longest = 0
        for i in range(n_words):
            ends[i + 1] = ends[i] + word_chars[i]
            longest = max(longest, word_chars[i])
        out[WORD_COUNT] = n_words
        out[MEAN_WORD_LENGTH] = _share(ends[n_words], n_words)
        out[LONGEST_WORD] = longest
        n_ids = _number(word_hash, n_words, keys, slots, ids, hash_of_id)
        covered, distinct = _listed(
            ids, n_words, n_ids, hash_of_id, gram, phrases, settings.roots[lang, 0], entries_met, 2 * d, 0
        )
        out[STOPWORD_RATIO] = _share(covered, n_words) if distinct >= 0 else np.nan
        out[STOPWORD_KINDS] = distinct if distinct >= 0 else np.nan
        out[WORD_ORDER] = np.nan
        if orders.usual[lang] > 0:
            out[WORD_ORDER] = word_order(
                ids,
                n_words,
                n_ids,
                hash_of_id,
                orders.hashes[lang],
                orders.scores[lang],
                orders.usual[lang],
                orders.coverage[lang],
                counts,
                positions,
            )

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
        _characters(codes, n, n_words, by_word.bits, script_of, settings.script[lang], out)

        # The arrays of words take the lines; clusters overwrite them again.
        out[ODD_WORDS] = _odd_words(codes, spans, min(n_words, ODD_AMONG), by_word.bits)

        # Terms of spam pages are in no dictionary, and words of a notice may be cut otherwise in it: both are looked for by
        # cluster.
        n_clusters = n_words
        if by_dictionary and (n_words <= LONG or settings.roots[lang, 1] >= 0):
            n_clusters, _ = read_words(codes, n, by_cluster, keys, gram, counts, word_hash, word_chars, None)
            n_ids = _number(word_hash, n_clusters, keys, slots, ids, hash_of_id)
        covered, distinct = _listed(
            ids, n_clusters, n_ids, hash_of_id, gram, phrases, settings.roots[lang, 1], entries_met, 2 * d + 1, 0
        )
        out[FLAGGED_RATIO] = min(1.0, _share(covered + distinct, n_clusters)) if distinct >= 0 else np.nan

        if n_words <= LONG:
            reach, least = (NOTICE_REACH_CLUSTERS, FEW_CLUSTERS) if by_dictionary else (NOTICE_REACH, FEW_WORDS)
            covered, distinct = _listed(
                ids, n_clusters, n_ids, hash_of_id, gram, phrases, settings.roots[lang, 2], entries_met, 2 * d, reach
            )
            enough = distinct >= MIN_NOTICES - (n_clusters < least)
            out[NOTICE_WORDS] = _share(covered, n_clusters) if enough else 0.0

        # The arrays of words are free now: they take the lines.
        line_signals(
            codes,
            n,
            by_word.bits,
            spans,
            n_words,
            settings.item_words[lang],
            word_hash,
            word_chars,
            keys,
            slots,
            ids,
            out,
        )


@numba.njit(cache=True)
def _number(word_hash, n_words, keys, slots, ids, hash_of_id):  # noqa: PLR0917
    """`number` of the words; `hash_of_id` gets the hash of each distinct one."""
    n_ids = number(word_hash, n_words, keys, slots, ids)
    for i in range(n_words):
        hash_of_id[ids[i]] = word_hash[i]
    return n_ids


@numba.njit(cache=True)
def _listed(ids, n_words, n_ids, hash_of_id, gram, phrases, root, entries_met, stamp, reach):  # noqa: PLR0917
    """(Words inside entries of the list at `root` or at most `reach` from one, distinct entries), (0, -1) without a list.
    `gram`: scratch."""
    if root < 0:
        return 0, -1
    for i in range(n_ids):
        gram[i] = follow(phrases.keys, phrases.nexts, root, hash_of_id[i])
    tables = phrases.keys, phrases.nexts, phrases.entry
    return count_phrases(ids, n_words, gram, hash_of_id, *tables, entries_met, stamp, reach)


@numba.njit(cache=True)
def _odd_words(codes, spans, n_words, bits):
    """Share of words that have a sign in them that words have not, or that are one lone ASCII consonant."""
    odd = 0
    for w in range(n_words):
        if spans[w, 1] - spans[w, 0] == 1:
            code = codes[spans[w, 0]] | 0x20
            odd += 0x61 <= code <= 0x7A and code not in (0x61, 0x65, 0x69, 0x6F, 0x75, 0x79)
    # Such signs are rare: one scan for them, past the ends of words, takes less time than one of each word.
    w = 0
    for i in range(spans[0, 0], spans[n_words - 1, 1]) if n_words else range(0):
        code = codes[i]
        if code < 0x80:
            if not ODD[code]:
                continue
        elif not bits[code] & SPECIAL or bits[code] & SPACE or 0x2010 <= code <= 0x2019:
            continue
        while w < n_words and spans[w, 1] <= i + 1:
            w += 1
        if w < n_words and spans[w, 0] < i:
            odd += 1
            w += 1
    return _share(odd, n_words)


@numba.njit(cache=True)
def _characters(codes, n, n_words, bits, script_of, script, out):  # noqa: PLR0917
    """Special characters, letters by script, symbols, and whitespace-delimited tokens with a letter."""
    special = letters = of_script = hashes = ellipses = newlines = tokens = alphabetic_tokens = dots = curly = 0
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
        curly += code == CURLY_BRACKET
        dots = dots + 1 if code == DOT else 0
        ellipses += code == ELLIPSIS or (dots > 0 and dots % 3 == 0)
    alphabetic_tokens += has_letter
    out[SPECIAL_RATIO] = _share(special, n)
    out[CURLY_BRACKETS], out[CURLY_WORDS] = curly, _share(curly, n_words)
    out[SYMBOL_WORD_RATIO] = _share(max(hashes, ellipses), n_words)
    out[ALPHABETIC_WORDS] = _share(alphabetic_tokens, tokens)
    out[NEWLINE_WORDS] = _share(newlines, n_words)
    out[SCRIPT_SHARE] = _share(of_script, letters) if script else 1.0

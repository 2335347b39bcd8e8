"""The signals: one number per document each, measured for every document; a policy puts bounds on them.

Terms. *Character*: code point of the edited text. *Special*: see `curation.text.characters`. *Word*: what stands between
whitespace, special characters trimmed off both ends, lower-cased; Thai, Lao, Khmer, Burmese, Han and kana are cut into words
by dictionary (`curation.text.words`). *Cluster*: a word too, but in scripts without spaces a letter with its marks. *Line*: what
stands between newlines, stripped, empty ones left out. *Paragraph*: lines between empty lines. *Sentence*: what has a letter or
digit and ends in `. ! ? …` before whitespace, in `。！？｡។៕။`, or with its line. A share of nothing is 0.
Sources: SailCraft (filtering.py), Gopher (Rae et al. 2021, A1.1), C4 (Raffel et al. 2020; lines of fewer than 3 words and
paragraphs of 200 characters as datatrove reads it), FineWeb (Penedo et al. 2024).
"""

from __future__ import annotations

import pyarrow as pa

_INT, _REAL = pa.int32(), pa.float32()

_TABLE = (
    # SailCraft
    ("word_count", _INT, "words"),
    (
        "char_repetition",
        _REAL,
        "share of the k most frequent among character n-grams; k = min(sqrt distinct, repeated ones)",
    ),
    ("word_repetition", _REAL, "share of word n-grams that occur more than once"),
    ("special_ratio", _REAL, "special characters / characters"),
    ("stopword_ratio", _REAL, "words that are stop words / words; null without a list"),
    (
        "flagged_ratio",
        _REAL,
        "(distinct flagged entries found + clusters in them) / clusters, at most 1; null without a list",
    ),
    # Gopher quality
    ("mean_word_length", _REAL, "characters per word"),
    ("symbol_word_ratio", _REAL, "hash signs or ellipses, whichever are more, per word"),
    ("bullet_line_share", _REAL, "lines that start with a bullet"),
    ("ellipsis_line_share", _REAL, "lines that end in an ellipsis"),
    ("alphabetic_word_share", _REAL, "whitespace-delimited tokens with at least one letter"),
    ("stopword_kinds", _INT, "different stop words found; null without a list"),
    # Gopher repetition; duplicate lines also C4, FineWeb
    ("duplicate_line_share", _REAL, "lines equal to an earlier one / lines"),
    ("duplicate_line_char_share", _REAL, "characters of these lines / characters of lines"),
    ("duplicate_paragraph_share", _REAL, "paragraphs equal to an earlier one / paragraphs"),
    ("duplicate_paragraph_char_share", _REAL, "characters of these paragraphs / characters of paragraphs"),
    *(
        (f"top_{n}gram_char_share", _REAL, f"word characters of the most frequent repeated {n}-gram / characters")
        for n in (2, 3, 4)
    ),
    *(
        (
            f"duplicate_{n}gram_char_share",
            _REAL,
            f"word characters of {n}-grams met before, none counted twice / characters",
        )
        for n in range(5, 11)
    ),
    # C4 and FineWeb
    ("terminal_line_share", _REAL, "lines that end in terminal punctuation"),
    ("short_line_share", _REAL, "lines of at most 30 characters"),
    ("newline_word_ratio", _REAL, "newlines per word"),
    # C4
    ("sentence_count", _INT, "sentences"),
    ("few_word_line_share", _REAL, "lines of fewer than 3 words"),
    ("long_line_count", _INT, "lines of at least 200 characters"),
    ("longest_word", _INT, "characters of the longest word"),
    ("javascript_line_share", _REAL, "lines with 'javascript'"),
    (
        "policy_line_share",
        _REAL,
        "lines with 'terms of use', 'privacy policy', 'cookie policy' or '(uses, use, use of) cookies'",
    ),
    ("lorem_ipsum", _INT, "times that 'lorem ipsum' occurs"),
    ("curly_brackets", _INT, "opening curly brackets"),
    # Ours
    ("curly_bracket_word_ratio", _REAL, "opening curly brackets per word"),
    (
        "notice_word_share",
        _REAL,
        "words at most 6 (clusters: 10) from a phrase of error, consent and login pages; 0 with fewer than 4 phrases "
        "(in short texts 3), or above 500 words",
    ),
    (
        "menu_letter_share",
        _REAL,
        "letters in runs of 5 or more items / letters; item: at most 3 words (unspaced: 5) without digit or punctuation",
    ),
    (
        "odd_word_share",
        _REAL,
        "words, of the first 1,000, with a sign in them that words have not, or of one consonant / words",
    ),
    (
        "word_order",
        _REAL,
        "how far words follow each other as in the language: 0 by chance, 1 as usual; null where it was not learnt",
    ),
    ("script_share", _REAL, "letters of the language's script / letters"),
    ("n_chars", _INT, "characters"),
    ("n_bytes", _INT, "UTF-8 bytes"),
    ("n_lines", _INT, "lines"),
)

_LATER = (
    (
        "perplexity",
        _REAL,
        "perplexity per piece under the language's n-gram model (curation.lm.perplexity); null without a model",
    ),
)

MEANING = {name: meaning for name, _, meaning in (*_TABLE, *_LATER)}
"""Signal -> what it measures."""

SIGNALS = tuple(MEANING)
"""Names of the signals, in the order of their columns."""

MEASURED = tuple(name for name, _, _ in _TABLE)
"""Those that one pass over the text measures; the others are null there, and filled in by a file of their own."""

FIELDS = [pa.field(name, kind) for name, kind, _ in (*_TABLE, *_LATER)]
"""The columns that `curation.signals.text_signals` appends."""

NGRAM_SIGNALS = ("char_repetition", "word_repetition")
"""Signals whose n is set per language."""

LIST_SIGNALS = {"stopword_ratio": "stop_words", "stopword_kinds": "stop_words", "flagged_ratio": "flagged_words"}
"""Signals that are null without a list -> the key of that list in a language file."""

"""Signals against values worked out by hand and against a plain twin that shares no code with the kernel."""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
import re
import unicodedata
from collections import Counter

import pyarrow as pa
import pytest
from naive_words import category, words_of
from naive_words import script as naive_script

from curation.policy.keys import Policy
from curation.policy.signal_schema import FIELDS, LIST_SIGNALS, MEASURED, SIGNALS
from curation.signals.text_signals import signals, signals_kernel
from curation.text.form import one_form

PLAIN = Policy("xx", "test", "latin", ngram={"char_repetition": 3, "word_repetition": 2})
LISTS = dataclasses.replace(PLAIN, stop_words=("the", "of", "in the"), flagged_words=("spam", "buy now", "ពនាល់"))


def measure(texts: list[str | None], policy: Policy = PLAIN) -> list[dict]:
    n = len(texts)
    columns = {"doc_id": [str(i) for i in range(n)], "url": [None] * n, "lang": ["xx"] * n, "text": texts}
    schema = pa.schema([(name, pa.string()) for name in columns])
    batch = signals(pa.RecordBatch.from_pydict(columns, schema=schema), {"xx": policy})
    assert batch.schema.names == ["doc_id", "url", "lang", *SIGNALS]
    return batch.to_pylist()


def one(text: str, policy: Policy = PLAIN) -> dict:
    return measure([text], policy)[0]


# ---- values by hand


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "",
            {name: 0 for name in MEASURED if name not in LIST_SIGNALS} | {"perplexity": None, "word_order": None},
        ),
        # five items of two words, in one line or each in its own; the letters of the sentence are no menu
        ("Our team\nNews\nContact\nGift cards\nHelp", {"menu_letter_share": 1.0}),
        ("Our team | News | Contact | Gift cards | Help", {"menu_letter_share": 1.0}),
        ("One\nTwo\nSix\nTen\nThat is all there was to be seen.", {"menu_letter_share": 0.0}),
        ("salt 2 g\nsugar 3 g\nrice 1 kg\noil 9 ml\negg 1\nroot 2", {"menu_letter_share": 0.0}),
        # of 5 words th~e is usual, and wor;d, c|at and the lone x are odd; so are bytes taken for other letters
        ("th~e wor;d c|at x a", {"odd_word_share": 3 / 5}),
        ("d’accord it's a.b 1,000 cafÃ©s you", {"odd_word_share": 1 / 5}),
        ("{a} {b c", {"curly_bracket_word_ratio": 2 / 3, "curly_brackets": 2}),
        # 8 characters; 3-grams aba bab aba bab aba bab: D 2, S 0, k = min(1, 2) = 1: 3 of 6.
        ("abababab", {"n_chars": 8, "word_count": 1, "char_repetition": 3 / 6, "mean_word_length": 8}),
        # D 8, S 8: k = min(2, 0) = 0.
        ("abcdefghij", {"char_repetition": 0.0}),
        # 2-grams: a-b b-a a-b b-c; a-b twice.
        ("A b a B c", {"word_count": 5, "word_repetition": 2 / 4, "top_2gram_char_share": 4 / 9}),
        # six characters, of which space, digit, comma and emoji are special.
        ("ab 1,🙂", {"special_ratio": 4 / 6, "n_bytes": 9, "n_chars": 6, "alphabetic_word_share": 1 / 2}),
        ("# one two # three… # four...", {"symbol_word_ratio": 3 / 4}),
        ("• a\n- b\n\nc d", {"bullet_line_share": 2 / 3, "n_lines": 3, "newline_word_ratio": 3 / 4}),
        (
            "one...\n two…  \nthree.",
            {"ellipsis_line_share": 2 / 3, "terminal_line_share": 1.0, "short_line_share": 1.0},
        ),
        # lines ab, cd, ab, ab: two repeat one, 4 of 8 characters.
        ("ab\ncd\n ab\nab", {"duplicate_line_share": 2 / 4, "duplicate_line_char_share": 4 / 8, "n_lines": 4}),
        # paragraphs "ab cde" (5 characters), "x" and "ab cde" again.
        (
            "ab\ncde\n\nx\n\nab\ncde",
            {
                "duplicate_paragraph_share": 1 / 3,
                "duplicate_paragraph_char_share": 5 / 11,
                "duplicate_line_share": 2 / 5,
            },
        ),
        # words p q r s t twice: the second 5-gram is met before, 5 of 19 characters.
        ("p q r s t p q r s t", {"duplicate_5gram_char_share": 5 / 19, "duplicate_6gram_char_share": 0.0}),
        ("Тест abc", {"script_share": 3 / 7}),
        ("မြန်မာစာ", {"word_count": 2, "n_chars": 8, "n_bytes": 24, "script_share": 0.0, "longest_word": 6}),
        # ฉัน รัก แมว ฉัน รัก: the first two words are the last two.
        ("ฉันรักแมวฉันรัก", {"word_count": 5, "word_repetition": 2 / 4, "mean_word_length": 3.0}),
        ("我爱我爱", {"word_count": 4, "word_repetition": 2 / 3}),
        ("Is it 3.5? Yes... it is!\nNo\n。。", {"sentence_count": 4, "few_word_line_share": 2 / 3}),
        ("他走了。她笑了！", {"sentence_count": 2}),
        ("ເຂົາໄປ. ລາວມາ", {"sentence_count": 2}),
        (
            "Please enable JavaScript {here}\nPrivacy Policy\nWe use cookies\nwe use  cookies\nLorem ipsum lorem ipsum",
            {"javascript_line_share": 1 / 5, "policy_line_share": 2 / 5, "lorem_ipsum": 2, "curly_brackets": 1},
        ),
        ("x" * 199 + "\n" + "y" * 200, {"long_line_count": 1, "longest_word": 200}),
    ],
)
def test_by_hand(text, expected):
    got = one(text)
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_lists():
    # "in the" counts as two stop words, and the longest entry wins over "the" alone: the, of, in the = 4 of 6 words.
    assert one("The end of it in the", LISTS)["stopword_ratio"] == pytest.approx(4 / 6)
    assert one("The end of it in the in the", LISTS)["stopword_kinds"] == 3
    # One entry with two words found: (1 + 2) / 5. "spammer" only contains a flagged word.
    assert one("Buy NOW, dear spammer friend", LISTS)["flagged_ratio"] == pytest.approx(3 / 5)
    assert one("spam spam", LISTS)["flagged_ratio"] == 1.0
    assert one("buy it now", LISTS)["flagged_ratio"] == 0.0
    # Entries in scripts without spaces match inside a line.
    assert one("គាត់ពនាល់អំពី", LISTS)["flagged_ratio"] > 0
    assert one("គាត់និយាយអំពី", LISTS)["flagged_ratio"] == 0


def test_without_lists_their_signals_are_null():
    got = one("the spam of it")
    assert got["stopword_ratio"] is got["stopword_kinds"] is None
    assert got["flagged_ratio"] is None


# ---- a plain twin


def ngrams(items, n: int) -> list[tuple]:
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def share(part, whole) -> float:
    return part / whole if whole else 0.0


def repeats(items: list) -> tuple[int, int]:
    """How many items were met before, and the characters in them; an item is a list of lines."""
    met, count, chars = [], 0, 0
    for item in items:
        if item in met:
            count, chars = count + 1, chars + sum(map(len, item))
        met.append(item)
    return count, chars


POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def sentences(line: str) -> int:
    """Stretches with a letter or digit (x) that end in a mark for all places (s), in one before a space (w), or at the end."""
    kinds = {"special": "-", "mark": "-", "ignored": "-"}
    marks = {**dict.fromkeys(".!?…", "w"), **dict.fromkeys("。！？｡។៕။", "s"), **dict.fromkeys("0123456789", "x")}
    shape = "".join(marks.get(c) or (" " if c.isspace() else kinds.get(category(c), "x")) for c in line)
    return sum("x" in piece for piece in re.split(r"w[^x]* |s", shape))


def menu(text: str) -> float:
    """Letters in runs of five or more items, over letters."""
    runs, total = [0, 0], 0
    in_menus = 0
    for part in [*re.split(r"\n|(?<!\S)[|•·›»‹«>]|[|•·›»‹«>](?!\S)", text), "no item, no"]:
        words = words_of(part)
        if not words:
            continue
        letters = sum(unicodedata.category(c)[0] == "L" for c in part)
        spaced = not any(category(c) == "unspaced" for c in part)
        plain = all(category(c) != "special" or c.isspace() or c in "&'()-/’\"" for c in part)
        if plain and len(part) <= 32 and len(words) <= (3 if spaced else 5):
            runs = [runs[0] + 1, runs[1] + letters]
        else:
            in_menus += runs[1] if runs[0] >= 5 else 0
            runs = [0, 0]
        total += letters if part != "no item, no" else 0
    return share(in_menus, total)


def near(words: list[str], notices: set[str], reach: int) -> float:
    """Words at most `reach` from one of the notices (of one word each), over words.

    0 with fewer than four different, or three in a short text."""
    places = [i for i, word in enumerate(words) if word in notices]
    covered = {j for i in places for j in range(max(0, i - reach), min(len(words), i + reach + 1))}
    least = 3 if len(words) < (40 if reach == 6 else 100) else 4
    return share(len(covered), len(words)) if len({words[i] for i in places}) >= least else 0.0


def odd(word: str) -> bool:
    if len(word) == 1:
        return word in "bcdfghjklmnpqrstvwxz"
    usual = "-'./@_:&+=#%,~0123456789‐‑‒–—―‖‗‘’"
    return any(category(c) == "special" and c not in usual for c in word[1:-1])


def twin(
    text: str, *, char_n: int, word_n: int, stop: set[str], flagged: set[str], notices: set[str], script: str
) -> dict:
    words = words_of(text)
    lines = [line.strip() for line in text.split("\n")]
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line:
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    paragraphs = [p for p in paragraphs if p]
    lines = [line for line in lines if line]
    letters = [c for c in text if unicodedata.category(c)[0] == "L"]
    grams = Counter(ngrams(text.replace("\n", " "), char_n))
    k = min(math.isqrt(len(grams)), sum(c > 1 for c in grams.values()))
    word_grams = Counter(ngrams(words, word_n))
    tokens = text.split()
    clusters = words_of(text, segmented=False)
    found = [w for w in clusters if w in flagged]
    out = {
        "word_count": len(words),
        "char_repetition": share(sum(sorted(grams.values(), reverse=True)[:k]), sum(grams.values())),
        "word_repetition": share(sum(c for c in word_grams.values() if c > 1), sum(word_grams.values())),
        "special_ratio": share(sum(category(c) == "special" for c in text), len(text)),
        "stopword_ratio": share(sum(w in stop for w in words), len(words)),
        "flagged_ratio": min(1.0, share(len(found) + len(set(found)), len(clusters))),
        "stopword_kinds": len(stop & set(words)),
        "mean_word_length": share(sum(map(len, words)), len(words)),
        "symbol_word_ratio": share(max(text.count("#"), text.count("…") + text.count("...")), len(words)),
        "bullet_line_share": share(sum(line[0] in "•-*–—·" for line in lines), len(lines)),
        "ellipsis_line_share": share(sum(line.endswith(("...", "…")) for line in lines), len(lines)),
        "alphabetic_word_share": share(sum(any(c.isalpha() for c in t) for t in tokens), len(tokens)),
        "terminal_line_share": share(sum(line[-1] in ".!?…។။。\"'ฯ" for line in lines), len(lines)),
        "short_line_share": share(sum(len(line) <= 30 for line in lines), len(lines)),
        "newline_word_ratio": share(text.count("\n"), len(words)),
        "sentence_count": sum(map(sentences, lines)),
        "few_word_line_share": share(sum(len(words_of(line)) < 3 for line in lines), len(lines)),
        "long_line_count": sum(len(line) >= 200 for line in lines),
        "longest_word": max(map(len, words), default=0),
        "javascript_line_share": share(sum("javascript" in line.lower() for line in lines), len(lines)),
        "policy_line_share": share(sum(any(p in line.lower() for p in POLICY) for line in lines), len(lines)),
        "lorem_ipsum": text.lower().count("lorem ipsum"),
        "curly_brackets": text.count("{"),
        "curly_bracket_word_ratio": share(text.count("{"), len(words)),
        "notice_word_share": near(clusters, notices, 10 if clusters != words or cut(text) else 6)
        if len(words) <= 500
        else 0,
        "menu_letter_share": menu(text),
        "odd_word_share": share(sum(map(odd, words[:1000])), len(words[:1000])),
        "script_share": share(sum(unicodedata.name(c, "").startswith(script) for c in letters), len(letters)),
        "n_chars": len(text),
        "n_bytes": len(text.encode()),
        "n_lines": len(lines),
    }
    for name, items in (("line", [[line] for line in lines]), ("paragraph", paragraphs)):
        count, chars = repeats(items)
        out[f"duplicate_{name}_share"] = share(count, len(items))
        out[f"duplicate_{name}_char_share"] = share(chars, sum(len(line) for item in items for line in item))
    for n in range(2, 5):
        counts = Counter(ngrams(words, n))
        best = max(((c, sum(map(len, g))) for g, c in counts.items() if c > 1), default=(0, 0))
        out[f"top_{n}gram_char_share"] = min(1.0, share(best[0] * best[1], len(text)))
    for n in range(5, 11):
        seen, i, chars = set(), 0, 0
        all_grams = ngrams(words, n)
        while i < len(all_grams):
            if all_grams[i] in seen:
                chars += sum(map(len, all_grams[i]))
                i += n
            else:
                seen.add(all_grams[i])
                i += 1
        out[f"duplicate_{n}gram_char_share"] = share(chars, len(text))
    return out


def cut(text: str) -> bool:
    """Whether a dictionary cuts words of the text."""
    return any(category(c) == "unspaced" and naive_script(c) for c in text)


ALPHABETS = {
    "LATIN": "aábcdeEnÑoőưz'-1",
    "THAI": "กขคาิ่้์เไ๑ฯ",
    "LAO": "ກຂຄາິ່້ເໄ໑",
    "KHMER": "កខគា្េ់១។\u200b",
    "MYANMAR": "ကခဂာိ့်ျ၁။",
    "CJK": "的一是不了中文。a1",
}
SHARED = [" "] * 6 + [
    "\n",
    "\n\n",
    ".",
    "...",
    "…",
    "#",
    "• ",
    "- ",
    "🙂",
    "\u0301",
    "\ufe0f",
    "\u200b",
    "x",
    "\u00a0",
    "*",
    "{",
    "! ",
    '."',
    "。",
    "JavaScript",
    " privacy Policy ",
    "use of cookies",
    "lorem ipsum",
    "x" * 12,
]


def random_text(rng: random.Random, alphabet: str) -> str:
    """Words from a small vocabulary, phrases, lines and paragraphs that repeat, and what breaks naive splitting."""
    vocabulary = ["".join(rng.choices(alphabet, k=rng.randint(1, 5))) for _ in range(rng.randint(2, 12))]
    parts: list[str] = []
    for _ in range(rng.randint(0, 120)):
        if parts and rng.random() < 0.15:
            start = rng.randrange(len(parts))
            parts += parts[start : start + rng.randint(1, 30)]
        parts.append(rng.choice(vocabulary) + rng.choice(["", " "]) if rng.random() < 0.6 else rng.choice(SHARED))
    return "".join(parts)


def random_menu(rng: random.Random, alphabet: str) -> str:
    """Short lines, some of several words, with a figure or a mark."""
    alphabet = "".join(c for c in alphabet if category(c) != "special")
    items = []
    for _ in range(rng.randint(3, 25)):
        words = ["".join(rng.choices(alphabet, k=rng.randint(1, 5))) for _ in range(rng.choice([1, 1, 1, 2, 3, 4]))]
        items.append(" ".join(words) + rng.choice([""] * 20 + [" & x", " 3", "."]))
    return "".join(item + rng.choice(["\n", "\n", " | ", " · ", "› ", "›"]) for item in items)


@pytest.mark.parametrize("script", ALPHABETS)
@pytest.mark.parametrize(("char_n", "word_n"), [(10, 5), (3, 1), (2, 15)])
def test_equals_the_twin(script, char_n, word_n):
    rng = random.Random(f"{script} {char_n}")
    texts = ["", " ", "\n\n", "\u0301", *(random_text(rng, ALPHABETS[script]) for _ in range(120))]
    texts += [random_menu(rng, ALPHABETS[script]) for _ in range(30)]
    texts = [one_form(text) for text in texts]  # as all that is measured
    vocabulary = sorted({w for text in texts for w in words_of(text) if w == one_form(w)})
    usable = [w for w in vocabulary if words_of(w) == [w]]
    clusters = sorted({c for text in texts for c in words_of(text, segmented=False) if words_of(c, False) == [c]})
    clusters = [c for c in clusters if c == one_form(c)]
    stop, flagged = set(rng.sample(usable, len(usable) // 3)), set(rng.sample(clusters, len(clusters) // 8))
    notices = set(rng.sample(clusters, len(clusters) // 3))
    name = "han" if script == "CJK" else script.lower()
    policy = Policy(
        *("xx", "test", name),
        ngram={"char_repetition": char_n, "word_repetition": word_n},
        stop_words=tuple(sorted(stop)),
        flagged_words=tuple(sorted(flagged)),
        notice_phrases=tuple(sorted(notices)),
    )
    got = measure(texts, policy)
    repeated = notice = in_menu = 0
    for text, row in zip(texts, got, strict=True):
        lists = {"stop": stop, "flagged": flagged, "notices": notices}
        expected = twin(text, char_n=char_n, word_n=word_n, script=script, **lists)
        assert set(expected) == set(MEASURED) - {"word_order"}
        notice += expected["notice_word_share"] > 0
        in_menu += expected["menu_letter_share"] > 0
        assert {k: row[k] for k in expected} == pytest.approx(expected, abs=1e-6), repr(text)
        repeated += expected["duplicate_5gram_char_share"] > 0
    assert repeated > 20, "the random texts must exercise repetition"
    assert notice > 10 and in_menu


# ---- batches


def test_a_batch_of_many_is_each_alone():
    texts = ["long " * 500, None, "x", "", "ภาษา " * 9, "b c b c"]
    together = measure(texts)
    for i, text in enumerate(texts):
        assert {**together[i], "doc_id": "0"} == measure([text])[0]


def test_sliced_batches_are_read_at_their_offset():
    columns = {
        "doc_id": ["a", "b", "c"],
        "url": ["", "", ""],
        "lang": ["en", "en", "th"],
        "text": ["no", "two words", "ไทย"],
    }
    batch = pa.record_batch(columns)
    assert signals(batch.slice(1)).equals(signals(batch).slice(1))


def test_kernel_edits_measures_and_drops_nothing():
    columns = {
        "doc_id": ["a", "b"],
        "url": ["u", None],
        "text": ["see  http://x.com now", None],
        "lang": ["en", "qq"],
        "lang_score": [0.9, 0.8],
    }
    kernel = pickle.loads(pickle.dumps(signals_kernel(["en", "th"])))
    kept, ledger = kernel(pa.record_batch(columns))
    assert kept["text"].to_pylist() == ["see now", None]
    assert kept.schema.names == [*columns, *SIGNALS]
    assert [kept.schema.field(f.name).type for f in FIELDS] == [f.type for f in FIELDS]
    assert kept["word_count"].to_pylist() == [2, 0]
    assert ledger.num_rows == 0


def test_empty_batch():
    schema = pa.schema([(name, pa.string()) for name in ("doc_id", "url", "text", "lang")])
    kept, _ = signals_kernel(["en"])(pa.RecordBatch.from_pylist([], schema=schema))
    assert kept.num_rows == 0
    assert set(SIGNALS) <= set(kept.schema.names)

"""Our byte-level BPE against `tokenizers` (and tiktoken for Qwen's vocabulary): the same ids, whatever the text."""

from __future__ import annotations

import gzip
import json
import os
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiktoken_ranks as ranks
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mixture.bpe import encode, nfc, piece_cache
from mixture.bpe.patterns import GPT2, LLAMA3, QWEN2, RULES
from mixture.tokenizer import tokenizer
from mixture.tokenizer.encoder import Encoder

SENTENCES = {
    "en": "The harbour was quiet in 2024, and it's said that the boats stayed in; I'LL ask 'em, we've DON'T.",
    "id": "Perahu-perahu itu tidak berlayar malam ini karena ombaknya tinggi, kata nelayan (Pak Hasan).",
    "ms": "Nelayan itu menjual ikannya di pasar pada waktu pagi; harganya RM12.50 sekilo.",
    "jv": "Prau-prau cilik padha mandheg ing pelabuhan sewengi muput amarga ombaké gedhé.",
    "su": "Parahu leutik teu balayar peuting ieu lantaran ombakna luhur, ceuk pamayang.",
    "tl": "Hindi pumalaot ang mga bangka ngayong gabi dahil mataas ang mga alon.",
    "ceb": "Wala molawig ang mga sakayan karong gabii kay dagko ang mga balod.",
    "ilo": "Saan a nagpalawan dagiti bangka ita a rabii ta dadakkel dagiti dalluyon.",
    "war": "Waray lumawod an mga sakayan yana nga gab-i kay dagko an mga balud.",
    "vi": "Những chiếc thuyền nhỏ nằm im trên bến cảng suốt đêm vì sóng lớn.",
    "th": "เรือเล็กจอดนิ่งอยู่ที่ท่าเรือตลอดทั้งคืนเพราะคลื่นสูง ๒๕๖๗",
    "lo": "ເຮືອນ້ອຍຈອດຢູ່ທ່າເຮືອຕະຫຼອດຄືນ ຍ້ອນຄື້ນສູງ",
    "km": "ទូកតូចៗចតនៅកំពង់ផែពេញមួយយប់ ព្រោះរលកធំ។",
    "my": "လှေငယ်များသည် ဆိပ်ကမ်းတွင် တစ်ညလုံး ရပ်နားခဲ့သည်။ ညနေ့ဦး",
    "zh": "小船整夜停在港口，因为浪太高了。２０２４年，「颱風」過後。",
}
ODD = [
    "",
    " ",
    "\n",
    "a",
    "\r\n \r\n\t x\u3000y\u00a0\u2028\u0085z  \n\n  ",
    "it'ſ IT'S 'Re'VE'lL '' 's 'x ' ''t",
    "🚢🏝️👨‍👩‍👧‍👦🇹🇭 e\u0301te\u0301 \u202e\u200b½²Ⅷ٣٤ \ufeff\ufffd\x00\x01\x7f",
    "ka\u0323\u0301 \u1025\u102e \u1010\u103a\u1037 \u1112\u1161\u11ab \u0e19\u0e49\u0e33 \u212b\ufb1d\U0001d15e",
    "é" * 3000 + "e\u0301" * 3000,
    " " * 5000 + "\n" * 5000 + " \n" * 3000 + "x" + " " * 3000,
    "7" * 5000 + "a" * 20_000 + "!" * 5000 + "中" * 5000,
    "\u0301\u0323" * 2000,
]
CACHED = Path.home() / ".cache/pinisi/vocabularies/qwen.tiktoken"


def qwen() -> list[bytes]:
    if not CACHED.exists():
        pytest.skip("no Qwen vocabulary: benchmarks/mixture_tokenizer.py fetches it")
    return ranks.read(str(CACHED))


def words(seed: int, n: int) -> list[str]:
    rng = np.random.default_rng(seed)
    every = [word for text in SENTENCES.values() for word in text.split()]
    return [" ".join(rng.choice(every, 40)) for _ in range(n)]


def fuzz(seed: int, n: int) -> list[str]:
    """Texts of random code points: of all planes, of scripts that we meet, of what the expressions tell apart."""
    rng = random.Random(seed)
    planes = [range(0x20, 0x3000), range(0x3000, 0xD800), range(0xE000, 0x30000), range(0x30000, 0x110000)]
    ours = [*range(0xE00, 0xF00), *range(0x1000, 0x1100), *range(0x1780, 0x1800), *range(0x1E00, 0x2000)]
    marks = [c for c in range(0x300, 0x3100) if nfc.tables().info[c]]
    apart = [ord(c) for c in "aZéÑ1٣½ \t\n\r\u3000\u00a0\u2028\x0b\x1c'sStTmdRevlLſ.,-_!🚢\u200d"]
    texts = []
    for _ in range(n):
        sets = [ours, marks, apart, apart, range(0x20, 0x7F), rng.choice(planes)]
        texts.append("".join(chr(rng.choice(rng.choice(sets))) for _ in range(rng.randint(1, 60))))
    return texts


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("bpe") / "tokenizer")
    tokenizer.train_bpe(iter(words(0, 400) + ODD[:8]), 1500, folder)
    return tokenizer.load(folder)


def variant(trained, pattern, *, form=None, ignore_merges=False, added=(), only_byte_level=False):
    """The trained merges, or none of the last of them, in a tokenizer of another kind."""
    model = json.loads(trained.backend_tokenizer.to_str())["model"]
    pairs = [tuple(pair) for pair in model["merges"]]
    pairs = pairs[:-100] if ignore_merges else pairs  # so that the last 100 tokens can not be reached by merges
    one = Tokenizer(models.BPE(vocab=model["vocab"], merges=pairs, ignore_merges=ignore_merges))
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=only_byte_level)
    one.pre_tokenizer = last if only_byte_level else pre_tokenizers.Sequence([split, last])
    if form:
        one.normalizer = form
    one.add_tokens([AddedToken(text, normalized=False, special=False) for text in added])
    return PreTrainedTokenizerFast(tokenizer_object=one)


def same(one, texts: list[str]) -> int:
    encoder = Encoder(one)
    assert encoder.fast is not None
    ours = encoder.encode(pa.array(texts, pa.string())).to_pylist()
    theirs = [ids.tolist() for ids in tokenizer.encode(one, texts)]
    for text, a, b in zip(texts, ours, theirs, strict=True):
        assert a == b, ascii(text[:200])
    return sum(map(len, ours))


def test_every_language_and_every_odd_text(trained):
    assert same(trained, [*SENTENCES.values(), *ODD, *words(1, 50)]) > 3000
    assert same(trained, []) == 0


def test_random_unicode(trained):
    same(trained, fuzz(1, 6000))


@pytest.mark.parametrize("pattern", list(RULES))
def test_the_other_families(trained, pattern):
    texts = [*SENTENCES.values(), *ODD, *fuzz(2, 2000)]
    same(variant(trained, pattern), texts)
    same(variant(trained, pattern, form=normalizers.NFC()), texts)
    same(variant(trained, GPT2, only_byte_level=True), texts[:1000])


def test_pieces_that_are_tokens_without_merges(trained):
    one = variant(trained, LLAMA3, ignore_merges=True)
    fast = encode.ByteLevelBPE.of(one)
    assert len(fast.whole_ids) >= 90
    texts = [*words(3, 100), *SENTENCES.values()]
    same(one, texts)
    used = {i for ids in tokenizer.encode(one, texts) for i in ids.tolist()}
    assert used & set(fast.whole_ids.tolist())  # the texts do hold some


@pytest.mark.slow
def test_words_of_a_megabyte(trained):
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghกขคงစကលូ中"))
    same(trained, ["x" * 1_000_000, "".join(rng.choice(letters, 100_000)), " " * 1_000_000, "\u0301" * 100_000])


@pytest.mark.slow
def test_more_pieces_than_the_cache_holds(trained):
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnop"))
    text = " ".join("".join(row) for row in rng.choice(letters, (piece_cache.ROWS * 4 // 5, 8)))
    texts = [text, text[:200_000], " ".join(["perahu"] * 1000), "ក" * 20]
    encoder = Encoder(trained)
    ours = encoder.encode(pa.array(texts)).to_pylist()
    assert 0 < encoder.fast.cache.used[0] < piece_cache.ROWS // 2  # it was emptied on the way
    assert ours == [ids.tolist() for ids in tokenizer.encode(trained, texts)]


def test_tokens_that_stand_in_a_text(trained):
    """Special ones are letters; others that were added are those tokens, as `tokenizers` has it."""
    one = variant(trained, QWEN2, form=normalizers.NFC(), added=("<tool_call>", "Å"))
    texts = [
        "a <|im_start|> b <|endoftext|>",
        "x<tool_call>y <tool_call",
        "A\u030a stands",
        "Å stands",
        "none",
        "\u212b",
    ]
    same(one, texts)
    same(trained, texts)
    added = one.convert_tokens_to_ids("<tool_call>")
    (ids,) = Encoder(one).encode(pa.array(texts[1:2])).to_pylist()
    assert added in ids
    (ids,) = Encoder(trained).encode(pa.array(texts[:1])).to_pylist()
    assert not {0, 1, 2} & set(ids)


def test_nfc_of_every_code_point_and_of_marks_in_any_order():
    form, reference = nfc.tables(), normalizers.NFC()
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    rng = random.Random(0)
    hot = [c for c in every[:0x30000] if form.info[ord(c)] or form.start[ord(c)] >= 0]
    bases = [normalizers.NFD().normalize_str(c)[0] for c in hot]
    hangul = [chr(c) for c in [*range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A7, 0x11C3), 0xAC00, 0xAC01]]
    texts = ["".join(every[i : i + 5000]) for i in range(0, len(every), 5000)]
    texts += [
        "".join(rng.choice(rng.choice([hot, bases, hangul, "a \n1ကဥ"])) for _ in range(rng.choice([3, 8, 12, 60])))
        for _ in range(30_000)
    ]
    data, offsets = nfc.normalise(*encode.buffers(pa.array(texts)), form)
    for i, text in enumerate(texts):
        assert data[offsets[i] : offsets[i + 1]].tobytes().decode() == reference.normalize_str(text), ascii(text)


@pytest.mark.parametrize("pattern", list(RULES))
def test_columns_in_slices_with_nulls(trained, pattern):
    one = variant(trained, pattern)
    texts = pa.chunked_array([pa.array(["skipped", "perahu", None, "เรือ 12"]).slice(1), pa.array(["", "小船"])])
    expected = [ids.tolist() for ids in tokenizer.encode(one, ["perahu", "", "เรือ 12", "", "小船"])]
    encoder = Encoder(one)
    assert encoder.encode(texts).to_pylist() == expected
    for column in (texts.combine_chunks(), texts.combine_chunks().cast(pa.large_string())):
        assert encoder.encode(column.slice(2, 2)).to_pylist() == expected[2:4]


def test_what_is_not_supported_is_left_to_tokenizers(trained, caplog):
    one = variant(trained, QWEN2, form=normalizers.NFKC())
    encoder = Encoder(one)
    assert encoder.fast is None
    assert "NFKC" in caplog.text
    texts = ["ﬁsh ２", "perahu"]
    assert encoder.encode(pa.array(texts)).to_pylist() == [ids.tolist() for ids in tokenizer.encode(one, texts)]
    with pytest.raises(ValueError, match=r"dropout.*NFKC"):
        Encoder(one, dropout=0.1)
    assert Encoder(variant(trained, r"\S+|\s+")).fast is None


def test_bytes_that_are_no_utf8_come_back(trained):
    """Arrow files of others may hold them; they are only bytes, and harm neither the process nor the text beside them."""
    rng = np.random.default_rng(0)
    raw = [rng.integers(0, 256, int(n), dtype=np.uint8).tobytes() for n in rng.integers(0, 40, 3000)]
    raw += [b"\xf4", b"a\xe0", b"\xff" * 300, b"\xcc", b"perahu"]
    column = pa.Array.from_buffers(pa.string(), len(raw), pa.array(raw, pa.binary()).buffers())
    for form in (None, normalizers.NFC()):
        one = variant(trained, QWEN2, form=form)
        fast, symbols = encode.ByteLevelBPE.of(one), encode.byte_symbols()
        spelt = {i: bytes(symbols[c] for c in t) for t, i in one.get_vocab().items() if all(c in symbols for c in t)}
        ids, ends = fast.encode(column)
        texts = [b"".join(spelt[i] for i in ids[a:b].tolist()) for a, b in pairwise(ends)]
        assert texts[-1] == b"perahu"
        if form is None:
            assert texts == raw


@pytest.mark.slow
def test_qwen_s_vocabulary_against_tokenizers_and_tiktoken():
    import tiktoken

    tokens = qwen()
    byte_ids, pairs, products = ranks.merges(tokens)
    symbol = {byte: char for char, byte in encode.byte_symbols().items()}
    names = ["".join(symbol[byte] for byte in token) for token in tokens]
    merges = [(names[a], names[b]) for a, b in pairs.tolist()]
    backend = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    texts = [*SENTENCES.values(), *ODD, *words(4, 200), *fuzz(4, 3000)]
    same(PreTrainedTokenizerFast(tokenizer_object=backend), texts)
    reference = tiktoken.Encoding(
        "qwen", pat_str=QWEN2, mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens={}
    )
    fast = encode.ByteLevelBPE(byte_ids, pairs, products, in_nfc=False)
    plain = [*SENTENCES.values(), *words(5, 200)]
    ids, ends = fast.encode(pa.array(plain))
    for text, start, end in zip(plain, ends[:-1], ends[1:], strict=True):
        assert ids[start:end].tolist() == reference.encode_ordinary(text)


def test_real_data(trained):
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "text").is_dir():
        pytest.skip("PINISI_SAMPLE_DIR has no real text")
    tokens = 0
    for path in sorted(Path(folder, "text").glob("*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            texts = [json.loads(line)["text"] for line, _ in zip(lines, range(150), strict=False)]
        tokens += same(trained, texts)
    assert tokens > 100_000


def dropped(one, text: str, p: float, times: int) -> list[list[int]]:
    encoder = Encoder(one, dropout=p, seed=3)
    return encoder.encode(pa.array([text] * times), pa.array([f"doc-{i}" for i in range(times)])).to_pylist()


def test_dropout_at_its_ends(trained):
    texts = pa.array([*SENTENCES.values(), "<|im_end|>"])
    ids = pa.array([str(i) for i in range(len(texts))])
    assert Encoder(trained, dropout=0.0).encode(texts, ids) == Encoder(trained).encode(texts)
    spelt = [
        [trained.get_vocab()[c] for c in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(t)[0][0]]
        for t in map(nfc.text, texts.to_pylist())
    ]
    assert Encoder(trained, dropout=1.0).encode(texts, ids).to_pylist() == spelt


def test_dropout_spells_the_text_and_depends_on_document_and_seed_alone(trained):
    texts, ids = list(SENTENCES.values()), list(SENTENCES)
    encoder = Encoder(trained, dropout=0.3, seed=1)
    whole = encoder.encode(pa.array(texts), pa.array(ids)).to_pylist()
    assert [trained.decode(tokens) for tokens in whole] == [nfc.text(text) for text in texts]
    parts = [encoder.encode(pa.array([t]), pa.array([i])).to_pylist()[0] for t, i in zip(texts, ids, strict=True)]
    assert parts == whole
    assert Encoder(trained, dropout=0.3, seed=2).encode(pa.array(texts), pa.array(ids)).to_pylist() != whole
    assert encoder.encode(pa.array(texts), pa.array(ids[::-1])).to_pylist() != whole


def test_dropout_is_distributed_as_that_of_tokenizers(trained):
    """Chi-square of two samples over the ways to spell one word; another probability is told apart by the same test."""
    from collections import Counter

    from scipy.stats import chi2_contingency

    text, times = " pelabuhan", 6000

    def theirs(p: float) -> Counter:
        model = trained.backend_tokenizer.model
        model.dropout = p
        try:
            return Counter(tuple(ids.tolist()) for ids in tokenizer.encode(trained, [text] * times))
        finally:
            model.dropout = None

    def likelihood(a: Counter, b: Counter) -> float:
        common = [k for k in a | b if a[k] + b[k] >= 40]
        rest = [sum(c.values()) - sum(c[k] for k in common) for c in (a, b)]
        table = np.array([[a[k] for k in common], [b[k] for k in common]])
        table = np.column_stack([table, rest]) if sum(rest) else table
        return chi2_contingency(table).pvalue

    ours = Counter(map(tuple, dropped(trained, text, 0.3, times)))
    assert len(ours) > 10
    assert likelihood(ours, theirs(0.3)) > 1e-5
    assert likelihood(ours, theirs(0.35)) < 1e-5


def test_more_whole_tokens_than_the_cache_holds_are_refused():
    """A full cache forgets, and a whole token that is forgotten would be cut into bytes without a word."""
    nothing = np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    for n, fits in ((1000, True), (200_000, False)):
        whole = {i.to_bytes(4, "big"): 256 + i for i in range(n)}
        if fits:
            assert encode.ByteLevelBPE(np.arange(256), *nothing, whole=whole).cache.used[0] == n
        else:
            with pytest.raises(encode.Unsupported, match="200,000 tokens that no merges lead to"):
                encode.ByteLevelBPE(np.arange(256), *nothing, whole=whole)

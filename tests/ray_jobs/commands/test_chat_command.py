"""`pinisi chat`: what a model says, as it says it, with a draft and without."""

import copy
import io

import pytest
import torch
from transformers import AutoTokenizer

from cluster import document_tokens
from mixture.tokenizer import anchor as anchors
from mixture.tokenizer.tokenizer import with_chat_template
from ray_jobs import cli
from ray_jobs.commands import chat
from ray_jobs.errors import UserError
from ray_jobs.run import adopted
from train import model
from train.drafts import glide, speculative
from train.generation.generate import stop_ids

QUESTIONS = ["Sugeng enjing, pripun?", "สวัสดีครับ น้ำ", "မြန်မာစာ", "ភាសាខ្មែរ", "ສະບາຍດີ", "你好，世界", "👩‍👩‍👧 ok"]
TEXTS = ["Sugeng enjing", "สวัสดีครับ น้ำ", "မြန်မာစာ", "ភាសាខ្មែរ", "你好，世界", "👩‍👩‍👧 ok", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_become_whole_characters_at_once(text):
    """One token a byte, as a tokenizer without merges has it."""
    shown: list[str] = []
    hear = chat.Streamed(lambda ids: bytes(ids).decode("utf-8", "replace"), shown.append)
    for byte in text.encode():
        hear([byte])
    hear.end()
    assert "".join(shown) == text
    assert all(chat.BROKEN not in piece for piece in shown) and len(shown) == len(text)


def test_what_never_becomes_a_character_is_shown_at_the_end():
    shown: list[str] = []
    hear = chat.Streamed(lambda ids: bytes(ids).decode("utf-8", "replace"), shown.append)
    hear([*b"a", 0xE0])
    assert shown == ["a"]
    hear.end()
    assert "".join(shown) == f"a{chat.BROKEN}"


@pytest.fixture
def run(tmp_path, chatml_tokenizer, tiny_model):
    net = tiny_model(vocab_size=len(chatml_tokenizer))
    model.save(net, chatml_tokenizer, str(tmp_path / "export/chat"), 128)
    glide.save(glide.Glide(net, torch.arange(200)), str(tmp_path / "draft/model"), 3)
    return tmp_path


def said(capsys, monkeypatch, arguments, questions="perahu?\n\nikan?\n"):
    monkeypatch.setattr("sys.stdin", io.StringIO(questions))
    with pytest.raises(SystemExit) as exit:
        cli.main(["chat", *map(str, arguments)])
    assert exit.value.code == 0
    return capsys.readouterr().out


def test_answers_are_the_same_with_a_draft(run, capsys, monkeypatch):
    plain = said(capsys, monkeypatch, [run, "--max-new-tokens", 20])
    drafted = said(capsys, monkeypatch, [run, "--max-new-tokens", 20, "--draft"])
    assert plain == drafted and plain.strip()
    assert said(capsys, monkeypatch, [run / "export/chat", "--max-new-tokens", 20]) == plain


def test_a_talk_goes_on(run, capsys, monkeypatch):
    both = said(capsys, monkeypatch, [run, "--max-new-tokens", 12])
    alone = said(capsys, monkeypatch, [run, "--max-new-tokens", 12], "ikan?\n")
    assert not both.endswith(alone)


@pytest.mark.parametrize("anchored", [False, True])
def test_every_script_is_read_and_shown_as_it_is_said(run, capsys, monkeypatch, chatml_tokenizer, anchored):
    """What is shown piece by piece is what plain greedy decoding of the template's tokens gives, also behind an anchor."""
    folder = str(run / "export/chat")
    of = anchors.with_anchor if anchored else with_chat_template
    of(copy.deepcopy(chatml_tokenizer)).save_pretrained(folder)
    net, tokenizer = model.load(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert bool(document_tokens.begin(tokenizer)) == anchored
    for question in QUESTIONS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        assert (ids[0] == anchors.anchor(tokenizer)) == anchored
        (answer,) = speculative.greedy(net, [list(ids)], stop_ids(tokenizer), 24)
        wanted = tokenizer.decode(answer, skip_special_tokens=True)
        for draft in ([], ["--draft"]):
            assert said(capsys, monkeypatch, [run, "--max-new-tokens", 24, *draft], f"{question}\n") == f"{wanted}\n"


def test_an_adopted_model_is_found(run, tmp_path):
    other = tmp_path / "other"
    adopted.write(str(other), {"export": str(run), "draft": str(run)})
    assert chat.model_of(str(other)) == str(run / "export/chat")
    assert chat.draft_of(str(other), "") == str(run / "draft/model")


@pytest.mark.parametrize(
    ("broken", "arguments", "questions", "said"),
    [
        ("", ["--max-new-tokens", 0], "a\n", "an answer has at least one token"),
        ("", ["--draft", "nothing"], "a\n", "--draft: nothing has no draft"),
        ("", [], "<|im_end|> no\n", "this cannot be asked: turn 0 (user) contains <|im_end|>"),
        ("", [], "a " * 600 + "\n", "the model reads 128; begin a new one"),
        ("export/chat/tokenizer.json", [], "a\n", "its tokenizer cannot be read"),
        ("export/chat/model.safetensors", [], "a\n", "export/chat: "),
        ("export/chat/config.json", [], "a\n", "export/chat: "),
        ("draft/model/draft.json", ["--draft"], "a\n", "it is no draft that can be read"),
        ("draft/model/draft.safetensors", ["--draft"], "a\n", "it is no draft that can be read"),
        ("other model", ["--draft"], "a\n", "it is a draft for another model"),
    ],
)
def test_an_error_is_one_sentence_with_exit_code_2(  # noqa: PLR0917
    run, capsys, monkeypatch, tiny_model, chatml_tokenizer, broken, arguments, questions, said
):
    if broken == "other model":
        net = tiny_model(vocab_size=len(chatml_tokenizer), intermediate_size=80)
        model.save(net, chatml_tokenizer, str(run / "export/chat"), 128)
    elif broken:
        (run / broken).write_text("{")
    monkeypatch.setattr("sys.stdin", io.StringIO(questions))
    with pytest.raises(SystemExit) as exit:
        cli.main(["chat", str(run), *map(str, arguments)])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and said in error and error.strip().count("\n") == 0, error


def test_what_is_not_there_is_said(run, tmp_path):
    with pytest.raises(UserError, match="no model of this run is exported"):
        chat.model_of(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"--draft: .* has no draft"):
        chat.draft_of(str(run), str(tmp_path / "nothing"))

"""`pinisi chat`: what a model says, as it says it, with a draft and without."""

import io

import pytest
import torch

from ray_jobs import cli
from ray_jobs.commands import chat
from ray_jobs.errors import UserError
from train import model
from train.drafts import glide

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


def test_what_is_not_there_is_said(run, tmp_path):
    with pytest.raises(UserError, match="no model of this run is exported"):
        chat.model_of(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"--draft: .* has no draft"):
        chat.draft_of(str(run), str(tmp_path / "nothing"))

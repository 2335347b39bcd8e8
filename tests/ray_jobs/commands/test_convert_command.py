import pytest
import torch

from ray_jobs import cli
from train import model


def pinisi(*arguments):
    with pytest.raises(SystemExit) as exit:
        cli.main([str(argument) for argument in arguments])
    return exit.value.code


def test_a_folder_goes_to_a_checkpoint_and_back(tmp_path, tiny_model, chatml_tokenizer, capsys):
    net = tiny_model()
    model.save(net, chatml_tokenizer, str(tmp_path / "hf"), 512)
    assert pinisi("convert", tmp_path / "hf", tmp_path / "checkpoints", "--to-checkpoint") == 0
    flags = ("--like", tmp_path / "hf", "--context", 256)
    assert pinisi("convert", tmp_path / "checkpoints", tmp_path / "out", *flags) == 0
    assert "the training checkpoint of update 0" in capsys.readouterr().out
    again = model.load(str(tmp_path / "out"))
    assert again.config.max_position_embeddings == 256
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), net.parameters(), strict=True))

    assert pinisi("convert", tmp_path, tmp_path / "none") == 2
    assert pinisi("convert", tmp_path, tmp_path / "none", "--to-checkpoint") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "neither a Hugging Face folder" in errors[0] and "has no config.json" in errors[1]

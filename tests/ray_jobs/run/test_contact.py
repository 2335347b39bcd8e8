"""Whom Common Crawl may write to: from the recipe, the environment, the user's file, or asked for once on a terminal."""

import os
import pty
import threading
from types import SimpleNamespace

import pytest
from commoncrawl_run import recipe

from ray_jobs.commands import submit
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import contact, preflight
from ray_jobs.run.run import Run

WEB = "https://data.example.org"


def asks(base=WEB, address=""):
    return recipe(base, {"contact": address})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user without any settings, whose git knows an address."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", contact.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COUNT": "1", "KEY_0": "user.email", "VALUE_0": "git@example.org"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    return tmp_path


@pytest.fixture
def terminal(monkeypatch):
    """A terminal at standard input: what is written to it is typed."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield lambda text: os.write(ours, text.encode())
    os.close(ours)


def test_the_first_place_that_has_one_counts(home, monkeypatch):
    file = home / ".config" / "pinisi" / "contact"
    file.parent.mkdir(parents=True)
    file.write_text("file@example.org\n")
    assert contact.known(asks()) == "file@example.org"
    monkeypatch.setenv(contact.VARIABLE, "variable@example.org")
    assert contact.known(asks()) == "variable@example.org"
    assert contact.known(asks(address="https://example.org/bot")) == "https://example.org/bot"
    monkeypatch.delenv(contact.VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "elsewhere"))
    assert contact.known(asks()) == ""


@pytest.mark.parametrize("wrong", ["nobody", "a b@example.org", "a@example.org\r\nX: y", "ñ@example.org"])
def test_what_is_no_address_is_refused(monkeypatch, wrong):
    with pytest.raises(UserError, match=r"fetch\.contact: .* is neither an e-mail address"):
        contact.settle(asks(address=wrong))
    monkeypatch.setenv(contact.VARIABLE, wrong)
    with pytest.raises(UserError, match=r"PINISI_CONTACT: .* is neither an e-mail address"):
        contact.settle(asks())


def test_without_a_terminal_it_is_one_sentence_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.reachable, "fault", lambda *address: "")
    with pytest.raises(
        UserError, match=r"^fetch\.contact: https://data.example.org .*export PINISI_CONTACT=\S+@.*--set"
    ) as said:
        Run(str(tmp_path / "run"), asks()).execute(until="crawl", say=lambda text: None)
    assert "\n" not in str(said.value)
    assert not (tmp_path / "run" / "crawl").exists()


@pytest.mark.parametrize("base", ["s3://commoncrawl", "/mirror"])
def test_only_a_web_server_needs_it(base):
    contact.settle(asks(base))


def test_recipes_without_common_crawl_need_none():
    contact.settle(recipes.load("demo"))


def test_it_is_asked_for_once_and_kept_for_the_user_alone(home, terminal, capfd):
    terminal("that is none\nme@example.org\n")
    contact.settle(asks())
    said = capfd.readouterr().err
    assert said.count("[git@example.org]") == 2 and "kept in" in said and WEB in said
    file = home / ".config" / "pinisi" / "contact"
    assert file.read_text() == "me@example.org\n" and file.stat().st_mode & 0o777 == 0o600
    contact.settle(asks())
    assert capfd.readouterr().err == "" and contact.known(asks()) == "me@example.org"


def test_an_empty_answer_takes_the_address_of_git(terminal):
    terminal("\n")
    contact.settle(asks())
    assert contact.known(asks()) == "git@example.org"


def test_answers_that_are_none_end_the_asking(monkeypatch, terminal):
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "")
    terminal("\n\n\n")
    with pytest.raises(UserError, match="no address was given"):
        contact.settle(asks())


def test_an_address_that_cannot_be_kept_serves_this_once(home, terminal, capfd, monkeypatch):
    monkeypatch.setenv(contact.VARIABLE, "")  # so that what is set here is taken away
    (home / ".config").write_text("a file where the folder should be")
    threading.Timer(0.1, terminal, ["me@example.org\n"]).start()
    contact.settle(asks())
    assert "could not be kept" in capfd.readouterr().err
    assert os.environ[contact.VARIABLE] == "me@example.org"


def test_a_submitted_job_gets_it_beside_the_recipe(monkeypatch, tmp_path):
    """Nobody can be asked on a cluster, and the recipe is copied to the run."""
    sent = {}
    client = SimpleNamespace(list_jobs=list, submit_job=lambda **job: sent.update(job))
    monkeypatch.setattr(submit, "connect", lambda address: client)
    monkeypatch.setattr(submit.package, "write", lambda path, text, root: sent.update(text=text))
    where = {"address": "http://head:8265", "run_dir": str(tmp_path), "grace": 300, "code": False}
    with pytest.raises(UserError, match=r"fetch\.contact: https://data\.commoncrawl\.org is read under your name"):
        submit.submit("commoncrawl", [], [], **where)
    assert sent == {}
    monkeypatch.setenv(contact.VARIABLE, "me@example.org")
    submit.submit("commoncrawl", [], [], **where)
    assert sent["runtime_env"]["env_vars"][contact.VARIABLE] == "me@example.org"
    assert "me@example.org" not in sent["text"] and "me@example.org" not in sent["entrypoint"]
    submit.submit("demo", [], [], **where)
    assert contact.VARIABLE not in sent["runtime_env"]["env_vars"]

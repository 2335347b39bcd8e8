"""`pinisi chat`: talk to an exported model in the terminal. Answers are greedy and appear as they are made, in any script."""

from __future__ import annotations

import argparse
import functools
import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.run import adopted
from ray_jobs.run.graph import DRAFT, EXPORT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXPORTED = ("chat", "long", "base")  # of a run, the first that is there
BROKEN = "\N{REPLACEMENT CHARACTER}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run with an exported model, or the folder of a model (any URI)")
    text = "let the run's draft propose (train.draft), or the one in this folder; the answers are the same"
    parser.add_argument("--draft", nargs="?", const="", metavar="FOLDER", help=text)
    parser.add_argument("--system", metavar="TEXT", help="a system turn before the first question")
    text = "tokens of an answer (%(default)s)"
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help=text)


def main(options: argparse.Namespace) -> None:
    if options.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens {options.max_new_tokens}: an answer has at least one token")
    folder = model_of(options.run)
    draft = None if options.draft is None else draft_of(options.run, options.draft)
    speaker = _speaker(folder, draft)
    talk: list[dict] = [{"role": "system", "content": options.system}] if options.system else []
    interactive = sys.stdin.isatty()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows what it can
    if interactive:
        print(f"{folder}: ask; Ctrl-C ends an answer, Ctrl-D the talk", file=sys.stderr)
    while (question := _asked(interactive)) is not None:
        if not question.strip():
            continue
        asked = [*talk, {"role": "user", "content": question.strip()}]
        said: list[str] = []

        def show(text: str, said: list[str] = said) -> None:
            said.append(text)
            print(text, end="", flush=True)

        try:
            per_pass = speaker(asked, options.max_new_tokens, show)
        except KeyboardInterrupt:
            per_pass = None
        except UserError as error:
            if not interactive:
                raise
            print(error, file=sys.stderr)  # the talk goes on without this question
            continue
        print()
        if draft and interactive and per_pass:
            print(f"({per_pass:.2f} tokens a pass)", file=sys.stderr)
        talk = [*asked, {"role": "assistant", "content": "".join(said).strip()}]


def model_of(place: str) -> str:
    """The folder of the model to talk to. Raises UserError where there is none."""
    for folder in (place, *(adopted.path(place, EXPORT, name) for name in EXPORTED)):
        if storage.exists(storage.join(folder, "config.json")):
            return folder
    raise UserError(f"{place}: no model of this run is exported, and it is no folder of a model; run it to `export`")


def draft_of(place: str, named: str) -> str:
    """The folder of the draft. Raises UserError where there is none."""
    folder = named or adopted.path(place, DRAFT, "model")
    if not any(storage.exists(storage.join(folder, name)) for name in ("draft.json", "config.json")):
        raise UserError(f"--draft: {folder} has no draft; give train.draft in the recipe, or the folder of one")
    return folder


def _asked(interactive: bool) -> str | None:
    try:
        return input("> " if interactive else "")
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"the question is not UTF-8: {error.reason} at byte {error.start}") from None


def _speaker(folder: str, draft_folder: str | None) -> Callable[[list[dict], int, Callable[[str], None]], float]:
    """A function that answers a talk, at most so many tokens, tells each piece of text, and returns the tokens a pass."""
    import torch
    from safetensors import SafetensorError

    from train import model
    from train.chat.conversations import encode_prompts, fault
    from train.drafts import folders, speculative
    from train.generation.generate import stop_ids

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        net = model.load(folder, torch.bfloat16 if device.type == "cuda" else torch.float32).to(device).eval()
        tokenizer = _tokenizer(folder)
        proposer: speculative.Proposer = speculative.Nothing()
        gamma = 0
        if draft_folder:
            proposer, gamma = folders.proposer(draft_folder, net)
        stop = stop_ids(tokenizer)
    except ValueError as error:
        raise UserError(str(error)) from None
    except SafetensorError as error:
        raise UserError(f"{folder}: its weights cannot be read ({error})") from None

    def answer(talk: list[dict], most: int, show: Callable[[str], None]) -> float:
        if found := fault([*(turn for turn in talk if turn["role"] == "system"), talk[-1]], "user"):
            raise UserError(f"this cannot be asked: {found[1]}")
        (ids,) = encode_prompts(tokenizer, [talk])
        room = net.config.max_position_embeddings - len(ids)
        if room < 1:
            raise UserError(
                f"the talk has {len(ids):,} tokens, and the model reads {len(ids) + room:,}; begin a new one"
            )
        hear = Streamed(functools.partial(_text, tokenizer), show)
        (said,) = speculative.speculate(net, proposer, [ids], stop, min(most, room), gamma, lambda _, new: hear(new))
        hear.end()
        return said.tokens_per_call

    return answer


def _tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Raises ValueError for a folder whose tokenizer cannot be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(storage.localize(folder))
    except Exception as error:  # of the library, which raises bare ones for a broken file
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{folder}: its tokenizer cannot be read ({said[0]})") from error


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """What tokens say. Without the clean-up of some tokenizers, which takes a blank back once a comma comes behind it."""
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # of one sequence
    return text


class Streamed:
    """Tokens to text as they come. A character may be several tokens (of bytes), and a piece may look otherwise before the next
    one: what may still change is held back until it is told apart."""

    def __init__(self, decode: Callable[[list[int]], str], show: Callable[[str], None]) -> None:
        self.decode, self.show = decode, show
        self.ids: list[int] = []
        self.shown = ""

    def __call__(self, new: list[int]) -> None:
        self.ids += new
        text = self.decode(self.ids)
        self._show(text[: len(text.rstrip(BROKEN))])

    def end(self) -> None:
        """There is no more: what was held back is shown as it is."""
        self._show(self.decode(self.ids))

    def _show(self, text: str) -> None:
        if len(text) > len(self.shown) and text.startswith(self.shown):
            self.show(text[len(self.shown) :])
            self.shown = text

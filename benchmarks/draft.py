"""What a draft gains on a CPU, and that no language pays for another: two made-up languages, a target and drafts trained on both.

    python benchmarks/draft.py            # under two minutes of a CPU

A text is a word, and then the words that follow by a rule. A word of language `a` is one token, one of `b` is three. Of twenty
texts nineteen are in the common register of their language, the others in rare ones with words of their own. The target learns
both languages alike. Its greedy answers train two drafts that may propose 150 of the tokens: chosen by each language's shares, or
counted over texts of which `a` has fifty times as many, as shipped drafts count mostly English.

The target of the timing has 32,768 tokens, of which the languages use a few hundred: as in a real model, its head is a good part
of a pass. With and without the draft, prompts take turns in one process, and seconds are of the CPU.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from table import row, write

from train import model
from train.batches.decoder import CausalLM
from train.batches.examples import Example
from train.drafts import learn, measure, speculative, vocabulary
from train.drafts.glide import Glide
from train.loop import LoopConfig, fit
from train.methods import pretrain, sft

WORDS = 31  # of a register
SPELT = {"a": (31,), "b": (31, 31, 31)}  # how many tokens the first, second, third of a word may be
END, FIRST = 1, 2  # tokens
RULE = (3, 1)  # the next of word w is (3 w + 1) mod WORDS: each word but one, before one comes again
RARE = 4  # registers besides the common one
COMMON = 0.95  # share of texts
MOST = 48  # tokens of an answer
GAMMA = 4
PROPOSED = 150  # tokens of a draft's vocabulary
MORE_OF_A = 50  # times, in the unbalanced count
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 192, "num_attention_heads": 4}
LARGE = {"hidden_size": 256, "num_hidden_layers": 12, "intermediate_size": 768, "num_attention_heads": 4}
SPOKEN = 32_768  # tokens of the large target


class Language(NamedTuple):
    """`words[register][word]`: its tokens."""

    words: list[list[list[int]]]

    def prompts(self, rng: np.random.Generator, n: int) -> list[tuple[int, list[int]]]:
        """(register, one to three words that follow one another) of `n` texts."""
        found = []
        for _ in range(n):
            register = 0 if rng.random() < COMMON else 1 + int(rng.integers(RARE))
            words = [int(rng.integers(WORDS))]
            while len(words) < 1 + int(rng.integers(3)):
                words.append(following(words[-1]))
            found.append((register, words))
        return found

    def text(self, register: int, words: list[int]) -> tuple[list[int], list[int]]:
        """(tokens of the prompt, tokens of what follows)."""
        spelt, word = self.words[register], words[-1]
        prompt, answer = [token for one in words for token in spelt[one]], []
        while True:
            word = following(word)
            if len(answer) + len(spelt[word]) >= MOST:
                return prompt, [*answer, END]
            answer += spelt[word]


def following(word: int) -> int:
    return (RULE[0] * word + RULE[1]) % WORDS


def languages() -> tuple[dict[str, Language], int]:
    """(the two, how many tokens they use)."""
    used, found = FIRST, {}
    for name, sizes in SPELT.items():
        words: list[list[list[int]]] = []
        for _ in range(1 + RARE):
            begins = [used + sum(sizes[:k]) for k in range(len(sizes))]
            words.append([[b + word % size for b, size in zip(begins, sizes, strict=True)] for word in range(WORDS)])
            used += sum(sizes)
        found[name] = Language(words)
    return found, used


class Toy(NamedTuple):
    target: CausalLM
    drafts: dict[str, Glide]  # by how their tokens were chosen
    coverage: dict[str, dict[str, float]]
    unseen: dict[str, list[list[int]]]  # prompts that no draft was trained on


def toy(
    shape: dict, steps: int, draft_steps: int, rows: int = 4, kinds: tuple[str, ...] = ("balanced", "unbalanced")
) -> Toy:
    """A target that speaks both languages and drafts of it; `rows` of 256 tokens in an update."""
    spoken, used = languages()
    rng = np.random.default_rng(1)
    drawn = {lang: of.prompts(rng, 300) for lang, of in spoken.items()}
    texts = []
    for lang, of in spoken.items():
        for i, one in enumerate(of.prompts(rng, 3000)):
            prompt, answer = of.text(*one)
            ids = np.asarray([*prompt, *answer], np.int64)
            texts.append(Example(f"{lang}{i}", lang, ids, np.arange(len(ids)) > 0))
    target = model.build(shape | {"vocab_size": used, "max_position_embeddings": 128, "tie_word_embeddings": False}, 1)
    _train(
        target,
        sft.batch_fn(texts, sft.pack([e.positions for e in texts], 256), 256, 0),
        pretrain.loss,
        steps,
        4e-3,
        rows,
    )
    target.requires_grad_(False).eval()

    examples: list[Example] = []
    counts, unseen = {}, {}
    for lang, of in spoken.items():
        asked = [of.text(*one)[0] for one in drawn[lang]]
        said = [
            one for i in range(0, len(asked), 64) for one in speculative.greedy(target, asked[i : i + 64], [END], MOST)
        ]
        made = [np.asarray([*p, *a], np.int64) for p, a in zip(asked, said, strict=True)]
        kept, unseen[lang] = made[: len(made) * 4 // 5], asked[len(made) * 4 // 5 :]
        examples += [
            Example(f"{lang}{i}", lang, ids, np.arange(len(ids)) >= len(p))
            for i, (ids, p) in enumerate(zip(kept, asked, strict=False))
        ]
        counts |= vocabulary.count({lang: kept}, used)
    chosen = {
        "balanced": vocabulary.balanced(counts, PROPOSED, [END]),
        "unbalanced": vocabulary.balanced({"all": MORE_OF_A * counts["a"] + counts["b"]}, PROPOSED, [END]),
    }
    drafts = {}
    for kind in kinds:
        words = chosen[kind]
        batch_fn, _ = learn.batch_fn(learn.evened(examples), 256, 0, GAMMA, vocabulary.numbers(words, used))
        drafts[kind] = Glide(target, torch.from_numpy(words))
        _train(drafts[kind], batch_fn, learn.loss_fn(GAMMA), draft_steps, 3e-3, rows)
        drafts[kind].eval()
    return Toy(target, drafts, {kind: vocabulary.coverage(counts, words) for kind, words in chosen.items()}, unseen)


def _train(net, batch_fn, loss_fn, steps: int, lr: float, rows: int) -> None:  # noqa: PLR0917
    config = {"rows_per_step": rows, "micro_rows": rows, "schedule": "cosine", "min_lr": lr / 20, "weight_decay": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        fit(net, batch_fn, loss_fn, LoopConfig(steps=steps, lr=lr, warmup_steps=steps // 20, **config), folder)


def acceptance(made: Toy, kind: str, prompts: int) -> dict[str, dict]:
    """`train.drafts.measure.acceptance` of each language."""
    return {
        lang: measure.acceptance(
            made.target, speculative.GlideProposer(made.drafts[kind]), unseen[:prompts], [END], MOST, GAMMA
        )
        for lang, unseen in made.unseen.items()
    }


def widened(net: CausalLM, tokens: int) -> CausalLM:
    """The same model with more tokens, which it neither reads nor says."""
    shape = {key: getattr(net.config, key) for key in (*LARGE, "num_key_value_heads", "max_position_embeddings")}
    wide = model.build(shape | {"vocab_size": tokens, "tie_word_embeddings": False})
    old, new = net.state_dict(), wide.state_dict()
    with torch.no_grad():
        for name, value in new.items():
            if value.shape == old[name].shape:
                value.copy_(old[name])
            else:
                value.zero_()
                value[: len(old[name])] = old[name]
    return wide.requires_grad_(False).eval()


def main() -> None:
    torch.set_num_threads(1)
    began, rows = time.process_time(), []
    small = toy(SMALL, 200, 100)
    for kind in small.drafts:
        found = acceptance(small, kind, 40)
        for lang, of in found.items():
            rows.append(row(f"{kind} vocabulary, {lang}: tokens a pass", "tokens", of["tokens_per_call"]))
            rows.append(row(f"{kind} vocabulary, {lang}: coverage", "share", small.coverage[kind][lang]))
            rows.append(
                row(f"{kind} vocabulary, {lang}: texts as without", "share", of["equal"] / of["prompts"], target=1)
            )
        per_call = [of["tokens_per_call"] for of in found.values()]
        target = {"target": 0.9} if kind == "balanced" else {}
        rows.append(
            row(f"{kind} vocabulary: worst language over best", "ratio", min(per_call) / max(per_call), **target)
        )
    large = toy(LARGE, 100, 60, 2, ("balanced",))
    target = widened(large.target, SPOKEN)
    trained = large.drafts["balanced"]
    draft = Glide(target, trained.vocabulary)
    draft.load_state_dict(trained.state_dict())
    found = acceptance(Toy(target, {"balanced": draft.eval()}, large.coverage, large.unseen), "balanced", 10)
    seconds = {name: sum(of["seconds"][name] for of in found.values()) for name in ("plain", "draft")}
    calls, tokens = (sum(of[key] for of in found.values()) for key in ("calls", "tokens"))
    rows.append(row("timed target: parameters", "millions", model.parameters(target) / 1e6, target=20))
    rows.append(row("timed target: tokens a pass", "tokens", tokens / calls))
    rows.append(
        row("timed target: texts as without", "share", sum(of["equal"] for of in found.values()) / 20, target=1)
    )
    rows.append(
        row(
            "timed target: CPU seconds without the draft over with it",
            "x",
            seconds["plain"] / seconds["draft"],
            target=1.5,
        )
    )
    rows.append(row("all of it", "CPU s", time.process_time() - began, target=120, least=False))
    write(
        "training-draft", rows, tuned_on="the prompts are unseen; grammars, sizes and updates were chosen on this toy"
    )


if __name__ == "__main__":
    main()

"""The warnings of a run, those of one kind together, and what to do about each kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

KINDS = (
    (
        r"read more than [\d.]+(?: to [\d.]+)? times",
        "Pools are read too often",
        "Ask for fewer tokens of these stages, add pages of these languages, or raise mixture.max_epochs: what is read many "
        "times is learnt by heart.",
    ),
    (
        r"hold none; the others get that share",
        "A share of the mixture has no text",
        "Give these pools text, or set their share to 0.",
    ),
    (
        r"(?:is|are) being forgotten",
        "Languages are being forgotten",
        "Raise mixture.replay_share, or lower the learning rate of these stages; in base it is text learnt by heart: ask for "
        "fewer tokens.",
    ),
    (
        r"^prune: pruning has cost",
        "Pruning has cost languages much",
        "Raise train.prune.heal_tokens or the target, or give these languages a larger share of the mixture.",
    ),
    (
        r"^regmix: the tempered weights stay",
        "The mixture does not follow the proxies",
        "Nothing is lost, the mixture is that of the token counts. More text, or fewer tokens in "
        "train.pretrain.stage1.tokens, leave the proxies a choice.",
    ),
    (
        r"^regmix: proxies repeat|proxies read less than a row",
        "Proxies do not repeat what stage 1 repeats",
        "Give stage 1's tokens, or proxies more of them (mixture.regmix.proxies.tokens).",
    ),
    (
        r"^regmix: the loss of",
        "Proxies predict some languages badly",
        "Train more proxies (mixture.regmix.proxies.runs) or longer ones (tokens), or do not trust the weights of these "
        "languages.",
    ),
    (
        r"^quality: the .* classifier",
        "Quality scores tell sources apart",
        "Choose other sources for quality.positives, such as pages by many hands.",
    ),
    (
        r"keeps [\d,]+ of [\d,]+ rows",
        "Most rows are dropped",
        "Look at dropped/ in the run; docs/alignment.md says what each rule means and which layouts are read.",
    ),
    (
        r"answers are in the prompt's language",
        "Answers leave the prompt's language",
        "Raise train.dpo.beta, or make fewer updates.",
    ),
    (r"answers have emoji", "Answers have emoji", "Look at the chosen answers of the preference pairs."),
    (
        r"the judge gave no valid verdict",
        "The judge was not understood",
        "Look at judge/ in the run: another judge, or its own prompt.",
    ),
    (
        r"likes the answer that stands",
        "A judge looks at the position",
        "Which answer stands first is by chance, so no model gains, but differences come out smaller: take a better judge.",
    ),
)
"""(What a warning of this kind says, as a regular expression; its title; what to do)."""
OTHER = ("Other warnings", "")
LANGUAGE = re.compile(r"^(\S+(?:, \S+)*) (?:is|are) being forgotten|^the (\S+) classifier")


class Notice(NamedTuple):
    """where: of each stage, in its order, what is concerned there; said: the warnings themselves."""

    title: str
    advice: str
    where: list[str]
    said: list[str]


def grouped(warnings: Sequence[str]) -> list[Notice]:
    """Notices in the order of their first warning; each warning is in one."""
    found: dict[str, Notice] = {}
    places: dict[str, dict[str, list[str]]] = {}
    for warning in dict.fromkeys(warnings):
        title, advice = next(((title, do) for pattern, title, do in KINDS if re.search(pattern, warning)), OTHER)
        found.setdefault(title, Notice(title, advice, [], [])).said.append(warning)
        stage, _, rest = warning.partition(": ")
        langs = places.setdefault(title, {}).setdefault(stage, [])
        if named := LANGUAGE.search(rest):
            langs.append(named[1] or named[2])
    for title, notice in found.items():
        notice.where.extend(
            f"{stage} ({', '.join(langs)})" if langs else stage for stage, langs in places[title].items()
        )
    return list(found.values())

"""Pages that are no text, in fifteen languages: each is dropped, and good text that speaks of the same things is not.

`rubbish/<language>.jsonl` was written for this test by hand: error pages, consent dialogs, logins, menus, gambling, lists of
keywords. `tuned_on` says whether bounds and phrases were made with the piece in sight.
"""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from curation.policy.policy import languages, policy_kernel
from curation.signals.text_signals import signals_kernel

FOLDER = Path(__file__).parent / "rubbish"
RULE = {
    "error": {"notice_word_share_max"},
    "cookies": {"notice_word_share_max"},
    "login": {"notice_word_share_max"},
    "menu": {"menu_letter_share_max"},
    "gambling": {"flagged_ratio_max"},
}


def judge(lang: str, texts: list[str]) -> list[set[str]]:
    """The rules that each text breaks."""
    ids = [str(i) for i in range(len(texts))]
    batch = pa.record_batch({"doc_id": ids, "url": [""] * len(ids), "text": texts, "lang": [lang] * len(ids)})
    _, ledger = policy_kernel([lang])(signals_kernel([lang])(batch)[0])
    broken = [set() for _ in texts]
    for row in ledger.to_pylist():
        broken[int(row["doc_id"])].add(row["rule"])
    return broken


@pytest.mark.parametrize("lang", languages())
def test_rubbish_is_dropped_by_the_rule_for_its_kind(lang):
    rows = [json.loads(line) for line in (FOLDER / f"{lang}.jsonl").read_text("utf-8").splitlines()]
    assert len({row["text"] for row in rows}) == len(rows) >= 10 and {row["tuned_on"] for row in rows} == {True, False}
    broken = judge(lang, [row["text"] for row in rows])
    kept = [row["text"] for row, rules in zip(rows, broken, strict=True) if not rules]
    assert kept == []
    missed = {row["kind"] for row, rules in zip(rows, broken, strict=True) if not rules & RULE.get(row["kind"], rules)}
    assert missed == set()


GOOD = {
    "an article on cookies": "A cookie is a small file that a website leaves in the browser. The first ones were made in the "
    "nineties so that a shop could remember what lay in a basket. Today they do far more than that. Advertisers follow readers "
    "from one newspaper to the next, and a law of the European Union therefore asks for consent. Most people click a button "
    "without reading what it says. Researchers in three cities watched forty volunteers for a week and found that fewer than "
    "one in ten opened the settings at all. Those who did needed two minutes on average, and half of them gave up. The authors "
    "propose that the browser itself should carry the answer, once and for all sites, as it carries the language of its user.",
    "how to change a password": "My neighbour asked me last week how she could change the password of her mail. She had "
    "written the old one on a note that her grandson threw away. We sat down in the kitchen with her laptop and a pot of tea. "
    "First we looked for the little wheel in the upper corner, because the settings hide behind it. Then we chose a sentence "
    "from a song that both of us know, took the first letter of each word, and added the number of her bus. It took her three "
    "tries to type it twice in the same way. Now the note lies in the drawer with the candles, and she is very proud of it.",
    "a poem": "The boat is out,\nthe moon is low,\nwe wait for those\nwho had to go.\n\nThe kettle sings,\nthe night is long,\n"
    "my mother hums\na fisher's song.\n\nAt six a sail,\nat seven three,\nthe men come home\nfrom the grey sea.",
    "a recipe": "Chicken soup with rice\n\nIngredients\n1 chicken, about 1.5 kg\n2 carrots\n3 sticks of celery\n150 g of rice\n"
    "salt\npepper\n\nPut the chicken into a large pot and cover it with cold water. Bring it to the boil and take off the foam. "
    "Add the vegetables and let everything simmer for an hour. Cook the rice in some of the broth, cut the meat into pieces and "
    "serve both in deep bowls with a little parsley.",
    "a glossary": "Bow: the front of a ship.\nStern: the back of a ship.\nKeel: the beam at its bottom.\nMast: the pole that "
    "carries the sails.\nHelm: the wheel with which it is steered.\nGalley: the kitchen of a ship.\nHull: its body.",
}


def test_good_text_about_the_same_things_is_kept():
    assert dict(zip(GOOD, judge("en", list(GOOD.values())), strict=True)) == {kind: set() for kind in GOOD}

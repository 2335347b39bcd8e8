"""What a run's numbers say about learning and forgetting, in plain sentences, whichever way they fell.

A difference is one where its 95 % interval leaves out 0 (ray_jobs/report/intervals.py); else the documents show none.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.report.intervals import NOISE, Change, Documents, change
from ray_jobs.report.names import language
from ray_jobs.run.graph import BASE, CONTROL_2, PRETRAIN_2


def sentences(evaluation: dict, recipe: Recipe, documents: Documents) -> list[str]:
    """Sentences about bits per byte of base, final and control model; lower is better."""
    bpb = evaluation["bits_per_byte"]
    if BASE not in bpb or PRETRAIN_2 not in bpb:
        return []

    def moved(before: str, after: str, langs: Sequence[str]) -> Change:
        return change(evaluation, documents, before, after, langs)

    replay, new = split(bpb[BASE], recipe)
    trained = "expanded" if given(recipe.train).expand else "trained"
    said = _learnt({lang: moved(BASE, PRETRAIN_2, [lang]) for lang in new}) if new else []
    for lang in replay:
        sentence = f"{language(lang)}: the {trained} model {_kept(moved(BASE, PRETRAIN_2, [lang]))}"
        if CONTROL_2 in bpb:
            sentence += f"; the control without expansion {_kept(moved(BASE, CONTROL_2, [lang]))}"
        said.append(f"{sentence}.")
    if CONTROL_2 in bpb and replay:
        said += _compared(moved(CONTROL_2, PRETRAIN_2, replay), replay, recipe)
    return said


def forgotten(evaluation: dict | None, tasks: dict | None, recipe: Recipe, documents: Documents) -> list[str]:
    """A sentence for each later model and language of replay whose loss against the base leaves out 0: in bits per byte on the
    same documents, and in each task on the same items (`tasks`: tasks/metrics.json)."""
    said = []
    bpb = (evaluation or {}).get("bits_per_byte", {})
    replay = recipe.mixture.replay_languages
    for name in bpb if BASE in bpb else ():
        for lang in (lang for lang in replay if lang in bpb[name] and lang in bpb[BASE] and name != BASE):
            one = change(evaluation or {}, documents, BASE, name, [lang])
            if one.certain and one.value > 0:
                said.append(f"{name}: {lang} is being forgotten: {one} bits per byte against the base")
    for task, languages in (tasks or {}).items():
        for lang in (lang for lang in replay if lang in languages):
            for name, one in languages[lang]["differences"].items():
                if one["certain"] and one["value"] < 0:
                    interval = f"{one['low']:+.3f} to {one['high']:+.3f}"
                    said.append(
                        f"{name}: {lang} is being forgotten: {task} {one['value']:+.3f} (95 % interval {interval}) against "
                        f"{languages[lang]['against']} on {one['items']:,} items"
                    )
    return said


def split(langs: Sequence[str] | dict, recipe: Recipe) -> tuple[list[str], list[str]]:
    """(languages of replay, all others, sorted) of those that were measured."""
    replay = [lang for lang in recipe.mixture.replay_languages if lang in langs]
    return replay, sorted(set(langs) - set(replay))


def _learnt(changes: dict[str, Change]) -> list[str]:
    better = [lang for lang, one in changes.items() if one.certain and one.value < 0]
    worse = [lang for lang, one in changes.items() if one.certain and one.value > 0]
    unsure = [lang for lang in changes if lang not in {*better, *worse}]
    fell = sum(one.value < 0 for one in changes.values())
    said = (
        f"Continual pre-training lowered the bits per byte of held-out text in {fell} of {len(changes)} new languages"
    )
    if better:
        said += f"; more than the choice of documents explains in {_named(better)}"
    said += "."
    if worse:
        said += f" It became worse in {_named(worse)}."
    if unsure:
        said += f" Held-out documents are too few or too unlike one another to be sure in {_named(unsure)}."
    return [said]


def _kept(one: Change) -> str:
    if not one.certain:
        return f"shows {nothing(one, 'change')}: {one}"
    return f"{'forgot' if one.value > 0 else 'did not forget but improved'}: {one}"


def _compared(one: Change, replay: list[str], recipe: Recipe) -> list[str]:
    """With expansion less without it, after the same tokens."""
    train, where = given(recipe.train), _named(replay)
    if not one.certain:
        return [
            f"Between the models with and without expansion there is {nothing(one, 'difference')} in {where}: {one}."
        ]
    if one.value < 0:
        return [f"Expansion protected {where}: {one} bits per byte against the control after the same tokens."]
    said = [
        f"In this run expansion did harm to {where}: {one} bits per byte against the control after the same tokens."
    ]
    if train.base.shape is not None:
        said.append(
            "A likely reason: a new base that has read so little is far from saturated, so replay teaches about as much as the "
            "new languages take away, and there is little for new blocks to shelter; the paper measured its effect on bases of "
            "18 trillion tokens."
        )
    return said


def nothing(one: Change, what: str) -> str:
    """Why a change that is not certain is called none. `what`: change, difference."""
    if one.small:
        return f"no {what} beyond the {NOISE:g} bits per byte that are called noise"
    return (
        f"no {what} that {'this 1 document' if one.documents == 1 else f'these {one.documents:,} documents'} could show"
    )


def _named(langs: Sequence[str]) -> str:
    return ", ".join(language(lang) for lang in langs)

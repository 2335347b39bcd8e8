"""What a run's numbers say about learning and forgetting, in plain sentences, whichever way they fell."""

from __future__ import annotations

from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.run.graph import BASE, CONTROL_2, PRETRAIN_2

NOISE = 0.01  # bits per byte; a difference smaller than this on a few documents is none


def sentences(evaluation: dict, recipe: Recipe, base_tokens: int | None = None) -> list[str]:
    """Sentences about bits per byte of base, final and control model; lower is better. `base_tokens`: that the base read."""
    bpb = evaluation["bits_per_byte"]
    base, final, control = bpb.get(BASE), bpb.get(PRETRAIN_2), bpb.get(CONTROL_2)
    if not base or not final:
        return []
    replay = [lang for lang in recipe.mixture.replay_languages if lang in base]
    new = sorted(lang for lang in base if lang not in replay)
    better = [lang for lang in new if final[lang] < base[lang]]
    worse = [lang for lang in new if lang not in better]
    train = given(recipe.train)
    trained = "expanded" if train.expand else "trained"
    said = [
        f"Continual pre-training made the model better in {len(better)} of {len(new)} new languages "
        f"({_changes(better, base, final)})" + (f"; not in {_changes(worse, base, final)}." if worse else ".")
    ]
    for lang in replay:
        change = final[lang] - base[lang]
        word = "forgot" if change > 0 else "did not forget; it improved"
        sentence = f"{lang}: the {trained} model {word} ({change:+.3f} bits per byte against the base)"
        if control:
            other = control[lang] - base[lang]
            relation = "less than" if change < other else "more than" if change > other else "as much as"
            if change <= 0 and other <= 0:
                relation = {"less than": "more of an improvement than", "more than": "less of an improvement than"}.get(
                    relation, "the same as"
                )
            sentence += f", {relation} the control without expansion ({other:+.3f})"
        said.append(sentence + ".")
    if control and replay:
        gain = sum(control[lang] - final[lang] for lang in replay) / len(replay)
        said.append(
            f"On average over {', '.join(replay)} the {trained} model is {abs(gain):.3f} bits per byte "
            f"{'better' if gain > 0 else 'worse'} than the control after the same tokens."
        )
        if gain < NOISE:
            said.append(
                f"So in this run expansion {'did not protect' if gain > -NOISE else 'did harm to'} the replay languages."
                + (
                    f" Why: a base trained on {base_tokens:,} tokens is far from saturated, so replay teaches "
                    "about as much as the new languages take away, and there is little for new blocks to shelter; the paper "
                    "measured its effect on bases of 18 trillion tokens."
                    if train.base.shape is not None and base_tokens
                    else ""
                )
            )
    return said


def _changes(langs: list[str], before: dict, after: dict) -> str:
    return ", ".join(f"{lang} {before[lang]:.2f} → {after[lang]:.2f}" for lang in langs)

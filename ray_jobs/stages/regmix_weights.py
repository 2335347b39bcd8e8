"""regmix/weights: from the proxies' losses to the mixture of stage 1 (paper section 3.4; RegMix, arXiv 2407.01492).

    weights.json       weights per pool (with `phases` of each phase, and their mean), what is predicted for them, the rank
                       correlation (Spearman) in each language on folds of the training proxies and on the held-out proxies,
                       and whether the regression was followed
    predicted.parquet  held-out proxies and folds: language, measured and predicted loss
    effects.parquet    what `STEP` more of a domain, taken from all others in proportion, does to the loss of a language: the
                       mean over the mixtures that were measured

A regression that ranks unseen mixtures no better than `min_correlation` is not followed: then the tempered weights stay.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import pyarrow as pa

from cluster import storage
from mixture.readings import times
from mixture.regmix import regression, search
from mixture.regmix.reuse import Reuse, read
from mixture.weights import Auto, Pool, Stage, overdraw, stage1
from ray_jobs.run.graph import PROXIES, TOKENIZE
from ray_jobs.run.job import Job
from ray_jobs.training import budget
from ray_jobs.work.tasks import map_on_ray

STEP = 0.1  # of all tokens
OFF = 0.1  # of its tokens may stage 1 differ from those that proxies were matched to


class Task(TypedDict):
    """A regression of one language."""

    weights: np.ndarray  # [N, D]
    losses: np.ndarray  # [N, 1]
    heldout: np.ndarray  # bool [N]
    kind: str
    seed: int


def run(job: Job) -> dict:
    settings, mixture = job.regmix, job.recipe.mixture
    table = storage.read_table(job.input(PROXIES, "mixtures.parquet"))
    domains, languages = (_named(table, kind) for kind in ("weight", "loss"))
    weights_ND, losses_NL = _matrix(table, "weight", domains), _matrix(table, "loss", languages)
    reuse = read(settings.reuse, domains) if settings.reuse else None
    columns = reuse.names if reuse else domains
    if reuse:
        weights_ND = reuse.fold(weights_ND)
    heldout = table["heldout"].to_numpy()
    seed, kind = job.recipe.seed, settings.regression
    phases = range(1, settings.proxies.phases)
    earlier = [_matrix(table, f"loss{phase}", languages) for phase in phases]
    tasks: list[Task] = [
        {"weights": weights_ND, "losses": loss_N[:, None], "heldout": heldout, "kind": kind, "seed": seed}
        for found_NL in (losses_NL, *earlier)
        for loss_N in found_NL.T
    ]
    every = map_on_ray(job, _regress, tasks, "languages")
    fits, before = every[: len(languages)], every[len(languages) :]
    by_folds_NL = np.concatenate([one["folds"] for one in fits], axis=1)
    unseen_NL = np.concatenate([one["unseen"] for one in fits], axis=1)
    predictor = regression.Predictor(kind, [one["model"] for one in fits])
    rho_folds_L = regression.spearman(losses_NL[~heldout], by_folds_NL)
    rho = {
        "folds": rho_folds_L,
        "heldout": regression.spearman(losses_NL[heldout], unseen_NL) if heldout.sum() > 2 else None,
    }
    _write_predicted(job, languages, table, np.concatenate([by_folds_NL, unseen_NL]), losses_NL)

    _write_effects(job, predictor, weights_ND, columns, languages)
    tokens = job.manifest(TOKENIZE)["tokens_per_lang"]
    prior = {lang: tokens[lang] for lang in domains}
    train = job.recipe.train
    asked = budget.asked(train, "stage1") if train and train.pretrain else sum(prior.values())
    stage = _tempered(prior, asked, mixture)
    plain = stage.weights
    mean = float(rho_folds_L.mean())
    if mean < settings.min_correlation:
        refused = (
            f"its rank correlation {mean:.2f} on unseen mixtures is below min_correlation {settings.min_correlation:g}"
        )
    elif overdraw(prior, stage.tokens, stage.caps) >= 1:
        often = times(stage.caps)
        refused = f"all pools together have too few tokens for max_epochs {often}, so no choice is left"
    elif reuse and sum(reuse.caps(search.epoch_caps(prior, stage.tokens, stage.caps)).values()) < 1:
        refused = "the mixture of mixture.regmix.reuse reads a pool more often than its cap at these tokens"
    else:
        refused = None
    chosen, schedule = plain, []
    if not refused:
        chosen = _search(job, predictor, prior, stage, reuse)
        for phase in phases:
            own = before[(phase - 1) * len(languages) : phase * len(languages)]
            early = regression.Predictor(kind, [one["model"] for one in own])
            schedule.append(_search(job, early, prior, stage, reuse))
    if schedule:
        schedule.append(chosen)
        chosen = {lang: float(np.mean([weights[lang] for weights in schedule])) for lang in chosen}
    total = sum(prior.values())
    natural = {lang: count / total for lang, count in prior.items()}
    predicted = {
        name: dict(zip(languages, predictor.predict(_row(weights, columns, reuse))[0].tolist(), strict=True))
        for name, weights in (("chosen", chosen), ("tempered", plain), ("prior", natural))
    }
    warnings = [f"regmix: the tempered weights stay: {refused}"] if refused else []
    weak = [lang for lang, r in zip(languages, rho_folds_L, strict=True) if r < settings.min_correlation]
    if weak and not refused:
        warnings.append(f"regmix: the loss of {', '.join(weak)} is hardly predicted (rank correlation under "
                        f"{settings.min_correlation:g}); what it says about them is weak")  # fmt: skip
    made = job.manifest(PROXIES)
    matched = made.get("matched_tokens")
    if matched is not None and abs(stage.tokens / matched - 1.0) > OFF:
        warnings.append(
            f"regmix: proxies repeat the pools as {matched:,} tokens do, but stage 1 reads {stage.tokens:,}; give that as "
            "train.pretrain.stage1.tokens or max_tokens"
        )
    found = {
        "matched_tokens": matched,
        "parameters": made.get("parameters"),
        "larger": _larger(job, made, table, languages),
        "weights": {f"all/{lang}": weight for lang, weight in chosen.items() if weight > 0},
        "phases": [{f"all/{lang}": w for lang, w in weights.items() if w > 0} for weights in schedule],
        "followed": refused is None,
        "kept": sorted(reuse.ratios) if reuse else [],
        "regression": kind,
        "step": STEP,
        "proxies": int((~heldout).sum()),
        "heldout_proxies": int(heldout.sum()),
        "rho": {
            name: None if values is None else dict(zip(languages, values.tolist(), strict=True))
            for name, values in rho.items()
        },
        "prior": natural,
        "tempered": plain,
        "predicted": predicted,
        "warnings": warnings,
    }
    storage.write_json(job.path("weights.json"), found)
    return {
        "followed": refused is None,
        "rho_folds": mean,
        "rho_heldout": None if rho["heldout"] is None else float(rho["heldout"].mean()),
        "warnings": warnings,
    }


def _regress(task: Task) -> dict:
    """The regression of one language: what it predicts for each fold and for the held-out proxies without having seen them,
    and the model of all proxies, which the search asks."""
    heldout, kind, seed = task["heldout"], task["kind"], task["seed"]
    weights_ND, losses_N1 = task["weights"][~heldout], task["losses"][~heldout]
    fitted = regression.fit(weights_ND, losses_N1, kind, seed=seed)
    return {
        "folds": regression.cross_validate(weights_ND, losses_N1, kind, seed=seed),
        "unseen": fitted.predict(task["weights"])[heldout],
        "model": regression.fit(task["weights"], task["losses"], kind, seed=seed).models[0],
    }


def _search(job: Job, predictor, prior: dict[str, int], stage: Stage, reuse: Reuse | None) -> dict[str, float]:
    """The weights of least predicted loss. `stage`: the tempered one, which has the tokens; where they follow from the pools,
    the replay languages get what it gives them, and floors that are asked for yield to the caps too. With `reuse` the replay
    languages keep their ratio to the other old ones, and no share of their own."""
    mixture, settings = job.recipe.mixture, job.regmix
    replay = _replay(prior, mixture)
    caps = search.epoch_caps(prior, stage.tokens, stage.caps)
    minimum, share = floors(settings.minimum, caps), mixture.replay_share
    if stage.bound != "the recipe":
        minimum = {lang: min(least, caps[lang]) for lang, least in minimum.items()}
        share = sum(stage.weights[lang] for lang in replay)
    if reuse:
        folded = search.best_mixture(
            predictor,
            reuse.sums(prior),
            seed=job.recipe.seed,
            n_candidates=settings.candidates,
            average=settings.average,
            caps=reuse.caps(caps),
            minimum=reuse.floors(minimum),
        )
        return dict(zip(prior, reuse.unfold(np.array([list(folded.values())]))[0].tolist(), strict=True))
    return search.best_mixture(
        predictor,
        prior,
        seed=job.recipe.seed,
        n_candidates=settings.candidates,
        average=settings.average,
        caps=caps,
        minimum=minimum,
        fixed_shares={tuple(replay): share} if 0 < len(replay) < len(prior) else None,
    )


def _larger(job: Job, made: dict, table: pa.Table, languages: list[str]) -> dict | None:
    """How alike proxies and larger ones rank the mixtures that both were trained on: Spearman's rho of each language."""
    if not made.get("larger_parameters"):
        return None
    larger = storage.read_table(job.input(PROXIES, "larger.parquet"))
    held = table.filter(table["heldout"])
    rho_L = regression.spearman(_matrix(held, "loss", languages), _matrix(larger, "loss", languages))
    rho = dict(zip(languages, rho_L.tolist(), strict=True))
    return {"parameters": made["larger_parameters"], "proxies": held.num_rows, "rho": rho}


def floors(minimum: dict[str, float], caps: dict[str, float]) -> dict[str, float]:
    """The least share of each language: its own of `minimum`, or that of `default` as far as its cap allows."""
    default = minimum.get("default", 0.0)
    return {lang: minimum.get(lang, min(default, cap)) for lang, cap in caps.items()}


def _tempered(prior: dict[str, int], tokens: int | Auto, mixture) -> Stage:
    """What stage 1 would read without RegMix."""
    replay = _replay(prior, mixture)
    pools = {lang: Pool(count, 0) for lang, count in prior.items()}
    limits = {"temperature": mixture.temperature, "max_epochs": mixture.max_epochs}
    share = mixture.replay_share if len(replay) < len(prior) else 1.0
    return stage1(pools, tokens, **limits, replay=replay, replay_share=share)


def _replay(prior: dict[str, int], mixture) -> list[str]:
    return [lang for lang in prior if lang in mixture.replay_languages]


def effects(predictor, weights_ND: np.ndarray) -> np.ndarray:
    """Mean change of each loss [D, L] when domain d gets `STEP` more of all tokens and every other share shrinks alike."""
    before_NL = predictor.predict(weights_ND)
    rows = []
    for d in range(weights_ND.shape[1]):
        more_ND = weights_ND * (1.0 - STEP)
        more_ND[:, d] += STEP
        rows.append((predictor.predict(more_ND) - before_NL).mean(axis=0))
    return np.stack(rows)


def _write_effects(job: Job, predictor, weights_ND: np.ndarray, domains: list[str], languages: list[str]) -> None:
    change_DL = effects(predictor, weights_ND)
    columns = {
        "domain": np.repeat(domains, len(languages)),
        "language": np.tile(languages, len(domains)),
        "loss_change": change_DL.ravel(),
        "largest_share": np.repeat(weights_ND.max(axis=0), len(languages)),  # of the domain in any proxy
    }
    storage.write_table(job.path("effects.parquet"), pa.table(columns))


def _write_predicted(
    job: Job, languages: list[str], table: pa.Table, predicted_NL: np.ndarray, losses_NL: np.ndarray
) -> None:
    """One row per proxy and language; the training proxies' predictions are those of the folds."""
    heldout = table["heldout"].to_numpy()
    order = np.concatenate([np.flatnonzero(~heldout), np.flatnonzero(heldout)])
    columns = {
        "number": np.repeat(table["number"].to_numpy()[order], len(languages)),
        "heldout": np.repeat(heldout[order], len(languages)),
        "language": np.tile(languages, len(order)),
        "measured": losses_NL[order].ravel(),
        "predicted": predicted_NL.ravel(),
    }
    storage.write_table(job.path("predicted.parquet"), pa.table(columns))


def _named(table: pa.Table, kind: str) -> list[str]:
    return [name.removeprefix(f"{kind}/") for name in table.column_names if name.startswith(f"{kind}/")]


def _matrix(table: pa.Table, kind: str, names: list[str]) -> np.ndarray:
    return np.stack([table[f"{kind}/{name}"].to_numpy() for name in names], axis=1)


def _row(weights: dict[str, float], columns: list[str], reuse: Reuse | None) -> np.ndarray:
    weights = reuse.sums(weights) if reuse else weights
    return np.array([[weights[name] for name in columns]])

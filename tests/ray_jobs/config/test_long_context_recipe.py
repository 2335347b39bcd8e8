"""train.long_context: what is asked for, what is refused, and which stages have its model."""

from typing import get_args

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.config.training import LongContext
from ray_jobs.errors import UserError
from ray_jobs.run import graph
from train.batches import long_rows

ASKED = "train.long_context={context: 1024, tokens: 8192, optimiser: {rows_per_step: 4, lr: 1e-3}}"


def asked(*overrides, name="demo"):
    return recipes.load(name, [ASKED, *overrides])


def test_the_masks_are_those_of_its_rows():
    assert get_args(LongContext.model_fields["mask"].annotation) == long_rows.MASKS


def test_defaults_and_null():
    own = asked().train.long_context
    assert (own.mask, own.rope.theta, own.rope.type, own.long_tokens, own.long_share) == (
        "anchor",
        "auto",
        "default",
        8192,
        0.6,
    )
    assert asked("train.long_context.rope=null").train.long_context.rope is None
    assert asked("train.long_context.rope.theta=1e7").train.long_context.rope.theta == 1e7
    assert recipes.load("demo").train.long_context is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.long_context.context=256"], "long_context.context 256 is not longer than context 256; raise it"),
        (["train.long_context.mask=anker"], "train.long_context.mask"),
        (["train.long_context.rope.theta=-1"], "give a base above 0, such as 1e7, or `auto`"),
        (["train.long_context.rope.factor=4"], "`type: yarn` and `factor` belong together"),
        (["train.long_context.rope.type=yarn"], "`type: yarn` and `factor` belong together"),
        (
            ["train.long_context.context_parallel=3"],
            "long_context.context_parallel 3 needs workers to be a multiple of 3",
        ),
        (
            ["train.workers=4", "train.long_context.context_parallel=4", "train.long_context.context=1020"],
            "needs long_context.context to be a multiple of 8, not 1020",
        ),
        (
            ["train.long_context.context_parallel=2", "train.attention=varlen", "train.precision=bf16"],
            "varlen cannot share a row among workers; with long_context.context_parallel leave it at auto",
        ),
        (
            ["train.long_context.context_parallel=2", 'train.eval_tasks={"rows": ["x.jsonl"]}'],
            "eval_tasks asks whole rows, which long_context.context_parallel 2 shares among workers",
        ),
        (["train.long_context.context_parallel=2", "train.exact=true"], "which long_context.context_parallel: 2 cuts"),
        (
            ["train.long_context.rope.original_max_position_embeddings=99"],
            "nothing reads it without `train.long_context.rope.type: yarn`",
        ),
        (["train.pretrain=null", "train.expand=null", "train.prune=null"], "long_context needs `pretrain`"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(overrides, message):
    with pytest.raises(UserError) as error:
        asked(*overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_aligned_starts_from_it_and_has_its_tokenizer_only_when_asked():
    apart, aligned = asked(), asked("train.long_context.align=true")
    stages = {name: {s.name: s for s in graph.enabled(one)} for name, one in (("apart", apart), ("aligned", aligned))}
    assert "long_context" not in stages["apart"]["sft/stage1"].inputs
    assert "pretrain/stage2" in stages["apart"]["sft/stage1"].inputs
    assert "long_context" in stages["aligned"]["sft/stage1"].inputs
    assert "pretrain/stage2" not in stages["aligned"]["sft/stage1"].inputs
    assert stages["aligned"]["tasks"].inputs.count("long_context") == 1
    for one in stages.values():
        assert {"pretrain/stage2", "long_context"} <= {*one["evaluate"].inputs} & {*one["export"].inputs}
    of = {
        name: {stage for stage in stages[name] if graph.lengthened(one, stage)}
        for name, one in (("apart", apart), ("aligned", aligned))
    }
    rounds = {s for s in stages["aligned"] if s.startswith("dpo/")}
    assert of["apart"] == {"long_context"}
    assert of["aligned"] == {"long_context", "reward", "sft/stage1", "sft/select", "sft/stage2"} | rounds
    # whether it is aligned changes nothing about the stage itself
    assert "train.long_context.align" not in stages["aligned"]["long_context"].config

"""The recipe: one YAML file that says everything about a run, read into typed models that refuse unknown keys.

Numbers are the paper's where it gives them (Sailor2, arXiv 2502.12982). Paths may use `${VARIABLE}`; `PINISI_SAMPLE_DIR`
defaults to the `sample/` folder of this repository. A recipe may name one other as its `base:` and change parts of it.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ray_jobs.errors import UserError

LANGUAGES = ("my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh")
RECIPES = Path(__file__).parent / "recipes"
SAMPLE = Path(__file__).parent.parent / "sample"

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Section):
    """Where documents come from. `path` is a glob at any URI; for `hf` the name of a data set."""

    name: str
    type: Literal["warc", "wet", "jsonl", "parquet", "hf", "html"]
    path: str
    crawl: str = ""  # snapshot name, kept with every document
    licence: str = ""
    trust_language: bool = False  # take the language that the row declares, not the identifier's
    optional: bool = False  # no error when nothing matches
    share: Share = 1.0  # keep this share of the documents, chosen by a hash of their id
    text_field: str = "text"
    id_field: str = "id"
    url_field: str = "url"
    lang_field: str = "lang"
    split: str = "train"  # of an `hf` data set


class Crawl(Section):
    max_record_bytes: Positive = 10_000_000
    max_line_bytes: Positive = 10_000_000
    max_bad_share: Share = 0.5  # the run fails when more records than this are broken


class Extract(Section):
    engine: Literal["resiliparse", "trafilatura"] = "resiliparse"
    timeout_seconds: Rate = 10.0
    max_nodes: Positive = 200_000


class Language(Section):
    model: Literal["lid.176"] = "lid.176"
    min_score: dict[str, Share] = {"default": 0.5}  # a language, or `default`


class Filter(Section):
    policy: dict[str, dict] = {}  # language or `default` -> rules that replace those of curation/languages/<lang>.yaml


class Dedup(Section):
    num_perm: Positive = 256
    bands: Positive = 25
    rows: Positive = 10
    ngram: Positive = 5
    threshold: Share = 0.7
    line_max_count: Positive = 5
    line_min_chars: Positive = 20
    line_bucket_documents: Positive = 10_000_000
    min_words_left: Positive = 10
    max_driver_edges: Positive = 20_000_000

    @model_validator(mode="after")
    def _bands_fit(self) -> Dedup:
        if self.bands * self.rows > self.num_perm:
            raise ValueError(f"bands x rows = {self.bands * self.rows} needs more than num_perm = {self.num_perm}")
        return self


class Quality(Section):
    """fastText classifier per language, positives against negatives (DCLM); the best share feeds stage 2."""

    positives: list[str] = []  # names of sources
    negatives: list[str] = []
    per_side: Positive = 10_000
    min_examples: Positive = 50  # a language with fewer on either side gets no classifier
    top_share: Share = 0.2


class Tokenize(Section):
    tokenizer: str = "train"  # `train`, or a folder or Hugging Face name
    vocab_size: Positive = 16_384
    train_bytes: Positive = 12_000_000
    heldout_share: Share = 0.02  # documents kept for evaluation, by a hash of their id
    heldout_bytes_per_language: Positive = 100_000


class Mixture(Section):
    temperature: Rate = 2.0  # weights ~ tokens^(1/temperature)
    max_epochs: Rate = 4.0
    replay_languages: list[str] = ["en", "zh"]
    replay_share: Share = 0.2  # of stage 1, for the replay languages together
    stage2_replay_share: Share = 0.2  # of stage 2: the blend of stage 1
    stage2_instruction_share: Share = 0.04  # of stage 2: instruction texts


class Shape(Section):
    """A Qwen2 configuration."""

    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    intermediate_size: Positive
    tie_word_embeddings: bool = True
    rope_theta: Rate = 10_000.0


class Optimiser(Section):
    """One training run of the loop. `rows` are packed sequences (or preference pairs) per optimiser step."""

    rows_per_step: Positive
    micro_rows: Positive = 8
    lr: Rate
    min_lr: Annotated[float, Field(ge=0.0)] = 0.0
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: Rate = 1e-8
    clip: Rate = 1.0
    checkpoint_every: Annotated[int, Field(ge=0)] = 50  # steps; 0 = only at the end


class Base(Section):
    """The model that is continued: `model` (a folder or Hugging Face name), or a new one of `shape` trained on `languages`."""

    model: str | None = None
    shape: Shape | None = None
    languages: list[str] = ["en", "zh"]
    tokens: Positive = 1_000_000
    optimiser: Optimiser | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Base:
        if (self.model is None) == (self.shape is None):
            raise ValueError("give either `model` or `shape`")
        if self.shape is not None and self.optimiser is None:
            raise ValueError("a new model of `shape` needs an `optimiser`")
        return self


class Expand(Section):
    new_layers: Positive
    trainable: Literal["all", "new_blocks"] = "all"
    untie_embeddings: bool = False
    vocab_size: Positive | None = None


class PretrainStage(Section):
    tokens: Positive
    rows_per_step: Positive
    lr: Rate | None = None  # None: `pretrain.lr` in stage 1, a tenth of it in stage 2
    min_lr: Annotated[float, Field(ge=0.0)] | None = None
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0


class Pretrain(Section):
    """Continual pre-training in two stages (paper section 4.4)."""

    lr: Rate = 1e-4
    eps: Rate = 1e-5
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    micro_rows: Positive = 8
    checkpoint_every: Annotated[int, Field(ge=0)] = 50
    stage1: PretrainStage
    stage2: PretrainStage
    control: bool = False  # also train the base without expansion, to measure what expansion is worth


class Reward(Section):
    preference: str  # glob of rows {id, lang, prompt, chosen, rejected} for our own Bradley-Terry model
    max_rows: Positive | None = None  # by a hash of their id
    epochs: Positive = 1
    optimiser: Optimiser


class SftStage(Section):
    epochs: Positive = 1
    optimiser: Optimiser


class Select(Section):
    per_cell: Positive = 40  # examples kept for each (language, category)
    max_similarity: Share = 0.6


class Sft(Section):
    instruct: str  # glob of rows {id, lang, messages}
    max_rows: Positive | None = None  # by a hash of their id
    stage1: SftStage
    select: Select = Select()
    stage2: SftStage


class OnPolicy(Section):
    prompts: Positive = 64
    samples: Positive = 5
    temperature: Rate = 0.9
    top_p: Share = 0.95
    max_new_tokens: Positive = 2048


class Dpo(Section):
    preference: str  # glob of rows {id, lang, prompt, chosen, rejected}
    loss: Literal["lr_dpo", "dpo", "ln_dpo", "simpo"] = "lr_dpo"
    beta: Rate = 0.01
    alpha: Annotated[float, Field(ge=0.0)] = 1e-3
    gamma: Annotated[float, Field(ge=0.0)] = 0.5
    max_prompt_tokens: Positive = 1024
    drop_worst_perplexity: Share = 0.1  # of each language's pairs, by the base model
    max_rows: Positive | None = None
    optimiser: Optimiser
    on_policy: OnPolicy = OnPolicy()


class Prune(Section):
    hidden_size: Positive
    num_attention_heads: Positive
    intermediate_size: Positive
    mask_steps: Positive = 60
    mask_lr: Rate = 1.0
    warmup_steps: Positive = 20
    heal_tokens: Positive
    optimiser: Optimiser


class Train(Section):
    context: Positive = 4096
    precision: Literal["fp32", "bf16", "auto"] = "fp32"  # auto: bf16 where the device computes it natively
    parallel: Literal["replicate", "fsdp"] = "replicate"
    workers: Positive = 2
    base: Base
    expand: Expand
    pretrain: Pretrain
    reward: Reward | None = None
    sft: Sft | None = None
    dpo: Dpo | None = None
    prune: Prune | None = None


class Evaluate(Section):
    sample_prompt_chars: Positive = 60
    sample_tokens: Positive = 40


class Cluster(Section):
    cpus: Positive | None = None  # of an embedded Ray; None = all cores
    spark_memory: str = "1g"


class Recipe(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    seed: int = 42
    languages: list[str] = list(LANGUAGES)
    sources: Annotated[list[Source], Field(min_length=1)]
    crawl: Crawl = Crawl()
    extract: Extract = Extract()
    language: Language = Language()
    filter: Filter = Filter()
    dedup: Dedup = Dedup()
    quality: Quality = Quality()
    tokenize: Tokenize = Tokenize()
    mixture: Mixture = Mixture()
    train: Train | None = None  # None: curation and mixture only
    evaluate: Evaluate = Evaluate()
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _sources(self) -> Recipe:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("two sources have the same `name`")
        for key in ("positives", "negatives"):
            for name in getattr(self.quality, key):
                if name not in names:
                    raise ValueError(f"quality.{key} names the source {name!r}, which is not in `sources`")
        return self


def find(recipe: str) -> Path:
    """The file of a recipe given as a path or as the name of one that ships with Pinisi."""
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = RECIPES / f"{recipe}.yaml"
    if shipped.is_file():
        return shipped
    names = sorted(p.stem for p in RECIPES.glob("*.yaml"))
    raise UserError(
        f"{recipe}: no such recipe file, and none of the shipped recipes ({', '.join(names)}) has that name"
    )


def load(recipe: str, overrides: list[str] = ()) -> Recipe:
    """Read a recipe, its `base:`, and `key.path=value` overrides. Raises UserError naming the file, line and key."""
    path = find(recipe)
    values = _read(path)
    if base := values.pop("base", None):
        base_path = find(str(path.parent / base) if (path.parent / str(base)).is_file() else str(base))
        below = _read(base_path)
        if "base" in below:
            raise UserError(f"{path}: base: {base_path.name} has a base of its own; only one level is allowed")
        values = _merge(below, values)
    for override in overrides:
        _override(values, override)
    return parse(values, path)


def parse(values: dict, path: Path | str) -> Recipe:
    """Typed recipe from plain values; `path` is named in errors."""
    try:
        return Recipe.model_validate(_expand_variables(values, str(path)))
    except ValidationError as error:
        raise UserError(_explain(error, path)) from None


def resolved(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True)


def lookup(recipe: Recipe, key: str) -> Any:
    """The value at a dotted key, as plain data; None where a section on the way is null."""
    value: Any = recipe.model_dump()
    for part in key.split("."):
        if value is None:
            return None
        value = value[part]
    return value


def _read(path: Path) -> dict:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the recipe as UTF-8") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys, this file holds {type(values).__name__}")
    return values


def _merge(below: dict, above: dict) -> dict:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(values: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: write it as key.path=value")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise UserError(f"--set {key}: {text!r} is not a valid YAML value") from None
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        value = float(value)  # YAML 1.1 reads 2e-5 as text
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        if isinstance(node, list):
            try:
                node = node[int(parent)]
            except (ValueError, IndexError):
                raise UserError(f"--set {key}: {parent!r} is not an index of that list") from None
            continue
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict | list):
            raise UserError(f"--set {key}: {parent!r} is a value, it has no keys below it")
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            raise UserError(f"--set {key}: {last!r} is not an index of that list")
        node[int(last)] = value
    else:
        node[last] = value


def _expand_variables(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return {k: _expand_variables(v, path) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand_variables(v, path) for v in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match) -> str:
        name = match[1]
        known = os.environ.get(name) or (str(SAMPLE) if name == "PINISI_SAMPLE_DIR" else None)
        if known is None:
            raise UserError(f"{path}: {value!r} needs the environment variable {name}; set it or write the path out")
        return known

    return re.sub(r"\$\{(\w+)\}", replace, value)


def _explain(error: ValidationError, path: Path | str) -> str:
    """One sentence for the first problem: file, line, key, what is wrong and the nearest right key."""
    problem = error.errors()[0]
    keys = [str(part) for part in problem["loc"]]
    where = ".".join(keys) or "recipe"
    line = _line_of(path, keys)
    prefix = f"{path}, line {line}: {where}" if line else f"{path}: {where}"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{prefix}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{prefix}: this key is required; add it"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{prefix}: {message[0].lower()}{message[1:]}{shown}"


def _known_keys(parents: list[str]) -> list[str]:
    model: Any = Recipe
    for parent in parents:
        if parent.isdigit():
            continue
        annotation = model.model_fields[parent].annotation
        nested = [a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")]
        if not nested:
            return []
        model = nested[0]
    return sorted(model.model_fields)


def _line_of(path: Path | str, keys: list[str]) -> int | None:
    if not Path(path).is_file():
        return None
    node = yaml.compose(Path(path).read_text(encoding="utf-8"))
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == key), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            return line
    return line

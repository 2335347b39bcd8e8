"""Sections of a recipe for parallel text. Each key is documented in docs/recipe.md."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cluster.strict_yaml import Positive, Rate, Section, Share
from curation.parallel.read import HF, LANG, format_of

Format = Literal["tmx", "moses", "tsv", "jsonl", "parquet", "hf"]

Place = str | int | tuple[str, int]


class ParallelSource(Section):
    """Where pairs come from: an item of `sources` with `type: parallel`, which becomes one of `parallel.sources`."""

    name: str
    type: Literal["parallel"] = "parallel"
    path: str
    sides: dict[str, str | int]  # or a list of two: language -> where its side stands
    format: Format | None = None  # by the name of the files where it is not said
    licence: str = ""
    optional: bool = False  # no error when nothing matches
    share: Share = 1.0  # keep this share of the pairs, chosen by a hash of their id

    @field_validator("sides", mode="before")
    @classmethod
    def _named(cls, value: object, info: ValidationInfo) -> object:
        """A list as a mapping; one sentence for what is neither, where pydantic has one for each form."""
        pairs = [(lang, lang) for lang in value] if isinstance(value, list) else []
        pairs = [*value.items()] if isinstance(value, dict) else pairs
        places = [(lang, at) for lang, at in pairs if isinstance(lang, str) and type(at) in (str, int)]
        if len(dict(places)) != len(pairs):
            places = []
        if len(places) != 2:
            raise ValueError(
                f"source {info.data.get('name')!r}: `sides` are two languages, such as [en, id], or where each of the two "
                "stands: {en: source, id: target}"
            )
        if places[0][1] == places[1][1]:
            raise ValueError(
                f"source {info.data.get('name')!r}: {places[0][0]} and {places[1][0]} both stand at {places[0][1]!r} by its "
                "`sides`; give each a place of its own"
            )
        return dict(places)

    @model_validator(mode="after")
    def _readable(self) -> ParallelSource:
        kind = self.format or format_of(self.path)
        if kind is None:
            raise ValueError(
                f"source {self.name!r}: {self.path} does not say what its files are; give `format`: tmx, moses, tsv, jsonl, "
                "parquet or hf"
            )
        if (kind == "moses") != (LANG in self.path):
            raise ValueError(
                f"source {self.name!r}: two files of one text have {LANG} in their `path` (news.{LANG}), others not"
            )
        if (kind == "hf") != (self.path.startswith(HF) and not self.path.startswith("hf://")):
            raise ValueError(f"source {self.name!r}: a data set has the `path` hf:NAME, other sources have files")
        if kind != "tsv" and any(isinstance(place, int) for place in self.sides.values()):
            raise ValueError(f"source {self.name!r}: numbers of columns are for tsv; name the columns in `sides`")
        if any(isinstance(place, int) and place < 1 for place in self.sides.values()):
            raise ValueError(f"source {self.name!r}: columns in `sides` are counted from 1")
        return self

    @property
    def kind(self) -> str:
        return self.format or format_of(self.path) or ""

    @property
    def langs(self) -> tuple[str, str]:
        """The languages of the sides, in the order of the alphabet."""
        first, second = sorted(self.sides)
        return first, second

    @property
    def places(self) -> tuple[Place, Place]:
        """Where the sides of `langs` stand; in a TSV without a word about it (name, number): in the columns that its first line
        names so, else in the first two, as `sides` has them."""
        first, second = self.langs
        if self.kind == "tsv" and all(lang == place for lang, place in self.sides.items()):
            columns = {lang: number for number, lang in enumerate(self.sides, 1)}
            return (first, columns[first]), (second, columns[second])
        return self.sides[first], self.sides[second]


class Formats(Section):
    """The share of pairs that become documents of each kind, in proportion."""

    instruction: Annotated[float, Field(ge=0)] = 0.4
    plain: Annotated[float, Field(ge=0)] = 0.2
    interleaved: Annotated[float, Field(ge=0)] = 0.4

    @model_validator(mode="after")
    def _some(self) -> Formats:
        if not self.instruction + self.plain + self.interleaved:
            raise ValueError("one of instruction, plain and interleaved must be above 0")
        return self


class Parallel(Section):
    """Pairs of sentences or paragraphs in two languages."""

    sources: list[ParallelSource] = []  # those of `sources` with type: parallel
    max_length_ratio: Annotated[float, Field(ge=1)] = 2.5
    max_similarity: Share = 0.8  # of both sides with each other
    min_score: dict[str, Share] = {"default": 0.1}  # of the language of a side, by language or `default`
    min_letters: Annotated[int, Field(ge=0)] = 20  # of a side whose language is looked at
    duplicates: Annotated[float, Field(gt=0, lt=1)] = 0.8  # Jaccard similarity of a side with that of another pair
    encoder: str | None = None  # a model of sentence embeddings: the sides must be near each other
    min_alignment: Annotated[float, Field(ge=-1, le=1)] = 0.6  # cosine
    formats: Formats = Formats()
    block: Positive = 8  # consecutive pairs of an interleaved document
    templates: str | None = None  # a local folder of <language>.yaml instead of those shipped
    share: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of stage 1
    stage2_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of stage 2, beside that in the replayed blend
    weights: dict[str, Rate] = {}  # by pair of languages (en-id) in proportion; none: tempered tokens

    @field_validator("min_score")
    @classmethod
    def _with_default(cls, value: dict[str, float]) -> dict[str, float]:
        return {"default": 0.1, **value}

    @model_validator(mode="after")
    def _weighted(self) -> Parallel:
        pairs = {"-".join(source.langs) for source in self.sources}
        if self.weights and pairs != set(self.weights):
            raise ValueError(
                f"weights must name the pairs of languages of the sources, all of them: {', '.join(sorted(pairs))}"
            )
        return self

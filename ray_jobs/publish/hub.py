"""A folder to a repository of the Hugging Face hub, or of a server that speaks as it does (HF_ENDPOINT).

A push that was interrupted goes on: the hub says which contents it has. Each repository holds `pinisi.json`, which says whose it
is, so nothing that others put there is overwritten.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.run.hub import is_name

MARK = "pinisi.json"
OWN = {".gitattributes"}  # what the hub itself puts into a new repository
REPLACED = {"dataset": ["data/**"], "model": ["*.safetensors*", "*.gguf", "Modelfile"]}
"""By kind: what goes from a repository when a push no longer has it, such as documents that were taken down since."""


@dataclass(frozen=True)
class Repository:
    """`kind` is "model" or "dataset"; `name` is OWNER/NAME."""

    kind: str
    name: str

    @property
    def url(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


def named(target: str, kind: str) -> Repository:
    """The repository that a user calls `hf:OWNER/NAME`. Raises UserError for another form."""
    place, _, name = target.partition(":")
    if place != "hf" or "/" not in name or not is_name(name):
        raise UserError(f"--to {target}: write hf:OWNER/NAME, of letters, digits, '-', '_' and '.'")
    return Repository(kind, name)


def files(folder: str) -> list[tuple[str, int]]:
    """(path, bytes) of what would go out, sorted."""
    return sorted(
        (path.relative_to(folder).as_posix(), path.stat().st_size) for path in Path(folder).rglob("*") if path.is_file()
    )


def push(folder: str, to: Repository, run: str, public: bool) -> str:
    """Send the local `folder`, which `mark` has marked as of `run`, in the place of what a former push sent (`REPLACED`); returns
    the address of the repository, which is made if it is not there, private unless `public`. Raises UserError when the hub
    says no."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not get_token():
        raise UserError("no token of the Hugging Face hub: set HF_TOKEN to one that may write, or say `hf auth login`")
    api = HfApi()
    try:
        _repository(api, to, folder, run, public)
        api.upload_folder(
            repo_id=to.name,
            repo_type=to.kind,
            folder_path=folder,
            commit_message=f"{run}, by Pinisi",
            delete_patterns=REPLACED[to.kind],
        )
    except HfHubHTTPError as error:
        raise UserError(_refused(error, to)) from None
    except (RuntimeError, ValueError) as error:  # of an upload; what the hub answered lies below
        cause = error.__cause__
        raise UserError(_refused(cause, to) if isinstance(cause, HfHubHTTPError) else _broken(error, to)) from None
    except OSError as error:
        raise UserError(_broken(error, to)) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise
        raise UserError(_broken(error, to)) from None
    return to.url


def mark(folder: str, run: str) -> None:
    """Write into `folder` which run it is of: the recipe `run`, and what of it."""
    storage.write_json(str(Path(folder, MARK)), {"made_by": "pinisi", "recipe": run})


def _repository(api, to: Repository, folder: str, run: str, public: bool) -> None:
    """Make it and mark it, before all else, or find that it is this run's. Raises UserError for one that holds something else,
    or that all see where `public` was not said."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_repo(to.name, repo_type=to.kind, private=not public)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        there = set(api.list_repo_files(to.name, repo_type=to.kind)) - OWN
        if there and _whose(api, to, there) != run:
            raise UserError(
                f"hf:{to.name} is taken: it holds what this recipe did not push; choose another name"
            ) from None
        if not public and not api.repo_info(to.name, repo_type=to.kind).private:
            raise UserError(f"hf:{to.name} is public; say --public if that is meant") from None
        if there:
            return
    api.upload_file(
        path_or_fileobj=str(Path(folder, MARK)),
        path_in_repo=MARK,
        repo_id=to.name,
        repo_type=to.kind,
        commit_message=f"{run}, by Pinisi: begun",
    )


def _whose(api, to: Repository, there: set[str]) -> str | None:
    if MARK not in there:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return storage.read_json(api.hf_hub_download(to.name, MARK, repo_type=to.kind, local_dir=folder)).get("recipe")


def _refused(error, to: Repository) -> str:
    """One sentence for what the hub answered."""
    status = error.response.status_code
    owner = to.name.split("/")[0]
    if status == 401:
        return "the hub does not know this token: set HF_TOKEN to a valid one, or say `hf auth login`"
    if status in (403, 404):
        return f"this token may not write to hf:{to.name}: it needs the right to write for {owner}"
    return f"hf:{to.name}: the hub answered {status}: {' '.join((error.server_message or str(error)).split())[:200]}"


def _broken(error: Exception, to: Repository) -> str:
    said = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
    return f"hf:{to.name}: the push broke off ({said}); say the same again, it goes on where it was"

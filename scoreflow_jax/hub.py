"""Model folders on the Hugging Face hub: hf://owner/name[@revision]. The only module that imports huggingface_hub.

A folder that was fetched stays in that package's own cache ($HF_HUB_CACHE, else ~/.cache/huggingface/hub) and is taken from there
when the hub cannot be reached; HF_HUB_OFFLINE=1 asks for nothing else. Only the files of a model are fetched, and none is run.
"""

import importlib
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from scoreflow_jax.errors import UserError, first_line

SCHEME = "hf://"
_PLACE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_OWNER = re.compile(r"[\w.-]+/[\w.-]+")


def fetch(place: str, names: Sequence[str]) -> pathlib.Path:
    """The folder of a model on the hub, fetched or from the cache.

    Args:
        place: hf://owner/name, or with @ and a branch, tag or commit.
        names: of the files to fetch.

    Raises:
        UserError: no such model or revision, no way to the hub and nothing in the cache, or huggingface_hub is missing.
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise UserError(f"{place} names no model: expected hf://owner/name or hf://owner/name@revision")
    hub = _package(f"{place} is fetched by huggingface_hub")
    repository, revision = found.groups()
    try:
        return pathlib.Path(hub.snapshot_download(repository, revision=revision, allow_patterns=list(names)))
    except Exception as error:
        raise UserError(f"cannot fetch {place}: {_why(error)}") from error


def push(folder: pathlib.Path, repository: str, names: Sequence[str]) -> str:
    """Uploads a model's files to the hub, and makes its repository there where it is not; returns its address.

    Files of a version before that this one has not are deleted there: they would have no sum.

    Args:
        folder: of the model.
        repository: owner/name.
        names: of the files.

    Raises:
        UserError: it is no such name, nobody is logged in or may write there, or huggingface_hub is missing.
    """
    check_repository(repository)
    hub = _package("--push uploads by huggingface_hub")
    try:
        api = hub.HfApi()
        api.create_repo(repository, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=str(folder), allow_patterns=list(names), delete_patterns=list(names)
        )
    except Exception as error:
        raise UserError(
            f"cannot push to {repository}: {_why(error)}. {folder} is whole and can be uploaded as it is"
        ) from error
    return str(getattr(done, "repo_url", None) or f"{SCHEME}{repository}")


def check_repository(repository: str) -> None:
    """Refuses what is no owner/name."""
    if _OWNER.fullmatch(repository) is None:
        raise UserError(f"--push is {repository!r}, expected owner/name, such as ada/digits")


def _package(what: str) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            f"{what}, which is not installed: pip install huggingface_hub. Without it, fetch the folder by other means and give "
            "its path"
        ) from error


def _why(error: Exception) -> str:
    """What a failure of the package means, by the names of its classes: they share no base."""
    names = {each.__name__ for each in type(error).__mro__}
    if "GatedRepoError" in names:
        return "its owner has to grant access first: ask for it on the model's page, then huggingface-cli login"
    if "RepositoryNotFoundError" in names:
        return "there is no such model, or it is private and this machine is not logged in (huggingface-cli login)"
    if "RevisionNotFoundError" in names:
        return "it has no such revision: leave out what follows @, or give a branch, tag or commit of its page"
    if names & {
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ConnectionError",
        "ConnectError",
        "TimeoutException",
    }:
        return "the hub cannot be reached from here (or HF_HUB_OFFLINE is set), and the cache does not hold it"
    if "LocalTokenNotFoundError" in names or "401" in str(error) or "403" in str(error):
        return "nobody who may write there is logged in: huggingface-cli login"
    return first_line(error, 200)

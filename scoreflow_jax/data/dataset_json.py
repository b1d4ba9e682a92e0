"""Labels beside pictures, as the data tools of StyleGAN2-ADA, StyleGAN3 and EDM write them.

A folder or zip of theirs holds shards 00000/, 00001/, ..., which are no classes, and a dataset.json: {"labels": [[file, class],
...]}, or {"labels": null} for data without classes.
"""

import json
import pathlib
from typing import Any

from scoreflow_jax.data import archives
from scoreflow_jax.errors import UserError, first_line

NAME = "dataset.json"

_MOST_CLASSES = 100_000


def read_labels(folder: pathlib.Path) -> dict[str, int] | None:
    """Classes by file name, relative to the folder with "/"; empty for data without classes; None without such a file.

    Raises:
        UserError: it is damaged, or holds no whole numbers from 0 for labels.
    """
    content = _read(folder / NAME)
    if content is None or "labels" not in content:
        return None  # another program's
    labels = content["labels"]
    if labels is None:
        return {}
    if not isinstance(labels, list) or not all(map(_is_pair, labels)):
        raise UserError(
            f"the labels of {folder / NAME} are not pairs of a file and a class numbered from 0, such as ['00000/img.png', 6]: "
            "correct it, or set them to null to train without classes"
        )
    return {name.replace("\\", "/"): label for name, label in labels}


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        text = path.read_bytes() if archives.split_path(path) is None else archives.read_entry(path).read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # a damaged zip raises almost anything
        raise UserError(f"cannot read {path} ({first_line(error)})") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({first_line(error)}): repair it, or remove it") from error
    return content if isinstance(content, dict) else None


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and type(value[1]) is int
        and 0 <= value[1] < _MOST_CLASSES
    )

"""Makes a model that is shipped with the package of a published folder.

    python main.py --config=RUN/config.json --mode=publish --workdir=RUN --out=FOLDER
    python -m benchmarks.ship FOLDER cifar10-small --config=configs/cifar10_small.py --classes=airplane,automobile,bird,...

A run may have read its images from an npz, which names no classes. In its config and data.json stand then, in place of that, how
the config of the repository reads the same images, and the classes' names, so that both fit what users have. The weights and all
else stay as they were published.
"""

import argparse
import json
import pathlib
import shutil

from scoreflow_jax import files, published, sums
from scoreflow_jax.command_line import load_config
from scoreflow_jax.errors import UserError

_SAME = ("name", "shape", "num_classes", "levels", "dequantize", "flip", "train_split", "test_split")
"""Fields of `config.data` in which the run and the config have to agree: which images, and what is made of them."""

_OF_THE_READER = ("kind", "split", "sketch", "sha256")
"""What data.json says of files that the user does not have."""


def ship(folder: pathlib.Path, name: str, config: str, classes: list[str]) -> pathlib.Path:
    """Copies the folder into the package.

    Args:
        folder: that --mode=publish wrote.
        name: by which `load` will know it.
        config: the file of the repository that reads the same images.
        classes: their names, in order.

    Raises:
        UserError: the folder is damaged, or of other data than the config's.
    """
    published.check(folder)
    trained = json.loads((folder / "config.json").read_text())
    data = load_config(config)["data"]
    for field in _SAME:
        ours, theirs = json.loads(json.dumps([data[field], trained["data"][field]]))
        if ours != theirs:
            raise UserError(f"config.data.{field} is {theirs!r} in {folder}, and {ours!r} in {config}")
    if len(classes) != trained["data"]["num_classes"]:
        raise UserError(f"got {len(classes)} names of classes, expected {trained['data']['num_classes']}")
    out = published.SHIPPED / name
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out)
    files.write_json(out / "config.json", {**trained, "name": name, "data": data})
    facts = {k: v for k, v in sums.read_json(out / "data.json").items() if k not in _OF_THE_READER}
    facts.pop("sha256", None)
    sums.write_json(out / "data.json", {**facts, "class_names": classes})
    card = (out / published.CARD).read_text().replace(f"# {trained['name']}\n", f"# {name}\n")
    numbers = ", ".join(map(str, range(len(classes))))
    card = card.replace(f"({numbers})", f"({', '.join(classes)})").replace('load("FOLDER")', f'load("{name}")')
    (out / published.CARD).write_text(card.replace("--workdir=FOLDER", f"--workdir={published.PREFIX}{name}"))
    published.finish(out)
    return out


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("name")
    parser.add_argument("--config", required=True)
    parser.add_argument("--classes", required=True, help="names, with commas between")
    given = parser.parse_args()
    print(f"wrote {ship(given.folder, given.name, given.config, given.classes.split(','))}")


if __name__ == "__main__":
    main()

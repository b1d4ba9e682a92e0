"""Configs as files: Python with get_config, which needs ml_collections, or a run's config.json, which needs nothing.

The project's own stand in configs/ of the repository, and an installed package has them in its own folder. So `--config=digits`
and `--config=configs/digits.py` mean the same wherever a command is started; a file of the user's of that path is taken first.
"""

import importlib.util
import pathlib
import sys
import types
from typing import Any

from scoreflow_jax import plain_config
from scoreflow_jax.errors import UserError, first_line, nearest
from scoreflow_jax.user_paths import user_path

_PACKAGE = "configs"
"""By which a config imports what it shares with others, `from configs import common`, wherever these lie."""

_HERE = pathlib.Path(__file__).parent
FOLDER = _HERE / _PACKAGE if (_HERE / _PACKAGE).is_dir() else _HERE.parent / _PACKAGE
"""The project's configs: in the installed package, or beside it in a checkout."""


def names() -> list[str]:
    """The project's configs, as --config takes them."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "common"))


def load_config(file: str) -> dict[str, Any]:
    """Loads `NAME`, `path.py`, either with `:variant`, or `path.json` as plain data in today's form.

    Raises:
        UserError: no such file, one without a usable get_config, or ml_collections missing.
    """
    if plain_config.is_json(file):
        return plain_config.read_json(file)
    given, _, variant = file.partition(":")
    path = _found(given)
    if importlib.util.find_spec("ml_collections") is None:
        raise UserError(
            f"{given} needs ml_collections, which is not installed: on a machine that has it, write it as JSON by --mode=config "
            f"--config={file} --out=config.json, and give that here as --config=config.json"
        )
    spec = importlib.util.spec_from_file_location("_scoreflow_config", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{given} is not a Python file; expected a config such as {_PACKAGE}/digits.py")
    module = importlib.util.module_from_spec(spec)
    try:
        _provide_package(path.resolve().parent)
        spec.loader.exec_module(module)
        return plain_config.to_plain(module.get_config(variant))
    except Exception as error:
        raise UserError(f"cannot load {file} ({type(error).__name__}: {first_line(error)})") from error


def _found(given: str) -> pathlib.Path:
    """The file that is meant.

    Raises:
        UserError: there is none.
    """
    path = user_path(given)
    own = FOLDER / f"{path.stem}.py"
    by_name = given == path.stem
    if path.is_file() and not (by_name and own.is_file()):  # a file without a suffix is no config
        return path
    if own.stem in names() and (by_name or given in (own.name, f"{_PACKAGE}/{own.name}", f"{_PACKAGE}/{own.stem}")):
        return own
    known = [name if by_name else f"{_PACKAGE}/{name}.py" for name in names()]
    raise UserError(f"no config file {given}{nearest(given, known)}; expected a file, or one of {', '.join(names())}")


def _provide_package(folder: pathlib.Path) -> None:
    """Lets `configs` be the folder that a config of it lies in, else the project's: not whatever else has that name.

    Args:
        folder: of the config.
    """
    wanted = folder if folder.name == _PACKAGE and (folder / "common.py").is_file() else FOLDER.resolve()
    there = sys.modules.get(_PACKAGE)
    if there is not None and [pathlib.Path(place).resolve() for place in getattr(there, "__path__", [])] == [wanted]:
        return
    for name in [name for name in sys.modules if name.split(".")[0] == _PACKAGE]:
        del sys.modules[name]
    module = types.ModuleType(_PACKAGE)
    module.__path__ = [str(wanted)]  # a package, of whose own __init__.py nothing is needed
    sys.modules[_PACKAGE] = module

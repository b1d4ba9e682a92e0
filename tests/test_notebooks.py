"""The notebooks: run from the first cell to the last in their small form, and committed without what a run leaves in them."""

import base64
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from tests.conftest import COMPILED, ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
kernelspec = pytest.importorskip("ipykernel.kernelspec")

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
REFUSED = """
try:
    scoreflow({})
except RuntimeError as error:
    print("refused:", error)
"""


def read(name):
    return nbformat.read(ROOT / "notebooks" / name, 4)


def execute(name, last_cell, folder, monkeypatch):
    """Runs a notebook and one more cell in a kernel of this very interpreter, which writes below `folder` alone."""
    kernelspec.write_kernel_spec(folder / "jupyter" / "kernels" / "python3")
    (folder / "runs").mkdir()
    for variable, value in {
        "SCOREFLOW_JAX_SMALL": "1",
        "TMPDIR": folder / "runs",
        "PYTHONPATH": ROOT,
        "JAX_COMPILATION_CACHE_DIR": COMPILED,
        "JUPYTER_PATH": folder / "jupyter",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "IPYTHONDIR": folder / "ipython",
    }.items():
        monkeypatch.setenv(variable, str(value))
    notebook = read(name)
    notebook.cells.append(nbformat.v4.new_code_cell(last_cell))
    where = {"metadata": {"path": str(ROOT / "notebooks")}}  # as Jupyter does
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures_of(cell):
    data = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")) for png in data]


def numbers(pattern, text):
    return [float(number) for found in re.findall(pattern, text) for number in re.findall(r"[\d.]+(?:e-?\d+)?", found)]


def check_pictures(cells, expected):
    """As many pictures as expected of each code cell, none of them tiny or blank."""
    pictures = [pictures_of(cell) for cell in cells]
    assert [len(each) for each in pictures] == expected
    for picture in (p for each in pictures for p in each):
        assert min(picture.shape[:2]) >= 40
        assert picture.std() > 10


def test_translate(tmp_path, monkeypatch):
    cells = execute("translate.ipynb", REFUSED.format('"--mode=nonsense"'), tmp_path, monkeypatch)
    check_pictures(cells, [0, 0, 0, 1, 1, 1, 0, 1, 0])
    text = "".join(map(text_of, cells))
    assert "325 images, natural sampling of 2 classes: 0 3: 166, 1 8: 159" in text
    errors = numbers(r"there and back: mean error (\S+)", text)
    moved = numbers(r"moved (-?[\d.]+)", text)
    assert len(errors) == len(moved) == 2
    assert errors[0] < 0.03  # latent; the tolerance is 1e-3
    assert np.isfinite(moved).all()
    np.testing.assert_allclose(numbers(r"latent +s = .*", text)[1::2], 1, atol=2e-3)
    closed_form = [1.6743, 1.1828, np.pi / 4, 0.4897]  # tests/sampling/test_translate.py
    np.testing.assert_allclose(numbers(r"difference +s = .*", text)[1::2], closed_form, atol=2e-3)
    assert "refused: main.py ended with exit code 2" in text


def test_colab(tmp_path, monkeypatch, tfds_dir):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    cells = execute("colab_tpu.ipynb", REFUSED.format('DIGITS, "nonsense"'), tmp_path, monkeypatch)
    check_pictures(cells, [0, 0, 1, 2, 1, 0, 1, 2, 1, 0, 0])
    text = "".join(map(text_of, cells))
    assert text.count("trained steps 0 to 4") == 2
    assert "4 of 4" in text_of(cells[5])  # --mode=status
    assert len(numbers(r"generated 10 images: NFE (\d+)", text)) == 2
    report = next(output.data["text/markdown"] for output in cells[9].outputs if "data" in output)
    assert "40 images" in report
    assert np.isfinite(numbers(r"\| KID \| -?(\S+)", report)).all()
    assert "exit code 2" in text_of(cells[-1])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_clean(name):
    for cell in read(name).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not cell.metadata
        for place in ("/home", "/Users", "/tmp", "/mnt", str(ROOT), str(pathlib.Path.home())):
            assert f'"{place}' not in cell.source
            assert f" {place}" not in cell.source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_versions_are_those_of_the_requirements(name):
    known = (ROOT / "requirements.txt").read_text() + (ROOT / "Makefile").read_text()
    source = "\n".join(cell.source for cell in read(name).cells)
    for package, version in re.findall(r'"([\w-]+)(?:\{build\})?([<>=]=[\d.,<>=]+)"', source):
        assert package + version in known

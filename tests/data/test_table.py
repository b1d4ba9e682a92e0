"""Tables: what is read from csv and npz files, standardized, held out, skipped and refused."""

import gzip
import pickle

import numpy as np
import pytest

from scoreflow_jax.data import Selected, Table, Units, open_source, read_all, table_files
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import resolve
from scoreflow_jax.plain_config import to_plain
from tests.data.sources import settings_of


def settings(path, **changes):
    return settings_of("table", path=str(path), shape=(), levels=0, **changes)


def table(path, split="train", **changes):
    return Table(split, settings(path, **changes))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def own(source):
    """A split's points in the table's own units."""
    return Units.of(source.facts).own(read_all(source)["image"])


POINTS = np.random.default_rng(0).normal(size=(2000, 2)) * [3.0, 1e-4] + [100.0, 7.0]


@pytest.fixture
def numbers(tmp_path):
    """POINTS as npz."""
    np.savez(tmp_path / "points.npz", x=POINTS)
    return tmp_path / "points.npz"


def test_standardized_by_the_training_rows_and_back(numbers):
    train, test = table(numbers), table(numbers, "test")
    points = read_all(train)["image"]
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(points.std(0), 1, atol=1e-5)
    assert np.abs(read_all(test)["image"].mean(0)).max() > 1e-3  # by the training rows' mean, not by its own
    assert train.facts == test.facts
    both = np.concatenate([own(train), own(test)])
    np.testing.assert_allclose(np.sort(both, axis=0), np.sort(POINTS, axis=0), rtol=1e-6)
    units = Units.of(train.facts)
    assert units.log_volume == pytest.approx(np.log(3e-4), abs=0.1)  # sum of log standard deviations
    np.testing.assert_allclose(units.own(units.standardized(POINTS)), POINTS, rtol=1e-6)


def test_examples_are_what_the_contract_says(numbers):
    source = pickle.loads(pickle.dumps(table(numbers)))
    assert (source.spec.shape, source.spec.num_classes, source.spec.levels) == ((2,), 0, 0)
    one, some = source[3], source.read([3, 0])
    assert (one["image"].dtype, one["label"].dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(some["image"], np.stack([source[3]["image"], source[0]["image"]]))
    np.testing.assert_array_equal(source.labels(), np.zeros(len(source)))


def test_rows_that_are_added_move_no_other_row(tmp_path):
    """About a tenth is held out; of the old rows the same after new ones came, in another order; equal rows together."""
    np.savez(tmp_path / "few.npz", x=np.concatenate([POINTS[:1000], POINTS[:1000]]))
    np.savez(tmp_path / "more.npz", x=POINTS[::-1])
    before, after = table(tmp_path / "few.npz", "test"), table(tmp_path / "more.npz", "test")
    rows = lambda source: {row.tobytes() for row in np.round(own(source).astype(np.float64), 5)}
    assert len(before) == 2 * len(rows(before))
    assert rows(before) <= rows(after)
    assert abs(len(after) - 200) < 4 * np.sqrt(2000 * 0.1 * 0.9)
    assert not rows(after) & rows(table(tmp_path / "more.npz"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_csv_of_any_delimiter_with_names_or_without(tmp_path, delimiter, header):
    rows = [[1.5, -2e3, "b"], [2.5, 4e3, "a"], [3.5, 0.0, "b"]]
    lines = [["u", "wide name", "label"]] if header else []
    text = "\n".join(delimiter.join(map(str, row)) for row in lines + rows)
    path = write(tmp_path / "a.csv", "\ufeff" + text + "\n\n")
    source = table(path, test_share=0.0, label=None if header else "3")
    assert source.facts["columns"] == (["u", "wide name"] if header else ["1", "2"])
    np.testing.assert_allclose(own(source), [[1.5, -2e3], [2.5, 4e3], [3.5, 0.0]], rtol=1e-6, atol=1e-3)
    assert (source.class_names, source.labels().tolist()) == (("a", "b"), [1, 0, 1])
    assert source.spec.num_classes == 2


def test_columns_are_chosen_by_name_and_text_is_left_out(tmp_path, capsys):
    path = write(tmp_path / "a.csv", ",x,y,kind,label\n0,1,5,one,10\n1,2,6,two,9\n2,4,9,two,10\n")
    assert table(path, test_share=0.0).facts["columns"] == ["x", "y"]  # pandas' index has no name
    assert "columns kind hold text and are left out; one may be config.data.label" in capsys.readouterr().err
    source = table(path, test_share=0.0, columns=("y",), label="kind")
    assert source.class_names == ("one", "two")
    np.testing.assert_allclose(own(source)[:, 0], [5, 6, 9])
    assert table(path, test_share=0.0).class_names == ("9", "10")  # whole numbers by value
    assert table(path, test_share=0.0).labels().tolist() == [1, 0, 1]
    selected = Selected(source, (1,))
    np.testing.assert_allclose(own(selected)[:, 0], [6, 9])


@pytest.mark.parametrize(
    ("arrays", "columns"),
    [
        ({"data": POINTS, "labels": np.arange(2000) % 2}, ["1", "2"]),
        ({"anything": POINTS, "label": np.array(["b", "a"] * 1000)}, ["1", "2"]),
        ({"u": POINTS[:, 0], "v": POINTS[:, 1], "label": np.array([2.0, 1.0] * 1000)}, ["u", "v"]),
        (
            {"points": POINTS.astype(np.float32), "labels": np.arange(2000) % 2, "log_likelihood": POINTS[:, 0]},
            ["1", "2"],
        ),
    ],
)
def test_npz_of_one_array_or_of_named_columns(tmp_path, arrays, columns):
    np.savez(tmp_path / "a.npz", **arrays)
    source = table(tmp_path / "a.npz", test_share=0.0)
    assert source.facts["columns"] == columns
    np.testing.assert_allclose(own(source), POINTS, rtol=1e-6)
    expected = np.arange(2000) % 2 if "labels" in arrays else (np.arange(2000) + 1) % 2
    np.testing.assert_array_equal(source.labels(), expected)


def test_rows_that_cannot_be_used_are_named_and_skipped(tmp_path, capsys):
    text = "x,y,label\n1,2,a\nnan,3,a\n4,inf,b\n5,six,b\n7,,a\n8,9\n10,11,\n12,13,b\n"
    path = write(tmp_path / "a.csv", text)
    source = table(path, test_share=0.0)
    np.testing.assert_allclose(own(source), [[1, 2], [12, 13]])
    said = capsys.readouterr().err
    assert "6 of 8 rows" in said
    for line, column in ((3, "'x'"), (4, "'y'"), (5, "'y'"), (6, "'y'")):
        assert f"line {line}: column {column} holds no finite number" in said
    assert "line 7: 2 cells, expected 3, and 1 more" in said
    table(path, test_share=0.0)
    assert not capsys.readouterr().err  # said once
    with pytest.raises(UserError, match="6 rows of .*a.csv cannot be used .line 3: .*unset config.data.strict"):
        table(path, strict=True)
    np.savez(tmp_path / "a.npz", x=np.array([[1.0, 2], [np.nan, 1], [3, 4], [5, 5]]))
    with pytest.raises(UserError, match="row 1: column '1' holds no finite number"):
        table(tmp_path / "a.npz", strict=True)


@pytest.mark.parametrize(
    ("text", "changes", "match"),
    [
        ("x,y\n1,2\n1,3\n1,4\n", {"test_share": 0.0}, "column 'x' of .* is constant .1 in every training row."),
        ("x,y\n1,2\n", {"columns": ("z",)}, "no column 'z' of numbers, its columns are x, y"),
        ("x,y\n1,2\n", {"columns": ("x", "x")}, "expected different names"),
        ("x,y\n1,2\n", {"label": "c"}, "no column 'c', its columns are x, y: correct config.data.label"),
        ("x,y\n1,a\n2,b\n", {"columns": ("y",)}, "column 'y' of .* holds text"),
        ("x,label\n1,0.5\n2,1.5\n", {}, "labels of .* are real numbers, expected classes"),
        ("x,x\n1,2\n", {}, "two columns 'x'"),
        ("x,y\n", {}, "holds no rows"),
        ("", {}, "is empty"),
        ("a,b\nc,d\n", {}, "no column of numbers"),
        ("x\nnan\n", {}, "no row of finite numbers in x"),
        ("x,y\n1,2\n3,5\n", {"split": "test", "test_share": 0.0}, "in the split 'test': config.data.test_share=0"),
        ("x,y\n1,2\n3,5\n", {"units": {"columns": ("y", "x"), "shift": (0, 0), "scale": (1, 1)}, "columns": ("x", "y")},
         "the run was trained on the columns y, x"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_refused(tmp_path, text, changes, match):
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(UserError, match=match) as caught:
        table(path, **changes)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables_are_refused(tmp_path):
    for name, match in (
        ("a.doc", "no table by its name"),
        ("a.npz.gz", "no table by its name"),
        ("absent.csv", "is not a file"),
    ):
        with pytest.raises(UserError, match=match):
            table(tmp_path / name)
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match="cannot read .*a.npz"):
        table(tmp_path / "a.npz")
    (tmp_path / "a.csv").write_bytes(b"x,y\n1,\xff\xfe\n")
    with pytest.raises(UserError, match="expected a table of text in UTF-8"):
        table(tmp_path / "a.csv")
    np.savez(tmp_path / "b.npz", a=POINTS, b=POINTS)
    with pytest.raises(UserError, match="call the one that holds the points x or data"):
        table(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=POINTS, label=np.arange(5))
    with pytest.raises(UserError, match="expected as many labels as rows"):
        table(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", x=np.array([{}], object))
    with pytest.raises(UserError, match="cannot read .*d.npz"):
        table(tmp_path / "d.npz")
    with pytest.raises(UserError, match="--config.data.path=FILE"):
        Table("train", settings_of("table", shape=(), levels=0))


def test_units_of_a_run_stand_in_for_the_tables_own(tmp_path):
    """Also its columns, whatever their order in the file."""
    path = write(tmp_path / "a.csv", "x,y,z\n1,2,3\n4,5,7\n7,9,8\n")
    units = {"columns": ("z", "x"), "shift": (1.0, 2.0), "scale": (2.0, 0.5)}
    source = table(path, test_share=0.0, units=units)
    np.testing.assert_allclose(read_all(source)["image"], [[1, -2], [3, 4], [3.5, 10]])
    np.testing.assert_allclose(own(source), [[3, 1], [7, 4], [8, 7]])


def test_shape_and_classes_are_found_in_the_table(tmp_path):
    from scoreflow_jax.command_line import load_config
    from tests.conftest import ROOT

    path = write(tmp_path / "a.csv", "x,y,z,label\n" + "".join(f"{i},{i * i},{-i},{i % 3}\n" for i in range(9)))
    plain = to_plain(load_config(str(ROOT / "configs" / "table.py")))
    plain["data"]["path"] = str(path)
    found = resolve(plain)
    assert (found["data"]["shape"], found["data"]["num_classes"], found["model"]["conditional"]) == ((3,), 3, True)
    known = resolve(plain, {"data": {"shape": [2], "num_classes": 0}})  # of the run in hand, as JSON has it
    assert (known["data"]["shape"], known["data"]["num_classes"], known["model"]["conditional"]) == ((2,), 0, False)
    assert open_source("train", settings(path)).spec.shape == (3,)


def test_a_large_offset_costs_no_digits(tmp_path):
    """Times in seconds: float32 would round them to 128 s."""
    units = Units(("time",), (1.7e9,), (30.0,))
    times = 1.7e9 + np.asarray([[0.0], [15.0], [30.0], [61.5]])
    np.testing.assert_allclose(units.own(units.standardized(times)), times, rtol=0, atol=1e-4)


# Files as other programs write them

ROWS = [(1.5, -2e3, "b"), (2.5, 4e3, "a"), (3.25, 0.5, "b")]


@pytest.fixture
def _anew(monkeypatch):
    """What was said in another test is said again."""
    monkeypatch.setattr(table_files, "_warned", set())


def holds_rows(source):
    np.testing.assert_allclose(own(source), [row[:2] for row in ROWS], rtol=1e-6, atol=1e-3)
    assert (source.class_names, source.labels().tolist()) == (("a", "b"), [1, 0, 1])


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_decimal_commas(tmp_path, delimiter, header):
    lines = [
        delimiter.join(f"{cell:.2f}".replace(".", ",") if isinstance(cell, float) else cell for cell in row)
        for row in ROWS
    ]
    path = write(tmp_path / "a.csv", "\n".join([delimiter.join(("u", "v", "label"))] * header + lines) + "\n")
    holds_rows(table(path, test_share=0.0, label=None if header else "3"))


@pytest.mark.parametrize("name", ["a.tsv", "a.csv.gz", "a.TSV.GZ", "a.txt"])
def test_text_by_other_names(tmp_path, name):
    text = "\n".join(["u\tv\tlabel", *("\t".join(map(str, row)) for row in ROWS)]) + "\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.lower().endswith("gz") else text.encode())
    holds_rows(table(path, test_share=0.0))


def test_arrays_alone_and_of_named_fields(tmp_path):
    np.save(tmp_path / "a.npy", POINTS)
    np.testing.assert_allclose(own(table(tmp_path / "a.npy", test_share=0.0)), POINTS, rtol=1e-6)
    np.save(tmp_path / "b.npy", np.array(ROWS, [("u", "f8"), ("v", "f8"), ("label", "U1")]))
    holds_rows(table(tmp_path / "b.npy", test_share=0.0))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    u, v, label = (list(column) for column in zip(*ROWS, strict=True))
    stored = {"u": [*u, None], "v": [*v, 1.0], "label": [*label, "a"], "__index_level_0__": [0, 1, 2, 3]}
    parquet.write_table(pyarrow.table(stored), tmp_path / "a.parquet")
    source = table(tmp_path / "a.parquet", test_share=0.0)
    assert source.facts["columns"] == ["u", "v"]
    holds_rows(source)  # the row without a number is skipped
    stored = {"u": [*u, 1.0], "v": [*v, 1.0], "label": [1, 0, 1, None]}
    parquet.write_table(pyarrow.table(stored), tmp_path / "b.parquet")
    source = table(tmp_path / "b.parquet", test_share=0.0)  # and that without a label
    assert (source.class_names, source.labels().tolist()) == (("0", "1"), [1, 0, 1])


def test_parquet_without_pyarrow_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with monkeypatch.context() as patch:
        patch.setattr(table_files.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match="needs pyarrow, which is not installed: pip install pyarrow, or write"):
            table(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="cannot read .*a.parquet"):
        table(tmp_path / "a.parquet")


@pytest.mark.usefixtures("_anew")
def test_an_array_as_pandas_writes_it(tmp_path):
    """The index has no name and is no coordinate; the label is one."""
    path = write(tmp_path / "a.csv", ",0,1,label\n0,1.5,-2000,b\n1,2.5,4000,a\n2,3.25,0.5,b\n")
    source = table(path, test_share=0.0)
    assert source.facts["columns"] == ["0", "1"]
    holds_rows(source)


@pytest.mark.usefixtures("_anew")
def test_numbers_of_columns_are_names_where_the_rest_has_fractions(tmp_path, capsys):
    path = write(tmp_path / "a.csv", "0,1\n1000.5,2000\n1001.5,2001\n1003.5,2003.5\n")
    assert table(path, test_share=0.0).facts["columns"] == ["0", "1"]
    assert "the first line of" in (told := capsys.readouterr().err)
    assert "0, 1, is taken for names of the columns, as pandas numbers them" in told
    path = write(tmp_path / "b.csv", "0,1\n1000,2000\n1001,2001\n1003,2003\n")
    assert len(table(path, test_share=0.0)) == 4
    assert "0, 1, is taken for a point: where it is names, give others than numbers" in capsys.readouterr().err
    assert len(table(write(tmp_path / "c.csv", "0,5\n1.5,2\n3.5,4\n"), test_share=0.0)) == 3
    assert capsys.readouterr().err == ""


def test_a_name_is_one_of_the_label_in_any_case(tmp_path):
    path = write(tmp_path / "a.csv", "u,v,Label\n1.5,-2000,b\n2.5,4000,a\n3.25,0.5,b\n")
    holds_rows(table(path, test_share=0.0))
    path = write(tmp_path / "b.csv", "u,v,Label,label\n1.5,-2000,x,b\n2.5,4000,x,a\n3.25,0.5,x,b\n")
    holds_rows(table(path, test_share=0.0))


def test_cells_with_underscores_are_text(tmp_path, capsys):
    """Python reads 1_1 as 11: labels were merged, and codes were coordinates."""
    path = write(tmp_path / "a.csv", "u,code,label\n1,00_03,1_1\n2,00_04,11\n4,00_05,1_1\n")
    source = table(path, test_share=0.0)
    assert source.facts["columns"] == ["u"]
    assert "columns code hold text and are left out" in capsys.readouterr().err
    assert (source.class_names, source.labels().tolist()) == (("11", "1_1"), [1, 0, 1])


@pytest.mark.parametrize("gap", ["", "NA", "nan", "-"])
def test_a_first_row_that_lacks_a_value_is_no_line_of_names(tmp_path, gap, capsys):
    path = write(tmp_path / "a.csv", f"1.5,{gap},3.5\n2.5,1.0,4.5\n3.5,2.0,6.5\n")
    source = table(path, test_share=0.0)
    assert source.facts["columns"] == ["1", "2", "3"]
    np.testing.assert_allclose(own(source), [[2.5, 1.0, 4.5], [3.5, 2.0, 6.5]], rtol=1e-6)
    assert "1 of 3 rows of" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["label;x\na;1,5\nb;2,25\n", "name;ort;x\na;o;1,5\nb;p;2,25\n", "x\n1,5\n2,25\n"])
def test_decimal_commas_in_few_columns(tmp_path, text):
    np.testing.assert_allclose(own(table(write(tmp_path / "a.csv", text), test_share=0.0)), [[1.5], [2.25]], rtol=1e-6)

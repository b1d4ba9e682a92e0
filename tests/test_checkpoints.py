"""Checkpoints: what comes back, and what happens to damage, wrong shapes and full disks."""

import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scoreflow_jax import checkpoints
from scoreflow_jax.checkpoints import Checkpoints, checkpoint_steps, restore_ema
from scoreflow_jax.errors import UserError
from scoreflow_jax.parallel import make_layout

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(0.0, 1.0, 5)))


def trees(step: int):
    """An average and the rest of a state, all distinct and telling their step."""
    params = {"block": {"kernel": jnp.full((3, 4), step + 0.5), "bias": jnp.arange(4.0) + step}}
    train = {
        "step": jnp.int32(step),
        "params": params,
        "opt_state": OPTIMIZER.init(params),
        "key": jax.random.key(step),
    }
    return jax.tree.map(lambda x: x + 1, params), train


def save(directory, *steps, keep=5):
    checkpoints = Checkpoints(directory, keep=keep)
    for step in steps:
        ema, train = trees(step)
        checkpoints.save(step, ema=ema, train=train, meta={"batches": step, "config": {"a": [1, 2]}})
    checkpoints.close()


def latest(directory, keep=5):
    ema, train = trees(0)
    checkpoints = Checkpoints(directory, keep=keep)
    try:
        return checkpoints.restore_latest(ema=ema, train=train)
    finally:
        checkpoints.close()


def damage(folder: pathlib.Path, how: str) -> None:
    """Harms one step's folder as crashes and disks do."""
    if how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "truncated":
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_size > 40 and "ocdbt" in str(path) or path.parent.name == "d":
                path.write_bytes(path.read_bytes()[:20])
    elif how == "no arrays":
        shutil.rmtree(folder / "ema")


def test_what_was_saved_comes_back_bit_for_bit(tmp_path):
    save(tmp_path, 10)
    restored = latest(tmp_path)
    ema, train = trees(10)
    assert restored.step == 10
    assert restored.meta == {"batches": 10, "config": {"a": [1, 2]}}
    jax.tree.map(np.testing.assert_array_equal, restored.ema, ema)
    assert jax.random.key_data(restored.train["key"]).tolist() == jax.random.key_data(train["key"]).tolist()
    without_key = [{k: v for k, v in t.items() if k != "key"} for t in (restored.train, train)]
    jax.tree.map(np.testing.assert_array_equal, *without_key)


def test_keeps_the_newest(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert checkpoint_steps(tmp_path) == [3, 4]


def test_nothing_there_is_none(tmp_path):
    assert latest(tmp_path / "new") is None


def test_saved_on_four_devices_restored_on_one(tmp_path):
    four = make_layout(jax.devices()[:4])
    ema, train = (jax.device_put(t, four.replicated) for t in trees(7))
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(7, ema=ema, train=train, meta={"batches": 7, "config": {}})
    checkpoints.close()
    one = make_layout(jax.devices()[:1]).replicated
    shape = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), tree)
    restored = restore_ema(tmp_path, ema=shape(ema))
    jax.tree.map(np.testing.assert_array_equal, restored.ema, ema)
    assert all(leaf.sharding == one for leaf in jax.tree.leaves(restored.ema))


@pytest.mark.parametrize("how", ["empty", "truncated", "no arrays"])
def test_falls_back_to_the_last_whole_one_and_saves_on(tmp_path, how, capsys):
    save(tmp_path, 10, 20)
    damage(tmp_path / "20", how)
    assert restore_ema(tmp_path, ema=trees(0)[0]).step == 10
    assert (tmp_path / "20").exists()  # reading changes nothing
    assert latest(tmp_path).step == 10
    assert (tmp_path / "damaged-20").is_dir()
    assert "damaged" in capsys.readouterr().err
    save(tmp_path, 20, 30)
    assert checkpoint_steps(tmp_path) == [10, 20, 30]
    assert latest(tmp_path).step == 30


@pytest.mark.parametrize("how", ["empty", "truncated", "no arrays"])
def test_all_damaged_is_one_line(tmp_path, how):
    save(tmp_path, 10)
    damage(tmp_path / "10", how)
    for attempt in (lambda: latest(tmp_path), lambda: restore_ema(tmp_path, ema=trees(0)[0])):
        with pytest.raises(UserError, match="no whole checkpoint") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert (tmp_path / "10").exists()


def test_another_shape_or_dtype_is_named(tmp_path):
    save(tmp_path, 10)
    ema = trees(0)[0]
    ema["block"]["kernel"] = jnp.zeros((3, 5))
    with pytest.raises(UserError, match=r"\['kernel'\] is \(\(3, 4\), 'float32'\), expected \(\(3, 5\), 'float32'\)"):
        restore_ema(tmp_path, ema=ema)
    ema["block"]["kernel"] = jnp.zeros((3, 4), jnp.bfloat16)
    with pytest.raises(UserError, match="bfloat16"):
        restore_ema(tmp_path, ema=ema)
    del ema["block"]["kernel"]
    with pytest.raises(UserError, match="expected nothing"):
        restore_ema(tmp_path, ema=ema)


def test_a_step_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="train first"):
        restore_ema(tmp_path, ema=trees(0)[0])
    save(tmp_path, 10, 20)
    assert restore_ema(tmp_path, ema=trees(0)[0], step=10).step == 10
    with pytest.raises(UserError, match="expected one of 10, 20"):
        restore_ema(tmp_path, ema=trees(0)[0], step=15)


def test_a_step_already_saved_is_refused_and_not_lost(tmp_path):
    save(tmp_path, 20)
    with pytest.raises(UserError, match="20"):
        save(tmp_path, 20)
    assert latest(tmp_path).step == 20


def flip(path: pathlib.Path, bit: int) -> None:
    """Turns one bit of a file over."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def test_a_flipped_bit_anywhere_is_damage_or_changes_nothing(tmp_path, capsys):
    """Orbax stores arrays without sums: half of such flips gave other numbers without a word. In every file, two bits."""
    save(tmp_path / "whole", 10, 20)
    rng = np.random.default_rng(0)
    names = [path.relative_to(tmp_path / "whole" / "20") for path in files_of(tmp_path / "whole" / "20")]
    assert len(names) > 20
    damaged = 0
    for name in [*names, *names]:
        run = tmp_path / "run"
        shutil.copytree(tmp_path / "whole", run)
        path = run / "20" / name
        flip(path, int(rng.integers(8 * path.stat().st_size)))
        restored = latest(run)
        ema, train = trees(restored.step)
        assert restored.meta["batches"] == restored.step
        jax.tree.map(np.testing.assert_array_equal, restored.ema, ema)
        jax.tree.map(np.testing.assert_array_equal, restored.train["opt_state"], train["opt_state"])
        assert (restored.step == 10) == ("checkpoint" in capsys.readouterr().err)
        damaged += restored.step == 10
        if name.parts[0] in ("ema", "train", "meta", "SHA256SUMS"):
            assert restored.step == 10, name
        shutil.rmtree(run)
    assert damaged >= 2 * (len(names) - 2)  # but for what orbax writes last


def test_sums_are_those_of_sha256sum_and_are_renamed_with_the_checkpoint(tmp_path):
    save(tmp_path, 10)
    lines = (tmp_path / "10" / "SHA256SUMS").read_text().splitlines()
    stated = {name: digest for digest, name in (line.split("  ") for line in lines)}
    there = {path.relative_to(tmp_path / "10").as_posix() for path in files_of(tmp_path / "10")}
    assert there - set(stated) == {"_CHECKPOINT_METADATA", "commit_success.txt", "SHA256SUMS"}
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "10", check=True)


def test_a_checkpoint_without_sums_loads_with_a_line(tmp_path, capsys):
    """As earlier versions wrote it."""
    save(tmp_path, 10)
    (tmp_path / "10" / "SHA256SUMS").unlink()
    assert latest(tmp_path).step == latest(tmp_path).step == 10
    assert capsys.readouterr().err.count("10 has no sum, as earlier versions wrote it") == 1


@pytest.mark.parametrize("how", ["extra", "missing", "other step"])
def test_files_that_are_not_those_of_the_save_are_damage(tmp_path, how):
    save(tmp_path, 10, 20)
    folder = tmp_path / "20" / "ema" / "d"
    if how == "extra":
        (folder / "ffff").write_bytes(b"x")
    elif how == "missing":
        next(folder.iterdir()).unlink()
    else:  # each file whole, but not of this save
        shutil.rmtree(tmp_path / "20" / "ema")
        shutil.copytree(tmp_path / "10" / "ema", tmp_path / "20" / "ema")
    assert latest(tmp_path).step == 10


def test_numbers_that_are_not_finite_are_damage_but_where_they_are_kept_for_a_diagnosis(tmp_path):
    ema, train = trees(20)
    train["params"] = {"block": {**train["params"]["block"], "bias": jnp.array([1.0, np.nan, 1.0, 1.0])}}
    save(tmp_path, 10)
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        checkpoints.save(20, ema=ema, train=train, meta={"batches": 20, "config": {}})
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        assert checkpoints.restore_latest(ema=ema, train=train, finite=False).step == 20
        assert checkpoints.restore_latest(ema=ema, train=train).step == 10
    assert (tmp_path / "damaged-20").is_dir()


def test_a_checkpoint_that_is_deleted_while_it_is_read_is_the_next_one(tmp_path, monkeypatch):
    """As by a run that goes on training, and keeps the newest alone."""
    save(tmp_path, 10, 20)
    real, looks = checkpoints._restore_ema, []

    def deleted_meanwhile(directory, ema, step, steps):
        looks.append(steps)
        if len(looks) == 1:
            shutil.rmtree(tmp_path / "20")
            save(tmp_path, 30)
        return real(directory, ema, step, steps)

    monkeypatch.setattr(checkpoints, "_restore_ema", deleted_meanwhile)
    assert restore_ema(tmp_path, ema=trees(0)[0]).step in (10, 30)


@pytest.mark.parametrize("name", [".DS_Store", "._d", "Thumbs.db", ".nfs0001"])
def test_files_that_others_leave_in_any_folder_are_no_damage(tmp_path, name, capsys):
    save(tmp_path, 10)
    (tmp_path / "10" / "ema" / name).write_bytes(b"x")
    assert latest(tmp_path).step == 10
    assert capsys.readouterr().err == ""

"""Devices: where rows and states lie, rates that makers state, traces."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax import parallel
from scoreflow_jax.training import Profile, TrainState

pytestmark = pytest.mark.usefixtures("four_devices")


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5", 459), ("TPU v6 lite", 918), ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989), ("cpu", None),
    ],
)  # fmt: skip
def test_the_peak_of_a_device_is_found_by_the_name_that_jax_gives_it(kind, teraflops):
    found = parallel.peak_flops(mock.Mock(spec=jax.Device, device_kind=kind))
    assert found == (None if teraflops is None else teraflops * 1e12)


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_one_process_holds_every_row_once_and_puts_it_where_it_belongs(fsdp):
    layout = parallel.make_layout(fsdp=fsdp)
    rows = parallel.local_rows(12, layout)
    assert rows.tolist() == list(range(12))
    batch = parallel.to_global(np.arange(12.0), layout)
    assert sorted(s.data.shape for s in batch.addressable_shards) == [(3,)] * 4
    np.testing.assert_array_equal(batch, np.arange(12.0))
    np.testing.assert_array_equal(parallel.shard(np.arange(12.0), layout), np.arange(12.0))


def test_the_rule_for_states():
    """The longest axis that fsdp divides, the last of equals; small arrays and those that nothing divides are repeated."""
    layout = parallel.make_layout(fsdp=4)
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    spec = lambda *s: tuple(layout.of_state(shape(*s)).spec)
    assert spec(3, 3, 128, 256) == (None, None, None, "fsdp")
    assert spec(3, 3, 256, 128) == (None, None, "fsdp")
    assert spec(256, 256) == (None, "fsdp")
    assert spec(130, 1001) == ()
    assert spec(100, 100) == ()
    assert spec() == ()
    assert parallel.make_layout(fsdp=1).of_state(shape(512, 512)).is_fully_replicated


def test_replicating_a_split_array_gives_all_of_it_to_each_device():
    layout = parallel.make_layout(fsdp=4)
    split = jax.device_put(jnp.arange(2.0**15), layout.of_state(jax.ShapeDtypeStruct((2**15,), jnp.float32)))
    assert {s.data.shape for s in split.addressable_shards} == {(2**13,)}
    whole = parallel.replicate(split, layout)
    assert {s.data.shape for s in whole.addressable_shards} == {(2**15,)}


def test_a_profile_covers_its_steps_and_no_others(tmp_path, monkeypatch):
    traced = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: traced.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: traced.append("stop"))
    state = TrainState(step=0, params=jnp.zeros(1), ema_params=None, opt_state=None, key=None)
    with Profile(tmp_path, first=3, count=2) as profile:
        for number in range(8):
            profile.step(number, state)
            traced.append(number)
    assert traced == [0, 1, 2, "start", 3, 4, "stop", 5, 6, 7]
    traced.clear()
    with Profile(tmp_path, first=3, count=9) as profile:  # training ends first
        for number in range(5):
            profile.step(number, state)
    assert traced == ["start", "stop"]
    with Profile(tmp_path, first=0, count=0) as profile:
        profile.step(0, state)
    assert traced == ["start", "stop"]

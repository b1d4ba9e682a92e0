"""Measures the training step and the forward pass of a config's network, beside the machine's rate of matrix products.

    python -m benchmarks.network [--config configs/cifar10_unconditional.py] [--batch 8] [--repeats 5] [--dtype bfloat16]

    python -m benchmarks.network --config configs/afhq.py --batch 8 --memory

Everything is measured in one process, taking turns: matrix products, forward, step, and again. Prints a JSON line for each of
the two programs and one for the products. `gflop_counted` are the operations of convolutions, dense layers and attention in the
program before XLA optimizes it, a multiply-add being 2 (rematerialized ones count twice); `share_of_matmul_rate` is that over
seconds, divided by the rate of products, `share_of_16_bit_peak` by what the maker of the device states for 16 bits, whatever
type is computed in. --memory only compiles the training step and prints its own memory analysis.
"""

import argparse
import functools
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax.command_line import load_config
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.parallel import keep_freed_memory, make_layout, peak_flops
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.training import compile_step, create_state, state_shapes

_SIDE = 2048  # of the matrices whose product gives the machine's rate


def main() -> None:
    """Measures what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/cifar10_unconditional.py")
    parser.add_argument("--batch", type=int, help="default 8 on CPU, 128 elsewhere")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the computation, default the config's")
    parser.add_argument("--only", choices=("step", "forward"), help="leave out the other")
    parser.add_argument("--memory", action="store_true", help="run nothing: the memory that the compiled step asks for")
    args = parser.parse_args()
    config = to_plain(load_config(args.config))  # a JSON file is plain already
    if config["model"]["base_channels"] >= 64:  # as --mode=train does
        keep_freed_memory()
    batch = args.batch or (8 if jax.default_backend() == "cpu" else 128)
    config["train"]["batch_size"] = batch
    config["model"]["dtype"] = dtype = args.dtype or config["model"]["dtype"]
    experiment = build(config)
    if args.memory:
        print(json.dumps({"config": experiment.name, "batch": batch, "dtype": dtype, **_memory(experiment)}))
        return
    programs = {name: make(experiment) for name, make in _PROGRAMS.items() if args.only in (None, name)}
    runs: dict[str, Callable[[], Any]] = {"matmul": _matmul(dtype), **{n: p["run"] for n, p in programs.items()}}
    seconds = take_turns(runs, args.repeats)
    rate = 2 * _SIDE**3 / min(seconds["matmul"]) / 1e9
    head = {"device": f"{jax.device_count()} x {jax.devices()[0].device_kind}", "jax": jax.__version__}
    head |= {"config": experiment.name, "batch": batch, "dtype": dtype}
    products = {"gflop_per_s": round(rate, 1), **_of_peak(rate * 1e9), "side": _SIDE}
    print(json.dumps({"program": "matmul", **head, **products}))
    for name, program in programs.items():
        median, best = statistics.median(seconds[name]), min(seconds[name])
        line = {
            "program": name,
            **head,
            "seconds": round(median, 4),
            "seconds_best": round(best, 4),
            "images_per_s": round(batch / median, 2),
            "gflop_counted": round(program["flops"] / 1e9 / batch, 2),
            "gflop_compiled": round(program["compiled_flops"] / 1e9 / batch, 2),
            "share_of_matmul_rate": round(program["flops"] / 1e9 / median / rate, 3),
            **_of_peak(program["flops"] / median),
            "compile_s": round(program["compile_s"], 1),
            "init_s": round(program["init_s"], 1),
            "arguments_gb": round(program["arguments"] / 1e9, 3),
            "temporaries_gb": round(program["temporaries"] / 1e9, 3),
            "peak_gb": round(_peak_memory(), 2),
        }
        print(json.dumps(line), flush=True)


def _of_peak(flops_per_s: float) -> dict[str, float]:
    peak = peak_flops(jax.devices()[0])
    return {} if peak is None else {"share_of_16_bit_peak": round(flops_per_s / peak / jax.device_count(), 4)}


def _memory(experiment: Experiment) -> dict[str, Any]:
    """What the compiled training step says of its memory, from shapes alone."""
    layout = make_layout()
    state = state_shapes(experiment.initial_state, layout)
    start = time.perf_counter()
    compiled = compile_step(experiment.train_step(), layout, state, experiment.batch_shapes(layout.batch)).call
    compile_s = time.perf_counter() - start
    memory: Any = getattr(compiled, "memory_analysis")()  # noqa: B009 - a compiled program, typed as a function
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    new_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "compile_s": round(compile_s, 1),
        "remat_resolutions": experiment.config["model"]["remat_resolutions"],
        "state_gb": round(arguments / 1e9, 3),
        "temporaries_gb": round(temporaries / 1e9, 3),
        "total_gb": round((arguments + temporaries + new_outputs) / 1e9, 3),
    }


def _step(experiment: Experiment) -> dict[str, Any]:
    """The training step, on random pixels."""
    layout = make_layout()
    start = time.perf_counter()
    state = jax.block_until_ready(create_state(experiment.initial_state, layout))
    init_s = time.perf_counter() - start
    shapes = experiment.batch_shapes(layout.batch)
    pixels = np.random.default_rng(0).integers(0, 256, shapes["image"].shape, np.uint8)
    labels = np.arange(len(pixels), dtype=np.int32) % max(experiment.spec.num_classes, 1)
    batch = jax.device_put({"image": pixels, "label": labels}, layout.batch)
    flops = _count(jax.make_jaxpr(experiment.train_step())(state, batch).jaxpr)
    start = time.perf_counter()
    compiled = compile_step(experiment.train_step(), layout, state, batch).call
    compile_s = time.perf_counter() - start
    holder = [state]

    def run() -> Any:
        holder[0], metrics = compiled(holder[0], batch)
        return metrics

    return {"run": run, "flops": flops, "compile_s": compile_s, "init_s": init_s, **_analysis(compiled)}


def _forward(experiment: Experiment) -> dict[str, Any]:
    """The drift as an ODE solve calls it."""
    init = jax.jit(experiment.init, compiler_options=_unoptimized())
    start = time.perf_counter()
    params = jax.block_until_ready(init(jax.random.key(0)))
    init_s = time.perf_counter() - start
    n = experiment.train.batch_size
    x = jax.random.normal(jax.random.key(1), (n, *experiment.spec.shape))
    label = jnp.arange(n) % experiment.num_classes if experiment.conditional else None
    arguments = (params, x, jnp.linspace(0.1, 0.9, n), label)

    def forward(params: Any, x: Any, t: Any, label: Any) -> Any:
        return experiment.drift(params)(x, t, label)

    flops = _count(jax.make_jaxpr(forward)(*arguments).jaxpr)
    start = time.perf_counter()
    compiled = jax.jit(forward).lower(*arguments).compile()
    compile_s = time.perf_counter() - start
    return {
        "run": functools.partial(compiled, *arguments),
        "flops": flops,
        "compile_s": compile_s,
        "init_s": init_s,
        **_analysis(compiled),
    }


_PROGRAMS = {"forward": _forward, "step": _step}


def _unoptimized() -> dict[str, int] | None:
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


def _matmul(dtype: str) -> Callable[[], Any]:
    a = jax.random.normal(jax.random.key(0), (_SIDE, _SIDE)).astype(dtype)
    product = jax.jit(jnp.matmul)
    return lambda: product(a, a)


def take_turns(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, after two to warm up; products are cheap, so each turn has several."""
    for run in runs.values():
        jax.block_until_ready(run())
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            for _ in range(5 if name == "matmul" else 1):
                start = time.perf_counter()
                jax.block_until_ready(run())
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _analysis(compiled: Any) -> dict[str, float]:
    """What the compiled program says of itself."""
    program = getattr(compiled, "program", compiled)
    memory, cost = program.memory_analysis(), program.cost_analysis()
    return {
        "compiled_flops": float(cost.get("flops", math.nan)),
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
    }


def _count(jaxpr: Any) -> int:
    """Operations of the convolutions and products of a program, those of its inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "convolve3x3":
            total += 2 * equation.outvars[0].aval.size * math.prod(equation.invars[1].aval.shape[:3])
        elif equation.primitive.name == "conv_general_dilated":
            out, kernel = equation.outvars[0].aval, equation.invars[1].aval
            numbers = equation.params["dimension_numbers"]
            spatial = math.prod(kernel.shape[d] for d in numbers.rhs_spec[2:])
            total += 2 * out.size * spatial * kernel.shape[numbers.rhs_spec[1]]
        elif equation.primitive.name == "dot_general":
            (contract, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval
            total += 2 * equation.outvars[0].aval.size * math.prod(left.shape[d] for d in contract)
        for value in equation.params.values():
            # One of several branches runs: those are the same computation for several platforms.
            choices = value if isinstance(value, tuple) else (value,)
            inner = [getattr(choice, "jaxpr", choice) for choice in choices]
            total += max((_count(program) for program in inner if hasattr(program, "eqns")), default=0)
    return total


def _peak_memory() -> float:
    """GB: of the device where it tells, else of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    return stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit) / 1e9


if __name__ == "__main__":
    main()

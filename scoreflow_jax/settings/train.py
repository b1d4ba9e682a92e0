"""Fields of `config.optimizer` and `config.train`. What they configure: scoreflow_jax/training."""

import dataclasses
from typing import Literal

from scoreflow_jax.settings.fields import FieldError, Section, field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heads(Section):
    """What a config has besides sections."""

    name: str = field("", "name of the config; the default workdir is runs/<name>")
    seed: int = field(0, "seed of parameters, shuffling and all that is drawn in training", least=0, below=2**32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Section):
    """Adam as rectified flow runs it."""

    learning_rate: float = field(2e-4, "learning rate after the warm-up", above=0)
    b1: float = field(0.9, "Adam's decay of the mean gradient", least=0, below=1)
    b2: float = field(0.999, "Adam's decay of the mean square", least=0, below=1)
    epsilon: float = field(1e-8, "Adam's, beside the root of the mean square", least=0)
    warmup_steps: int = field(5000, "steps over which the rate rises from 0; 0: none", least=0)
    clip_norm: float = field(1.0, "bound of the gradient's global norm; 0: none", least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(Section):
    """When things happen in training, in steps."""

    num_steps: int = field(
        800_000, "the step at which training ends; rectified flow's CIFAR-10 run has 800,000", least=1
    )
    log_every: int = field(100, "steps between fetching numbers from the device, checking and writing them", least=1)
    sample_every: int = field(
        5000,
        "steps between pictures, which the averaged weights make of the same noise each time; 0: only at the end",
        least=0,
    )
    checkpoint_every: int = field(5000, "steps between checkpoints; one comes at the end too", least=1)
    cooldown_steps: int = field(
        0, "steps at the end over which the learning rate falls to 0; an extended run does without until then", least=0
    )

    def __post_init__(self) -> None:
        """Refuses a cool-down longer than the run."""
        super().__post_init__()
        if self.cooldown_steps > self.num_steps:
            raise FieldError(f"cooldown_steps is {self.cooldown_steps}, expected 0 to num_steps, {self.num_steps}")

    def due(self, done: int) -> set[str]:
        """What comes after so many steps: of "log", "sample" and "save"; a log with each of the others."""
        final = done == self.num_steps
        due = {"save"} if final or done % self.checkpoint_every == 0 else set()
        due |= {"sample"} if final or (self.sample_every and done % self.sample_every == 0) else set()
        return due | ({"log"} if due or done % self.log_every == 0 else set())

    def next_event(self, done: int) -> int:
        """The first step after `done` at which something comes."""
        every = [n for n in (self.log_every, self.sample_every, self.checkpoint_every) if n]
        return min(self.num_steps, *((done // n + 1) * n for n in every))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings(Schedule):
    """Training, by default rectified flow's CIFAR-10 run."""

    batch_size: int = field(128, "images a step, over all devices", least=1)
    ema_decay: float = field(0.999999, "decay of the weights' average, after its warm-up", least=0, below=1)
    keep_checkpoints: int = field(3, "number of newest checkpoints to keep", least=1)
    num_workers: int = field(0, "processes that read data ahead; 0: threads", least=0)
    tensorboard: bool = field(True, "events for TensorBoard beside metrics.jsonl")
    microbatches: int = field(
        1, "parts of a batch computed one after the other: less memory, the same gradient", least=1
    )
    steps_per_call: int = field(
        1, "steps in a loop of the device; only for steps of few milliseconds, not on CPU", least=1
    )
    fsdp: int = field(1, "devices among which parameters and optimizer state are split; 1: each has all", least=1)
    profile_steps: int = field(0, "steps traced into <workdir>/profile shortly after the start", least=0)
    coupling: Literal["independent", "optimal_transport"] = field(
        "independent", "optimal_transport: each batch's noise permuted to be near its data"
    )

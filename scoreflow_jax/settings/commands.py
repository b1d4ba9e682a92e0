"""Fields of the sections that belong to one mode each: sample, translate, interpolate, figures, reflow, difference, study."""

import dataclasses
from typing import Any, Literal

from scoreflow_jax.settings.fields import FieldError, Section, field

_SEEDS = 2**32  # JAX takes the last 32 bits of a seed, so a larger one is another's

Rule = Literal["square_root", "slerp", "linear"]
"""How interpolated latents lie between two others; the first is the paper's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSettings(Section):
    """--mode=sample."""

    num_images: int = field(100, "samples to draw", least=1)
    labels: tuple[int, ...] = field(
        (), "classes to draw, repeated to num_images; empty: balanced over the classes", least=0
    )
    guidance: float = field(
        1.0, "weight of classifier-free guidance, here and in eval; 1: off; else needs model.label_dropout"
    )
    batch_size: int = field(100, "images solved together", least=1)
    seed: int = field(0, "seed of the noise", least=0, below=_SEEDS)
    columns: int = field(10, "columns of grid.png", least=1)
    likelihood: bool = field(False, "also each sample's log likelihood, in samples.npz")
    likelihood_probes: int = field(
        1, "random vectors for each sample's likelihood; with several its error is stored", least=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslateSettings(Section):
    """--mode=translate."""

    method: Literal["latent", "difference"] = field(
        "latent", "latent: encode, then decode with the other class; difference: the paper's eq. 20"
    )
    source: int | None = field(None, "class of the images, by its number; None: every class", least=0)
    target: int | None = field(None, "class to make of them, by its number; None: every other class in turn", least=0)
    num_images: int = field(100, "test images to translate", least=1)
    images: str | None = field(None, "a folder of pictures instead; then source must be given")
    batch_size: int = field(100, "images solved together", least=1)
    shown: int = field(8, "rows of grid.png and of path.png", least=1)
    save_pictures: bool = field(False, "each translation as a picture of its own too, in pictures/")
    num_times: int = field(9, "pictures along t in path.png", least=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpolateSettings(Section):
    """--mode=interpolate."""

    between: Literal["latents", "images"] = field(
        "latents", "random latents; or real images of the test split, encoded"
    )
    rule: Rule = field(
        "square_root",
        "between two latents: square_root is the paper's, sqrt(1 - a) z0 + sqrt(a) z1, which moves fastest at both ends",
    )
    num_pairs: int = field(8, "rows of strip.png", least=1)
    num_steps: int = field(9, "pictures from one end to the other, both included", least=2)
    labels: tuple[int, ...] = field(
        (), "classes to interpolate in, repeated to num_pairs; empty: one class after the other", least=0
    )
    batch_size: int = field(100, "images solved together", least=1)
    seed: int = field(0, "seed of the latents, or of the choice of images", least=0, below=_SEEDS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FiguresSettings(Section):
    """--mode=figures: the paper's figures 3 to 6."""

    classes: tuple[int, ...] = field(
        (), "classes to show: figure 4 takes the first two, figure 5 the first three; empty: the model's first", least=0
    )
    num_images: int = field(
        8, "images in a row of figure 3 and of figure 4's translations, and in each panel of samples", least=1
    )
    num_times: int = field(9, "pictures along t in figure 5", least=2)
    num_pairs: int = field(4, "rows of figure 6, and images of figure 5 along t", least=1)
    num_steps: int = field(9, "pictures from one end of figure 6 to the other, both included", least=2)
    batch_size: int = field(
        16, "small: what all figures solve for is then a multiple, and one program serves them", least=1
    )
    seed: int = field(0, "seed of the noise", least=0, below=_SEEDS)

    def __post_init__(self) -> None:
        """Refuses a class named twice."""
        super().__post_init__()
        if len(set(self.classes)) < len(self.classes):
            raise FieldError(f"classes is {self.classes}, expected different classes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySettings(Section):
    """--mode=study, of the configs that are studies."""

    seeds: tuple[int, ...] = field((0, 1, 2), "seeds that each row is trained with", least=0, below=_SEEDS)
    baseline: str = field("", "the row that the others are held against")
    cells: dict[str, Any] = field({}, "rows by name, each with what it changes of the config")
    order: tuple[str, ...] = field((), "order of the rows: a ConfigDict goes by the alphabet")
    comparisons: dict[str, Any] = field(
        {}, "what the study is to decide, by name: a row, what it is held against, a figure"
    )

    def __post_init__(self) -> None:
        """Refuses a seed named twice."""
        super().__post_init__()
        if len(set(self.seeds)) < len(self.seeds):
            raise FieldError(f"seeds is {self.seeds}, expected different whole numbers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishSettings(Section):
    """--mode=publish."""

    dtype: Literal["bfloat16", "float32"] = field("bfloat16", "to which the weights are rounded", added=True)
    license: str = field(
        "", "of the weights, as the hub names it, such as cc-by-4.0; empty: the card names none", added=True
    )
    data_terms: str = field("", "the terms of the data, a sentence for the card", added=True)
    limits: str = field(
        "", "what the model is not good for, sentences for the card; empty: what holds of any", added=True
    )
    columns: int = field(8, "samples of each class in the preview", least=1, added=True)
    batch_size: int = field(80, "images solved for at a time", least=1, added=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReflowSettings(Section):
    """--mode=reflow."""

    rounds: int = field(2, "up to the 2-rectified flow; 3: a round more", least=1)
    num_pairs: int = field(1_000_000, "pairs to draw in each round; 25 GB for CIFAR-10", least=2)
    shard_size: int = field(10_000, "pairs in a file", least=1)
    batch_size: int = field(500, "images solved together", least=1)
    seed: int = field(0, "seed of the noise", least=0, below=_SEEDS)
    num_steps: int = field(300_000, "training steps on the pairs", least=1)
    distill_steps: int = field(0, "Euler steps of a student of the last round; 0: none", least=0)
    distance: Literal["l2", "lpips"] = field("l2", "distance of the student to the teacher's end; lpips, as published")
    lpips_backbone: str | None = field(None, "torchvision's alexnet-owt-7be5be79.pth, for lpips")
    lpips_heads: str | None = field(None, "alex.pth of the lpips package, version 0.1, for lpips")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowFields(Section):
    """How particles of a score-difference flow move."""

    num_steps: int = field(200, "Euler steps", least=1)
    sigma_start: float = field(1.0, "bandwidth of the first step, in units of the data in [-1, 1]", above=0)
    sigma_end: float = field(0.3, "bandwidth of the last step", above=0)
    schedule: Literal["constant", "geometric", "linear"] = field(
        "geometric", "between the two; constant: sigma_start throughout"
    )
    step_rule: Literal["constant", "bandwidth"] = field(
        "bandwidth", "a step is step_size times the bandwidth squared, or step_size"
    )
    step_size: float = field(1.0, "factor in that rule", above=0)
    jitter: bool = field(False, "scores at x + bandwidth times noise")

    def __post_init__(self) -> None:
        """Refuses sizes without end."""
        super().__post_init__()
        for name in ("sigma_start", "sigma_end", "step_size"):
            if getattr(self, name) == float("inf"):
                raise FieldError(f"{name} is {getattr(self, name)}, expected a positive number")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DifferenceSettings(FlowFields):
    """--mode=difference-flow."""

    scores: Literal["kernel", "learned", "classifier"] = field(
        "kernel", "where scores come from: kernel densities, the run in the workdir, or a GAN's classifier"
    )
    against: Literal["particles", "source"] = field(
        "particles", "whose density is left: theirs; or of where they began, fixed, as in eq. 7"
    )
    source: int | None = field(None, "class whose training examples the particles begin at; None: noise", least=0)
    target: int | None = field(None, "class to go to; None: all data", least=0)
    other: str | None = field(None, "for learned against source: the workdir of another run, whose density is left")
    num_particles: int = field(500, "particles to move", least=2)
    num_data: int = field(0, "training examples to go to, at the most; 0: all", least=0)
    # Off: in 64 dimensions the others are so far away that a particle would be driven out of the data.
    exclude_self: bool = field(False, "each particle left out of the density that it is moved by")
    kl_bandwidth: float = field(0.3, "bandwidth of both densities when their divergence is estimated", above=0)
    num_frames: int = field(31, "frames of animation.gif, the first and the last included", least=2)
    seed: int = field(0, "seed of the noise", least=0, below=_SEEDS)
    classifier_warmup: int = field(
        500, "for classifier: training steps before the first step of the particles", least=0
    )
    classifier_steps: int = field(10, "for classifier: training steps before each further one", least=0)
    classifier_batch: int = field(256, "for classifier: examples a step", least=1)
    classifier_rate: float = field(1e-3, "for classifier: learning rate", above=0)
    classifier_width: int = field(256, "for classifier: numbers in a layer; even", least=4)

    def __post_init__(self) -> None:
        """Refuses what does not go together."""
        super().__post_init__()
        if self.classifier_width % 2:
            raise FieldError(f"classifier_width is {self.classifier_width}, expected an even number of at least 4")
        if self.against == "source" and self.scores == "classifier":
            raise FieldError("against is 'source', but a classifier is of the particles: set it to 'particles'")
        if self.other is not None and (self.scores, self.against) != ("learned", "source"):
            raise FieldError(
                "other is the run of what is left: set scores to 'learned' and against to 'source', or leave it"
            )

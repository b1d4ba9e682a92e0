"""Fresh sections that the experiments share. A config file shows only what differs from these.

Each section's fields are the arguments of what it builds (scoreflow_jax/experiment.py), so a field that no constructor
knows is refused there by name.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def base(name: str) -> ConfigDict:
    """Everything an experiment has, with the paper's values where it states them."""
    return ConfigDict(
        {
            "name": name,  # the default workdir is runs/<name>
            "seed": 0,  # of parameters, shuffling and all that is drawn in training
            "data": data(),
            "path": path("linear"),
            "parameterization": parameterization(),
            "objective": path_constrained(),
            "times": times("uniform"),
            "model": ddpmpp(),
            "optimizer": optimizer(),
            "train": train(),
            "solver": solver(),
            "sampler": sampler(),
            "sample": sample(),
            "translate": translate(),
            "interpolate": interpolate(),
            "figures": figures(),
            "eval": evaluation(),
            "reflow": reflow(),
            "difference": difference(),
        }
    )


def path(name: str, **fields: Any) -> ConfigDict:
    """How noise becomes data: linear, trigonometric, variance_preserving, vp, sub_vp, ve, ddpm, learned. None: its default."""
    return ConfigDict(
        {
            "name": name,
            "t_min": 0.0,  # the times between which it is trained and solved
            "t_max": placeholder(float),
            "latent": "none",  # noise besides that of t = 0, which gives two data sets a score: sine, brownian
            "latent_scale": 1.0,
            "beta_min": placeholder(float),  # of vp and sub_vp: noise rates at the data and at the noise
            "beta_max": placeholder(float),
            "sigma_min": placeholder(float),  # of ve: noise levels at the data and at the noise
            "sigma_max": placeholder(float),
            "num_scales": placeholder(int),  # of ddpm: steps, and the noise rates of the first and the last
            "beta_first": placeholder(float),
            "beta_last": placeholder(float),
            "num_terms": placeholder(int),  # of learned: of each of its two sums
            **fields,
        }
    )


def parameterization() -> ConfigDict:
    """What the network's output is, and what it is told as time."""
    return ConfigDict(
        {
            "predicts": "velocity",  # velocity, data, noise, score
            "told": "t",  # t; reversed: 1 - t, as score_sde's VP networks; sigma: the noise level, as its VE networks
            "unit_range": False,  # the network works on data in [0, 1]
            "scale_input": False,  # divided by sqrt(alpha^2 + sigma^2): of order 1 however strong the noise
        }
    )


def objective(name: str, **fields: Any) -> ConfigDict:
    """The loss: path_constrained, denoising_score_matching, interpolant. None: its own default."""
    return ConfigDict(
        {
            "name": name,
            # Of path_constrained t^-p; or by name: velocity, noise, data, logit_normal. Of denoising_score_matching: variance;
            # likelihood, g^2.
            "weight": placeholder(str),
            "weight_exponent": placeholder(float),  # of path_constrained: p in lambda(t) = t^-p; 2.0: rectified flow
            "num_steps": placeholder(
                int
            ),  # of path_constrained: of eq. 19's x(t) by the drift; 0: algorithm 1's one step
            "method": placeholder(str),  # of those steps: euler, heun
            "path_rate": placeholder(float),  # of interpolant: learning rate of a learned path, times the network's
            **fields,
        }
    )


def path_constrained(**fields: Any) -> ConfigDict:
    """The paper's loss."""
    return objective(
        "path_constrained", **{"weight": "power", "weight_exponent": 1.0, "num_steps": 0, "method": "euler", **fields}
    )


def times(name: str, **fields: Any) -> ConfigDict:
    """How training times are drawn: uniform, logit_normal, u_shaped, grid. None: its own default."""
    return ConfigDict(
        {
            "name": name,
            "low_discrepancy": False,  # spread evenly over each batch
            "mean": placeholder(float),  # of logit_normal: of the logit
            "std": placeholder(float),
            "steepness": placeholder(float),  # of u_shaped
            "count": placeholder(int),  # of grid: times, from 0 to 1 or, without the end, to 1 - 1/count
            "with_end": placeholder(bool),
            **fields,
        }
    )


def data() -> ConfigDict:
    """CIFAR-10 through tensorflow-datasets."""
    return ConfigDict(
        {
            "source": "tfds",  # arrays, digits, tfds, image_folder, merged, table, toy
            "name": "cifar10",  # the data set's own name, for sources that have several
            # Where they are: the folder of pictures, the file of arrays or of a table, a pack of --mode=pack in place of any
            # source, or the folder of all data sets of tensorflow-datasets (None: $TFDS_DATA_DIR, else ~/tensorflow_datasets).
            "path": placeholder(str),
            "train_split": "train",
            "test_split": "test",
            "shape": (32, 32, 3),  # height, width, channels; of a table (columns,), or (): as many as it has
            "num_classes": 10,  # 0: data without classes; None in a config: as many as the data have
            "levels": 256,  # grey levels of a pixel; 0 for a table, whose points are real numbers
            "flip": True,  # mirror training images at random
            # Of images of another shape. crop: the largest centred part; fit: all of it, on white; right_half: crop of that half.
            "framing": "crop",
            "white_level": placeholder(int),  # of 16-bit grey pictures the value of white; None: 65535. 12 bits: 4095
            # Held out: files of a folder without folders train and test, by their names; rows of a table, by their numbers.
            "test_share": 0.1,
            "strict": False,  # an error instead of a warning for files, and rows of a table, that cannot be used
            "label": placeholder(str),  # the feature, or the column of a table, that holds the class; None: "label"
            "classes": (),  # only these, numbered anew: (3, 5)
            "sampling": "natural",  # balanced: each class equally often, however many images it has
            "columns": (),  # of a table, by their names; empty: all but the label
            "parts": {},  # of source merged: class name to fields of this section
            "pairs": placeholder(str),  # a folder of pairs of reflow to train on; --mode=reflow sets it
            "base": {},  # fields of this section that describe other data at t = 0, in place of noise
            "dequantize": False,  # train on (k + u) / levels, u uniform, without which there is no honest likelihood
        }
    )


def ddpmpp() -> ConfigDict:
    """DDPM++ for CIFAR-10, 61.8M parameters and the class conditioning of eq. 21."""
    return ConfigDict(
        {
            "name": "ncsnpp",
            "conditional": True,
            "base_channels": 128,
            "channel_multipliers": (1, 2, 2, 2),
            "num_blocks": 4,
            "attention_resolutions": (16,),
            "dropout": 0.15,
            "label_dropout": 0.0,  # probability of training without the label, for classifier-free guidance
            "block": "biggan",  # biggan, ddpm
            "fir_kernel": (),  # of NCSN++'s resampling: (1.0, 3.0, 3.0, 1.0); empty: nearest pixels and means
            "progressive_output": "none",  # none, output_skip, residual
            "progressive_input": "none",  # none, input_skip, residual
            "progressive_combine": "sum",  # of input_skip: sum, cat
            "skip_rescale": True,  # divide residual sums by sqrt(2)
            "embedding": "positional",  # of time_scale t; fourier: of its logarithm
            "fourier_scale": 16.0,  # standard deviation of the Fourier frequencies
            "time_scale": 999.0,  # 1.0 where the network is told noise levels themselves
            "scale_by_sigma": False,  # divide the result by the noise level: time_scale t, or that entry of the next three
            "sigma_min": 0.01,
            "sigma_max": 50.0,
            "num_scales": 1000,
            "centered": True,  # False: the network maps [0, 1] to [-1, 1] itself, as score_sde's VE networks
            "patch": 1,  # 2, 4: patches of so many pixels each way folded into channels; heights above are then the folded ones
            "remat_resolutions": (),  # heights at which to recompute activations in the backward pass, to save memory
            "dtype": "float32",  # of training's computation; bfloat16 on accelerators and processors that have it
        }
    )


def mlp() -> ConfigDict:
    """Dense residual blocks, for points of a table."""
    return ConfigDict(
        {
            "name": "mlp",
            "conditional": True,
            "width": 256,
            "num_blocks": 4,
            "label_dropout": 0.0,  # probability of training without the label, for classifier-free guidance
            "skip_rescale": True,  # divide residual sums by sqrt(2)
            "time_scale": 10.0,  # time is embedded by sines of time_scale t; a large one ripples and costs evaluations
            "dtype": "float32",
        }
    )


def use_256(config: ConfigDict) -> ConfigDict:
    """The paper's 256x256 networks: DDPM++ as it says; what it does not say follows RectifiedFlow's 256x256 configs."""
    config.data.shape = (256, 256, 3)
    config.model.update(
        channel_multipliers=(1, 1, 2, 2, 2, 2, 2),
        num_blocks=2,
        attention_resolutions=(16,),
        dropout=0.0,
        remat_resolutions=(256, 128, 64),
        dtype="bfloat16",
    )
    config.train.update(batch_size=64, ema_decay=0.999)
    config.sample.batch_size = config.translate.batch_size = config.interpolate.batch_size = 16
    config.eval.batch_size = 16
    config.eval.keep_images = False
    return config


def use_digits(config: ConfigDict) -> ConfigDict:
    """scikit-learn's digits with a network for them."""
    config.data.update(source="digits", name="digits", shape=(8, 8, 1), levels=17, flip=False)
    config.model.update(
        base_channels=32, channel_multipliers=(1, 2), num_blocks=1, attention_resolutions=(), dropout=0.0
    )
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
    config.train.update(
        batch_size=64, num_steps=2500, ema_decay=0.995, sample_every=500, checkpoint_every=500, log_every=50
    )
    # Inception means nothing on 8x8 digits: distances are between pixels, recognition is a classifier's.
    config.eval.update(
        extractor="pixels", classifier=True, num_images=1000, translation=True, translation_images=2, likelihood="ode"
    )
    config.eval.update(likelihood_images=355, truncation=True, audit=True)
    config.reflow.update(num_pairs=10_000, shard_size=1000, num_steps=2500)
    return config


def use_toy(config: ConfigDict, name: str) -> ConfigDict:
    """Two-dimensional points of a known density, with a network that learns them in under a minute."""
    config.model = mlp()
    config.model.update(width=128, num_blocks=3)
    config.data.update(source="toy", name=name, shape=(), levels=0, flip=False)
    find_classes(config)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
    config.train.update(
        batch_size=512, num_steps=2000, ema_decay=0.995, sample_every=0, checkpoint_every=2000, log_every=200
    )
    config.sample.update(num_images=3000, batch_size=3000)
    config.interpolate.update(batch_size=500)
    config.eval.update(extractor="pixels", num_images=5000, batch_size=5000, num_reconstructions=1000)
    config.eval.update(likelihood="ode", likelihood_images=2000, likelihood_probe="exact")
    config.eval.split = "test"  # 5,000 points; among the 50,000 of training neighbours take minutes to find
    config.reflow.update(num_pairs=50_000, shard_size=10_000, batch_size=5000, num_steps=2000)
    return config


TOYS = ("checkerboard", "moons", "gaussians")


def system(name: str, variant: str) -> ConfigDict:
    """What every system of the comparison starts from: CIFAR-10; `digits` or a toy density, by the variant.

    The system's own parts, its path, objective and sampler, go on top, so that nothing else differs between two of them.
    """
    config = base(name if variant in ("", "smoke") else f"{name}_{variant}")
    if variant == "digits":
        return use_digits(config)
    return use_toy(config, variant) if variant in TOYS else config


def system_variant(config: ConfigDict, name: str) -> ConfigDict:
    """The config, or its smoke form.

    Raises:
        ValueError: a variant that no system has.
    """
    known = ("", "smoke", "digits", *TOYS)
    if name not in known:
        raise ValueError(f"no variant {name!r} of {config.name}, expected one of {', '.join(known[1:])} or none")
    return variant(config, "smoke" if name == "smoke" else "")


def use_score_sde(config: ConfigDict, path: ConfigDict) -> ConfigDict:
    """A score SDE on this path, as Song et al. train it: on CIFAR-10 unconditional, as their checkpoints are."""
    config.path = path
    config.parameterization.update(predicts="noise", told="reversed")
    config.objective = objective("denoising_score_matching", weight="variance")
    config.sampler.update(name="euler_maruyama", num_steps=1000)
    if config.data.source == "tfds":
        config.data.num_classes = 0
        config.model.update(conditional=False, dropout=0.1)
        config.train.ema_decay = 0.9999
    return config


def find_classes(config: ConfigDict) -> ConfigDict:
    """As many classes as the data turn out to have; with fewer than two the network is unconditional."""
    with config.ignore_type():
        config.data.num_classes = placeholder(int)
        config.model.conditional = placeholder(bool)
    return config


def between(config: ConfigDict, **base: Any) -> ConfigDict:
    """From one data set to another by the plain ODE: `base` are the fields of `config.data` that differ for the one at t = 0."""
    config.data.update(num_classes=0, base=ConfigDict(base))
    config.model.conditional = False
    config.eval.translation = False
    return config


def use_size(config: ConfigDict, size: int) -> ConfigDict:
    """A DDPM++ for square pictures of 64 or 128; of 256 the paper's. The first two are our choice: no paper states them."""
    if size == 256:
        return use_256(config)
    config.data.shape = (size, size, 3)
    multipliers = {64: (1, 2, 2, 2), 128: (1, 1, 2, 2, 2)}[size]
    config.model.update(channel_multipliers=multipliers, num_blocks=2, dropout=0.1)
    config.train.update(batch_size=64, ema_decay=0.9999, num_steps=400_000)
    config.sample.batch_size = config.translate.batch_size = config.interpolate.batch_size = 50
    config.eval.batch_size = 50
    return config


def optimizer() -> ConfigDict:
    """Rectified flow's Adam."""
    return ConfigDict(
        {
            "learning_rate": 2e-4,
            "b1": 0.9,
            "b2": 0.999,
            "epsilon": 1e-8,
            "warmup_steps": 5000,
            "clip_norm": 1.0,  # 0.0: no clipping
        }
    )


def train() -> ConfigDict:
    """Rectified flow's CIFAR-10 run: its weights were published at 800,000 steps."""
    return ConfigDict(
        {
            "batch_size": 128,
            "num_steps": 800_000,
            "cooldown_steps": 0,  # at the end, over which the learning rate falls to 0; an extended run does without until then
            "ema_decay": 0.999999,
            "log_every": 100,
            "sample_every": 5000,  # a grid from the EMA, of the same noise each time; 0: only at the end
            "checkpoint_every": 5000,
            "keep_checkpoints": 3,
            "num_workers": 0,  # processes that read data ahead; 0: threads
            "microbatches": 1,  # parts of a batch computed one after the other: less memory, the same gradient
            "steps_per_call": 1,  # steps in a loop of the device; only for steps of few milliseconds, not on CPU
            "fsdp": 1,  # devices among which parameters and optimizer state are split; 1: each has all
            "profile_steps": 0,  # steps traced into <workdir>/profile shortly after the start
            "coupling": "independent",  # optimal_transport: each batch's noise permuted to be near its data
            "tensorboard": True,
        }
    )


def solver() -> ConfigDict:
    """The paper's RK45 at 1e-5."""
    return ConfigDict(
        {
            "method": "dopri5",
            "rtol": 1e-5,
            "atol": 1e-5,
            "num_steps": placeholder(int),  # this many equal steps instead of adaptive ones
            "per_sample": False,  # step sizes chosen for each image instead of for the batch
            "max_steps": 4096,
        }
    )


def sampler() -> ConfigDict:
    """How samples are drawn; all but the ODE are of paths from Gaussian noise, or with a latent."""
    return ConfigDict(
        {
            "name": "ode",  # by config.solver; euler_maruyama, reverse_diffusion, ancestral, predictor_corrector, ddim
            "num_steps": 1000,  # equal ones, of all but the ODE
            "noise": 1.0,  # of euler_maruyama: times the diffusion; 0.0: Euler's method for the ODE
            "schedule": "path",  # of that diffusion: path (the reverse-time SDE's), constant, sigma, gamma (the latent's)
            "variance": "posterior",  # of ancestral; forward: DDPM's beta
            "corrector_steps": 1,  # of predictor_corrector
            "snr": 0.16,  # of its corrector
            "margin": 1e-3,  # kept from t = 0 and 1 where a score is not finite
            "denoise": True,  # end with the expected data
        }
    )


def sample() -> ConfigDict:
    """--mode=sample."""
    return ConfigDict(
        {
            "num_images": 100,
            "labels": (),  # repeated to num_images; empty: balanced over the classes
            "guidance": 1.0,  # weight of classifier-free guidance, here and in eval; 1.0: off; else needs model.label_dropout
            "batch_size": 100,
            "seed": 0,
            "columns": 10,  # of grid.png
            "likelihood": False,  # also each sample's log likelihood, in samples.npz
            "likelihood_probes": 1,  # of each sample, for Hutchinson's estimate; several: with its error
        }
    )


def translate() -> ConfigDict:
    """--mode=translate."""
    return ConfigDict(
        {
            "method": "latent",  # latent: encode, then decode with the other class; difference: the paper's eq. 20
            "source": placeholder(int),  # class of the images; None: every class
            "target": placeholder(int),  # class to make of them; None: every other class in turn
            "num_images": 100,  # of the test split
            "images": placeholder(str),  # a folder of pictures instead; then source must be given
            "batch_size": 100,
            "shown": 8,  # rows of grid.png and of path.png
            "save_pictures": False,  # each translation as a picture of its own too, in pictures/
            "num_times": 9,  # pictures along t in path.png
        }
    )


def interpolate() -> ConfigDict:
    """--mode=interpolate."""
    return ConfigDict(
        {
            "between": "latents",  # latents: random ones; images: real ones of the test split, encoded
            "rule": "square_root",  # the paper's; slerp, linear
            "num_pairs": 8,
            "num_steps": 9,  # pictures from one end to the other, both included
            "labels": (),  # repeated to num_pairs; empty: one class after the other
            "batch_size": 100,
            "seed": 0,
        }
    )


def figures() -> ConfigDict:
    """--mode=figures: the paper's figures 3 to 6."""
    return ConfigDict(
        {
            "classes": (),  # of figure 4 the first two, of figure 5 the first three; empty: the model's first
            "num_images": 8,  # in a row of figure 3 and of figure 4's translations; in each panel of samples
            "num_times": 9,  # pictures along t in figure 5
            "num_pairs": 4,  # rows of figure 6, and images of figure 5 along t
            "num_steps": 9,  # pictures from one end of figure 6 to the other, both included
            "batch_size": 16,  # small: what all figures solve for is then a multiple, and one program serves them
            "seed": 0,
        }
    )


def evaluation() -> ConfigDict:
    """--mode=eval."""
    return ConfigDict(
        {
            "seeds": (1,),  # each a whole set of images; several: mean and spread
            "batch_size": 250,
            "first_images": 0,  # the distance of so many of them too, to compare with evaluations of fewer images; 0: no
            "split": "train",  # compared with: train, as FIDs are published, or test
            "extractor": "inception",  # of features: inception, or pixels where Inception means nothing
            "resize": "tensorflow",  # to 299x299, as the published code does it; half_pixel: as pytorch-fid
            "inception_weights": placeholder(str),  # a file; None: found or downloaded
            "reference": placeholder(str),  # an npz of mu and sigma to compare with instead of the split
            "cache": placeholder(str),  # folder of data features; None: ~/.cache/scoreflow_jax/features
            "classifier": False,  # trained on the real pixels: for small images only
            # FID, KID, precision, recall, Inception Score, NFE
            "generation": True,
            "num_images": 50_000,
            "labels": "reference",  # classes of what is generated: shared as in what it is compared with, or even
            "keep_images": True,  # the 8-bit images too, in eval/<step>/samples
            # encode and decode test images
            "reversibility": True,
            "num_reconstructions": 100,
            "reconstruction_tolerances": (1e-3, 1e-4, 1e-5),
            # every ordered pair of classes, both methods
            "translation": False,
            "translation_pairs": (),  # ((source, target), ...); empty: all
            "translation_images": 50,  # test images of each source class, at the most
            "lpips_backbone": placeholder(
                str
            ),  # torchvision's alexnet-owt-7be5be79.pth; with the next also LPIPS to the source
            "lpips_heads": placeholder(str),  # alex.pth of the lpips package, version 0.1
            # bits/dim of the test split; of points their mean log likelihood in nats. ode: by the ODE's divergence; density: by
            # the score-based density formula, and DDPM's bound; both; none
            "likelihood": "none",
            "likelihood_images": 1000,
            "likelihood_probe": "rademacher",  # gaussian, or exact for the whole trace
            "likelihood_probes": 1,  # of each image; several: with the error that they leave
            # distance against NFE
            "sweep": False,
            "sweep_images": 1000,
            "sweep_methods": ("euler", "heun", "midpoint", "dopri5", "tsit5"),
            "sweep_steps": (5, 10, 20, 50, 100),  # of every method
            "sweep_tolerances": (1e-2, 1e-3, 1e-4, 1e-5),  # of those with an error estimate
            # one-step estimate against solution along t, the paper's figure 2
            "truncation": False,
            "truncation_images": 100,
            "truncation_times": 21,
            # the same noise by scipy's RK45
            "audit": False,
            "audit_images": 100,
            # how straight solutions run, and what few Euler steps make of it
            "straightness": False,
            "straightness_images": 200,
            "straightness_times": 21,
            "straightness_steps": (1, 2, 4, 8),
            # held-out error of the velocity along t
            "residual": False,
            "residual_images": 200,
            "residual_noises": 4,  # of each image
            "residual_times": 21,
            # of likelihood density: network calls for each example, and how noise levels are drawn: uniform, logistic, or
            # tabulated by a pilot, 4,096 calls in all
            "density_calls": 256,
            "density_levels": "tabulated",
            # error of densities against network calls: the formula, the ODE, DDPM's bound
            "density_cost": False,
            "density_cost_images": 8,
            "density_cost_calls": (16, 64, 256, 1024),
            # the class under which a test image is most likely, by the formula
            "density_classifier": False,
            "density_classifier_images": 1000,
            "density_classifier_calls": 64,  # of each class
            # are images of another kind less likely? Photographs' patches, inverted and shuffled images, noise
            "outliers": False,
            "outlier_images": 200,
            "outlier_calls": 64,
            "outlier_data": {},  # fields of config.data that describe a further kind
            # the learned drift against eq. 7's difference of scores, for several sigma_0
            "score_difference": False,
            "score_difference_images": 364,
            "score_difference_sigmas": (0.1, 0.3, 1.0, 3.0),
        }
    )


def reflow() -> ConfigDict:
    """--mode=reflow."""
    return ConfigDict(
        {
            "rounds": 2,  # up to the 2-rectified flow; 3: a round more
            "num_pairs": 1_000_000,  # of each round; 25 GB for CIFAR-10
            "shard_size": 10_000,
            "batch_size": 500,
            "seed": 0,
            "num_steps": 300_000,  # of training on them
            "distill_steps": 0,  # Euler steps of a student of the last round; 0: none
            "distance": "l2",  # to the teacher's end; lpips, as published, with its two files:
            "lpips_backbone": placeholder(str),
            "lpips_heads": placeholder(str),
        }
    )


def difference(**fields: Any) -> ConfigDict:
    """--mode=difference-flow."""
    return ConfigDict(
        {
            "scores": "kernel",  # of the data and of the particles; learned: by the run in the workdir; classifier: a GAN's
            "against": "particles",  # whose density is left: theirs; source: of where they began, fixed, as in eq. 7
            "source": placeholder(int),  # class whose training examples the particles begin at; None: noise
            "target": placeholder(int),  # class to go to; None: all data
            "other": placeholder(str),  # of learned against source: the workdir of another run, whose density is left
            "num_particles": 500,
            "num_data": 0,  # training examples to go to, at the most; 0: all
            "num_steps": 200,
            "sigma_start": 1.0,  # bandwidths of the first and the last step, in units of the data in [-1, 1]
            "sigma_end": 0.3,
            "schedule": "geometric",  # between them; linear; constant: sigma_start throughout
            "step_rule": "bandwidth",  # a step is step_size times the bandwidth squared; constant: step_size
            "step_size": 1.0,
            "jitter": False,  # scores at x + bandwidth times noise
            "exclude_self": False,  # each particle left out of the density that it is moved by
            "kl_bandwidth": 0.3,  # of both densities when their divergence is estimated
            "num_frames": 31,  # of animation.gif, the first and the last included
            "seed": 0,
            # Of classifier: training steps before the first and before each step of the particles, and what they are.
            "classifier_warmup": 500,
            "classifier_steps": 10,
            "classifier_batch": 256,
            "classifier_rate": 1e-3,
            "classifier_width": 256,
            **fields,
        }
    )


def given(section: ConfigDict) -> dict[str, Any]:
    """The fields of a section that say something, for a cell of a study: ml_collections takes no None there."""
    return {name: value for name, value in section.to_dict().items() if value is not None}


def study(
    config: ConfigDict,
    name: str,
    baseline: str,
    cells: dict[str, Any],
    decides: dict[str, tuple[str, str, str]] | None = None,
) -> ConfigDict:
    """A grid over a config for --mode=study: rows by name, each with what it changes.

    `decides` has the comparisons that it is to decide, over eight seeds: by name (row, row that it is held against, figure).
    """
    config.name = name
    comparisons = {k: dict(zip(("cell", "against", "figure"), v, strict=True)) for k, v in (decides or {}).items()}
    with config.unlocked():
        # A ConfigDict goes by the alphabet: the order of the rows is stated.
        config.study = ConfigDict({"seeds": (0, 1, 2), "baseline": baseline, "cells": cells, "order": tuple(cells)})
        config.study.comparisons = ConfigDict(comparisons)
    return config


def digits_study(full: bool) -> ConfigDict:
    """What the studies on digits have in common: dequantized data, so that bits/dim mean something, and few figures."""
    config = use_digits(base("digits"))
    steps = 2500 if full else 600
    config.data.dequantize = True
    config.train.update(
        num_steps=steps,
        sample_every=0,
        checkpoint_every=steps,
        log_every=steps // 4,
        ema_decay=0.995,
        tensorboard=False,
    )
    config.eval.update(
        num_images=1000 if full else 400, translation=False, truncation=False, audit=False, reversibility=False
    )
    config.eval.update(residual=True, residual_images=364, likelihood_images=364 if full else 100, keep_images=False)
    return config


def variant(config: ConfigDict, name: str) -> ConfigDict:
    """The config itself, or with name "smoke" the same with a tiny network and a few steps, to see that all of it runs.

    Raises:
        ValueError: another name.
    """
    if name == "":
        return config
    if name != "smoke":
        raise ValueError(f"no variant {name!r} of {config.name}, expected smoke or none")
    config.name += "_smoke"
    if config.model.name == "mlp":
        config.model.update(width=16, num_blocks=1)
    else:
        config.model.update(base_channels=8, channel_multipliers=(1, 1), num_blocks=1)
    config.model.dtype = "float32"  # most CPUs, where such runs belong, emulate bfloat16
    height, *_, channels = config.data.shape or (0, 0)
    if height > 32:  # so shallow a network would have attention over 16,384 pixels in the middle of 256x256 images
        config.data.shape = (32, 32, channels)
        config.model.remat_resolutions = (32,)
    config.optimizer.warmup_steps = 2
    config.train.update(batch_size=8, num_steps=4, log_every=2, sample_every=4, checkpoint_every=2, tensorboard=False)
    config.solver.update(rtol=1e-3, atol=1e-3)
    config.sample.update(num_images=10, batch_size=10)
    config.translate.update(num_images=10, batch_size=10, shown=4)
    config.interpolate.update(num_pairs=2, num_steps=5)
    config.figures.update(num_images=4, num_times=3, num_pairs=2, num_steps=3, batch_size=4)
    config.eval.update(extractor="pixels", num_images=40, batch_size=20, num_reconstructions=10, translation_images=1)
    config.eval.update(
        reconstruction_tolerances=(1e-3,), likelihood_images=20, truncation_images=10, truncation_times=3
    )
    config.eval.update(sweep_images=20, sweep_steps=(2, 4), sweep_tolerances=(1e-2,), audit_images=20)
    config.eval.update(straightness_images=20, straightness_times=3, straightness_steps=(1, 2))
    config.eval.update(residual_images=10, residual_noises=1, residual_times=3)
    config.eval.update(density_calls=16, density_cost_images=4, density_cost_calls=(8, 16), outlier_images=10)
    config.eval.update(density_classifier_images=10, density_classifier_calls=8, outlier_calls=8)
    config.reflow.update(num_pairs=20, shard_size=8, batch_size=10, num_steps=4)
    config.sampler.num_steps = 4
    config.difference.update(num_particles=20, num_data=100, num_steps=4, num_frames=3)
    config.difference.update(classifier_warmup=2, classifier_steps=1, classifier_batch=8, classifier_width=16)
    return config

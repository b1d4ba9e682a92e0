"""Every config file: builds at full size without computing, says what a runnable document says, and refuses nonsense."""

import json

import jax
import jax.numpy as jnp
import pytest

from configs import common
from scoreflow_jax import models, multistep
from scoreflow_jax.command_line import load_config, parse
from scoreflow_jax.commands import study, workdir
from scoreflow_jax.data import SOURCES
from scoreflow_jax.density_formula import LEVELS
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.parts import PARTS
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.likelihood import PROBES
from scoreflow_jax.models import MODELS, RESIZES
from scoreflow_jax.objectives import OBJECTIVES
from scoreflow_jax.ode import METHODS
from scoreflow_jax.paths import PATHS
from scoreflow_jax.plain_config import changed, config_hash, differences, merged, read_config, read_json, to_plain
from scoreflow_jax.sampling import RULES, TRANSLATIONS
from scoreflow_jax.sections import FAMILIES, NEEDED_FIELDS, SECTIONS
from scoreflow_jax.settings.fields import annotations, choices, declared
from scoreflow_jax.training import TIMES
from tests.commands.runs import SHRUNK
from tests.conftest import ROOT

STUDIES = {
    "ablation_flow_map.py": "rules",
    "ablation_recipe.py": "full",
    "ablation_steps.py": "full",
    "ablation_times.py": "full",
    "ablation_weight.py": "full",
    "comparison.py": "full",
}
"""With the variant of each."""
FILES = sorted(p.name for p in (ROOT / "configs").glob("*.py") if p.stem not in ("__init__", "common"))
# Published counts alone: our own would certify nothing.
PARAMETERS = {
    "ablation_flow_map.py": None,
    "ablation_recipe.py": None,
    "ablation_steps.py": None,
    "ablation_times.py": None,
    "ablation_weight.py": None,
    "afhq.py": None,
    "cat_to_dog.py": 61_804_419,
    "celeba_male_female.py": None,
    "celeba_metfaces.py": None,
    "cifar10.py": None,
    "cifar10_best.py": None,
    "cifar10_deep.py": None,
    "cifar10_small.py": None,
    "cifar10_unconditional.py": 61_804_419,
    "comparison.py": None,
    "ddpm.py": 61_804_419,
    "difference_flow.py": None,
    "digits.py": None,
    "flow_map.py": None,
    "gaussians_to_moons.py": None,
    "handbags_shoes.py": None,
    "image_folder.py": None,
    "imagenet32.py": 61_804_419,
    "interpolant.py": None,
    "rectified_flow.py": None,
    "rectified_flow_256.py": 65_574_549,
    "sub_vp.py": 61_804_419,
    "table.py": None,
    "tfds_images.py": None,
    "ve.py": 62_758_915,
    "vp.py": 61_804_419,
}


_TRACED = set()


def config_of(name, variant=""):
    return load_config(str(ROOT / "configs" / name) + (f":{variant}" if variant else ""))


def experiment_of(name, variant=""):
    """Built, with the number of classes that a config's docstring speaks of where the data are to tell it."""
    trained = {"data": {"num_classes": 10 if name == "tfds_images.py" else 3, "shape": (2,)}}
    return build(resolve(config_of(name, variant), trained))


def shapes_of(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def test_the_table_knows_every_file():
    assert PARAMETERS.keys() == set(FILES)


@pytest.mark.parametrize("name", sorted({*FILES} - {*STUDIES}))
@pytest.mark.parametrize("variant", ["", "smoke"])
def test_full_size_builds_steps_and_samples_without_computing(name, variant):
    experiment = experiment_of(name, variant)
    network = experiment.network.clone(dropout=0.0) if "dropout" in vars(experiment.network) else experiment.network
    traced = (network, experiment.spec.shape, experiment.train.batch_size)
    if traced in _TRACED and not experiment.data.base:
        return  # the same step as another config's: only its data differ
    _TRACED.add(traced)
    params, batch = experiment.parameter_shapes(), experiment.batch_shapes()
    if name == "digits.py":
        state = jax.eval_shape(experiment.initial_state)
        after, metrics = jax.eval_shape(experiment.train_step(), state, batch)
        assert shapes_of(after) == shapes_of(state)
        assert metrics["loss"].shape == ()
    else:  # the optimizer and the average, a third of the time, go through any tree alike; so do gradients, a smaller one's too
        loss = experiment.train_loss()
        drawn = jax.eval_shape(loss.draw, jax.random.key(0), batch)
        assert jax.eval_shape(loss.mean, params, drawn).shape == ()
        if variant == "smoke":
            assert shapes_of(jax.eval_shape(jax.grad(loss.mean), params, drawn)) == shapes_of(params)
    label = batch["label"] if experiment.conditional else None
    drift = lambda p, x, t, c: experiment.drift(p)(x, t, c)
    n, shape = experiment.train.batch_size, experiment.spec.shape
    x, t = jax.ShapeDtypeStruct((n, *shape), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.float32)
    assert jax.eval_shape(drift, params, x, t, label).shape == (n, *shape)


@pytest.mark.parametrize("name", FILES)
def test_conditional_count_is_the_unconditional_one_with_eq_21(name):
    """An embedding for each class, and in every block a gain for each channel with its bias; the config says the number."""
    e = experiment_of(name)
    count = models.num_parameters(e.parameter_shapes())
    assert count == (PARAMETERS[name] or count)
    assert f"{count:,}" in (ROOT / "configs" / name).read_text().split('"""')[1] or name in ("digits.py", *STUDIES)
    if e.conditional:
        free = models.parameter_shapes(e.network.clone(num_classes=0), e.spec.shape)
        mlp = isinstance(e.network, models.MLP)
        width, layer = (e.network.width, "dense_0") if mlp else (4 * e.network.base_channels, "conv_0")
        channels = sum(part[layer]["kernel"].shape[-1] for part in free.values() if layer in part)
        assert count == models.num_parameters(free) + e.num_classes * width + (width + 1) * channels


@pytest.mark.parametrize("name", FILES)
def test_is_a_runnable_document(name):
    text = (ROOT / "configs" / name).read_text()
    assert f"python main.py --config=configs/{name} --mode=" in text
    for word in ("Hardware", "Expect", "Variants"):
        assert word in text.split('"""')[1]
    # What to expect of the loss, but where nothing is trained, or where another config's lines say it.
    assert "loss" in text.split('"""')[1].lower() or name in (
        "difference_flow.py",
        "tfds_images.py",
        "ablation_recipe.py",
    )


CELLS = [(name, variant) for name, other in STUDIES.items() for variant in ("", other)]


@pytest.mark.parametrize(
    ("name", "variant"), [*CELLS, ("ablation_weight.py", "photographs"), ("ablation_recipe.py", "size")]
)
def test_every_cell_of_a_study_builds_and_steps(name, variant):
    """Rows in the order that the config states them, the baseline among them. A step is traced of a smaller network: none of them
    changes it."""
    experiment = experiment_of(name, variant)
    cells = study.cells_of(experiment)
    assert tuple(cells) == experiment.study.order
    assert experiment.study.baseline in cells
    traced = []
    for cell in cells.values() if not variant else ():
        if cell.trained == cell.name:
            config = to_plain(cell.config)
            network = build(config).network.clone(outputs=1, two_times=False)
            assert network == experiment.network or name == "ablation_recipe.py"
            config["model"].update(SHRUNK)
            # Rows that differ in rates, times and the like are one program but for its numbers.
            parts = {name: config[name] for name in ("model", "path", "objective", "parameterization")}
            if (key := (parts, config["train"]["coupling"], config["train"]["microbatches"])) not in traced:
                build(config).check_trainable()
                traced.append(key)
        build(merged(cell.config, cell.changes))


@pytest.mark.parametrize("name", ["rectified_flow", "vp", "sub_vp", "ve", "ddpm", "interpolant"])
@pytest.mark.parametrize("variant", ["digits", "moons"])
def test_systems_differ_in_their_own_parts_alone(name, variant):
    ours, theirs = (to_plain(config_of(f"{n}.py", variant)) for n in (name, "rectified_flow"))
    own = {"name", "path", "parameterization", "objective", "times", "sampler"}
    assert {k: v for k, v in ours.items() if k not in own} == {k: v for k, v in theirs.items() if k not in own}
    build(resolve(ours)).check_trainable()


def test_unknown_variants_are_named():
    for name in ("vp", "ablation_weight", "comparison"):
        with pytest.raises(UserError, match="no variant 'tiny'"):
            config_of(f"{name}.py", "tiny")


def test_the_papers_choices_are_the_defaults():
    e = build(config_of("cifar10.py"))
    assert (e.solver.method, e.solver.rtol, e.solver.atol) == ("dopri5", 1e-5, 1e-5)
    assert e.objective.weight_exponent == 1.0
    assert (e.train.batch_size, e.train.ema_decay, e.train.num_steps) == (128, 0.999999, 800_000)
    assert (e.path.t_min, e.path.t_max) == (0.0, 1.0)
    assert e.conditional
    assert not build(config_of("cifar10_unconditional.py")).conditional


def test_the_small_network_is_folded_and_in_bfloat16_in_every_variant():
    for variant in ("", "smoke", "flow_map"):
        network = experiment_of("cifar10_small.py", variant).network
        assert network.two_times == (variant == "flow_map")
        assert (network.patch, network.dtype) == (2, "bfloat16")
    assert models.num_parameters(experiment_of("cifar10_small.py").parameter_shapes()) < 5_600_000


def test_hash_survives_json_and_sees_every_change():
    plain = to_plain(config_of("digits.py"))
    assert config_hash(to_plain(json.loads(json.dumps(plain)))) == config_hash(plain)
    plain["optimizer"]["b1"] = 0.8
    assert config_hash(plain) != config_hash(to_plain(config_of("digits.py")))


def test_a_section_that_came_later_changes_no_hash():
    plain = to_plain(config_of("digits.py"))
    before = {name: section for name, section in plain.items() if name != "publish"}
    assert config_hash(plain) == config_hash(before)
    plain["publish"]["columns"] = 3
    assert config_hash(plain) != config_hash(before)


def test_configs_of_before_are_read_with_the_defaults_of_new_fields():
    """A config.json without later fields builds, and differs only where a new field is not at its default."""
    old, new = to_plain(config_of("digits.py")), to_plain(config_of("digits.py"))
    for name in ("block", "fir_kernel", "label_dropout", "embedding", "time_scale", "remat_resolutions", "num_scales"):
        del old["model"][name]
    del old["path"]["t_min"], old["sample"]["guidance"], old["data"]["dequantize"]
    assert build(old).network == build(new).network
    assert differences(new, old, ("model", "path")) == []
    new["model"]["embedding"] = "fourier"
    assert differences(new, old, ("model", "path")) == ["model.embedding is 'fourier', was 'positional'"]


@pytest.mark.parametrize("absent", [True, False], ids=["absent", "null"])
def test_a_run_keeps_the_end_that_it_was_trained_to(tmp_path, absent):
    """The default of variance_preserving was 0.999; a config of now says where its path ends."""
    given = {"path.name": "variance_preserving"}
    new = build(changed(to_plain(config_of("digits.py")), given))
    assert new.path.t_max == new.config["path"]["t_max"] == 1 - 1e-5
    old = json.loads(json.dumps(new.config))
    old["path"] |= {"t_max": None}
    if absent:
        del old["path"]["t_max"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert build(read_config(tmp_path)).path.t_max == 0.999
    assert build(read_json(str(tmp_path / "config.json"))).path.t_max == 0.999
    # With the config that it came from it goes on, and is evaluated, as it was trained.
    for mode in ("train", "eval"):
        config = changed(to_plain(config_of("digits.py")), given)
        assert workdir.build_for(mode, config, tmp_path).path.t_max == 0.999
        said = changed(config, {"path.t_max": "0.99"})
        assert workdir.build_for(mode, said, tmp_path).path.t_max == 0.99  # which the run then refuses by name
    # Another path has nothing to do with it.
    assert workdir.build_for("train", config_of("digits.py"), tmp_path).path.t_max == 1.0


def test_differences_names_what_changed_below_the_fields_asked_for():
    ours, theirs = to_plain(config_of("digits.py")), to_plain(config_of("digits.py"))
    ours["optimizer"]["b1"], ours["sample"]["seed"], ours["data"]["path"] = 0.8, 5, "elsewhere"
    assert differences(ours, theirs, ("optimizer", "data")) == ["optimizer.b1 is 0.8, was 0.9"]


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("data.source", "web", "expected one of arrays, digits, tfds, image_folder"),
        ("data.shape", (8, 8), "expected .height, width, channels."),
        ("path.name", "curved", "config.path.name is 'curved', expected one of linear"),
        ("objective.weight_exponent", 3.0, "config.objective.weight_exponent is 3.0, expected at most 2"),
        ("model.name", "vit", "expected one of ncsnpp"),
        ("model.dtype", "float16", "expected one of float32, bfloat16"),
        ("model.channel_multipliers", (1, 2, 2, 2, 2), "cannot be halved 4 times"),
        ("solver.method", "rk45", "config.solver.method is 'rk45', expected one of euler"),
        ("sample.labels", (3, 10), "has 10, expected a class from 0 to 9"),
        ("translate.source", -1, "config.translate.source is -1, expected at least 0"),
        ("translate.method", "both", "expected one of latent, difference"),
        ("interpolate.rule", "cubic", "expected one of square_root"),
        ("interpolate.between", "noise", "expected one of latents, images"),
        ("interpolate.num_steps", 1, "at least 2"),
        ("sample.num_images", 0, "config.sample.num_images is 0, expected at least 1"),
        ("train.num_steps", 0, "num_steps is 0, expected at least 1"),
        ("data.num_classes", 0, "set it to False"),
        ("model.label_dropout", 1.0, "label_dropout is 1.0, expected at least 0 and less than 1"),
        ("model.block", "resnet", "block is 'resnet', expected one of biggan, ddpm"),
        ("model.fir_kernel", (1.0,), "expected at least 2 taps of positive sum"),
        ("path.t_min", 1.0, "config.path.t_min is 1.0, expected at least 0 and less than 1"),
        ("path.t_max", 0.0, "config.path.t_max is 0.0, expected more than 0 and at most 1"),
        ("model.dropout", 2.0, "dropout is 2.0, expected at least 0 and less than 1"),
        ("train.ema_decay", 1.0, "ema_decay is 1.0"),
        ("train.num_workers", -1, "num_workers is -1, expected at least 0"),
        ("optimizer.warmup_steps", -3, "expected at least 0"),
        ("optimizer.cooldown", (10, 5), "config.optimizer.cooldown is no field of this section"),
        ("train.cooldown_steps", 801, "cooldown_steps is 801, expected 0 to num_steps, 800"),
        ("optimizer.learning_rate", 0.0, "expected a positive number"),
        ("solver.max_steps", 0, "max_steps is 0"),
        ("solver.num_steps", 5000, "max_steps is 4096, expected at least 5000"),
        ("sample.labels", (True,), "expected a tuple of whole numbers"),
        ("eval.num_images", 1, "at least 2"),
        ("eval.extractor", "vgg", "config.eval.extractor is 'vgg', expected one of inception, pixels"),
        ("eval.resize", "bicubic", "expected one of tensorflow, half_pixel"),
        ("eval.split", "validation", "expected one of train, test"),
        ("eval.likelihood_probe", "sobol", "expected one of rademacher, gaussian, exact"),
        ("eval.sweep_methods", ("rk45",), "config.eval.sweep.methods is \\('rk45',\\), expected values among euler"),
        ("study.seeds", (1, 1), "config.study.seeds is .1, 1., expected different whole numbers"),
        (
            "eval.sweep",
            {"on": True, "methods": ()},
            "config.eval.sweep.methods or all of steps, calls and tolerances are empty",
        ),
        (
            "eval.likelihood",
            {"probe": "exact", "probes": 2},
            "config.eval.likelihood.probes is 2, but probe is 'exact'",
        ),
        ("model.dropout", None, "config.model.dropout is None, expected a number"),
        ("model.conditional", None, "config.model.conditional is None: give True or False"),
        ("eval.seeds", (), "expected different whole numbers"),
        ("eval.seeds", (1, 1), "expected different whole numbers"),
        ("eval.translation_pairs", ((3, 3),), "expected pairs of different classes, such as"),
        ("eval.translation_pairs", ((3, 10),), "config.eval.translation names class 10, expected one from 0 to 9"),
        ("eval.sweep_tolerances", (0.0,), "expected positive numbers"),
        ("eval.sweep_tolerances", ("x",), "expected a tuple of numbers"),
        ("eval.sweep_steps", (2.5,), "expected a tuple of whole numbers"),
        ("eval.sweep_steps", (0,), "expected numbers of at least 1, such as"),
        ("eval.translation_pairs", (3, 8), "expected pairs of different classes"),
        ("eval.seeds", (2**70,), "less than 2.32"),
    ],
)
def test_values_out_of_range_are_named(field, value, match):
    config = to_plain(config_of("digits.py"))
    section, name = field.split(".")
    config.setdefault(section, {})[name] = value
    with pytest.raises(UserError, match=match) as caught:
        build(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["data", "model", "optimizer", "train", "solver", "sample", "translate", "eval"])
def test_unknown_and_missing_fields_are_named(section):
    config = to_plain(config_of("digits.py"))
    config[section]["colour"] = 1
    with pytest.raises(UserError, match="colour"):
        build(config)
    del config[section]["colour"]
    for needed in NEEDED_FIELDS.get(section, ()):
        lacking = {**config, section: {k: v for k, v in config[section].items() if k != needed}}
        with pytest.raises(UserError, match=f"config.{section} has no field '{needed}', which it needs"):
            build(changed(lacking, {}))
    del config[section]
    with pytest.raises(UserError, match=f"the config has no '{section}'"):
        build(config)


@pytest.mark.parametrize(
    ("section", "table"), [("path", PATHS), ("objective", OBJECTIVES), ("times", TIMES), ("model", MODELS)]
)
def test_members_are_their_sections_and_have_no_default_of_their_own(section, table):
    """What a section states is inherited: the same names, no field that shadows another, and no name that only one table has."""
    family = FAMILIES[section]
    assert table.keys() == family.members.keys()
    for name, member in table.items():
        fields = family.members[name]
        assert issubclass(member, fields)
        stated, own = declared(fields), declared(member)
        assert own.keys() == stated.keys()
        for field, found in own.items():
            assert (found.default, found.metadata) == (stated[field].default, stated[field].metadata)
    assert set(common.base("new")[section]) == {"name", *family.every()}


def test_names_that_a_field_lists_are_those_that_are_implemented():
    for owner, field, table in (
        (SECTIONS["solver"], "method", {*METHODS, *multistep.METHODS, "flow_map"}),  # of sampling/jumps.py
        (SECTIONS["translate"], "method", TRANSLATIONS),
        (SECTIONS["data"], "source", SOURCES),
        (SECTIONS["eval"], "resize", RESIZES),
        (SECTIONS["eval"], "density_levels", LEVELS),
        (PARTS["likelihood"], "probe", PROBES),
        (SECTIONS["interpolate"], "rule", RULES),
    ):
        assert set(choices(annotations(owner)[field])) == set(table), field


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"path": {"name": "linear", "latent": "sine"}},
            "has a latent, whose denoiser no objective trains but 'interpolant'",
        ),
        ({"path": {"name": "learned"}}, "is learned, and its numbers no objective trains"),
        ({"parameterization": {"predicts": "noise"}}, "config.parameterization: predicts is 'noise'"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes, match):
    with pytest.raises(UserError, match=match):
        build({**to_plain(config_of("digits.py")), **changes})


def test_pairs_may_move_but_not_go():
    ours, theirs = to_plain(config_of("digits.py")), to_plain(config_of("digits.py"))
    ours["data"]["pairs"] = "here"
    assert differences(ours, theirs, ("data",)) == ["data.on_pairs is True, was False"]
    theirs["data"]["pairs"] = "there"
    assert differences(ours, theirs, ("data",)) == []


@pytest.mark.parametrize("name", FILES)
def test_every_file_takes_changes_from_the_command_line(name):
    """Also the grids of studies."""
    _, config, _, _ = parse(["main.py", "--mode=train", f"--config={ROOT / 'configs' / name}", "--config.seed=3"])
    assert config["seed"] == 3

"""An evaluation as a Markdown page, and several evaluations in one table."""

import json
import re
from typing import Any

from scoreflow_jax import plots, sums
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.extractors import RELEASED_NAME
from scoreflow_jax.user_paths import user_path

MATTERS = (
    "trained_config_hash",
    "parameters_sha256",
    "parameters",
    "ema_decay",
    "step",
    "sampler.name",
    "sampler.num_steps",
    "sampler.noise",
    "sampler.schedule",
    "sampler.variance",
    "sampler.corrector_steps",
    "sampler.snr",
    "sampler.margin",
    "sampler.denoise",
    "solver.method",
    "solver.steps",
    "solver.rtol",
    "solver.atol",
    "solver.step_control",
    "solver.dtype",
    "solver.matmul_precision",
    "batch_size",
    "rounding",
    "seeds",
    "data.name",
    "data.test_split",
    "data.test_images",
    "data.test_sha256",
    "extractor.extractor",
    "extractor.weights_sha256",
    "extractor.resize",
    "extractor.computation",
    "generation.images",
    "generation.guidance",
    "generation.labels",
    "generation.reference.data",
    "generation.reference.split",
    "generation.reference.images",
    "generation.reference.data_sha256",
    "generation.reference.statistics_sha256",
    "generation.reference.extractor_of_file",
    "generation.reference.jpeg",
    "generation.kid",
    "generation.precision_recall",
    "generation.inception_score",
    "generation.classifier",
    "device",
    "host",
    "versions.jax",
    "versions.scoreflow_jax",
)
"""Fields that two evaluations should share for their figures to compare, but for what is being compared."""

_PICTURE = re.compile(r"\n+!\[.*?\]\(.*?\)")
_COMPARED = (
    ("frechet_distance", ".3f"),
    ("kid", ".5f"),
    ("precision", ".3f"),
    ("recall", ".3f"),
    ("inception_score", ".2f"),
    ("recognized", ".1%"),
    ("nfe", ".0f"),
    ("seconds_per_image", ".3g"),
)


def page(report: dict[str, Any]) -> str:
    """report.md: one section for each part that was run; without links where no picture can be drawn."""
    title = f"# {report['name']}, step {report['step']}"
    parts = _parts(report)
    manifest = _table(["", ""], [[name, _shown(value)] for name, value in _matters(report).items()])
    parts.append(f"## How it was measured\n\n{manifest}")
    if "translation" in report:
        parts.append(f"## Translation by pair\n\n{_by_pair(report['translation']['methods'])}")
    text = "\n\n".join([title, *parts, "All figures: report.json."])
    return text if plots.can_save() else _PICTURE.sub("", text)


def summary(report: dict[str, Any]) -> str:
    """The sections without the manifest, for the terminal."""
    return "\n\n".join(_parts(report))


def _parts(report: dict[str, Any]) -> list[str]:
    generation = [_generation(report)] if "generation" in report else []
    parts = generation + [section(report[name]) for name, section in _SECTIONS.items() if name in report]
    if report.get("data", {}).get("examples") != "points":
        return parts
    return [part.replace("image", "point").replace("Image", "Point") for part in parts]  # said in nearly every line


def distance_name(extractor: dict[str, Any]) -> str:
    """FID is only what is measured on the released network's features."""
    name = extractor["extractor"]
    return "FID" if name == RELEASED_NAME else f"Frechet distance on {name}"


def _generation(report: dict[str, Any]) -> str:
    g = report["generation"]
    first, real, fewer = next(iter(g["by_seed"].values())), g["real"], g.get("of_as_many")
    rows = []
    for field, words, style in (
        ("frechet_distance", f"{distance_name(report['extractor'])} to {_reference(g['reference'])}", ".3f"),
        ("kid", "KID", ".5f"),
        ("precision", "precision", ".3f"),
        ("recall", "recall", ".3f"),
        ("inception_score", "Inception Score", ".2f"),
        ("recognized", "recognized by a classifier", ".1%"),
        ("within_class_std", "standard deviation within a class", ".3f"),
        ("nearest_training_distance", "distance to the nearest training image", ".3f"),
        ("nfe", "NFE", ".0f"),
        ("seconds_per_image", "seconds per image", ".3g"),
    ):
        if field not in first and field not in real:
            continue
        middle = [_figure(fewer, field, style)] if fewer else []
        rows.append([words, _cell(g, field, style), *middle, _figure(real, field, style)])
    head = [f"{g['images']} images", "generated", f"real, held out ({real['images']})"]
    if fewer:
        head.insert(2, f"generated, the first {real['images']}")
    warning = f"\n\n**Warning**: {g['warning']}." if "warning" in g else ""
    return f"## Generation\n\n{_table(head, rows)}\n\n{_notes(g, first, real)}{warning}\n\n![first samples](grid.png)"


def _notes(g: dict[str, Any], first: dict[str, Any], real: dict[str, Any]) -> str:
    """What has to be known to read the table."""
    notes = [f"classes of generated images: {g['labels']}"] if g.get("labels") else []
    if len(g["by_seed"]) > 1:
        notes.append(f"± is the standard deviation over {len(g['by_seed'])} seeds")
    elif any(isinstance(first.get(f"{field}_std"), float) for field in ("kid", "inception_score")):
        notes.append(
            "± is the standard deviation over KID's subsets and over the Inception Score's splits, not over seeds"
        )
    if "of_as_many" in g:
        notes.append(
            "distances, recall and Inception Score depend on the number of images: compare the last two columns"
        )
    if "images_on_pixels" in first:
        notes.append(
            f"recognition, deviation and nearest distance are of the first {first['images_on_pixels']} generated images and "
            f"{real.get('images_on_pixels', 0)} real ones"
        )
    if "note" in real:
        notes.append(real["note"])
    text = "; ".join(notes)
    return text[:1].upper() + text[1:] + "." if text else ""


def _figure(figures: dict[str, Any], field: str, style: str) -> str:
    own = figures.get(f"{field}_std")
    return _shown(figures.get(field, ""), style) + (f" ± {own:{style}}" if isinstance(own, float) else "")


def _reference(facts: dict[str, Any]) -> str:
    return f"{facts['data']} {facts['split']}" + (f" ({facts['images']} images)" if "images" in facts else "")


def _reversibility(r: dict[str, Any]) -> str:
    columns = (
        ("mean_absolute_error", ".1e"), ("max_absolute_error", ".1e"), ("nfe_encode", ".0f"), ("nfe_decode", ".0f"),
    )  # fmt: skip
    rows = [
        [tolerance, *(f"{e[name]:{style}}" for name, style in columns)] for tolerance, e in r["by_tolerance"].items()
    ]
    head = [f"{r['images']} held-out images, tolerance", "mean absolute error", "largest", "NFE there", "and back"]
    return "## Encoding and decoding\n\n" + _table(head, rows)


def _translation(t: dict[str, Any]) -> str:
    methods = t["methods"]
    rows = []
    for field, words, style in (
        ("recognized_as_target", "recognized as the target class", ".1%"),
        ("distance_to_own_source", "distance to its own source", ".3f"),
        ("distance_to_other_sources", "distance to other sources of that class", ".3f"),
        ("lpips_to_own_source", "LPIPS to its own source", ".3f"),
        ("cycle_error_swapped", "there and back with labels swapped, mean absolute error", ".2e"),
        ("cycle_error_reversed", "there and back in reversed time, mean absolute error", ".2e"),
        ("nfe", "NFE", ".0f"),
    ):
        if any(field in m for m in methods.values()):
            rows.append([words, *(_shown(m.get(field, ""), style) for m in methods.values()), ""])
    targets = next(iter(methods.values()))["by_target"].values()
    for field, words in (("frechet_distance", "Frechet distance"), ("kid", "KID")):
        real = _mean([v["real"]["kid"] for v in targets]) if field == "kid" else ""
        cells = [_mean([v[field] for v in m["by_target"].values()]) for m in methods.values()]
        rows.append([f"{words} to the target class, mean over classes", *cells, real])
    head = [f"{t['images']} translations, {t['pairs']} pairs of classes", *methods, "real, held out"]
    pictures = "\n".join(f"![{m}](translation_{m}.png)" for m in methods)
    return f"## Translation\n\n{_table(head, rows)}\n\n{pictures}"


def _by_pair(methods: dict[str, Any]) -> str:
    """A row a pair of classes, the methods side by side."""
    fields = (
        ("recognized_as_target", ".0%"),
        ("kid", ".3g"),
        ("distance_to_own_source", ".2f"),
        ("cycle_error_swapped", ".1e"),
    )
    pairs = list(next(iter(methods.values()))["by_pair"])
    used = [(f, s) for f, s in fields if any(f in m["by_pair"][pairs[0]] for m in methods.values())]
    words = {
        "recognized_as_target": "recognized",
        "kid": "KID",
        "distance_to_own_source": "to source",
        "cycle_error_swapped": "cycle",
    }
    head = ["pair", *(f"{words[f]}, {name}" for f, _ in used for name in methods)]
    rows = [[p, *(_shown(m["by_pair"][p].get(f, ""), s) for f, s in used for m in methods.values())] for p in pairs]
    return _table(head, rows)


def _likelihood(v: dict[str, Any]) -> str:
    rows = []
    if "probe" in v:
        told = (
            f"± {v['probe_error_per_image']:.4f} for one; ± {v['probe_error']:.4f} by probes"
            if "probe_error" in v
            else ""
        )
        rows.append(["ODE", _density(v), f"{v['evaluations']:.0f} evaluations, {_probing(v)}", told])
    if "formula" in v:
        f = v["formula"]
        gap = f"; less the ODE {_plus_minus(f['gap_to_ode'], f['gap_standard_error'])}" if "gap_to_ode" in f else ""
        beyond = (
            f"; {_plus_minus(f['beyond_the_path'], f['beyond_error'])} of it beyond the path's end"
            if f.get("beyond_the_path")
            else ""
        )
        told = f"± {f['estimation_error']:.4f} for one{beyond}{gap}"
        rows.append(["density formula, a bound of the SDE", _density(f), f"{f['calls']} calls", told])
    if "chain" in v:
        c = v["chain"]
        rows.append([f"DDPM's bound, of {c['of']}", _density(c), f"{c['calls']} calls", c["variance"]])
    if "uniform" in v:
        unit = f"bits/dim of {v['of']} held-out images (a uniform model has {v['uniform']:.3f}"
    else:
        unit = f"nats of {v['of']} held-out points (log densities in the table's own units: the higher the better"
    text = _table([f"{unit}; ± standard error)", "", "cost", ""], rows)
    if "of_states" in v:
        text += f"\n\n{_of_states(v['of_states'], 'uniform' in v)}"
    return "## Likelihood\n\n" + text + (f"\n\n**Warning**: {v['warning']}." if "warning" in v else "")


def _of_states(told: dict[str, float], images: bool) -> str:
    """What the ODE's density is of, where that is not the data alone."""
    noise = f"{128 * told['noise']:.1f} grey levels of 256" if images else f"{told['noise']:.2g} standard deviations"
    return (
        f"The ODE's density is that of its states at t = {told['time']:.10g}, the path's end, with noise of {noise} in them: it "
        "is lower than the data's where these are sharper."
    )


def _probing(v: dict[str, Any]) -> str:
    """By which probes a divergence was taken."""
    if v["probe"] == "exact":
        return "exact divergence"
    count = v.get("probes", 1)
    return f"{count} {v['probe']} probe{'s' * (count > 1)}"


def _density(v: dict[str, Any]) -> str:
    if "nats" in v:
        return f"{_plus_minus(v['nats'], v['standard_error'])} ({v['nats_per_dim']:.4f} for each coordinate)"
    return _plus_minus(v["bits_per_dim"], v["standard_error"])


def _plus_minus(value: float, error: float | None) -> str:
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _density_cost(d: dict[str, Any]) -> str:
    rows = [
        [
            f"{r['method']}, {r['tolerance']:g}" if "tolerance" in r else r["method"],
            f"{r['calls']:.0f}",
            _shown(r["error"], ".3g"),
            _shown(r["seconds_per_image"], ".3g"),
        ]
        for r in d["rows"]
    ]
    head = [f"root mean square over {d['images']} held-out images", "network calls", "error, nats", "s per image"]
    note = (
        f"The formula's and the bound's error is their standard error; the ODE's is against its exact divergence at "
        f"{d['finest']:g}. A derivative along one direction is a call."
    )
    return (
        f"## Densities: error against cost\n\n{_table(head, rows)}\n\n{note}\n\n![error against cost](density_cost.png)"
    )


def _density_classifier(d: dict[str, Any]) -> str:
    rows = [
        ["the class under which the image is most likely", f"{d['accuracy']:.1%} ± {d['standard_error']:.1%}"],
        ["network calls of each class", str(d["calls_per_class"])],
        ["median margin to the next class, nats", f"{d['median_margin']:.2f}"],
        ["s per image", f"{d['seconds_per_image']:.3g}"],
    ]
    if "trained_classifier" in d:
        rows.insert(1, ["a classifier trained for it", f"{d['trained_classifier']:.1%}"])
    return "## Density as a classifier\n\n" + _table([f"{d['images']} held-out images", "right"], rows)


def _score_difference(s: dict[str, Any]) -> str:
    shown = range(1, len(s["times"]), 2)
    rows = []
    for name, row in s["rows"].items():
        middle = row[len(row) // 2]
        cosines = [f"{row[i]['cosine']:.2f}" for i in shown]
        rows.append([name, *cosines, f"{middle['relative_error']:.2f}", f"{middle['error_at_best_factor']:.2f}"])
    half = s["times"][len(s["times"]) // 2]
    head = [
        f"{s['images']} held-out images: cosine with the learned drift at t =",
        *(f"{s['times'][i]:g}" for i in shown),
    ]
    head += [f"square error at t = {half:g}, of the drift's", "with the best factor"]
    return f"## The drift and eq. 7\n\n{_table(head, rows)}\n\n![cosine along t](score_difference.png)"


def _outliers(o: dict[str, Any]) -> str:
    rows = [[n, str(k["images"]), f"{k['bits_per_dim']:.3f}", f"{k['area']:.3f}"] for n, k in o["kinds"].items()]
    rows.insert(0, ["held-out data", str(o["images"]), f"{o['bits_per_dim']:.3f}", ""])
    head = ["images", "n", "bits/dim by the formula", "area under the ROC curve"]
    return f"## Other images\n\n{_table(head, rows)}\n\n![bits/dim](outliers.png)"


def _sweep(s: dict[str, Any]) -> str:
    rows = [
        [
            r["method"],
            f"{r['steps']} steps" if "steps" in r else f"{r['tolerance']:g}",
            *(
                ["", "failed", "", ""]
                if "failed" in r
                else [
                    f"{r['nfe']:.0f}",
                    _shown(r["distance"], ".4g"),
                    f"{r['rms_difference']:.2e}",
                    f"{r['seconds_per_image']:.2g}",
                ]
            ),
        ]
        for r in s["rows"]
    ]
    finest = s["finest"]
    head = ["method", "steps or tolerance", "NFE", s["measured"], "RMS difference from the finest", "s per image"]
    end = f"\n\nThe finest is dopri5 at {finest['tolerance']:g}: {_shown(finest['distance'], '.4g')}{_labels(s)}."
    if finest["distance"] is not None and any("failed" not in r for r in s["rows"]):
        end += "\n\n![sweep](sweep.png)"
    return "## Distance against network calls\n\n" + _table(head, rows) + end


def _truncation(t: dict[str, Any]) -> str:
    if "omitted" in t:
        return f"## Truncation error along t\n\nNot measured: {t['omitted']}."
    rows = [[n, f"{max(v):.4f}", f"{sum(v) / len(v):.4f}"] for n, v in t["root_mean_square"].items()]
    head = [f"distance to the straight path, {t['images']} held-out images", "largest over t", "mean over t"]
    return "## Truncation error along t\n\n" + _table(head, rows) + "\n\n![truncation](truncation.png)"


def _straightness(s: dict[str, Any]) -> str:
    solved = s["solved"]
    judged = "recognized" in solved
    head = ["from the same noise", "NFE", "off by", *(["recognized"] if judged else [])]
    rows = [["solved", _shown(solved["nfe"], ".0f"), "0", *([_shown(solved["recognized"], ".1%")] if judged else [])]]
    for few in s["few_steps"]:
        cells = [f"Euler, {few['steps']} steps", str(few["steps"]), _shown(few["rms_difference"], ".4f")]
        rows.append(cells + ([_shown(few["recognized"], ".1%")] if judged else []))
    told = (
        f"S = {s['straightness']:.4f} (0: straight lines), transport cost {s['transport_cost']:.4f}, length of the path "
        f"{s['path_length']:.4f}, each a mean over dimensions of {s['images']} images"
    )
    told += _labels(s)
    return f"## Straightness\n\n{told}\n\n{_table(head, rows)}\n\n![straightness](straightness.png)"


def _residual(r: dict[str, Any]) -> str:
    shown = range(0, len(r["times"]), max(1, len(r["times"]) // 6))
    rows = [[f"{r['times'][i]:.2f}", f"{r['mean_square'][i]:.4f}"] for i in shown]
    table = _table(["t", "mean square of f - dx_t/dt"], rows)
    return f"## Held-out error along t\n\nmean over t: {r['mean']:.4f}\n\n{table}\n\n![residual](residual.png)"


def _audit(a: dict[str, Any]) -> str:
    fields = (("nfe", "NFE", ".1f"), ("frechet_distance", "Frechet distance", ".4f"), ("kid", "KID", ".5f"))
    rows = [[words, *(_shown(a[who][field], style) for who in ("ours", "scipy"))] for field, words, style in fields]
    head = [f"{a['images']} images of the same noise", f"ours, {a['ours']['solver']}", f"scipy, {a['scipy']['solver']}"]
    head[0] += _labels(a)
    end = (
        f"\n\nImages differ by {a['mean_absolute_difference']:.1e} in the mean and {a['max_absolute_difference']:.1e} at most"
        + (f"; {a['pixels_that_differ']:.2%} of their 8-bit pixels differ." if "pixels_that_differ" in a else ".")
    )
    return "## Against scipy\n\n" + _table(head, rows) + end


def _labels(part: dict[str, Any]) -> str:
    """How the classes of what was generated are shared; reports of before do not say."""
    return f"; classes {part['labels']}" if part.get("labels") else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_SECTIONS = {
    "reversibility": _reversibility,
    "translation": _translation,
    "likelihood": _likelihood,
    "sweep": _sweep,
    "truncation": _truncation,
    "straightness": _straightness,
    "residual": _residual,
    "density_cost": _density_cost,
    "density_classifier": _density_classifier,
    "outliers": _outliers,
    "score_difference": _score_difference,
    "audit": _audit,
}


def _shown(value: Any, style: str = "") -> str:
    if isinstance(value, float) and style:
        return f"{value:{style}}"
    return "" if value is None else str(value)


def _mean(values: list[Any]) -> str:
    """The mean of numbers; empty where one is missing."""
    if not values or not all(isinstance(v, float) for v in values):
        return "too few images" if values else ""
    return f"{sum(values) / len(values):.4g}"


def read_report(path: str) -> dict[str, Any]:
    """A report.json of --mode=eval.

    Raises:
        UserError: no such file, or another kind of report.
    """
    file = user_path(path)
    file = file / "report.json" if file.is_dir() else file
    try:
        report: Any = sums.read_json(file)
    except OSError:
        raise UserError(
            f"no report {file}; expected the report.json of an evaluation, such as runs/digits/eval/2500"
        ) from None
    except sums.Damaged as error:
        raise UserError(f"{error}: evaluate again") from error
    generation = report.get("generation") if isinstance(report, dict) else None
    if not isinstance(generation, dict) or not generation.get("by_seed") or "extractor" not in report:
        raise UserError(
            f"{file} is not the report of an evaluation with generation; expected one that --mode=eval wrote"
        )
    return report


def compare(reports: dict[str, dict[str, Any]]) -> str:
    """Reports side by side, and before the figures what differs in how they were measured.

    Args:
        reports: by a name for each column.
    """
    names = list(reports)
    manifests = {n: _matters(r) for n, r in reports.items()}
    fields = [f for f in MATTERS if any(f in m for m in manifests.values())]
    different = [f for f in fields if len({json.dumps(m.get(f)) for m in manifests.values()}) > 1]
    if different:
        rows = [[f, *(_short(manifests[n].get(f)) for n in names)] for f in different]
        text = "These were not measured alike. What differs:\n\n" + _table(["", *names], rows) + "\n\n"
    else:
        text = "Measured alike in every field that matters.\n\n"
    kinds = {distance_name(r["extractor"]) for r in reports.values()}
    distance = kinds.pop() if len(kinds) == 1 else "Frechet distance (of different features: not comparable)"
    rows = []
    for field, style in _COMPARED:
        cells = [_cell(reports[n]["generation"], field, style) for n in names]
        if any(cells):
            rows.append([distance if field == "frechet_distance" else field.replace("_", " "), *cells])
    note = (
        "± is over seeds where there are several; else of KID over its subsets, of the Inception Score over its splits."
    )
    return f"{text}{_table(['', *names], rows)}\n\n{note}"


def _cell(generation: dict[str, Any], field: str, style: str) -> str:
    """Over several seeds mean and spread; else the figure, with the spread that it has itself, where it has one."""
    if field in generation.get("over_seeds", {}):
        spread = generation["over_seeds"][field]
        return f"{spread['mean']:{style}} ± {spread['std']:{style}}"
    return _figure(next(iter(generation["by_seed"].values())), field, style)


def _short(value: Any) -> str:
    """Hashes are cut: their beginning tells them apart."""
    text = "not stated" if value is None else str(value)
    return text[:12] if len(text) == 64 else text


def _matters(report: dict[str, Any]) -> dict[str, Any]:
    """The fields of `MATTERS` that a report has."""
    found = {}
    for name in MATTERS:
        value: Any = report
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[name] = value
    return found

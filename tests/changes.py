"""Configs for tests, with some fields changed."""

from scoreflow_jax.settings.fields import build_section, declared


def set_fields(config, changes):
    """Changes a plain config in place: train__num_steps=2, eval__sweep__images=20, or a whole section by its name alone."""
    for place, value in changes.items():
        *sections, last = place.split("__")
        inner = config
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return config


def of_config(owner, **fields):
    """A part made as a config makes it. (In tests jaxtyping sees a call with a wrong name first, and says it otherwise.)"""
    given = {name: value for name, value in fields.items() if name in declared(owner)}
    return build_section(owner, "part", given, **{name: value for name, value in fields.items() if name not in given})

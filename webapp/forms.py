"""A form from the fields of settings, each with its default, unit and source."""

import math
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

import streamlit as st

from allinsam.planning import ARMS
from allinsam.sam.backbones import BACKBONES
from allinsam.training.corrective import MOCL_MODES
from allinsam.training.dataset import VARIETIES
from allinsam.training.networks import NETWORKS
from allinsam.training.settings import PRECISIONS, TrainingSettings

HIDDEN = ("settings_version",)
# What most people change stands first; everything else keeps its order below.
FIRST = ("backbone", "mocl", "adapter_epochs", "corrective_epochs", "seed", "budget_minutes")
LABELS = {
    "backbone": "SAM backbone",
    "mocl": "Corrective learning (MOCL) after the adapter",
    "adapter_epochs": "Adapter epochs",
    "corrective_epochs": "Corrective epochs",
    "budget_minutes": "Budget, minutes per run",
    "seed": "Seed",
    "variety": "Augment as slides of one",
    "k": "Top-k of MOCL, px",
    "overlap": "People per patch",
    "gold": "Hidden gold, share",
    "repeats": "Hidden repeats, share",
    "repeat_gap": "Patches before a repeat",
    "patches_per_person": "Most patches per person",
    "arms": "Arms, drawn per patch",
    "planted": "Suggestions wrong on purpose, share",
    "suggestions_from": "Suggestions of run no. (empty: SAM)",
}
GUIDANCE_NAMES = {
    "threshold": "marker + outline",
    "if": "marker only",
    "pas_only": "PAS alone",
    "suggestion": "marker + outline + suggestions",
}
TOOL_NAMES = {"box_sam": "box to mask", "contour": "outline by hand"}
CHOICES: dict[str, tuple[str, ...]] = {
    "backbone": tuple(BACKBONES),
    "network": tuple(NETWORKS),
    "mocl_mode": tuple(MOCL_MODES),
    "device": ("auto", "cpu", "cuda"),
    "precision": tuple(PRECISIONS),
    "variety": tuple(VARIETIES),
    "arms": ARMS,
}


def arm_name(arm: str) -> str:
    """An arm of a plan, guidance/tool, in words."""
    guidance, tool = arm.split("/")
    return f"{GUIDANCE_NAMES[guidance]}, {TOOL_NAMES[tool]}"


def settings_form(
    key: str,
    columns: int = 3,
    settings: type = TrainingSettings,
    first: Sequence[str] = FIRST,
    start: Any = None,
    leave_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Widgets for every setting, inside the form that is open; returns name -> value.

    start: settings whose values stand there first, the defaults where there are none. `key` must tell it.
    """
    known = {
        setting.name: setting for setting in fields(settings) if setting.name not in (*HIDDEN, *leave_out)
    }
    values = _row_of({name: known[name] for name in first if name in known}, key, columns, start)
    with st.expander("All other settings"):
        rest = {name: setting for name, setting in known.items() if name not in first}
        values |= _row_of(rest, key, columns, start)
    return values


def _row_of(settings: dict[str, Field], key: str, columns: int, start: Any) -> dict[str, Any]:
    values, names = {}, list(settings)
    for place in range(0, len(names), columns):
        row = names[place : place + columns]
        for name, cell in zip(row, st.columns(columns, vertical_alignment="bottom"), strict=False):
            with cell:
                begins = None if start is None else (getattr(start, name),)
                values[name] = setting_widget(settings[name], f"{key}-{name}", begins)
    return values


def setting_widget(setting: Field, key: str, begins: tuple[Any] | None = None) -> Any:
    """The widget that suits a field's type; an empty number is None. begins: a first value instead of the
    default.
    """
    default = setting.default if setting.default is not MISSING else None
    value = default if begins is None else begins[0]
    label, note = label_of(setting.name), help_of(setting)
    if isinstance(default, tuple):
        options = CHOICES[setting.name]
        return st.multiselect(
            label, options, default=value, format_func=arm_name, help=note, key=key, wrap=True
        )
    if setting.name in CHOICES:
        options = list(CHOICES[setting.name])
        return st.selectbox(label, options, index=options.index(value), help=note, key=key)
    if isinstance(default, bool):
        return st.checkbox(label, value=value, help=note, key=key)
    if isinstance(default, str):
        return st.text_input(label, value=value, help=note, key=key)
    if isinstance(default, int) or "int" in str(setting.type):
        empty = "None" in str(setting.type)
        return st.number_input(label, value=value, step=1, min_value=None if empty else 0, help=note, key=key)
    step, shown = _step(default)
    return st.number_input(label, value=value, step=step, format=shown, min_value=0.0, help=note, key=key)


def label_of(name: str) -> str:
    return LABELS.get(name, name.replace("_", " ").capitalize())


def help_of(setting: Field) -> str:
    unit, source = setting.metadata.get("unit", ""), setting.metadata.get("source", "")
    default = setting.default if setting.default is not None else "empty"
    return ". ".join(
        part for part in (f"Default {default}", f"Unit: {unit}" if unit else "", f"Source: {source}") if part
    )


def _step(default: float | None) -> tuple[float, str]:
    """A step a tenth as large as the default, and enough digits to show it."""
    if not default:
        return 1.0, "%g"
    exponent = math.floor(math.log10(default)) - 1
    return float(10.0**exponent) if exponent < 0 else 1.0, "%g"


def settings_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that differ from their defaults as command line arguments; checks them all.

    Raises:
        InputError: a value is out of range.
    """
    settings = TrainingSettings.from_dict(values)
    arguments: dict[str, Any] = {}
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        if setting.name in HIDDEN or value == setting.default:
            continue
        if value is None:  # leaving it out would mean the default
            value = "none"
        # A flag that is off needs its own word: leaving it out would mean the default.
        arguments[f"no_{setting.name}" if value is False else setting.name] = (
            True if value is False else value
        )
    return arguments

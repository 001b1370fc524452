"""The Train page's form for single trainings: labels, method, preset, settings, and what it will take."""

import re
from typing import Any

import streamlit as st
import torch

from allinsam import jobs
from allinsam.accounts import SignedIn
from allinsam.consensus import RULES
from allinsam.errors import AllinsamError, InputError
from allinsam.sam.backbones import BACKBONES, weights_path
from allinsam.store import Study
from allinsam.training.methods import METHODS, preset_of
from allinsam.training.networks import NETWORKS
from allinsam.training.settings import PRESET_REASONS, TrainingSettings
from allinsam.workflow.label_limits import even_sizes
from allinsam.workflow.labels import LABEL_RULES, MASK_SOURCES, preview_split, recipe_of, train_order
from allinsam.workflow.learning import MOST_SEEDS, check_seeds
from allinsam.workflow.progress import estimate_training, labelled_patches, study_progress
from webapp.forms import FIRST, settings_arguments, settings_form
from webapp.job_parts import duration

GROUPS = ("expert", "student")
SPLIT_SEED = 1
FIRST_PRESET, FIRST_METHOD = "best", "all_in_sam_mocl"
PRESET_NAMES = {"quick": "Quick look", "best": "Best here", "faithful": "Faithful"}
CURVE_HELP = (
    "An eighth, a quarter, half and all of the training patches: drawn by seed, the smaller within the "
    "larger, the same patches for every kind of label. The result is on the Compare page, under Minutes and "
    "size."
)
MASK_NAMES = {
    "edited": "as accepted and edited",
    "weak": "boxes as drawn: SAM makes the masks again",
    "tight": "tight boxes of the masks, through SAM",
    "random": "boxes loosened at random, through SAM",
}
RULE_NAMES = {
    "pooled": "one person per patch, drawn by seed",
    "consensus": "what those who looked agree on",
    "adjudicated": "as a reviewer settled it, whoever drew it",
}
METHOD_NAMES = {
    "majority": "majority of people",
    "staple": "STAPLE outlines, majority of classes",
    "dawid_skene": "majority outlines, Dawid-Skene classes",
    "staple_dawid_skene": "STAPLE outlines, Dawid-Skene classes",
}


def submit(study: Study, person: SignedIn, verb: str, arguments: dict[str, Any]) -> None:
    try:
        jobs.submit(study, verb, arguments, person.person_id)
    except AllinsamError as error:
        st.error(str(error))


def show_split(study: Study, seed: int) -> None:
    """What the split of this seed cannot fill, before anything is trained on it."""
    try:
        planned = preview_split(study, seed)
    except AllinsamError as error:
        st.warning(str(error))
        return
    told = [gap.replace("val:", "validation:") for gap in planned.gaps]
    of = f"The split by {planned.rule.split()[0]}, seed {seed}"
    if all(gap.startswith("validation:") for gap in told):  # it only chooses between epochs
        st.caption(
            f"{of}: {'; '.join(told)}." if told else f"{of}, has every class and condition in each part."
        )
        return
    lines = "\n".join(f"- {gap}" for gap in told)
    st.warning(
        f"{of}, cannot be filled. What the test part lacks is not scored; what the train part lacks is not "
        f"learned.\n{lines}"
    )


def show_step_by_step(study: Study, person: SignedIn) -> None:
    with st.expander("Step by step: choose labels, method and settings"):
        st.fragment(_form)(study, person)


def _form(study: Study, person: SignedIn) -> None:
    labels, method, label_arguments = _ask_labels(study)
    patches = labelled_patches(study, labels)
    preset = _ask_preset(study, method, patches)
    start = preset_of(preset, method)
    left, middle, right = st.columns(3, vertical_alignment="bottom")
    seeds_text = left.text_input(
        "Seeds",
        value=str(start.seed),
        help=f"Several, such as 1 2 3, make as many runs, one after the other; {MOST_SEEDS} at most. Their "
        "spread says how much of a difference is chance.",
    )
    split_seed = middle.number_input(
        "Seed of the split",
        value=SPLIT_SEED,
        min_value=0,
        help="The same seed keeps the same train, val and test.",
    )
    score = right.checkbox("Score when trained", value=True)
    shuffle = right.checkbox(
        "Control: shuffle the classes", help="Every nucleus keeps its outline and gets a random class."
    )
    if split_seed != SPLIT_SEED:
        show_split(study, int(split_seed))
    first = tuple(name for name in FIRST if name != "seed")
    values = settings_form(f"train-{preset}-{method}", first=first, start=start, leave_out=("seed",))
    lacking, words, sizes, curve_words = "", "", [], ""
    arguments = {**label_arguments, "split_seed": int(split_seed)}
    try:
        seeds = seeds_of(seeds_text)
        settings = TrainingSettings.from_dict({**values, "seed": seeds[0]})
        recipe_of(labels, **{name: value for name, value in label_arguments.items() if name != "labels"})
        arguments |= settings_arguments(settings.to_dict())
        if len(seeds) > 1:
            arguments = {name: arguments[name] for name in arguments if name != "seed"} | {"seeds": seeds}
        arguments |= {"shuffle_classes": True} if shuffle else {}
        lacking, words = what_is_lacking(settings), _estimate_words(study, settings, patches, len(seeds))
        sizes = curve_sizes(study, label_arguments, int(split_seed))
        curve_words = _curve_words(study, settings, patches, sizes, len(seeds))
        if not lacking and (note := gpu_note(settings)):
            st.warning(note)
    except AllinsamError as error:
        lacking = str(error)
    if lacking:
        st.error(lacking)
    left, right = st.columns([1, 4], vertical_alignment="center")
    pressed = left.button("Train", type="primary", width="stretch", disabled=bool(lacking) or not patches)
    right.markdown(words)
    if pressed:
        submit(study, person, "train", arguments)
        if score:
            submit(study, person, "evaluate", {})
        st.rerun()
    left, right = st.columns([1, 4], vertical_alignment="center")
    usable = bool(sizes) and not lacking
    if left.button("Size curve", width="stretch", disabled=not usable, help=CURVE_HELP):
        for size in sizes[:-1]:
            submit(study, person, "train", {**arguments, "limit_patches": size})
        submit(study, person, "train", arguments)
        submit(study, person, "evaluate", {})
        st.rerun()
    right.markdown(curve_words)


def _ask_labels(study: Study) -> tuple[str, str, dict[str, Any]]:
    """Whose labels, the method, and the arguments that say the labels."""
    people = [p.person_id for p in study_progress(study).people if p.finished]
    left, middle, right = st.columns(3)
    labels = left.selectbox(
        "Labels of",
        [*GROUPS, *people],
        help="Of a group, take one person per patch or their consensus (next row).",
    )
    method = middle.selectbox(
        "Method",
        list(METHODS),
        index=list(METHODS).index(FIRST_METHOD),
        format_func=lambda name: METHODS[name].title,
        help="The paper's methods by name. Choosing one fills in network, corrective learning and masks.",
    )
    masks = right.selectbox(
        "Masks",
        MASK_SOURCES,
        index=MASK_SOURCES.index(METHODS[method].masks),
        format_func=MASK_NAMES.get,
        key=f"masks-{method}",
        help="SAM is the study's own here; the paper has SAM-L.",
    )
    rule = left.selectbox("Where several finished a patch", LABEL_RULES, format_func=RULE_NAMES.get)
    arguments: dict[str, Any] = {"labels": labels, "masks": masks}
    agreed = rule == "consensus"
    consensus = middle.selectbox("Consensus by", RULES, format_func=METHOD_NAMES.get, disabled=not agreed)
    quorum = right.number_input(
        "Consensus: people who must have marked a nucleus",
        value=None,
        min_value=1,
        placeholder="more than half of those who looked",
        help="A class that fewer people finished on a patch is left out there.",
        disabled=not agreed,
    )
    if agreed:
        arguments |= {"rule": rule, "method": consensus} | ({"quorum": int(quorum)} if quorum else {})
    if rule == "adjudicated":
        arguments |= {"labels": rule, "rule": rule}
    return arguments["labels"], method, arguments


def _ask_preset(study: Study, method: str, patches: int) -> str:
    captions = []
    for name in PRESET_NAMES:
        minutes = estimate_training(study, preset_of(name, method), [patches]).minutes
        captions.append(f"{PRESET_REASONS[name]} {_about(minutes)}." if patches else PRESET_REASONS[name])
    return st.radio(
        "Preset: fills in the settings below",
        list(PRESET_NAMES),
        index=list(PRESET_NAMES).index(FIRST_PRESET),
        format_func=PRESET_NAMES.get,
        captions=captions,
        horizontal=True,
    )


def _about(minutes: float) -> str:
    return f"About {duration(60 * minutes)}"


def _estimate_words(study: Study, settings: TrainingSettings, patches: int, count: int) -> str:
    if not patches:
        return "These labels have no finished patch yet."
    estimate = estimate_training(study, settings, [patches] * count)
    basis = (
        "from the last run on this machine" if estimate.measured else "a guess: none like it was trained here"
    )
    if not estimate.measured and torch.cuda.is_available():
        basis = "a guess for a machine without a GPU: much less on this one"
    several = f"{count} runs, one after the other. " if count > 1 else ""
    return f"{several}**{_about(estimate.minutes)}** with scoring ({basis}). You may close the page."


def curve_sizes(study: Study, label_arguments: dict[str, Any], split_seed: int) -> list[int]:
    """Numbers of training patches for a curve, all of them last; fewer than two make none."""
    arguments = dict(label_arguments)
    recipe = recipe_of(arguments.pop("labels"), **arguments)
    count = len(train_order(study, recipe, preview_split(study, split_seed).parts))
    return [*even_sizes(count), count] if count > 1 else []


def _curve_words(study: Study, settings: TrainingSettings, patches: int, sizes: list[int], count: int) -> str:
    if not sizes:
        return "A size curve needs at least two patches of these labels in the train part of the split."
    parts = [patches * size / sizes[-1] for size in sizes for _ in range(count)]
    about = _about(estimate_training(study, settings, parts).minutes)
    several = f" with {count} seeds each" if count > 1 else ""
    return (
        f"Trains on {', '.join(map(str, sizes[:-1]))} and all {sizes[-1]} training patches{several}, one "
        f"after the other, and scores them: what more patches, and people's minutes, buy. **{about}.**"
    )


def seeds_of(text: str) -> list[int]:
    """Whole numbers, apart by spaces or commas. Raises InputError where they are no seeds of one job."""
    words = re.split(r"[\s,;]+", text.strip())
    if not all(word.isdecimal() and len(word) <= 9 for word in words):
        raise InputError(f"Seeds {text[:40]!r} are not usable. Give whole numbers, such as 1 2 3.")
    seeds = [int(word) for word in words]
    check_seeds(seeds)
    return seeds


def what_is_lacking(settings: TrainingSettings) -> str:
    """Why these settings cannot be trained with on this machine; "" where they can."""
    row = BACKBONES.get(settings.backbone)
    if row is None or not NETWORKS[settings.network].needs_backbone or weights_path(row.name).is_file():
        return ""
    return (
        f"The official weights of {row.name} ({row.weights_bytes / 1e9:.1f} GB) are not on this machine. "
        f"Download them first: `python -m allinsam weights --backbone {row.name}`. Or choose the compact "
        "backbone."
    )


def gpu_note(settings: TrainingSettings) -> str:
    """A word where these settings ask for a GPU and there is none."""
    heavy = NETWORKS[settings.network].needs_backbone and settings.backbone != "compact"
    if not heavy or torch.cuda.is_available():
        return ""
    return (
        f"{settings.backbone} needs a GPU, and this machine has none: on its processor the training takes as "
        "long as said below."
    )

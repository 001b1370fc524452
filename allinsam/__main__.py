"""Command line: python -m allinsam <verb> --study DIR [--json].

Exit 0, or 2 with one line that names the value and the remedy. With --json, standard output is
exactly one object; progress goes to standard error.
"""

import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from allinsam import commands_durability, commands_privacy
from allinsam.errors import AllinsamError, InputError

Result = dict[str, Any]
DEFAULT_STUDY = Path("data/studies/demo")
# In words: the table itself brings in every format's library, half a second for each command.
FORMATS_WRITTEN = "imagej, coco, coco_polygons, qupath, labels, csv"


@dataclass
class Printer:
    """Progress on standard error, at most once a second."""

    quiet: bool = False
    last: float = field(default=-math.inf)
    detail: dict[str, Any] = field(default_factory=dict)  # of a job: what an earlier attempt had done

    def report(
        self, done: float, total: float, message: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        if self.quiet or (time.monotonic() - self.last < 1.0 and done < total):
            return
        self.last = time.monotonic()
        share = f"{100 * done / total:3.0f} %" if total else "     "
        print(f"{share}  {message}", file=sys.stderr, flush=True)

    def should_stop(self) -> bool:
        return False


@contextmanager
def progress_of(args: argparse.Namespace) -> Iterator[Any]:
    """A printer, or the row of the job this process was started for."""
    if args.job is None:
        yield Printer()
        return
    from allinsam.jobs import JobReporter
    from allinsam.store import open_study

    with JobReporter(open_study(args.study), args.job) as reporter:
        yield reporter


# ------------------------------------------------------------------------------------------- verbs


def demo(args: argparse.Namespace) -> Result:
    """Make the simulated demo study."""
    from allinsam.store import images
    from allinsam.workflow.demo import DemoSettings, build_demo

    settings = DemoSettings(seed=args.seed, slides=args.slides, patches_per_slide=args.patches)
    begun = time.monotonic()
    study = build_demo(args.study, settings, Printer().report)
    with study.science.read() as db:
        patches = images.list_patches(db)
        slides = images.list_slides(db)
    seconds = round(time.monotonic() - begun, 1)
    return {"study": str(study.folder), "slides": len(slides), "patches": len(patches), "seconds": seconds}


def import_(args: argparse.Namespace) -> Result:
    """Bring PAS and IF files from a folder, a ZIP or a CSV manifest into a study."""
    from allinsam.importing import Fallback, FolderRules, ImportLimits
    from allinsam.workflow.importing import import_study, what_came
    from allinsam.workflow.uploads import used_up

    source = args.source or args.from_job
    if source is None:
        raise InputError("Name what to import: a folder of images, a ZIP of one, or a CSV manifest.")
    given = {"marker_name": args.marker_name, "slide_pattern": args.slide_pattern}
    given |= {"condition": args.condition, "um_per_px": args.um_per_px}
    with progress_of(args) as progress, used_up(args.study, source):
        done = import_study(
            args.study,
            source,
            args.on_problem,
            args.name,
            report=progress.report,
            rules=FolderRules(**{key: value for key, value in given.items() if value is not None}),
            fallback=Fallback(args.missing_um_per_px, args.missing_condition),
            limits=ImportLimits(patch_mpx=args.patch_mpx),
            should_stop=progress.should_stop,
        )
        progress.report(1, 1, what_came(done))
    return done


def import_slide(args: argparse.Namespace) -> Result:
    """Cut a whole slide, and its IF slide, into patches of a study; the slide stays where it is."""
    from allinsam.importing.slide import SlideRules
    from allinsam.workflow.importing import what_came
    from allinsam.workflow.importing_slides import SlideSource, import_slide

    slide = args.slide or args.from_job
    if slide is None:
        raise InputError("Name the stained slide that is to be cut.")
    source = SlideSource(
        slide,
        args.if_slide,
        dict(_channels(args.channels)),
        args.glomeruli,
        args.slide_name,
        args.condition,
        args.slide_um_per_px,
        args.if_um_per_px,
        args.register,
    )
    with progress_of(args) as progress:
        done = import_slide(
            args.study,
            source,
            SlideRules(**_given_settings(args)),
            args.name,
            progress.report,
            progress.should_stop,
        )
        progress.report(1, 1, what_came(done))
    return done


def _channels(given: list[str]) -> Iterator[tuple[str, int]]:
    for text in given:
        marker, _, index = text.partition("=")
        if not marker or not index.isdecimal():
            raise InputError(f"--channels {text!r} is not MARKER=CHANNEL. Give for instance WT1=0.")
        yield marker, int(index)


def import_annotations(args: argparse.Namespace) -> Result:
    """Bring nuclei of one patch from ImageJ, COCO, QuPath, ... into a study, as gold or to be checked."""
    from allinsam.store import open_study
    from allinsam.workflow import interchange

    study = open_study(args.study)
    choices = interchange.ImportChoices(
        args.purpose,
        _person_id(study, args.person) if args.person else None,
        args.class_name,
        dict(_renames(args.rename)),
        tuple(args.complete),
    )
    if args.all:
        return interchange.import_annotations_of_all(study, args.file, args.format, choices)
    if args.patch is None:
        raise InputError("Name the patch the file is for with --patch, or --all: every patch it names.")
    return interchange.import_annotations(study, args.file, args.patch, args.format, choices)


def _renames(given: list[str]) -> Iterator[tuple[str, str]]:
    for text in given:
        old, sign, new = text.partition("=")
        if not (old and sign and new):
            raise InputError(f"--rename {text!r} is not OLD=NEW. Give the file's class and the study's.")
        yield old, new


def register(args: argparse.Namespace) -> Result:
    """Bring IF onto its stained image: of two files, or of patches of a study."""
    if args.fixed is not None:
        from allinsam.registration.files import register_files

        if args.moving is None:
            raise InputError(f"Only {args.fixed} is given. Name the IF image after it, or use --study.")
        if args.patch or args.all or args.missing:
            raise InputError("Give two files, or --study with --patch, --missing or --all, not both.")
        return register_files(
            args.fixed,
            args.moving,
            args.moving_channel,
            args.fixed_um_per_px,
            args.moving_um_per_px,
            args.patch_px,
        )
    from allinsam.store import open_study
    from allinsam.workflow.registering import register_study

    if bool(args.patch) + args.all + args.missing != 1:
        raise InputError("Give two files; or --study with --patch NAME, once or more, --missing or --all.")
    study = open_study(args.study)
    person_id = _person_id(study, args.person) if args.person else None
    with progress_of(args) as progress:
        return register_study(
            study,
            args.patch or None,
            person_id,
            progress.report,
            progress.should_stop,
            args.missing,
            progress.detail.get("registered", ()),
        )


def threshold(args: argparse.Namespace) -> Result:
    """Sign thresholds by a method for every slide and marker that has none, or list those there are."""
    from allinsam.store import open_study, thresholds
    from allinsam.workflow.preparing import sign_thresholds

    study = open_study(args.study)
    signed = sign_thresholds(study, args.method, _person_id(study, args.person)) if args.method else []
    with study.science.read() as db:
        return {"signed": signed, "thresholds": thresholds.list_thresholds(db)}


def _person_id(study: Any, name: str) -> str:
    """The pseudonym of somebody with this sign-in name; a pseudonym stays as it is."""
    from allinsam.store import accounts

    with study.server.read() as db:
        account = accounts.find_account(db, name)
    return account["person_id"] if account else name


def embed(args: argparse.Namespace) -> Result:
    """Compute the embedding of every patch ahead, so that the first box answers at once."""
    from allinsam.store import open_study
    from allinsam.workflow.preparing import embed_patches

    with progress_of(args) as progress:
        return embed_patches(open_study(args.study), progress.report, progress.should_stop)


def first_masks(args: argparse.Namespace) -> Result:
    """SAM's masks of first boxes that nothing answered, so that people's boxes and masks can be compared."""
    from allinsam.store import open_study
    from allinsam.workflow.caused import make_first_masks

    with progress_of(args) as progress:
        return dict(make_first_masks(open_study(args.study), progress.report, progress.should_stop))


def weights(args: argparse.Namespace) -> Result:
    """Download a published SAM's weights, or go on with a download that was cut off; compile its encoder."""
    from allinsam.sam import openvino_encoder
    from allinsam.sam.backbones import BACKBONES, ensure_weights, load_backbone

    def say(done: int, total: int | None) -> None:
        printer.report(done, total or 0, f"{done / 1e6:.0f} MB of {args.backbone}")

    printer = Printer()
    path = ensure_weights(args.backbone, progress=say)
    compiled = None
    if openvino_encoder.is_installed() and BACKBONES[args.backbone].whole_patch:
        printer.report(0, 1, f"compiling {args.backbone} for this processor, a minute or two")
        compiled = str(openvino_encoder.prepare(load_backbone(args.backbone, reference=True)))
    return {"backbone": args.backbone, "path": str(path), "compiled": compiled}


def segment(args: argparse.Namespace) -> Result:
    """Boxes of a label image's instances -> SAM masks, compared with those instances."""
    from allinsam.store import open_study
    from allinsam.workflow.preparing import segment_instances

    return segment_instances(open_study(args.study), args.patch, args.instances, args.outward_px, args.out)


def train(args: argparse.Namespace) -> Result:
    """Train the adapter on one set of labels."""
    from allinsam.store import open_study
    from allinsam.workflow import labels, learning

    study = open_study(args.study)
    settings = _settings(args)
    recipe = _recipe(args)
    seeds = [settings.seed] if args.seeds is None else args.seeds
    learning.check_seeds(seeds)
    with progress_of(args) as progress:
        split_id = labels.make_split(study, args.split_seed)
        if args.limit_patches is not None or args.limit_minutes is not None:
            limit = {"patches": args.limit_patches, "minutes": args.limit_minutes}
            recipe = replace(recipe, **limit, split=split_id)
        cache = learning.study_cache(study) if recipe.masks != "edited" else None
        label_set_id = labels.freeze_labels(study, recipe, cache)
        trained = learning.train_seeds(
            study,
            label_set_id,
            split_id,
            settings,
            seeds,
            args.name or recipe.title,
            progress.report,
            progress.should_stop,
        )
    done = {"run": trained[-1], "label_set": label_set_id, "split": split_id, "labels": recipe.title}
    return done if args.seeds is None else {**done, "runs": trained}


def evaluate(args: argparse.Namespace) -> Result:
    """Score runs on the test part from PAS alone, and the untrained model beside them."""
    from allinsam.store import open_study
    from allinsam.workflow import learning, scored

    study = open_study(args.study)
    with progress_of(args) as progress:
        done = learning.evaluate_all(study, args.run, progress.report, progress.should_stop)
    return {**done, "scores": scored.mean_scores(study).to_dict("records")}


def experiment(args: argparse.Namespace) -> Result:
    """The one click: train on the expert's and on the students' labels, evaluate, compare."""
    from allinsam.store import open_study
    from allinsam.workflow import labels, learning, scored

    study = open_study(args.study)
    recipes = [labels.recipe_of(group, masks=_masks(args), **_rule(args)) for group in args.labels]
    with progress_of(args) as progress:
        done = learning.one_click(
            study, _settings(args), recipes, args.split_seed, progress.report, progress.should_stop
        )
    return {**done, "scores": scored.mean_scores(study).to_dict("records")}


def monuseg(args: argparse.Namespace) -> Result:
    """The paper's Tables 2 and 3 on a folder of fully annotated images."""
    from allinsam.experiments.commands import run_monuseg

    with progress_of(args) as progress:
        return run_monuseg(args, progress.report, progress.should_stop)


def noise(args: argparse.Namespace) -> Result:
    """What corrective learning gains on simulated labels with one fault at a time."""
    from allinsam.experiments.commands import run_noise_experiment

    with progress_of(args) as progress:
        return run_noise_experiment(args, progress.report, progress.should_stop)


def compare(args: argparse.Namespace) -> Result:
    """Paired tests between two sets of scores, per class and condition, or set how much does not matter."""
    from allinsam.store import open_study
    from allinsam.workflow import analysis_plan, scored

    study = open_study(args.study)
    if args.set_margin is not None:
        analysis_plan.set_margin(study, None, args.set_margin)
        return {"margin": asdict(analysis_plan.margin(study))}
    table = scored.compare(study, args.a, args.b, args.metric)
    return {"a": args.a, "b": args.b, "metric": args.metric, "rows": table.to_dict("records")}


def agreement(args: argparse.Namespace) -> Result:
    """Agreement between raters and seconds per object."""
    from allinsam.store import open_study
    from allinsam.workflow import overlapping, rated

    study = open_study(args.study)
    with progress_of(args) as progress:
        counted = overlapping.count_study(study, progress.report, progress.should_stop)
    if args.count:
        return counted
    tables = rated.agreement_tables(study)
    return {name: table.to_dict("records") for name, table in tables.items() if name != "pairwise"}


def disputes(args: argparse.Namespace) -> Result:
    """Find what raters disagree about on every patch, as the Review page shows it, and keep it."""
    from allinsam.store import open_study
    from allinsam.workflow import reviewing

    with progress_of(args) as progress:
        return reviewing.tally_study(open_study(args.study), progress.report, progress.should_stop)


def predict(args: argparse.Namespace) -> Result:
    """Nuclei of each class on one PAS image, by a finished run; label images and a CSV of objects."""
    from allinsam.store import open_study
    from allinsam.workflow import learning

    return learning.predict_file(open_study(args.study), args.run, args.image, args.out, args.um_per_px)


def export(args: argparse.Namespace) -> Result:
    """CSV of objects, acts, times, agreement and scores."""
    from allinsam.store import open_study
    from allinsam.workflow import exports

    study = open_study(args.study)
    folder = args.out or study.folder / "exports"
    return {"files": exports.write_exports(study, folder, args.table)}


def data_card(args: argparse.Namespace) -> Result:
    """What a paper has to say about the study: a methods paragraph, and the facts behind it."""
    from allinsam.files import write_file
    from allinsam.store import open_study
    from allinsam.workflow.data_card import card_markdown, methods_paragraph
    from allinsam.workflow.data_card import data_card as card_of

    study = open_study(args.study)
    card = card_of(study)
    out = args.out or study.folder / "exports" / "data_card.md"
    write_file(out, card_markdown(card).encode())
    return {"methods": methods_paragraph(card), "file": str(out), "card": card}


def report(args: argparse.Namespace) -> Result:
    """One HTML page with every figure of the study, its n and its definition; figures.csv beside it."""
    from allinsam.store import open_study
    from allinsam.workflow.report import make_report

    with progress_of(args) as progress:
        return make_report(open_study(args.study), args.out, progress.report, progress.should_stop)


def export_annotations(args: argparse.Namespace) -> Result:
    """Nuclei of every person and patch as files for ImageJ, COCO, QuPath, ... and an index.csv."""
    from allinsam.store import open_study
    from allinsam.workflow import interchange_export

    study = open_study(args.study)
    people = [_person_id(study, name) for name in args.person] if args.person else None
    choices = interchange_export.ExportChoices(people, args.patch, args.class_name)
    folder = args.out or study.folder / "exports" / args.format
    return interchange_export.export_annotations(study, folder, args.format, choices)


def people(args: argparse.Namespace) -> Result:
    """List people, or add one and print a one-time link that sets their password."""
    from allinsam.accounts import invite
    from allinsam.store import accounts, open_study
    from allinsam.store import study as study_store
    from allinsam.workflow.consenting import consent_standing
    from allinsam.workflow.newcomers import start_training

    study = open_study(args.study)
    added = None
    if args.add:
        token = invite(study, args.add, args.role, args.group)
        with study.server.read() as db:
            start = start_training(study, accounts.find_account(db, args.add.strip())["person_id"])
        added = {
            "name": args.add,
            "link": f"{args.url.rstrip('/')}/set-password?token={token}",
            "training": start.state,
        }
    with study.science.read() as db:
        known = [{**p, "consent": consent_standing(db, p["id"])} for p in study_store.list_people(db)]
    with study.server.read() as db:
        named = {row["person_id"]: row for row in accounts.list_accounts(db)}
    rows = [{**row, **{k: named.get(row["id"], {}).get(k) for k in ("name", "role")}} for row in known]
    return {"added": added, "people": rows}


def practice(args: argparse.Namespace) -> Result:
    """Give somebody practice or qualification patches, or set what students must reach."""
    from allinsam.store import open_study
    from allinsam.workflow import newcomers, practising

    study = open_study(args.study)
    given: list[int] = []
    if args.person:
        give = practising.give_qualification if args.qualification else practising.give_practice
        given = give(study, _person_id(study, args.person), args.count)
    if args.pass_f1 is not None:
        needed = practising.PassMark(args.pass_f1, args.pass_class_accuracy, args.attempts)
        practising.set_pass_mark(study, None, needed)
    elif args.no_pass_mark:
        practising.set_pass_mark(study, None, None)
    if args.newcomers is not None:
        wanted = newcomers.NewcomerTraining(*args.newcomers) if any(args.newcomers) else None
        newcomers.set_newcomer_training(study, None, wanted)
    with study.science.read() as db:
        needed, training = practising.pass_mark(db), newcomers.newcomer_training(db)
    return {
        "given": given,
        "pass_mark": asdict(needed) if needed else None,
        "newcomers": asdict(training) if training else None,
    }


def plan(args: argparse.Namespace) -> Result:
    """Who annotates which patch: preview a balanced plan, give it out, or take back what nobody has begun."""
    from allinsam.planning import PlanSettings
    from allinsam.store import open_study
    from allinsam.workflow.planning import apply_plan, preview_plan, withdraw_unbegun

    study = open_study(args.study)
    if args.withdraw:
        return {"withdrawn": withdraw_unbegun(study)}
    settings = PlanSettings.from_dict(_given_settings(args))
    names = [_person_id(study, name) for name in args.people] if args.people else None
    seen = preview_plan(study, settings, names, args.redeal).to_dict()
    done = apply_plan(study, settings, names, args.redeal, args.accept_gaps) if args.apply else None
    return {**seen, "applied": vars(done) if done else None}


def split(args: argparse.Namespace) -> Result:
    """Deal the patches into train, val and test (6:1:3, folds, a slide left out) and check for leaks."""
    from allinsam.store import open_study, runs
    from allinsam.workflow import labels

    study = open_study(args.study)
    if args.leave_slides_out:
        made = labels.leave_slides_out(study, args.seed)
    elif args.folds:
        made = labels.make_folds(study, args.folds, args.seed, args.unit)
    else:
        made = [labels.make_split(study, args.seed, args.unit)]
    with study.science.read() as db:
        rules = {row["id"]: row["rule"] for row in runs.list_splits(db)}
        counts = {key: Counter(runs.split_parts(db, key).values()) for key in made}
    return {
        "splits": [
            {
                "id": key,
                "rule": rules[key],
                "patches": counts[key],
                "missing": labels.split_gaps(study, key),
                "leaks": labels.check_split(study, key),
            }
            for key in made
        ]
    }


def table1(args: argparse.Namespace) -> Result:
    """The paper's Table 1 on a study: every method on experts' and on students' labels."""
    from allinsam.paper_commands import run_table1

    with progress_of(args) as progress:
        return run_table1(args, progress.report, progress.should_stop)


def figure3(args: argparse.Namespace) -> Result:
    """The paper's Fig. 3: patches with people's labels and what each method found."""
    from allinsam.paper_commands import run_figure3

    return run_figure3(args)


def bundle(args: argparse.Namespace) -> Result:
    """Freeze labels, images and settings as a folder that can be trained elsewhere, without the study."""
    from allinsam.paper_commands import run_bundle

    return run_bundle(args, _recipe(args), _settings(args))


def train_bundle(args: argparse.Namespace) -> Result:
    """Train a bundle, also under torchrun; no study is needed."""
    from allinsam.paper_commands import run_train_bundle

    with progress_of(args) as progress:
        return run_train_bundle(args, progress.report, progress.should_stop)


def import_run(args: argparse.Namespace) -> Result:
    """Bring back what train-bundle has trained of this study."""
    from allinsam.paper_commands import run_import

    return run_import(args)


# Verbs that run a model, and so decide how many threads it may use.
MODEL_VERBS = (
    "demo",
    "embed",
    "first-masks",
    "segment",
    "train",
    "evaluate",
    "experiment",
    "predict",
    "monuseg",
    "noise",
)

VERBS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "demo": demo,
    "import": import_,
    "import-slide": import_slide,
    "import-annotations": import_annotations,
    "register": register,
    "threshold": threshold,
    "embed": embed,
    "first-masks": first_masks,
    "weights": weights,
    "segment": segment,
    "train": train,
    "evaluate": evaluate,
    "experiment": experiment,
    "monuseg": monuseg,
    "noise": noise,
    "compare": compare,
    "agreement": agreement,
    "disputes": disputes,
    "predict": predict,
    "export": export,
    "export-annotations": export_annotations,
    "data-card": data_card,
    "report": report,
    "people": people,
    "plan": plan,
    "practice": practice,
    "split": split,
    "table1": table1,
    "figure3": figure3,
    "bundle": bundle,
    "train-bundle": train_bundle,
    "import-run": import_run,
    **commands_durability.VERBS,
    **commands_privacy.VERBS,
}


# --------------------------------------------------------------------------------------- arguments


def build_parser() -> argparse.ArgumentParser:
    from allinsam import paper_commands

    parser = argparse.ArgumentParser(prog="python -m allinsam", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    own = {
        "demo": _demo_arguments,
        "import": _import_arguments,
        "import-slide": _import_slide_arguments,
        "import-annotations": _import_annotations_arguments,
        "register": _register_arguments,
        "threshold": _threshold_arguments,
        "weights": _weights_arguments,
        "segment": _segment_arguments,
        "train": _train_arguments,
        "evaluate": _evaluate_arguments,
        "experiment": _experiment_arguments,
        "monuseg": _monuseg_arguments,
        "noise": _noise_arguments,
        "compare": _compare_arguments,
        "agreement": _agreement_arguments,
        "predict": _predict_arguments,
        "export": _export_arguments,
        "export-annotations": _export_annotations_arguments,
        "data-card": _data_card_arguments,
        "report": _report_arguments,
        "people": _people_arguments,
        "plan": _plan_arguments,
        "practice": _practice_arguments,
        "split": _split_arguments,
        "table1": paper_commands.table1_arguments,
        "figure3": paper_commands.figure3_arguments,
        "bundle": _bundle_arguments,
        "train-bundle": paper_commands.train_bundle_arguments,
        "import-run": paper_commands.import_run_arguments,
        **commands_durability.ARGUMENTS,
        **commands_privacy.ARGUMENTS,
    }
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.__doc__, description=verb.__doc__)
        sub.add_argument("--study", type=Path, default=DEFAULT_STUDY, help="the study's folder")
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        sub.add_argument("--job", type=int, default=None, help=argparse.SUPPRESS)
        own.get(name, lambda _: None)(sub)
    return parser


def _demo_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--seed", type=int, default=11)
    sub.add_argument("--slides", type=int, default=8)
    sub.add_argument("--patches", type=int, default=4, help="patches per slide")


def _import_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.records import CONDITIONS

    sub.add_argument(
        "source", type=Path, nargs="?", help="a folder of images, a ZIP of one, or a CSV manifest"
    )
    sub.add_argument("--from-job", type=Path, default=None, help=argparse.SUPPRESS)
    sub.add_argument("--on-problem", choices=("stop", "skip"), default="stop")
    sub.add_argument("--name", default=None, help="name of a new study")
    sub.add_argument("--marker-name", default=None, help="folders: what the `_marker` files show")
    sub.add_argument(
        "--slide-pattern", default=None, help="folders: regular expression; group 1 is the slide"
    )
    sub.add_argument("--condition", choices=CONDITIONS, default=None, help="folders: condition of all")
    sub.add_argument("--um-per-px", type=float, default=None, help="folders: pixel size of all")
    sub.add_argument("--missing-um-per-px", type=float, default=None, help="pixel size where nothing says it")
    sub.add_argument(
        "--missing-condition", choices=CONDITIONS, default="unknown", help="condition where nothing says it"
    )
    sub.add_argument("--patch-mpx", type=float, default=64.0, help="largest image of a patch, million pixels")


def _import_slide_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.importing.slide import SlideRules
    from allinsam.records import CONDITIONS

    sub.add_argument("slide", type=Path, nargs="?", help="the stained slide: TIFF, OME-TIFF, SVS, NDPI, ...")
    sub.add_argument("--from-job", type=Path, default=None, help=argparse.SUPPRESS)
    sub.add_argument("--if", type=Path, default=None, dest="if_slide", help="its fluorescence slide")
    sub.add_argument(
        "--channels", nargs="+", default=[], metavar="MARKER=N", help="channels of the IF slide, from 0"
    )
    sub.add_argument(
        "--register", action="store_true", help="fit the IF, patch by patch; otherwise: as the stain"
    )
    sub.add_argument("--glomeruli", type=Path, default=None, help="GeoJSON of outlines, in px of the slide")
    sub.add_argument("--slide-name", default=None, help="in the study; the file's name by default")
    sub.add_argument("--condition", choices=CONDITIONS, default="unknown")
    sub.add_argument("--slide-um-per-px", type=float, default=None, help="if the slide lacks it")
    sub.add_argument("--if-um-per-px", type=float, default=None, help="if the IF slide lacks it")
    sub.add_argument("--name", default=None, help="name of a new study")
    _add_fields(sub, SlideRules, {})


def _import_annotations_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.records import IMPORT_PURPOSES

    sub.add_argument("file", type=Path)
    sub.add_argument("--patch", default=None, help="name of the patch the file is for")
    sub.add_argument("--all", action="store_true", help="every patch that a COCO or CSV file names")
    sub.add_argument("--format", required=True, help=f"{FORMATS_WRITTEN} or monuseg")
    sub.add_argument(
        "--purpose",
        choices=IMPORT_PURPOSES,
        required=True,
        help="gold: accepted and complete, to score against; prior: outlines for somebody to check",
    )
    sub.add_argument(
        "--person", default=None, help="whose gold it is (nobody's by default), or who checks the prior"
    )
    sub.add_argument("--class", dest="class_name", default=None, help="class of objects that have none")
    sub.add_argument("--rename", action="append", default=[], metavar="OLD=NEW", help="the file's class=ours")
    sub.add_argument(
        "--complete", action="append", default=[], metavar="CLASS", help="looked for, even if none is there"
    )


def _data_card_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, default=None, help="the study's exports/data_card.md by default")


def _report_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, default=None, help="the study's exports/report.html by default")


def _export_annotations_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--format", required=True, help=FORMATS_WRITTEN)
    sub.add_argument("--out", type=Path, default=None, help="folder; the study's exports/FORMAT by default")
    sub.add_argument(
        "--person", action="append", default=None, help="a sign-in name or pseudonym; all by default"
    )
    sub.add_argument("--patch", action="append", default=None, help="all by default")
    sub.add_argument("--class", dest="class_name", action="append", default=None, help="all by default")


def _register_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("fixed", type=Path, nargs="?", help="the stained image; left out: a study")
    sub.add_argument("moving", type=Path, nargs="?", help="the IF image")
    sub.add_argument("--moving-channel", type=int, default=None, help="from 0; left out: the best")
    sub.add_argument("--fixed-um-per-px", type=float, default=None, help="pixel size, if the file lacks it")
    sub.add_argument("--moving-um-per-px", type=float, default=None, help="pixel size, if the file lacks it")
    sub.add_argument(
        "--patch-px", type=int, default=None, help="two slides: register squares of this size too"
    )
    sub.add_argument("--patch", action="append", default=None, metavar="NAME", help="a patch of the study")
    sub.add_argument("--all", action="store_true", help="every patch that nobody settled by hand")
    sub.add_argument("--missing", action="store_true", help="every patch that was never registered")
    sub.add_argument("--person", default=None, help="who asked for it: a sign-in name or pseudonym")


def _threshold_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.thresholding import THRESHOLDS

    sub.add_argument("--method", choices=sorted(THRESHOLDS), default=None, help="sign where none is signed")
    sub.add_argument("--person", default="lead", help="who signs: a sign-in name or pseudonym")


def _weights_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--backbone", required=True, help="vit_b, vit_l or vit_h")


def _segment_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--patch", required=True, help="name of the patch")
    sub.add_argument("--instances", type=Path, required=True, help="label image whose boxes are taken")
    sub.add_argument("--outward-px", type=float, default=0.0, help="loosen each side by U{0..d} px")
    sub.add_argument("--out", type=Path, default=None, help="write the masks as a 16-bit label PNG")


def _train_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--labels", default="expert", help="expert, student, adjudicated, or a person's id")
    _add_label_options(sub)
    sub.add_argument("--shuffle-classes", action="store_true", help="control: deal the classes at random")
    sub.add_argument(
        "--limit-patches", type=int, default=None, help="only so many patches of the train part, by the seed"
    )
    sub.add_argument(
        "--limit-minutes", type=float, default=None, help="only what took people so many active minutes"
    )
    sub.add_argument("--name", default=None)
    sub.add_argument("--seeds", type=int, nargs="+", default=None, help="several runs, one for each seed")
    _add_settings(sub)


def _experiment_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--labels", nargs="+", default=["expert", "student"])
    _add_label_options(sub)
    _add_settings(sub)


def _monuseg_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.experiments.commands import monuseg_arguments

    monuseg_arguments(sub)


def _noise_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.experiments.commands import noise_arguments

    noise_arguments(sub)


def _evaluate_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--run", type=int, nargs="*", default=None, help="run ids; all finished runs by default")


def _agreement_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--count", action="store_true", help="only compare all marks and keep the result")


def _compare_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--a", default="students", help="labels of the first set of scores")
    sub.add_argument("--b", default="expert", help="labels of the second set of scores")
    sub.add_argument("--metric", default="f1_instance")
    sub.add_argument(
        "--set-margin",
        type=float,
        default=None,
        help="compare nothing; keep the largest difference that does not matter, with its date",
    )


def _predict_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--run", type=int, required=True)
    sub.add_argument("--image", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, help="folder for label images and objects.csv")
    sub.add_argument("--um-per-px", type=float, default=None)


def _export_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--table", action="append", default=None, help="one table; all by default")
    sub.add_argument("--out", type=Path, default=None, help="folder; the study's exports/ by default")


def _people_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.records import ROLES

    sub.add_argument("--add", default=None, metavar="NAME")
    sub.add_argument("--role", choices=ROLES, default="annotator")
    sub.add_argument("--group", choices=("expert", "student"), default="student")
    sub.add_argument("--url", default="http://127.0.0.1:8501", help="where the app is reached")


def _practice_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--person", default=None, help="a sign-in name or pseudonym")
    sub.add_argument("--count", type=int, default=3)
    sub.add_argument("--qualification", action="store_true", help="patches that count, and do not say how")
    sub.add_argument("--pass-f1", type=float, default=None, help="students must find nuclei so well, 0 to 1")
    sub.add_argument("--pass-class-accuracy", type=float, default=0.8, help="of those found, 0 to 1")
    sub.add_argument("--attempts", type=int, default=2, help="qualification patches they may try")
    sub.add_argument(
        "--newcomers",
        type=int,
        nargs=2,
        default=None,
        metavar=("PRACTICE", "QUALIFICATION"),
        help="patches every new student learns on first; 0 0 for none",
    )
    sub.add_argument("--no-pass-mark", action="store_true", help="nobody has to pass")


def _add_label_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--masks",
        choices=("edited", "weak", "tight", "random"),
        default=None,
        help="edited (by default): as people left them; the others: SAM's, from their boxes",
    )
    sub.add_argument(
        "--rule",
        choices=("pooled", "consensus", "adjudicated"),
        default="pooled",
        help="one finished person per patch, what all who finished it agree on, or what a reviewer settled",
    )
    sub.add_argument(
        "--method",
        default="majority",
        help="of a consensus: majority, staple (outlines), dawid_skene (classes) or staple_dawid_skene",
    )
    sub.add_argument(
        "--quorum",
        type=int,
        default=None,
        help="of a consensus: how many must have marked a nucleus; more than half by default",
    )


def _plan_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.planning import ARMS, PlanSettings

    _add_fields(sub, PlanSettings, {"arms": ARMS})
    sub.add_argument("--people", nargs="+", default=None, metavar="NAME", help="all students by default")
    sub.add_argument("--redeal", action="store_true", help="deal again what nobody has begun")
    sub.add_argument("--apply", action="store_true", help="write it; otherwise it is only shown")
    sub.add_argument("--accept-gaps", action="store_true", help="write it although it cannot be filled")
    sub.add_argument("--withdraw", action="store_true", help="only take back what nobody has begun")


def _split_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.splitting import UNITS

    sub.add_argument("--unit", choices=UNITS, default=None, help="glomerulus under 20 slides, else slide")
    sub.add_argument("--seed", type=int, default=1)
    sub.add_argument("--folds", type=int, default=None, help="k-fold instead of 6:1:3")
    sub.add_argument("--leave-slides-out", action="store_true", help="test each slide once")


def _bundle_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, required=True, help="a new folder")
    sub.add_argument("--labels", default="expert", help="expert, student, adjudicated, or a person's id")
    _add_label_options(sub)
    sub.add_argument("--shuffle-classes", action="store_true", help="control: deal the classes at random")
    _add_settings(sub)


def _add_settings(sub: argparse.ArgumentParser) -> None:
    from allinsam.training.methods import METHODS
    from allinsam.training.settings import PRESETS, TrainingSettings

    sub.add_argument("--split-seed", type=int, default=1)
    sub.add_argument("--preset", choices=tuple(PRESETS), default=None, help="to begin with")
    sub.add_argument(
        "--as", dest="as_method", choices=tuple(METHODS), default=None, help="one of the paper's methods"
    )
    _add_fields(sub, TrainingSettings, {}, given_only=True)


def _add_fields(
    sub: argparse.ArgumentParser,
    settings: type,
    choices: Mapping[str, Sequence[str]],
    given_only: bool = False,
) -> None:
    """A flag for every field of settings, with its unit and source in the help.

    given_only: leave out what was not given, instead of filling in the settings' own defaults.
    """
    for setting in fields(settings):
        if setting.name == "settings_version":
            continue
        default = setting.default if setting.default is not MISSING else None
        notes = ", ".join(v for v in (setting.metadata.get("unit"), setting.metadata.get("source")) if v)
        kind: dict[str, Any] = {"type": _number_or_text(default)}
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        if isinstance(default, tuple):
            kind = {"nargs": "+", "choices": choices[setting.name]}
        elif "None" in str(setting.type):
            kind = {"type": _number_or_none(int if "int" in str(setting.type) else float)}
        flag = "--" + setting.name.replace("_", "-")
        filled = argparse.SUPPRESS if given_only else default
        sub.add_argument(
            flag, dest=f"set_{setting.name}", default=filled, help=notes.replace("%", "%%"), **kind
        )


def _number_or_text(default: Any) -> Callable[[str], Any]:
    if isinstance(default, int):
        return int
    if isinstance(default, str):
        return str
    return float


def _number_or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """For a setting that may have no value: the word "none" says so."""

    def number(text: str) -> Any:
        return None if text == "none" else kind(text)

    return number


def _use_free_cores() -> None:
    from allinsam.compute import free_cores, use_threads

    use_threads(free_cores())


def _settings(args: argparse.Namespace) -> Any:
    from allinsam.training.methods import preset_of, settings_of
    from allinsam.training.settings import PRESETS, TrainingSettings

    if args.preset and args.as_method:
        begun = preset_of(args.preset, args.as_method)
    elif args.as_method:
        begun = settings_of(args.as_method, TrainingSettings())
    else:
        begun = PRESETS[args.preset] if args.preset else TrainingSettings()
    return replace(begun, **_given_settings(args))


def _given_settings(args: argparse.Namespace) -> dict[str, Any]:
    return {key[4:]: value for key, value in vars(args).items() if key.startswith("set_")}


def _recipe(args: argparse.Namespace) -> Any:
    from allinsam.workflow.labels import recipe_of

    return recipe_of(args.labels, masks=_masks(args), shuffle_classes=args.shuffle_classes, **_rule(args))


def _masks(args: argparse.Namespace) -> str:
    """How the labels' masks are made: as asked for, else as the paper's method has it."""
    from allinsam.training.methods import METHODS

    return args.masks or (METHODS[args.as_method].masks if args.as_method else "edited")


def _rule(args: argparse.Namespace) -> dict[str, Any]:
    return {"rule": args.rule, "method": args.method, "quorum": args.quorum}


def jsonable(value: Any) -> Any:
    """Plain JSON: not-a-number becomes null, numpy numbers become numbers."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def main(arguments: list[str] | None = None) -> int:
    args = build_parser().parse_args(arguments)
    try:
        if args.verb in MODEL_VERBS:
            _use_free_cores()
        result = jsonable(VERBS[args.verb](args))
        commands_privacy.note_in_log(args)
    except AllinsamError as error:
        print(f"allinsam {args.verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.close(sys.stdout.fileno())
        return 0
    if os.environ.get("RANK", "0") != "0":
        return 0  # under torchrun the first process speaks for all
    lines, code = result.pop("lines", None), result.pop("exit_code", 0)
    if lines is not None and not args.json:
        print(*lines, sep="\n", end="\n" if lines else "")
        return code
    print(json.dumps(result, allow_nan=False) if args.json else json.dumps(result, indent=1, allow_nan=False))
    return code


if __name__ == "__main__":
    sys.exit(main())

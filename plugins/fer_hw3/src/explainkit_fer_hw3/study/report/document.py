"""The report as a document: sections with text, tables and images, in one language."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import explainkit
from explainkit.render.diagram import architecture_figure
from explainkit.render.figure import png, study_figure
from explainkit.render.matrix import matrix_figure
from explainkit_fer_hw3.calibration import calibration
from explainkit_fer_hw3.scores import class_scores
from explainkit_fer_hw3.study.charts import curves_figure, recalls_figure, shares_figure
from explainkit_fer_hw3.study.curves import Curve
from explainkit_fer_hw3.study.filters import ranked
from explainkit_fer_hw3.study.grids import activations_figure
from explainkit_fer_hw3.study.maps import comparison_figure, confusion_figure
from explainkit_fer_hw3.study.parts import METHODS, Share
from explainkit_fer_hw3.study.predictions import Predictions
from explainkit_fer_hw3.study.report import sentences
from explainkit_fer_hw3.study.report.findings import Findings, Network
from explainkit_fer_hw3.study.report.language import Language

STUDY_DNN_PARAMETERS = 4_991_495


@dataclass(frozen=True)
class Image:
    """A PNG, the name of its file, and its caption, which is also its alternative text."""

    name: str
    data: bytes
    caption: str


@dataclass(frozen=True)
class Table:
    """A table whose first column holds the row headers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, tables and figures, in this order."""

    heading: str
    text: Sequence[str]
    tables: Sequence[Table] = ()
    images: Sequence[Image] = ()


@dataclass(frozen=True)
class Document:
    """The whole report."""

    language: str
    title: str
    lead: str
    sections: Sequence[Section]
    foot: str


def compose(found: Findings, say: Language, command: str) -> Document:
    """Turns findings into text, tables and figures."""
    synthetic = say("synthetic_faces")
    lead = say(
        "lead", n=len(found.cnn.predictions), data=found.data or synthetic, split=found.split,
        cnn=found.cnn.tag, dnn=found.dnn.tag, seed=found.seed,
    )  # fmt: skip
    return Document(
        language=say.code,
        title=say("title"),
        lead=lead,
        sections=[
            Section(say("table"), [], [study_and_run(found, say)]),
            _cnn(found, say),
            _dnn(found, say),
            _confusion(found, say),
            _saliency(found, say),
            _filters(found, say),
        ],
        foot=say("made", version=explainkit.__version__, command=command),
    )


def study_and_run(found: Findings, say: Language) -> Table:
    """What the study found beside what this run found."""
    cnn, dnn, none = found.cnn, found.dnn, say("none")
    taken, fear = sentences.fear_taken(cnn.predictions)
    curve = cnn.curves[0] if cnn.curves else None
    best = curve.best("validation_accuracy") if curve else None
    gaps = [one for one in map(sentences.gap, dnn.curves) if one]
    gap = max(gaps, key=lambda one: one[1], default=None)
    angry = found.where.get("angry")
    fear_share = f"{taken / fear:.0%} ({taken:,} / {fear:,})" if fear else none
    reached = say("reached", epoch=gap[0], train=gap[1], validation=gap[2]) if gap else none
    split = found.split if found.data else say("synthetic_faces")
    rows = [
        [
            say("row_cnn_accuracy", split=split),
            say("study_public"),
            sentences.accuracy(say, cnn.predictions),
        ],
        *(
            [say(f"row_{key}"), study or say(f"study_{key}"), here]
            for key, study, here in (
                ("validation", "0.699", f"{best[1]:.3f}" if best else none),
                ("cnn_parameters", f"{sentences.STUDY_PARAMETERS:,}", f"{cnn.parameters:,}"),
                ("convolutions", f"{sentences.STUDY_CONVOLUTIONS}", f"{cnn.convolutions}"),
                ("epochs", "", f"{curve.epochs[-1]:g}" if curve else none),
                ("dnn_parameters", f"{STUDY_DNN_PARAMETERS:,}", f"{dnn.parameters:,}"),
                ("gap", "", reached),
                ("best", "", _classes_or_tie(say, cnn.predictions, sentences.best_classes)),
                ("worst", "", _classes_or_tie(say, cnn.predictions, sentences.worst_classes)),
                ("fear", "", fear_share),
                ("steps", "", f"{len(found.ascent.trace)}"),
                ("angry", "", say.parts(sentences.densest(angry[1])) or none if angry else none),
            )
        ),
    ]
    return Table([say("col_what"), say("col_study"), say("col_run")], rows)


def _classes_or_tie(
    say: Language, predictions: Predictions, classes: Callable[[Predictions], list[str]]
) -> str:
    alike = sentences.all_alike(predictions)
    return say("all_alike") if alike else say.classes(classes(predictions))


def _cnn(found: Findings, say: Language) -> Section:
    cnn = found.cnn
    comparable = found.data is not None and found.split == "public_test"
    layers = [(r["name"], r["kind"], tuple(r["output"]), r["parameters"]) for r in cnn.layers]
    diagram = architecture_figure(layers, f"{cnn.tag}: {cnn.parameters:,} parameters")
    return Section(
        say("cnn_heading"),
        sentences.about_cnn(say, cnn, found.dnn, comparable=comparable),
        images=[
            Image("architecture", png(diagram), say("fig_architecture")),
            *_curves(cnn.curves, "curves-cnn", say("fig_curves_cnn")),
        ],
    )


def _dnn(found: Findings, say: Language) -> Section:
    cnn, dnn, met = found.cnn, found.dnn, found.met
    pair = (cnn, dnn)
    head = ["", say("col_cnn"), say("col_dnn")]
    alone = (met.only_first, met.only_second)
    rows = [
        [say("row_parameters"), *(f"{one.parameters:,}" for one in pair)],
        [say("row_work"), *(f"{one.multiply_adds:,}" for one in pair)],
        [say("row_accuracy"), *(sentences.accuracy(say, one.predictions) for one in pair)],
        [say("row_same"), *[f"{met.same:.1%}"] * 2],
        [say("row_right"), *(f"{met.both:,} / {own:,} / {met.neither:,}" for own in alone)],
    ]
    both, tags = [one.predictions for one in pair], [one.tag for one in pair]
    named = [calibration(one.name) for one in pair]
    columns = [
        one.tag for one, known in zip(pair, named, strict=True) for _ in range(1 + bool(known))
    ]
    reasons = [f"{tag}: {known.reason}" for tag, known in zip(tags, named, strict=True) if known]
    labels = found.faces.labels[: len(found.same[0])].tolist()
    return Section(
        say("dnn_heading"),
        sentences.about_dnn(say, cnn, dnn, met),
        [Table(head, rows, say("side_by_side"))],
        [
            Image("recalls", png(recalls_figure(both, tags)), say("fig_recalls")),
            *_curves(dnn.curves, "curves-dnn", say("fig_curves_dnn")),
            Image(
                "same-images", png(comparison_figure(found.same, columns, labels, reasons)),
                say("fig_same"),
            ),
        ],
    )  # fmt: skip


def _confusion(found: Findings, say: Language) -> Section:
    predictions = found.cnn.predictions
    keys = ("col_class", "col_images", "col_recall", "col_precision")
    rows = []
    for name, scores in class_scores(predictions.counts, predictions.class_names).items():
        cells = [
            say("none") if scores[key] is None
            else say.share(Share(scores[key], scores[f"{key}_interval"]))
            for key in ("recall", "precision")
        ]  # fmt: skip
        rows.append([say.row_name(name), f"{scores['support']:,}", *cells])
    images = [
        _matrix(name, one, found.split, say)
        for name, one in (("cnn", found.cnn), ("dnn", found.dnn))
    ]
    card = calibration(found.cnn.name)
    for one, beside in zip(found.mistakes, found.mistakes_beside, strict=True):
        names = {"true": one.confusion.true, "predicted": one.confusion.predicted}
        figure = confusion_figure(one, beside, card.reason if card else "")
        words = {key: say.class_name(name) for key, name in names.items()}
        images.append(
            Image(
                f"confusion-{names['true']}-as-{names['predicted']}",
                png(figure),
                say("fig_pair", **words),
            )
        )
    return Section(
        say("confusion_heading"),
        sentences.about_confusion(say, predictions),
        [Table([say(key) for key in keys], rows, say("class_table"))],
        images,
    )


def _matrix(name: str, one: Network, split: str, say: Language) -> Image:
    predictions = one.predictions
    on = f"{one.tag} on {len(predictions):,} images ({split})"
    title = f"{on}: accuracy {predictions.accuracy:.3f}"
    figure = matrix_figure(predictions.counts.numpy(), predictions.class_names, title)
    return Image(f"matrix-{name}", png(figure), say("fig_matrix", model=one.tag))


def _saliency(found: Findings, say: Language) -> Section:
    densities = [
        [say.row_name(name), str(n), *(f"{parts[part].density:.2f}" for part in sentences.FACE)]
        for name, (n, parts) in found.where.items()
    ]
    keys = ("class", "images", "made", "share", "area", "noise", "other", "gain")
    made = [
        [
            say.row_name(one.class_name), str(one.n), say.parts(one.parts) or say("none"),
            say.share(one.share), f"{one.area:.3f}", f"{one.noise:.3f}", say.share(one.other),
            say.difference(one.gain),
        ]
        for one in found.shares[METHODS[0]]
    ]  # fmt: skip
    card = calibration(found.cnn.name)
    maps = study_figure(
        found.maps, labels=found.faces.labels.tolist(), beside=found.beside, cards=found.cards,
        notes=[card.reason] if card else [],
    )  # fmt: skip
    shares = shares_figure(found.shares[METHODS[0]], "share of |saliency| on the expressive parts")
    return Section(
        say("saliency_heading"),
        [
            *sentences.about_densities(say, found.where, exact=found.faces.parts is not None),
            *sentences.about_parts(say, found.shares),
        ],
        [
            Table(
                [say("col_class"), say("col_images"), *(say.parts([p]) for p in sentences.FACE)],
                densities,
                say("densities"),
            ),
            Table([say(f"col_{key}") for key in keys], made, say("made_shares")),
        ],
        [
            Image("saliency", png(maps), say("fig_saliency")),
            Image("shares", png(shares), say("fig_shares")),
        ],
    )


def _filters(found: Findings, say: Language) -> Section:
    label = found.faces.class_names[int(found.faces.labels[0])]
    title = f"layer {found.outputs.layer} of {found.cnn.tag}: {label}"
    figure = activations_figure(found.outputs, found.faces.images[0], title)
    return Section(
        say("filters_heading"),
        sentences.about_filters(say, ranked(found.ascent), found.outputs),
        images=[
            Image("filters", png(found.ascent.grid(columns=8)), say("fig_filters")),
            Image("filters-curves", png(found.ascent.traces()), say("fig_ascent")),
            Image("activations", png(figure), say("fig_activations")),
        ],
    )


def _curves(curves: Sequence[Curve], name: str, caption: str) -> list[Image]:
    shown = [curve for curve in curves if curve.has("accuracy")]
    return [Image(name, png(curves_figure(shown, "accuracy")), caption)] if shown else []

"""The sentences of the report, chosen by the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from explainkit_fer_hw3.scores import class_scores, most_confused, wilson
from explainkit_fer_hw3.study.activations import Activations
from explainkit_fer_hw3.study.agreement import Agreement
from explainkit_fer_hw3.study.curves import Curve
from explainkit_fer_hw3.study.parts import PartShare, PartShares, Share
from explainkit_fer_hw3.study.predictions import Predictions
from explainkit_fer_hw3.study.report.findings import Network
from explainkit_fer_hw3.study.report.language import Language

STUDY_ACCURACY, STUDY_PARAMETERS, STUDY_CONVOLUTIONS = 0.6949, 4_845_063, 6

STUDY_PARTS = ("forehead", "mouth", "cheeks")

FACE = ("forehead", "brows", "eyes", "nose", "cheeks", "mouth", "chin")
"""The parts that an expression can move."""

OVERFIT = 0.9
"""Training accuracy that counts as overfitting."""


def about_cnn(say: Language, cnn: Network, dnn: Network, *, comparable: bool) -> list[str]:
    """Question 1: the CNN and its accuracy."""
    size = {"convolutions": cnn.convolutions, "parameters": cnn.parameters}
    same = tuple(size.values()) == (STUDY_CONVOLUTIONS, STUDY_PARAMETERS)
    low, high = cnn.predictions.interval
    verdict = (
        "cnn_elsewhere" if not comparable
        else "cnn_above" if low > STUDY_ACCURACY
        else "cnn_below" if high < STUDY_ACCURACY
        else "cnn_within"
    )  # fmt: skip
    return [
        say.paragraph(
            say("cnn_size", **size, millions=cnn.multiply_adds / 1e6),
            say("cnn_size_same" if same else "cnn_size_other"),
        ),
        say.paragraph(
            say("cnn_accuracy", n=len(cnn.predictions), accuracy=accuracy(say, cnn.predictions)),
            say(verdict),
            say(
                "cnn_synthetic",
                n=len(cnn.synthetic),
                accuracy=accuracy(say, cnn.synthetic),
                other=accuracy(say, dnn.synthetic),
            ),
        ),
        say.paragraph(*about_curve(say, cnn.curves)),
    ]


def about_curve(say: Language, curves: Sequence[Curve]) -> list[str]:
    """The best epoch of the first curve, by validation accuracy."""
    best = curves[0].best("validation_accuracy") if curves else None
    if not best:
        return [say("curve_none")]
    epoch, value = best
    last = curves[0].epochs[-1]
    after = say("curve_rising") if epoch == last else say("curve_passed", last=last)
    return [say("curve_best", epoch=epoch, value=value), after]


def about_dnn(say: Language, cnn: Network, dnn: Network, met: Agreement) -> list[str]:
    """Question 2: the DNN against the CNN."""
    work = cnn.multiply_adds / dnn.multiply_adds
    more = dnn.parameters / cnn.parameters - 1
    size = "dnn_size_work" if work < 1 else "dnn_size_more" if more >= 0 else "dnn_size_less"
    verdict = (
        "dnn_equal" if met.p >= 0.05
        else "dnn_cnn_better" if met.difference > 0
        else "dnn_dnn_better"
    )  # fmt: skip
    overfit = [text for curve in dnn.curves for text in about_gap(say, curve)]
    return [
        say.paragraph(
            say(
                size,
                parameters=dnn.parameters,
                percent=100 * abs(more),
                ratio=work if work >= 1 else 1 / work,
            ),
            say(
                "dnn_accuracy",
                accuracy=accuracy(say, dnn.predictions),
                p=p_value(met.p),
                difference=say.difference(Share(met.difference, met.interval)),
            ),
            say(verdict, first=met.only_first, second=met.only_second),
        ),
        say.paragraph(*_classes(say, cnn.predictions, dnn.predictions)),
        *([say.paragraph(*overfit)] if overfit else []),
    ]


def _classes(say: Language, cnn: Predictions, dnn: Predictions) -> list[str]:
    """The classes where one network's recall is higher and the intervals don't overlap."""
    first, second = recalls(cnn), recalls(dnn)
    cnn_higher = [n for n in first if first[n].interval[0] > second[n].interval[1]]
    dnn_higher = [n for n in first if second[n].interval[0] > first[n].interval[1]]
    said = [
        say(key, classes=say.classes(names))
        for key, names in (("dnn_classes_cnn", cnn_higher), ("dnn_classes_dnn", dnn_higher))
        if names
    ]
    return said or [say("dnn_classes_none")]


def gap(curve: Curve) -> tuple[float, float, float] | None:
    """The gap of a curve at one epoch: epoch, training accuracy and validation accuracy.

    The first epoch with a training accuracy above 0.9, else the epoch with the highest. None if
    the two accuracies were not both recorded.
    """
    columns = (curve.values.get(name, ()) for name in ("accuracy", "validation_accuracy"))
    rows = [
        (epoch, train, held)
        for epoch, train, held in zip(curve.epochs, *columns, strict=False)
        if train is not None and held is not None
    ]
    overfit = [row for row in rows if row[1] > OVERFIT]
    return overfit[0] if overfit else max(rows, key=lambda row: row[1], default=None)


def about_gap(say: Language, curve: Curve) -> list[str]:
    """Training and validation accuracy of one curve."""
    found = gap(curve)
    if not found:
        return []
    epoch, train, validation = found
    key = "dnn_overfit" if train > OVERFIT else "dnn_gap"
    return [say(key, name=curve.name, epoch=epoch, train=train, validation=validation)]


def about_confusion(say: Language, predictions: Predictions) -> list[str]:
    """Question 3: the best and the worst class, and the most frequent confusions."""
    ranked = ranking(predictions)
    if all_alike(predictions):
        return [
            say("all_equal", recall=say.share(ranked[0][1])),
            say.paragraph(*_mistakes(say, predictions)),
        ]
    best = best_classes(predictions)
    as_study = set(best) == {"happy", "surprise"}
    facts = [{"name": say.class_name(name), "recall": say.share(one)} for name, one in ranked]
    said = [
        say("best", classes=say.items(say("class_recall", **one) for one in facts[: len(best)])),
        say("best_as_study" if as_study else "best_not_study"),
    ]
    (worst, recall), known = ranked[-1], dict(ranked)
    if worst != "fear" and "fear" in known:
        said.append(say("worst_other", **facts[-1], fear=say.share(known["fear"])))
    else:
        said.append(say("worst_fear" if worst == "fear" else "worst_no_fear", **facts[-1]))
    if ranked[-2][1].interval[0] <= recall.interval[1]:
        said.append(say("worst_unsure", **facts[-2]))
    return [
        say.paragraph(*said),
        say.paragraph(*_fear(say, predictions), *_mistakes(say, predictions)),
    ]


def _fear(say: Language, predictions: Predictions) -> list[str]:
    taken, n = fear_taken(predictions)
    if not taken:
        return [say("fear_not_taken")] if n else []
    share = say.share(Share(taken / n, wilson(taken, n)))
    return [say("fear_taken", count=taken, n=n, share=share)]


def _mistakes(say: Language, predictions: Predictions) -> list[str]:
    mistakes = most_confused(predictions.counts, predictions.class_names, 3)
    if not mistakes:
        return [say("no_mistakes")]
    said = []
    for one in mistakes:
        names = {"true": say.class_name(one.true), "predicted": say.class_name(one.predicted)}
        said.append(say("mistake", **names, count=one.count, of=one.of, share=one.share))
    return said


def about_densities(
    say: Language, where: Mapping[str, tuple[int, dict[str, PartShare]]], *, exact: bool
) -> list[str]:
    """Question 4, first half: the parts where saliency is densest."""
    said = [
        say("where", n=n, name=say.class_name(name), parts=say.parts(densest(parts)))
        for name in ("angry", "happy", "surprise")
        if name in where
        for n, parts in [where[name]]
        if densest(parts)
    ]
    if "angry" in where:
        dense = [part for part in STUDY_PARTS if where["angry"][1][part].dense]
        keys = {0: "where_no", len(STUDY_PARTS): "where_all"}
        verdict = say(keys.get(len(dense), "where_some"), parts=say.parts(dense))
        said.append(say("where_study", verdict=verdict))
    if said:
        said.append(say("where_exact" if exact else "where_atlas"))
    return [say.paragraph(*said)] if said else []


def about_parts(say: Language, shares: Mapping[str, Sequence[PartShares]]) -> list[str]:
    """Question 4, second half: whether maps of synthetic faces fall on the expressive parts."""
    first, *others = shares.values()
    *classes, every = first
    gain = every.gain
    sign = (gain.interval[0] > 0) - (gain.interval[1] < 0)
    key = {1: "parts_follow", 0: "parts_fixed", -1: "parts_against"}[sign]
    own = [one.class_name for one in classes if one.gain.interval[0] > 0]
    less = [one.class_name for one in classes if one.gain.interval[1] < 0]
    more = every.share.interval[0] > every.area
    return [
        say.paragraph(
            say("parts_share", share=say.share(every.share), area=every.area, noise=every.noise),
            say("parts_more" if more else "parts_not_more"),
            say(key, other=say.share(every.other), gain=say.difference(gain)),
        ),
        say.paragraph(
            say("parts_classes", classes=say.classes(own)) if own else say("parts_no_class"),
            *([say("parts_less", classes=say.classes(less))] if less else []),
            *(
                say(
                    "parts_method",
                    method=one.method.rpartition("/")[2],
                    share=say.share(one.share),
                    gain=say.difference(one.gain),
                )
                for *_, one in others
            ),
        ),
    ]


def about_filters(
    say: Language, rows: Sequence[Mapping[str, Any]], found: Activations
) -> list[str]:
    """Question 5: the result of gradient ascent, and the first layer's outputs for one image."""
    kernels = found.filters.flatten(1)
    edges = int((kernels.sum(1).abs() < kernels.abs().sum(1) / 3).sum())
    peaks = found.outputs.flatten(1).amax(1)
    strongest, best = int(peaks.argmax()), rows[0]
    counts = {key: sum(row[key] for row in rows) for key in ("converged", "dead")}
    ascent = [say("ascent", n=len(rows), steps=len(best["trace"]), **counts)]
    if not best["dead"]:
        facts = {"channel": best["channel"], "score": best["score"], "start": best["trace"][0]}
        ascent.append(say("ascent_best", **facts))
    return [
        say.paragraph(*ascent),
        say.paragraph(
            say("kernels", n=len(kernels), edges=edges),
            say(
                "outputs", inactive=int((peaks <= 0).sum()),
                strongest=strongest, peak=float(peaks[strongest]),
            ),
        ),
    ]  # fmt: skip


def accuracy(say: Language, predictions: Predictions) -> str:
    """An accuracy with its interval."""
    return say.share(Share(predictions.accuracy, predictions.interval))


def recalls(predictions: Predictions) -> dict[str, Share]:
    """The recall of each class that has images."""
    scores = class_scores(predictions.counts, predictions.class_names)
    return {
        name: Share(one["recall"], one["recall_interval"])
        for name, one in scores.items()
        if one["support"]
    }


def ranking(predictions: Predictions) -> list[tuple[str, Share]]:
    """The classes by recall, best first."""
    return sorted(recalls(predictions).items(), key=lambda item: -item[1].value)


def all_alike(predictions: Predictions) -> bool:
    """Whether all classes have the same recall."""
    return len(worst_classes(predictions)) == len(ranking(predictions))


def best_classes(predictions: Predictions) -> list[str]:
    """The two classes with the highest recall, and any that tie with the second; best first."""
    ranked = ranking(predictions)
    second = ranked[min(1, len(ranked) - 1)][1]
    return [name for name, recall in ranked if recall.value >= second.value]


def worst_classes(predictions: Predictions) -> list[str]:
    """The class with the lowest recall, and any that tie with it."""
    ranked = ranking(predictions)
    return [name for name, recall in ranked if recall.value == ranked[-1][1].value]


def fear_taken(predictions: Predictions) -> tuple[int, int]:
    """Number of images of Fear that are predicted as Sad or Angry, and of all images of Fear."""
    fear, sad, angry = map(predictions.class_names.index, ("fear", "sad", "angry"))
    row = predictions.counts[fear]
    return int(row[sad] + row[angry]), int(row.sum())


def densest(parts: Mapping[str, PartShare], most: int = 3) -> list[str]:
    """The parts whose share is significantly above their area, densest first."""
    face = [name for name in FACE if parts[name].dense]
    return sorted(face, key=lambda name: -parts[name].density)[:most]


def p_value(p: float) -> str:
    """A p-value with three digits; one that underflows is given as a bound."""
    return f"= {p:.3g}" if p > 0 else "< 1e-300"

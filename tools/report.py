"""Writes a page about an evaluation: which classes and clips are wrong, and how.

    python -m tools.report runs/first/eval --clip_dir train_curated
    python -m tools.report runs/first/eval --clip_dir clips --against runs/second/eval

The argument is an --eval_dir of runner.py. This writes report.html and thresholds.csv
to it. The page works offline. It has the lwlrap of all steps, and for the best step: a
table and curves of the classes, the pairs of classes that are most often confused, and
the clips with the lowest precision, each with a player. With --against, it compares the
lwlrap of each class with that of another evaluation of the same clips. thresholds.csv
has the threshold of the highest F1 of each class.
"""

import base64
import html
import io
import json
import os
import pathlib
import string
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from tagger import diagnosis, program, results
from tagger.clips import write_csv
from tagger.files import write_whole

FLAGS = flags.FLAGS
TEMPLATE = pathlib.Path(__file__).with_name("report.html")
WORST_CLIPS = 30
TOP_CLASSES = 5
SPECTROGRAM_COLUMNS = 300
CHART_WIDTH, CHART_HEIGHT, CHART_MARGIN = 700, 260, 45  # pixels


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("clip_dir", None, "Folder of the evaluated clips.")
    flags.DEFINE_string(
        "against", "", "Another --eval_dir with results for the same clips, to compare."
    )
    flags.mark_flag_as_required("clip_dir")


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table that can be sorted. Numbers are rounded to three digits."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            text = "" if np.isnan(value) else f"{value:.3f}"
            return f'<td data-value="{"" if np.isnan(value) else value}">{text}</td>'
        return f"<td>{html.escape(str(value))}</td>"

    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>\n" for row in rows)
    return (
        f'<table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def progress_chart(by_step: Mapping[int, float]) -> str:
    """An SVG of the overall lwlrap against the step."""
    last = max(max(by_step), 1)
    width, height = CHART_WIDTH - 2 * CHART_MARGIN, CHART_HEIGHT - 2 * CHART_MARGIN

    def position(step: float, value: float) -> tuple[float, float]:
        return CHART_MARGIN + step / last * width, CHART_MARGIN + (1 - value) * height

    lines = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        x, y = position(0, value)
        lines.append(
            f'<line class="grid" x1="{x}" y1="{y}" x2="{x + width}" y2="{y}"/>'
            f'<text x="{x - 5}" y="{y + 4}" text-anchor="end">{value}</text>'
        )
    for step in sorted({0, last // 2, last}):
        x, y = position(step, 0)
        lines.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{step}</text>')
    points = " ".join(
        "{:.1f},{:.1f}".format(*position(*pair)) for pair in sorted(by_step.items())
    )
    return (
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" width="{CHART_WIDTH}" '
        f'role="img" aria-label="lwlrap against step">{"".join(lines)}'
        f'<polyline class="curve" points="{points}"/></svg>'
    )


def spectrogram(path: str) -> str:
    """The log mel spectrogram of a clip, a PNG as data URL; "" if it is unreadable."""
    import matplotlib.image
    import tensorflow as tf

    import inputs
    from tagger.hparams import Hparams
    from tagger.wav import read_wav_header

    try:
        offset, size = read_wav_header(path)
        waveform = inputs.clip_to_waveform(path, np.int64(offset), np.int64(size))
    except (ValueError, tf.errors.OpError):
        return ""
    log_mel = inputs.waveform_to_log_mel_spectrogram(waveform, Hparams()).numpy()
    step = -(-len(log_mel) // SPECTROGRAM_COLUMNS)
    image = np.maximum.reduceat(log_mel, np.arange(0, len(log_mel), step))
    png = io.BytesIO()
    matplotlib.image.imsave(png, image.T, origin="lower", format="png")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def worst_clips(evaluation: diagnosis.Evaluation, clip_dir: str, page_dir: str) -> str:
    """HTML of the clips whose labels have the lowest mean precision.

    Args:
      evaluation: the evaluation.
      clip_dir: folder of the clips.
      page_dir: folder of the page, which the addresses of the clips are relative to.
    """
    counts = evaluation.labels.sum(axis=1)
    mean = evaluation.precisions.sum(axis=1) / np.maximum(counts, 1)
    rows = np.argsort(np.where(counts > 0, mean, np.inf), kind="stable")
    cards = []
    for row in rows[: min(WORST_CLIPS, np.count_nonzero(counts))]:
        path = os.path.join(clip_dir, evaluation.clips[row])
        names = evaluation.class_names
        labels = ", ".join(names[i] for i in np.flatnonzero(evaluation.labels[row]))
        top = np.argsort(-evaluation.scores[row], kind="stable")[:TOP_CLASSES]
        scores = ", ".join(f"{names[i]} {evaluation.scores[row, i]:.2f}" for i in top)
        address = urllib.parse.quote(os.path.relpath(path, page_dir))
        cards.append(
            f'<div class="clip"><strong>{html.escape(evaluation.clips[row])}</strong> '
            f"({mean[row]:.3f})<br>labels: {html.escape(labels)}<br>"
            f"scores: {html.escape(scores)}"
            f'<img alt="spectrogram" src="{spectrogram(path)}">'
            f'<audio controls preload="none" src="{html.escape(address)}"></audio>'
            f"</div>"
        )
    return "\n".join(cards)


def make_page(
    evaluation: diagnosis.Evaluation,
    found: Sequence[diagnosis.ClassResult],
    *,
    eval_dir: str,
    clip_dir: str,
    against: str = "",
) -> str:
    """The page as HTML, about an evaluation and its `class_results`.

    Raises:
      ValueError: the evaluation in `against`, if any, cannot be read or does not fit.
    """
    by_step = results.read_results(eval_dir)
    overall = evaluation.precisions.sum() / max(1, evaluation.labels.sum())
    comparison = ""
    if against:
        differences = diagnosis.compare(evaluation, diagnosis.read_evaluation(against))
        headings = ("class", "difference of lwlrap", "from", "to")
        comparison = (
            f"<h2>Compared with {html.escape(against)}</h2><p>The interval contains "
            f"95 % of {diagnosis.BOOTSTRAP_SAMPLES} bootstrap samples of the clips.</p>"
            f'<div class="wide">{table(headings, differences)}</div>'
        )
    headings = (
        *("class", "clips", "lwlrap", "average precision", "threshold", "precision"),
        *("recall", "F1"),
    )
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(f"Evaluation {eval_dir}"),
        summary=(
            f"Best step: {evaluation.step}. Overall lwlrap {overall:.6f} on "
            f"{len(evaluation.clips)} clips with {len(evaluation.class_names)} classes."
        ),
        comparison=comparison,
        progress=progress_chart(by_step or {evaluation.step: overall}),
        classes=table(headings, found),
        # "<" would end the script if a class is named "</script>".
        curves=json.dumps(diagnosis.class_curves(evaluation)).replace("<", "\\u003c"),
        pairs=table(
            ("class", "ranks higher", "clips", "share of its clips"),
            diagnosis.confused_pairs(evaluation),
        ),
        clips=worst_clips(evaluation, clip_dir, eval_dir),
    )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 2:
        raise ValueError("expected one argument, an --eval_dir; see --help")
    if not os.path.isdir(FLAGS.clip_dir):
        raise FileNotFoundError(f"--clip_dir: there is no folder {FLAGS.clip_dir}")
    eval_dir = argv[1]
    evaluation = diagnosis.read_evaluation(eval_dir)
    program.start_tensorflow()
    found = diagnosis.class_results(evaluation)
    page = make_page(
        evaluation,
        found,
        eval_dir=eval_dir,
        clip_dir=FLAGS.clip_dir,
        against=FLAGS.against,
    )
    thresholds = [
        (result.name, f"{result.threshold:.6f}") for result in found if result.num_clips
    ]
    write_csv(
        os.path.join(eval_dir, "thresholds.csv"), [("class", "threshold"), *thresholds]
    )
    path = os.path.join(eval_dir, "report.html")
    write_whole(pathlib.Path(path), page)
    print(f"{path} and thresholds.csv written for step {evaluation.step}")
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)

"""Writes a page about an evaluation: for which classes and clips it is wrong, and how.

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
import sys
import urllib.parse
from collections.abc import Iterable, Sequence

import numpy as np
from absl import flags

from tagger import diagnosis, program, results
from tagger.files import write_whole
from tagger.progress import counted, print_result

FLAGS = flags.FLAGS
TEMPLATE = pathlib.Path(__file__).with_name("report.html")
WORST_CLIPS = 30
TOP_CLASSES = 5
SPECTROGRAM_COLUMNS = 300
UNREADABLE = "<p>This clip cannot be read.</p>"


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("clip_dir", None, "Folder of the evaluated clips.")
    flags.DEFINE_string(
        "against", "", "Another --eval_dir with results for the same clips, to compare."
    )
    flags.mark_flag_as_required("clip_dir")


def cell(value: str | int | float) -> str:
    """A cell of an HTML table; empty for NaN."""
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    if np.isnan(value):
        return '<td class="number"></td>'
    rounded = str(value) if isinstance(value, int) else f"{value:.3f}"
    return f'<td class="number" data-value="{value}">{rounded}</td>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> str:
    """An HTML table that can be sorted."""
    head = "".join(
        f'<th><button type="button">{html.escape(heading)}</button></th>'
        for heading in headings
    )
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>\n" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def comparison_section(evaluation: diagnosis.Evaluation, against: str) -> str:
    """HTML that compares an evaluation with that of another folder.

    Raises:
      ValueError: see `diagnosis.read_evaluation` and `diagnosis.compare`.
    """
    other = diagnosis.read_evaluation(against)
    try:
        differences = diagnosis.compare(evaluation, other)
    except ValueError as error:
        raise ValueError(f"--against {against}: {error}") from None
    headings = (
        *("class", "clips", "lwlrap", "other lwlrap", "difference", "from", "to"),
        "better",
    )
    rows = [
        (*row, "this" if row.low > 0 else "the other" if row.high < 0 else "")
        for row in differences
    ]
    return (
        f"<h2>Compared with {html.escape(against)}</h2><p>The difference is the lwlrap "
        f"of this evaluation minus that of the other. It lies between the values of "
        f"“from” and “to” in 95 % of {diagnosis.BOOTSTRAP_SAMPLES} bootstrap samples "
        f"of the clips. If it has the same sign in this whole interval, the last "
        f"column names the better evaluation. By chance alone, this happens for one "
        f"class in 20, and more often for classes with few clips. For a class with up "
        f"to three clips, nothing is named.</p>"
        f"{table(headings, rows)}"
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


def class_scores(
    evaluation: diagnosis.Evaluation, row: int, indices: Sequence[int]
) -> str:
    """HTML with classes and their scores for the clip of a row."""
    scores = [
        f"{evaluation.class_names[index]} {evaluation.scores[row, index]:.2f}"
        for index in indices
    ]
    return html.escape(", ".join(scores))


def worst_clips(evaluation: diagnosis.Evaluation, clip_dir: str, page_dir: str) -> str:
    """HTML of the clips whose labels have the lowest mean precision.

    Args:
      evaluation: the evaluation.
      clip_dir: folder of the clips.
      page_dir: folder of the page, which the addresses of the clips are relative to.

    Raises:
      ValueError: none of these clips can be read.
    """
    counts = evaluation.labels.sum(axis=1)
    mean = evaluation.precisions.sum(axis=1) / np.maximum(counts, 1)
    rows = np.argsort(np.where(counts > 0, mean, np.inf), kind="stable")
    cards = []
    for row in rows[: min(WORST_CLIPS, np.count_nonzero(counts))]:
        path = os.path.join(clip_dir, evaluation.clips[row])
        labels = np.flatnonzero(evaluation.labels[row])
        top = np.argsort(-evaluation.scores[row], kind="stable")[:TOP_CLASSES]
        address = urllib.parse.quote(os.fsencode(os.path.relpath(path, page_dir)))
        image = spectrogram(path)
        picture = f'<img alt="spectrogram" src="{image}">' if image else UNREADABLE
        cards.append(
            f'<div class="clip"><strong>{html.escape(evaluation.clips[row])}</strong> '
            f"precision {mean[row]:.3f}<br>"
            f"labels: {class_scores(evaluation, row, labels)}<br>"
            f"highest scores: {class_scores(evaluation, row, top)}{picture}"
            f'<audio controls preload="none" src="{html.escape(address)}"></audio>'
            f"</div>"
        )
    if num_unreadable := sum(UNREADABLE in card for card in cards):
        if num_unreadable == len(cards):
            raise ValueError(f"--clip_dir: the clips are not in {clip_dir}")
        print(
            f"warning: --clip_dir: {counted(num_unreadable, 'clip')} cannot be read, "
            f"in {clip_dir}",
            file=sys.stderr,
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
    overall = evaluation.precisions.sum() / max(1, evaluation.labels.sum())
    by_step = results.read_results(eval_dir) or {evaluation.step: overall}
    if (best := results.best_step(by_step)) != evaluation.step:
        # A step without a result is evaluated again in any case.
        remedy = f"delete eval-{best}.txt and " if evaluation.step in by_step else ""
        print(
            f"warning: the best step is {best}, but {results.SCORES_FILE} has the "
            f"scores of step {evaluation.step}; {remedy}run the evaluation again",
            file=sys.stderr,
        )
    data = {
        "progress": sorted(by_step.items()),
        "classes": diagnosis.class_curves(evaluation),
    }
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
        classes=table(headings, found),
        # "<" would end the script if a class is named "</script>".
        data=json.dumps(data).replace("<", "\\u003c"),
        comparison=comparison_section(evaluation, against) if against else "",
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
    path = os.path.join(eval_dir, "report.html")
    write_whole(pathlib.Path(path), page)
    results.write_thresholds(
        eval_dir,
        {
            result.name: result.threshold
            if result.num_clips
            else results.DEFAULT_THRESHOLD
            for result in found
        },
    )
    print_result(
        f"{path} and {results.THRESHOLDS_FILE} written for step {evaluation.step}"
    )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)

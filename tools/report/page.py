"""The page about an evaluation, as HTML.

The curves are drawn by the script in report.html.
"""

import html
import os
import pathlib
import sys
import urllib.parse
from collections.abc import Container, Sequence

import numpy as np

from recordings.pages import fill_page
from tagger.data.blocks import block_samples
from tagger.data.csv_files import BACKGROUND
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.runs import run_record
from tagger.runs.eval_folder import SCORES_FILE, EvalFolder
from tagger.terminal.progress import counted
from tools.report import diagnosis
from tools.report.detections import NEVER, find_detections
from tools.report.tables import escape, table, table_row

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
WORST_CLIPS = 30
TOP_CLASSES = 5
UNREADABLE = "<p>This clip cannot be read.</p>"


def check_scores(evaluation: diagnosis.Evaluation, eval_dir: str) -> dict[int, float]:
    """Reports on stderr if the scores are not those of the best existing checkpoint.

    Returns:
      The results in the folder, by step.

    Raises:
      UserError: their checkpoint was replaced by another one.
    """
    folder, step = EvalFolder(eval_dir), evaluation.step
    try:
        folder = EvalFolder(eval_dir, folder.train_dir())
    except UserError as error:
        if evaluation.fingerprint is not None:
            print(f"warning: the checkpoints are not known: {error}", file=sys.stderr)
    results = folder.results()
    best, _ = folder.best() or (step, 0)
    # A step without a result is evaluated again in any case.
    remedy = f"delete eval-{best}.txt and " if step in results else ""
    change = folder.change_since(step, evaluation.fingerprint)
    problem = f"the best step is {best}, but " if best != step else ""
    problem += f"{SCORES_FILE} in {eval_dir} has the scores of step {step}"
    if change == "replaced":
        raise UserError(
            f"{problem}, whose checkpoint was replaced; {remedy}run the evaluation "
            f"again"
        )
    if best != step:
        print(f"warning: {problem}; {remedy}run the evaluation again", file=sys.stderr)
    elif change:
        print(f"warning: {problem}, whose checkpoint was deleted", file=sys.stderr)
    return results


def comparison_section(evaluation: diagnosis.Evaluation, against: str) -> str:
    """HTML that compares an evaluation with that of another folder.

    Raises:
      UserError: see `diagnosis.read_evaluation` and `diagnosis.compare`.
    """
    other = diagnosis.read_evaluation(against)
    try:
        check_scores(other, against)
        differences = diagnosis.compare(evaluation, other)
    except UserError as error:
        raise UserError(f"--against {against}: {error}") from None
    headings = (
        *("class", "clips", "lwlrap", "other lwlrap", "difference", "from", "to"),
        "better",
    )
    rows = [
        (*row, "this" if row.low > 0 else "the other" if row.high < 0 else "")
        for row in differences
    ]
    few = {row.name for row in differences if row.num_clips < diagnosis.FEW_CLIPS}
    return (
        f"<h2>Compared with {html.escape(against)}</h2><p>The difference is the lwlrap "
        f"of this evaluation minus that of the other. It lies between the values of "
        f"“from” and “to” in 95 % of {diagnosis.BOOTSTRAP_SAMPLES} bootstrap samples "
        f"of the clips. If it has the same sign in this whole interval, the last "
        f"column names the better evaluation. By chance alone, this happens for one "
        f"class in 20, and more often for classes with few clips. For a class with up "
        f"to three clips, nothing is named.</p>"
        f"{table(headings, rows, few=few)}"
    )


def classes_table(
    found: Sequence[diagnosis.ClassResult],
    few: Container[str],
    *,
    with_background: bool,
) -> str:
    """HTML of a table of the results of the classes, and their means."""
    means = diagnosis.macro_means(found) | {"name": "mean"}
    headings = (
        *("class", "clips", "lwlrap", "average precision", "threshold", "precision"),
        *("recall", "F1", "false alarms"),
    )
    shown = slice(None if with_background else -1)  # The last column is about these.
    return table(
        headings[shown],
        [result[shown] for result in found],
        few=few,
        foot=table_row([means.get(name, "") for name in found[0]._fields[shown]]),
    )


def thresholds_table(evaluation: diagnosis.Evaluation, thresholds: np.ndarray) -> str:
    """HTML of a table of the detections with thresholds, float64 [C]."""
    headings = (
        *("class", "clips", "threshold", "detections", "mean score", "precision"),
        *("from", "to", "recall", "note"),
    )
    *rows, total = find_detections(evaluation, thresholds)
    cells = []
    for row in rows:
        note = "no such threshold" if row.threshold == NEVER else ""
        if row.num_clips < diagnosis.FEW_CLIPS:
            note = f"fewer than {diagnosis.FEW_CLIPS} clips"
        cells.append((*row[:2], *([np.nan] * 7 if note else row[2:]), note))
    return table(headings, cells, few=(), foot=table_row((*total, "")))


def run_hparams(eval_dir: str) -> Hparams:
    """The hyperparameters of the run that was evaluated.

    If they are not known, they are the defaults, and a line on stderr says so.
    """
    try:
        train_dir = EvalFolder(eval_dir).train_dir()
        if record := run_record.read_record(train_dir):
            return record.hparams
        reason = f"there is no {os.path.join(train_dir, run_record.HPARAMS_FILE)}"
    except UserError as error:
        reason = str(error)
    print(
        f"note: the spectrograms have the default hyperparameters: {reason}",
        file=sys.stderr,
    )
    return Hparams()


def spectrogram(path: str, hparams: Hparams) -> str:
    """The features of a clip, a PNG as data URL; "" if it is unreadable.

    Of a long clip, these are the features of its first block, see `blocks.py`.
    """
    import tensorflow as tf

    import inputs
    from recordings import plots
    from tagger.data.wav import read_wav_header

    try:
        offset, size, _ = read_wav_header(path)
        size = min(size, block_samples(hparams)[0])
        waveform = inputs.clip_to_waveform(path, np.int64(offset), np.int64(size))
    except (UserError, tf.errors.OpError):
        return ""
    log_mel = inputs.waveform_to_log_mel_spectrogram(waveform, hparams).numpy()
    return plots.spectrogram_url(log_mel)


def class_scores(
    evaluation: diagnosis.Evaluation, row: int, indices: Sequence[int]
) -> str:
    """HTML with classes and their scores for the clip of a row."""
    scores = [
        f"{evaluation.class_names[index]} {evaluation.scores[row, index]:.2f}"
        for index in indices
    ]
    return escape(", ".join(scores))


def worst_clips(evaluation: diagnosis.Evaluation, clip_dir: str, page_dir: str) -> str:
    """HTML of the clips whose labels have the lowest mean precision.

    A background clip counts as one minus its highest score.

    Args:
      evaluation: the evaluation.
      clip_dir: folder of the clips; empty: there are no pictures and players.
      page_dir: the eval_dir, which the addresses of the clips are relative to.

    Raises:
      UserError: none of these clips can be read.
    """
    counts = evaluation.labels.sum(axis=1)
    mean = evaluation.precisions.sum(axis=1) / np.maximum(counts, 1)
    mean[counts == 0] = 1 - evaluation.scores[counts == 0].max(axis=1)
    rows = np.argsort(mean, kind="stable")
    hparams = run_hparams(page_dir) if clip_dir else None
    cards = []
    for row in rows[:WORST_CLIPS]:
        labels = np.flatnonzero(evaluation.labels[row])
        top = np.argsort(-evaluation.scores[row], kind="stable")[:TOP_CLASSES]
        media = ""
        if clip_dir:
            path = os.path.join(clip_dir, evaluation.clips[row])
            address = urllib.parse.quote(os.fsencode(os.path.relpath(path, page_dir)))
            image = spectrogram(path, hparams)
            media = f'<img alt="spectrogram" src="{image}">' if image else UNREADABLE
            media += f'<audio controls preload="none" src="{address}"></audio>'
        cards.append(
            f'<div class="clip"><strong>{html.escape(evaluation.clips[row])}</strong> '
            f"precision {mean[row]:.3f}<br>"
            f"labels: {class_scores(evaluation, row, labels) or BACKGROUND}<br>"
            f"highest scores: {class_scores(evaluation, row, top)}{media}</div>"
        )
    if num_unreadable := sum(UNREADABLE in card for card in cards):
        if num_unreadable == len(cards):
            raise UserError(f"--clip_dir: the clips are not in {clip_dir}")
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
    thresholds: np.ndarray,
    thresholds_title: str,
    against: str = "",
) -> str:
    """The page as HTML.

    Args:
      evaluation: the evaluation.
      found: its `class_results`.
      eval_dir: its folder.
      clip_dir: folder of the clips; empty: see `worst_clips`.
      thresholds: float64 [C], thresholds of a table of detections.
      thresholds_title: the heading of this table.
      against: the folder of an evaluation to compare with; empty: none.

    Raises:
      UserError: the evaluation in `against`, if any, cannot be read or does not fit.
    """
    overall = evaluation.precisions.sum() / max(1, evaluation.labels.sum())
    by_step = check_scores(evaluation, eval_dir) or {evaluation.step: overall}
    data = {
        "progress": sorted(by_step.items()),
        "classes": diagnosis.class_curves(evaluation),
        "fewClips": diagnosis.FEW_CLIPS,
    }
    few = {
        result.name for result in found if 0 < result.num_clips < diagnosis.FEW_CLIPS
    }
    num_background = len(evaluation.background)
    return fill_page(
        TEMPLATE,
        title=f"Evaluation {eval_dir}",
        data=data,
        summary=(
            f"Best step: {evaluation.step}. Overall lwlrap {overall:.6f} on "
            f"{len(evaluation.clips)} clips with {len(evaluation.class_names)} classes"
            f"{f', {num_background} of them background' if num_background else ''}."
        ),
        classes=classes_table(found, few, with_background=num_background > 0),
        thresholds=thresholds_table(evaluation, thresholds),
        thresholds_title=html.escape(thresholds_title),
        comparison=comparison_section(evaluation, against) if against else "",
        pairs=table(
            ("class", "ranks higher", "clips", "share of its clips"),
            diagnosis.confused_pairs(evaluation),
            few=few,
        ),
        clips=worst_clips(evaluation, clip_dir, eval_dir),
    )

"""Tags recordings of any format and length with a trained tagger.

    python -m tools.tag runs/first meeting.mp3 field_recordings/
    python -m tools.tag runs/first --segments tags.csv --audacity labels night.flac

The first argument is a checkpoint, model.ckpt-N, a train_dir for its newest one, or
best:EVAL_DIR. The others are sound files, folders, or patterns such as "*.mp3". For
each file, this prints the classes with the highest scores, averaged over the recording.
Flags select further results: detections with their times as a CSV, label tracks for
Audacity, pictures, and embeddings.

A file that cannot be read is reported. The others are tagged, and the exit status is 1.

Letters for shapes: E examples, T frames, F mel bands, C classes, S samples.
"""

import itertools
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from recordings import decoding
from recordings.segments import (
    SEGMENT_HEADER,
    Segment,
    Tags,
    find_segments,
    segment_row,
    top_classes,
    write_embeddings,
    write_label_track,
)
from recordings.thresholds import (
    DEFAULT_THRESHOLD,
    order_thresholds,
    read_thresholds,
)
from tagger.data.clips import read_class_map, write_csv
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE, Hparams, parse_overrides
from tagger.runs import run_record
from tagger.terminal import program
from tagger.terminal.files import atomic, make_folder
from tagger.terminal.progress import counted, print_result, printable, progress_bar

FLAGS = flags.FLAGS
BLOCK_EXAMPLES = 64  # as many as inference scores at once
# The flags that name results: the suffix of a file, or "" for a folder.
RESULTS = {"audacity": "", "plot": "", "segments": ".csv", "embeddings": ".npz"}

# Maps a waveform, float32 [S], and the number of its first frames that are only context
# to scores, float64 [E, C], embeddings, float32 [E, 1024], and the spectrogram of the
# other frames, float32 [T, F].
Scorer = Callable[[np.ndarray, int], Sequence[np.ndarray]]


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("top", 5, "Classes to print for each file.", lower_bound=1)
    flags.DEFINE_float(
        "threshold", DEFAULT_THRESHOLD, "Lowest score of a detection.", 0, 1
    )
    flags.DEFINE_string(
        "thresholds",
        "",
        "CSV with the threshold of each class, as tools.report writes it; instead of "
        "--threshold.",
    )
    flags.DEFINE_string("segments", "", "CSV to write: one row per detection.")
    flags.DEFINE_string("audacity", "", "Folder to write a label track per file to.")
    flags.DEFINE_string("plot", "", "Folder to write a picture per file to.")
    flags.DEFINE_string("embeddings", "", "NPZ file to write: a row per example.")
    flags.DEFINE_string("class_map_path", "", "Class map, if there is no hparams.json.")
    flags.DEFINE_string("hparams", "", "name=value,..., if there is no hparams.json.")
    flags.DEFINE_bool("mixed_precision", False, "Compute convolutions in bfloat16.")
    flags.register_validator(
        "threshold", lambda score: not math.isnan(score), message="must be a number"
    )
    # A forgotten file name must not overwrite a recording.
    for name, suffix in RESULTS.items():
        flags.register_validator(
            name,
            lambda path, suffix=suffix: not path or path.endswith(suffix),
            message=f"must end with {suffix}",
        )


def check_results(found: Sequence[decoding.Sound]) -> None:
    """Checks that the results that the flags select can be written.

    Raises:
      UserError: they cannot, or two files would have the same result.
    """
    for name, suffix in RESULTS.items():
        if path := FLAGS[name].value:
            make_folder(os.path.dirname(path) or "." if suffix else path, f"--{name}")
            if suffix and os.path.isdir(path):
                raise UserError(f"--{name}: {path} is a folder")
    first = {}
    for sound in found if FLAGS.audacity or FLAGS.plot else []:
        other = first.setdefault(result_path("", sound, ""), sound)
        if other is not sound:
            raise UserError(
                f"the results of {other.path} and {sound.path} would have the same "
                f"name; tag them in separate runs"
            )


def load(
    checkpoint: str,
    *,
    class_map_path: str = "",
    hparam_overrides: Mapping[str, Any] | None = None,
    mixed_precision: bool = False,
) -> tuple[list[str], Hparams, Scorer]:
    """Loads a checkpoint.

    Args:
      checkpoint: see `checkpoints.find_checkpoint`.
      class_map_path: class map; empty: the classes in hparams.json.
      hparam_overrides: hyperparameters for a checkpoint without hparams.json.
      mixed_precision: see `model.define_model`.

    Returns:
      The class names, the hyperparameters and the scorer.

    Raises:
      UserError: the checkpoint or the class map cannot be used.
    """
    import model
    from tagger.runs import checkpoints

    prefix = checkpoints.find_checkpoint(checkpoint, "CHECKPOINT")
    record = run_record.read_record(os.path.dirname(prefix))
    if not class_map_path and not record:
        raise UserError(
            f"--class_map_path is needed, because there is no "
            f"{run_record.HPARAMS_FILE} beside {prefix}"
        )
    class_names = (
        read_class_map(class_map_path) if class_map_path else record.class_names
    )
    network, hparams = model.load_network(
        prefix,
        class_names,
        hparam_overrides=hparam_overrides,
        mixed_precision=mixed_precision,
    )
    return class_names, hparams, define_scorer(model.add_embeddings(network), hparams)


def define_scorer(network: Any, hparams: Hparams) -> Scorer:
    """Defines a scorer from a network with the outputs logits and embeddings."""
    import tensorflow as tf

    import inputs

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([], tf.int32),
        ],
        autograph=False,
    )
    def score(
        waveform: tf.Tensor, context: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """See `Scorer`."""
        log_mel = inputs.waveform_to_log_mel_spectrogram(
            waveform, hparams, fft_type=inputs.EXACT_FFT
        )[context:]
        examples = inputs.log_mel_spectrogram_to_examples(log_mel, hparams)
        logits, embeddings = network(examples, training=False)
        return tf.sigmoid(tf.cast(logits, tf.float64)), embeddings, log_mel

    return score


def overlapping_blocks(path: str, hparams: Hparams) -> Iterator[tuple[np.ndarray, int]]:
    """Reads a recording in overlapping blocks.

    A block starts with some frames of context. The BLOCK_EXAMPLES examples after them
    follow those of the previous block. Only the last block may have fewer.

    Yields:
      float32 [S], the samples of a block, and the number of its frames of context: at
      most hparams.context_frames, as many as there are.

    Raises:
      UserError: see `decoding.read_blocks`, or there are no samples.
    """
    hop = hparams.example_hop_frames
    step = BLOCK_EXAMPLES * hop * hparams.stft_hop_samples
    num_frames = max(
        (BLOCK_EXAMPLES - 1) * hop + hparams.example_window_frames,
        BLOCK_EXAMPLES * hop + 1,  # One more frame shows that there is a next block.
    )
    size = (num_frames - 1) * hparams.stft_hop_samples + hparams.stft_window_samples
    block, context = np.zeros(0, np.float32), 0
    sizes = itertools.chain([size], itertools.repeat(step))
    for chunk in decoding.read_chunks(path, sizes):
        block = np.concatenate([block, chunk])
        if not block.size:
            raise UserError(f"{path}: has no samples")
        yield block, context
        start = context * hparams.stft_hop_samples
        if hparams.num_examples(block.size - start) <= BLOCK_EXAMPLES:
            return
        start += step
        context = min(hparams.context_frames, start // hparams.stft_hop_samples)
        block = block[start - context * hparams.stft_hop_samples :]


def tag(
    path: str,
    scorer: Scorer,
    hparams: Hparams,
    *,
    keep_embeddings: bool = False,
    keep_log_mel: bool = False,
    progress: Callable[[float], Any] = lambda seconds: None,
) -> Tags:
    """Scores a recording block by block, with the same result as in one piece.

    Args:
      path: the sound file.
      scorer: from `load`.
      hparams: from `load`.
      keep_embeddings, keep_log_mel: whether the result has these.
      progress: called with the seconds of each block.

    Raises:
      UserError: the file cannot be read, or a score is not finite; the message names
        the file.
    """
    step_frames = BLOCK_EXAMPLES * hparams.example_hop_frames
    step = step_frames * hparams.stft_hop_samples
    scores, embeddings, log_mel = [], [], []
    num_samples, peak = 0, 0.0
    for number, (block, context) in enumerate(overlapping_blocks(path, hparams)):
        start = number * step - context * hparams.stft_hop_samples
        new_samples = start + block.size - num_samples
        num_samples += new_samples
        peak = max(peak, np.abs(block).max())
        values = [np.asarray(value) for value in scorer(block, context)]
        if not np.isfinite(values[0]).all():
            raise UserError(f"{path}: the scores are not finite")
        scores.append(values[0][:BLOCK_EXAMPLES])
        if keep_embeddings:
            embeddings.append(values[1][:BLOCK_EXAMPLES])
        if keep_log_mel:
            log_mel.append(values[2][:step_frames])
        progress(new_samples / SAMPLE_RATE)
    return Tags(
        num_samples / SAMPLE_RATE,
        np.concatenate(scores),
        np.concatenate(embeddings) if keep_embeddings else None,
        np.concatenate(log_mel) if keep_log_mel else None,
        decoding.describe_doubt(num_samples, peak, hparams.stft_window_samples),
    )


def print_tags(
    path: str,
    tags: Tags,
    class_names: Sequence[str],
    marked_from: np.ndarray | None,
    bar: Any,
) -> None:
    """Prints the name of a file above its `top_classes`, and a note of any doubt."""
    if tags.doubt:
        bar.write(f"note: {printable(path)}: {tags.doubt}", file=sys.stderr)
    top = top_classes(tags, class_names, FLAGS.top, marked_from)
    print_result(f"{printable(path)} ({tags.seconds:.1f} s)\n{top}")


def result_path(folder: str, sound: decoding.Sound, suffix: str) -> pathlib.Path:
    """The path of a result of one file."""
    return pathlib.Path(folder) / (sound.name.replace("/", "__") + suffix)


def write_file_results(
    sound: decoding.Sound,
    tags: Tags,
    segments: Sequence[Segment],
    class_names: Sequence[str],
    hparams: Hparams,
    thresholds: float | np.ndarray,
) -> None:
    """Writes the label track and the picture of a file, if the flags select them."""
    if FLAGS.audacity:
        write_label_track(result_path(FLAGS.audacity, sound, ".txt"), segments)
    if FLAGS.plot:
        from recordings import plots

        figure = plots.tags_figure(tags, class_names, hparams, thresholds)
        with atomic(result_path(FLAGS.plot, sound, ".png")) as file:
            figure.savefig(file, format="png")


def tag_files(
    found: Sequence[decoding.Sound],
    checkpoint: str,
    by_class: Mapping[str, float] | None = None,
) -> int:
    """Tags files and writes the results that the flags select.

    Args:
      found: the files.
      checkpoint: see `load`.
      by_class: thresholds by class, instead of --threshold.

    Returns:
      The number of files that could not be read or whose results were not written.
    """
    class_names, hparams, scorer = load(
        checkpoint,
        class_map_path=FLAGS.class_map_path,
        hparam_overrides=parse_overrides(FLAGS.hparams),
        mixed_precision=FLAGS.mixed_precision,
    )
    thresholds, marked_from = FLAGS.threshold, None
    if by_class is not None:
        thresholds = marked_from = order_thresholds(
            by_class, class_names, "--thresholds"
        )
        print("* marks scores that reach the threshold of the class", file=sys.stderr)
    rows, embedded, num_failed = [], [], 0
    try:
        with progress_bar(None, what="tagging", unit="s of sound") as bar:
            for sound in found:
                try:
                    tags = tag(
                        sound.path,
                        scorer,
                        hparams,
                        keep_embeddings=bool(FLAGS.embeddings),
                        keep_log_mel=bool(FLAGS.plot),
                        progress=lambda seconds: bar.update(round(seconds)),
                    )
                    segments = find_segments(tags, class_names, hparams, thresholds)
                    rows += [segment_row(sound.path, segment) for segment in segments]
                    if FLAGS.embeddings:
                        embedded.append((sound.path, tags.embeddings))
                    write_file_results(
                        sound, tags, segments, class_names, hparams, thresholds
                    )
                except UserError as error:
                    bar.write(f"error: {printable(str(error))}", file=sys.stderr)
                    num_failed += 1
                else:
                    print_tags(sound.path, tags, class_names, marked_from, bar)
    finally:  # The results so far are kept if this is interrupted.
        try:
            if embedded:
                write_embeddings(FLAGS.embeddings, embedded, hparams)
        finally:
            if FLAGS.segments:
                write_csv(FLAGS.segments, [SEGMENT_HEADER, *rows])
    return num_failed


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) < 3:
        raise UserError("expected a checkpoint and at least one file; see --help")
    parse_overrides(FLAGS.hparams)
    by_class = None
    if FLAGS.thresholds:
        if FLAGS["threshold"].present:
            raise UserError("--thresholds replaces --threshold; give only one of them")
        by_class = read_thresholds(FLAGS.thresholds, "--thresholds")
    found = decoding.find_files(argv[2:])
    check_results(found)
    program.start_tensorflow()
    if FLAGS.mixed_precision:
        from tagger.terminal import machine

        print(machine.describe_bfloat16(), file=sys.stderr)
    num_failed = tag_files(found, argv[1], by_class)
    if num_failed:
        print(f"{num_failed} of {counted(len(found), 'file')} failed", file=sys.stderr)
    return 1 if num_failed else 0


if __name__ == "__main__":
    define_flags()
    program.run(main)

"""Examples of annotated clips: what is heard in them, and mixtures as additional ones.

Letters for shapes: N clips, E examples, T frames, F mel bands, C classes.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from recordings.annotations import Event, is_heard, read_annotations
from recordings.decoding import Sound
from recordings.mixtures import mix_events
from recordings.segments import example_times
from tagger.data.clips import Clips
from tagger.errors import UserError
from tagger.hparams import Hparams

MAX_MIXED_CLIPS = 8  # that one mixture is made of, which limits the memory


def read_events(
    path: str, clips: Clips, clip_dir: str, class_names: Sequence[str]
) -> list[list[Event]]:
    """Reads the events in each of N clips, from a CSV with the columns of events.csv.

    Raises:
      UserError: see `read_annotations`, or a label is not a class.
    """
    sounds = list(map(Sound, clips.paths, clips.names(clip_dir)))
    by_path = read_annotations(path, sounds, "--events")
    labels = {event.label for events in by_path.values() for event in events}
    if unknown := sorted(labels.difference(class_names)):
        raise UserError(f"--events: {path} has labels that are no classes: {unknown}")
    return [by_path.get(path, []) for path in clips.paths]


def label_examples(
    events: Sequence[Event],
    num_examples: int,
    class_names: Sequence[str],
    hparams: Hparams,
) -> np.ndarray:
    """What is heard in each example of a recording; see `is_heard`.

    Args:
      events: the events of the recording.
      num_examples: E.
      class_names: C names.
      hparams: hyperparameters of the features, for the times.

    Returns:
      float32 [E, C] in {0, 1}.
    """
    hop_seconds, window_seconds = example_times(hparams)
    labels = np.zeros([num_examples, len(class_names)], np.float32)
    for row, values in enumerate(labels):
        start = row * hop_seconds
        for event in events:
            if is_heard(event, start, start + window_seconds):
                values[class_names.index(event.label)] = 1
    return labels


def heard_labels(
    events: Sequence[Sequence[Event]],
    positions: np.ndarray,
    class_names: Sequence[str],
    hparams: Hparams,
) -> np.ndarray:
    """The labels of the examples of N clips, float32 [E, C]; see `label_examples`.

    Args:
      events: the events of each clip.
      positions: int [E], the clips of the examples, ascending.
      class_names: C names.
      hparams: hyperparameters of the features.
    """
    counts = np.bincount(positions, minlength=len(events)).tolist()
    labels = [
        label_examples(known, count, class_names, hparams)
        for known, count in zip(events, counts, strict=True)
    ]
    return np.concatenate(labels)


def mixture_examples(
    clips: Clips,
    events: Sequence[Sequence[Event]],
    folds: np.ndarray,
    class_names: Sequence[str],
    hparams: Hparams,
    *,
    rounds: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the examples of mixtures, each of clips of one fold; see `mix_events`.

    Args:
      clips: the N clips.
      events: the events of each.
      folds: int [N], the fold of each in cross-validation.
      class_names: C names.
      hparams: hyperparameters of the features.
      rounds: how often each part of the background is used.

    Yields:
      float32 [E, T, F], the labels, see `label_examples`, and int [E], the fold.
    """
    import inputs

    rng = np.random.default_rng(0)
    for fold in np.tile(np.unique(folds), rounds).tolist():
        members = rng.permutation(np.flatnonzero(folds == fold))
        for part in np.array_split(members, -(-len(members) // MAX_MIXED_CLIPS)):
            sources = [
                (
                    inputs.clip_to_waveform(
                        clips.paths[index],
                        clips.data_offsets[index],
                        clips.num_samples[index],
                    ).numpy(),
                    events[index],
                )
                for index in part
            ]
            waveform, mixed = mix_events(sources, rng)
            if mixed:
                examples = inputs.waveform_to_examples(
                    waveform, hparams, fft_type=inputs.EXACT_FFT
                )
                labels = label_examples(mixed, len(examples), class_names, hparams)
                yield examples.numpy(), labels, np.full(len(examples), fold)

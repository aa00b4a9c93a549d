"""Tagging a long recording, compared with its features and the network alone.

    python benchmarks/tag_recording.py CHECKPOINT [--mixed_precision] [--minutes 60]

The recording is a stereo FLAC at 48 kHz, so it is decoded, mixed and resampled, which
should cost little time beside the network.
"""

import pathlib
import tempfile
from collections.abc import Sequence

import measure
import numpy as np
import soundfile
from absl import flags

from tagger.errors import UserError
from tagger.terminal import program

RATE = 48000  # Hz
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("minutes", 60, "Length of the recording.", lower_bound=1)
    flags.DEFINE_integer("rounds", 3, "Timed runs of each.", lower_bound=1)
    flags.DEFINE_bool("mixed_precision", False, "Compute convolutions in bfloat16.")


def write_recording(path: pathlib.Path, minutes: int) -> None:
    """Writes noise that becomes louder and softer, as FLAC."""
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, channels=2) as file:
        for minute in range(minutes):
            volume = 0.02 * (1 + minute % 5)
            file.write(volume * rng.normal(size=[60 * RATE, 2]))


def main(argv: Sequence[str]) -> int:
    """Times both in turn, and prints the table."""
    if len(argv) != 2:
        raise UserError("expected a checkpoint; see --help")
    program.start_tensorflow()
    from tools.tag import scoring

    tagger = scoring.load(argv[1], mixed_precision=FLAGS.mixed_precision)
    print(measure.machine("tensorflow"))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "recording.flac")
        write_recording(path, FLAGS.minutes)
        blocks = list(scoring.overlapping_blocks(str(path), tagger.hparams))
        no_state = np.full(tagger.hparams.mel_bands, np.nan, np.float32)

        def network() -> None:
            for block in blocks:
                list(map(np.asarray, tagger.score(block, no_state)))

        seconds = measure.take_turns(
            {
                "tools.tag": lambda: scoring.tag(
                    str(path), tagger, keep_embeddings=True
                ),
                "features and network alone": network,
            },
            FLAGS.rounds,
        )
    measure.report(f"{FLAGS.minutes} minutes (s)", seconds, "tools.tag")
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)

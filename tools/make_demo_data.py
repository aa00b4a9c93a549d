"""Makes a small synthetic data set like FSDKaggle2019, to test the tagger.

    python -m tools.make_demo_data OUT

Writes OUT/train_curated/*.wav with OUT/train_curated.csv, and OUT/test/*.wav. The clips
imitate 5 of the 80 classes with sines and noise. They last from 0.3 to 1.5 seconds.
Some of them have two labels.
"""

import itertools
import pathlib
import wave
from collections.abc import Callable, Sequence

import numpy as np

from tagger.data.csv_files import write_csv
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal import program
from tagger.terminal.progress import print_result

CLIPS_PER_CLASS = 12
CLIPS_PER_PAIR = 2  # of two classes
TEST_CLIPS = 12
SHORTEST, LONGEST = 0.3, 1.5  # s
PEAK = 0.7
NOISE_FLOOR = 0.002
SEED = 0

Generator = np.random.Generator


def _band_noise(
    time: np.ndarray, low: float, high: float, rng: Generator
) -> np.ndarray:
    """White noise between two frequencies in Hz."""
    spectrum = np.fft.rfft(rng.normal(size=time.size))
    frequencies = np.fft.rfftfreq(time.size, 1 / SAMPLE_RATE)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    return np.fft.irfft(spectrum, time.size)


def bass_drum(time: np.ndarray, rng: Generator) -> np.ndarray:
    """Decaying sines whose frequency falls from 150 to 50 Hz."""
    since = time % rng.uniform(0.3, 0.5)  # s since the last stroke
    cycles = 50 * since + 100 * 0.04 * (1 - np.exp(-since / 0.04))
    return np.sin(2 * np.pi * cycles) * np.exp(-since / 0.12)


def buzz(time: np.ndarray, rng: Generator) -> np.ndarray:
    """A wavering sawtooth at about 120 Hz."""
    cycles = rng.uniform(100, 150) * time + 0.3 * np.sin(2 * np.pi * 6 * time)
    return 2 * (cycles % 1) - 1


def chirp_and_tweet(time: np.ndarray, rng: Generator) -> np.ndarray:
    """Whistles of 0.1 s that rise through an octave from about 3 kHz."""
    low = rng.uniform(2500, 3500)
    since = np.minimum(time % rng.uniform(0.15, 0.25), 0.1)
    cycles = low * since + low * since**2 / 0.2
    return np.sin(2 * np.pi * cycles) * np.sin(np.pi * since / 0.1)


def hi_hat(time: np.ndarray, rng: Generator) -> np.ndarray:
    """Short strokes of noise above 8 kHz."""
    since = time % rng.uniform(0.12, 0.2)
    return _band_noise(time, 8000, 18000, rng) * np.exp(-since / 0.03)


def waves_and_surf(time: np.ndarray, rng: Generator) -> np.ndarray:
    """Noise below 1.5 kHz whose loudness rises and falls."""
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * (0.5 * time + rng.uniform()))
    return _band_noise(time, 50, 1500, rng) * swell


SYNTHESIZERS: dict[str, Callable[[np.ndarray, Generator], np.ndarray]] = {
    "Bass_drum": bass_drum,
    "Buzz": buzz,
    "Chirp_and_tweet": chirp_and_tweet,
    "Hi-hat": hi_hat,
    "Waves_and_surf": waves_and_surf,
}


def synthesize(labels: Sequence[str], seconds: float, rng: Generator) -> np.ndarray:
    """A clip in which all labels sound at the same time, int16 [S] at 44.1 kHz."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = NOISE_FLOOR * rng.normal(size=time.size)
    for label in labels:
        part = SYNTHESIZERS[label](time, rng)
        sound += rng.uniform(0.5, 1.0) * part / np.abs(part).max()
    sound *= PEAK / np.abs(sound).max()
    return np.round(sound * 32767).astype(np.int16)


def write_wav(path: pathlib.Path, samples: np.ndarray) -> None:
    """Writes int16 samples as a 44.1 kHz mono WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def write_data(out: pathlib.Path) -> None:
    """Writes the data set, which is the same every time."""
    rng = np.random.default_rng(SEED)
    singles = [(name,) for name in SYNTHESIZERS]
    pairs = list(itertools.combinations(SYNTHESIZERS, 2))
    labelled = singles * CLIPS_PER_CLASS + pairs * CLIPS_PER_PAIR
    tests = list(itertools.islice(itertools.cycle(singles), TEST_CLIPS))
    rows, test_rows = [("fname", "labels")], [("fname", "labels", "usage")]
    for folder, clips in (("train_curated", labelled), ("test", tests)):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for labels in clips:
            fname = f"{rng.integers(16**8):08x}.wav"
            seconds = rng.uniform(SHORTEST, LONGEST)
            write_wav(out / folder / fname, synthesize(labels, seconds, rng))
            if folder == "train_curated":
                rows.append((fname, ",".join(labels)))
            else:
                test_rows.append((fname, ",".join(labels), "Public"))
    write_csv(out / "train_curated.csv", rows)
    write_csv(out / "test_post_competition.csv", test_rows)
    print_result(f"{len(labelled)} labelled clips and {len(tests)} test clips in {out}")


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 2:
        raise UserError("expected one argument, the folder to write to; see --help")
    write_data(pathlib.Path(argv[1]))
    return 0


if __name__ == "__main__":
    program.run(main)

"""Makes a small synthetic data set in the form of FSDKaggle2019, to try the tagger.

    python -m tools.make_demo_data OUT

Writes OUT/train_curated/*.wav with OUT/train_curated.csv, and OUT/test/*.wav. The clips
imitate 8 of the 80 classes with sines and noise. They last from 0.3 to 1.5 seconds.
Some of them have two labels.
"""

import csv
import io
import pathlib
import wave
from collections.abc import Callable, Sequence

import numpy as np

from tagger import program
from tagger.files import write_whole
from tagger.hparams import SAMPLE_RATE

CLIPS_PER_CLASS = 8
TWO_LABEL_CLIPS = 16
TEST_CLIPS = 12
SHORTEST, LONGEST = 0.3, 1.5  # s
PEAK = 0.7
NOISE_FLOOR = 0.002
SEED = 0

Generator = np.random.Generator
Synthesizer = Callable[[np.ndarray, Generator], np.ndarray]


def _decay(time: np.ndarray, start: float, seconds: float) -> np.ndarray:
    """0 before the start, then 1, decaying by a factor of e every `seconds`."""
    since = time - start
    return np.where(since >= 0, np.exp(-np.maximum(since, 0) / seconds), 0.0)


def _band_noise(
    time: np.ndarray, low: float, high: float, rng: Generator
) -> np.ndarray:
    """White noise between two frequencies in Hz, with a variance of about 1."""
    spectrum = np.fft.rfft(rng.normal(size=time.size))
    frequencies = np.fft.rfftfreq(time.size, 1 / SAMPLE_RATE)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    noise = np.fft.irfft(spectrum, time.size)
    return noise / max(noise.std(), 1e-9)


def _beats(time: np.ndarray, period: float, rng: Generator) -> np.ndarray:
    """Start times in s of strokes, with about `period` seconds between them."""
    count = max(1, int(time[-1] / period))
    return period * (np.arange(count) + rng.uniform(0, 0.1, count))


def bass_drum(time: np.ndarray, rng: Generator) -> np.ndarray:
    """Decaying sines whose frequency falls from 150 to 50 Hz."""
    sound = np.zeros_like(time)
    for start in _beats(time, rng.uniform(0.3, 0.5), rng):
        since = np.maximum(time - start, 0)
        phase = 2 * np.pi * (50 * since + 100 * 0.04 * (1 - np.exp(-since / 0.04)))
        sound += np.sin(phase) * _decay(time, start, 0.12)
    return sound


def buzz(time: np.ndarray, rng: Generator) -> np.ndarray:
    """A wavering sawtooth at about 120 Hz."""
    phase = rng.uniform(100, 150) * time + 0.3 * np.sin(2 * np.pi * 6 * time)
    return 2 * (phase % 1) - 1


def chirp_and_tweet(time: np.ndarray, rng: Generator) -> np.ndarray:
    """Short whistles that rise through an octave from about 3 kHz."""
    sound = np.zeros_like(time)
    low = rng.uniform(2500, 3500)
    for start in _beats(time, rng.uniform(0.15, 0.25), rng):
        since = np.clip(time - start, 0, 0.1)
        phase = 2 * np.pi * (low * since + low * since**2 / 0.2)
        envelope = np.sin(np.pi * since / 0.1)
        sound += np.sin(phase) * envelope
    return sound


def church_bell(time: np.ndarray, rng: Generator) -> np.ndarray:
    """The partials of a bell, decaying slowly."""
    strike = rng.uniform(300, 500)
    partials = {0.5: 0.9, 1.0: 1.0, 1.2: 0.8, 1.5: 0.5, 2.0: 0.7, 2.5: 0.3, 3.0: 0.3}
    return sum(
        amplitude
        * np.sin(2 * np.pi * strike * ratio * time)
        * _decay(time, 0, 1.2 / ratio)
        for ratio, amplitude in partials.items()
    )


def clapping(time: np.ndarray, rng: Generator) -> np.ndarray:
    """Bursts of noise around 1.5 kHz."""
    noise = _band_noise(time, 800, 2500, rng)
    starts = _beats(time, rng.uniform(0.2, 0.3), rng)
    return noise * sum(_decay(time, start, 0.015) for start in starts)


def hi_hat(time: np.ndarray, rng: Generator) -> np.ndarray:
    """Short strokes of noise above 8 kHz."""
    noise = _band_noise(time, 8000, 18000, rng)
    starts = _beats(time, rng.uniform(0.12, 0.2), rng)
    return noise * sum(_decay(time, start, 0.03) for start in starts)


def marimba_and_xylophone(time: np.ndarray, rng: Generator) -> np.ndarray:
    """Notes of a scale, each a sine and its fourth harmonic, decaying quickly."""
    semitones = np.array([0, 2, 4, 7, 9, 12, 14])  # a pentatonic scale
    scale = 262 * 2 ** (semitones / 12)  # Hz, from C4
    sound = np.zeros_like(time)
    for start in _beats(time, rng.uniform(0.2, 0.3), rng):
        pitch = 2 * np.pi * rng.choice(scale) * (time - start)
        sound += (np.sin(pitch) + 0.4 * np.sin(4 * pitch)) * _decay(time, start, 0.1)
    return sound


def waves_and_surf(time: np.ndarray, rng: Generator) -> np.ndarray:
    """Noise below 1.5 kHz whose loudness rises and falls."""
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * (0.5 * time + rng.uniform()))
    return _band_noise(time, 50, 1500, rng) * swell


SYNTHESIZERS: dict[str, Synthesizer] = {
    "Bass_drum": bass_drum,
    "Buzz": buzz,
    "Chirp_and_tweet": chirp_and_tweet,
    "Church_bell": church_bell,
    "Clapping": clapping,
    "Hi-hat": hi_hat,
    "Marimba_and_xylophone": marimba_and_xylophone,
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
    """Writes the whole data set, which is the same every time."""
    rng = np.random.default_rng(SEED)
    names = sorted(SYNTHESIZERS)
    labelled = [[name] for name in names for _ in range(CLIPS_PER_CLASS)]
    labelled += [
        sorted(rng.choice(names, 2, replace=False)) for _ in range(TWO_LABEL_CLIPS)
    ]
    tests = [[names[index % len(names)]] for index in range(TEST_CLIPS)]
    rows = []
    for folder, clips in (("train_curated", labelled), ("test", tests)):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for labels in clips:
            fname = f"{rng.integers(16**8):08x}.wav"
            seconds = rng.uniform(SHORTEST, LONGEST)
            write_wav(out / folder / fname, synthesize(labels, seconds, rng))
            if folder == "train_curated":
                rows.append((fname, ",".join(labels)))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("fname", "labels"), *rows])
    write_whole(out / "train_curated.csv", text.getvalue())
    print(f"{len(rows)} labelled clips and {len(tests)} test clips in {out}")


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 2:
        raise ValueError("expected one argument, the folder to write to; see --help")
    write_data(pathlib.Path(argv[1]))
    return 0


if __name__ == "__main__":
    program.run(main)

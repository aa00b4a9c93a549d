"""From recordings of many formats to tags.

The longer test uses the kitchen sounds of a folder, and runs only if
TAGGER_KITCHEN20_DIR names it: clips.csv (clip, label, fold) and audio/*.ogg. If
TAGGER_YAMNET_DIR names a folder with yamnet.h5 and yamnet_class_map.csv, the last layer
of YAMNet is solved; otherwise, the training starts from scratch. As a program, this
file writes the recordings of that test to a folder:

    python tests/system/test_own_recordings.py KITCHEN20 OUT
"""

import csv
import os
import pathlib
import re
import shutil
import signal
import sys

import numpy as np
import pytest
import soundfile
import soxr
from helpers import run_program
from processes import Process, run_forked

VARIABLE = "TAGGER_KITCHEN20_DIR"
YAMNET_VARIABLE = "TAGGER_YAMNET_DIR"
RATE = 44100
# (suffix, rate, channels, subtype), one after the other
FORMATS = (
    (".flac", 48000, 2, "PCM_16"),
    (".mp3", 22050, 1, "MPEG_LAYER_III"),
    (".wav", 44100, 1, "PCM_24"),
    (".wav", 8000, 1, "PCM_16"),
    (".ogg", 44100, 1, "VORBIS"),
)
HELD_OUT_FOLD = "4"
LONG_SECONDS = 180


def convert_recordings(kitchen20: pathlib.Path, sounds: pathlib.Path) -> None:
    """Writes the clips of three folds in mixed formats, a folder for each class."""
    rows = csv.DictReader((kitchen20 / "clips.csv").open())
    rows = [row for row in rows if row["fold"] != HELD_OUT_FOLD]
    for number, row in enumerate(rows):
        suffix, rate, channels, subtype = FORMATS[number % len(FORMATS)]
        samples, _ = soundfile.read(kitchen20 / "audio" / f"{row['clip']}.ogg")
        samples = soxr.resample(samples, RATE, rate)
        folder = sounds / row["label"]
        folder.mkdir(parents=True, exist_ok=True)
        samples = np.repeat(samples[:, np.newaxis], channels, axis=1)
        soundfile.write(folder / (row["clip"] + suffix), samples, rate, subtype)


def join_recordings(
    kitchen20: pathlib.Path, path: pathlib.Path, *, held_out: bool
) -> list[tuple[float, float, str]]:
    """Joins clips of all classes into a stereo MP3 at 48 kHz.

    The clips are held out, or those of `convert_recordings`.

    Returns:
      The start and the end of each clip in seconds, and its label.
    """
    rows = csv.DictReader((kitchen20 / "clips.csv").open())
    rows = [row for row in rows if (row["fold"] == HELD_OUT_FOLD) == held_out]
    order = np.random.default_rng(0).permutation(len(rows))
    parts, placed, position = [], [], 0.0
    for index in order:
        samples, _ = soundfile.read(kitchen20 / "audio" / f"{rows[index]['clip']}.ogg")
        end = position + len(samples) / RATE
        if end > LONG_SECONDS:
            break
        parts.append(samples)
        placed.append((position, end, rows[index]["label"]))
        position = end
    joined = soxr.resample(np.concatenate(parts), RATE, 48000)
    soundfile.write(path, np.stack([joined, joined], 1), 48000)
    return placed


def overlap(first, second) -> float:
    """The seconds that two (start, end, ...) have in common."""
    return max(0.0, min(first[1], second[1]) - max(first[0], second[0]))


@pytest.fixture(scope="module")
def kitchen20() -> pathlib.Path:
    """The folder of kitchen sounds."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"set {VARIABLE} to a folder of kitchen sounds")
    return pathlib.Path(os.environ[VARIABLE])


def write_sounds(
    sounds: pathlib.Path, *, number: int, seconds: float, rate: int = RATE
) -> None:
    """Writes recordings of two classes in three formats."""
    rng = np.random.default_rng(0)
    for label, hz in (("Hiss", 0), ("Hum", 440)):
        (sounds / label).mkdir(parents=True)
        for index in range(number):
            tone = np.sin(2 * np.pi * hz * np.arange(seconds * rate) / rate)
            samples = (tone + rng.uniform(-1, 1, tone.size)) / 4
            suffix = (".wav", ".flac", ".mp3")[index % 3 if rate == RATE else 0]
            soundfile.write(sounds / label / f"{index}{suffix}", samples, rate)


def run(*command: object, **options: object) -> str:
    done = run_program(*command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_of_recordings_is_tagged(trained, tmp_path):
    folder = tmp_path / "field 'n' \"ü\""
    (folder / "deep").mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, [3 * 48000, 2])
    soundfile.write(folder / "deep" / "a.flac", noise, 48000)
    soundfile.write(folder / "one silent.wav", noise[:22050] * [1, 0], 22050)
    soundfile.write(folder / "short.wav", noise[:441, 0], 44100)
    shutil.copy(folder / "short.wav", bytes(folder) + b"/\xff.wav")  # not UTF-8
    (folder / "text.mp3").write_text("hello")
    (folder / "notes.txt").write_text("hello")
    thresholds = tmp_path / "t.csv"
    thresholds.write_text("class,threshold\nNoise,0\nTone,0\n")
    done = run_forked(
        *("tools.tag", trained, "none.wav", folder, "--top=1"),
        f"--thresholds={thresholds}",
        *(f"--segments={tmp_path / 's.csv'}", f"--audacity={tmp_path / 'labels'}"),
        *(f"--embeddings={tmp_path / 'e.npz'}", f"--plot={tmp_path / 'plots'}"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: none.wav: there is no such file" in done.stderr
    assert f"error: {folder}/text.mp3: libsndfile" in done.stderr
    assert "1 other file ignored" in done.stderr
    assert "* marks scores that reach the threshold of the class" in done.stderr
    assert len(re.findall(r"^\* [01]\.\d+  (?:Noise|Tone)$", done.stdout, re.M)) == 4
    for name in ("short.wav", "?.wav"):
        assert f"note: {folder}/{name}: " in done.stderr
    seconds = {"one silent.wav": 1, "short.wav": 0.01, "\udcff.wav": 0.01}
    seconds["deep/a.flac"] = 3
    assert re.findall(r"^(.*) \(.* s\)$", done.stdout, re.MULTILINE) == [
        f"{folder}/{name}".replace("\udcff", "?") for name in seconds
    ]
    # With thresholds of 0, each class is detected from start to end.
    rows = list(csv.DictReader((tmp_path / "s.csv").open(encoding="utf-8")))
    expected = [
        [f"{folder}/{name}".replace("\udcff", "?"), 0.0, end]
        for name, end in seconds.items()
        for _ in "NT"
    ]
    found = [[row["file"], float(row["start"]), float(row["end"])] for row in rows]
    assert found == expected
    assert [row["class"] for row in rows] == ["Noise", "Tone"] * 4
    for kind, suffix in (("labels", ".txt"), ("plots", ".png")):
        names = {path.name for path in (tmp_path / kind).iterdir()}
        assert names == {name.replace("/", "__") + suffix for name in seconds}
    assert len(np.load(tmp_path / "e.npz")["embeddings"]) == 10 + 1 + 1 + 30


def test_unusable_recordings_are_reported_or_skipped(tmp_path):
    sounds, out = tmp_path / "sounds", tmp_path / "out"
    write_sounds(sounds, number=2, seconds=1)
    (sounds / "Hum" / "text.mp3").write_text("hello")
    os.close(os.open(bytes(sounds / "Hum") + b"/\xff.wav", os.O_CREAT))
    command = ("tools.make_dataset", sounds, out)
    for skip, start in ((False, "error: "), (True, "skipped: ")):
        flags = ["--skip_unusable"] * skip
        done = run_program(*command, *flags, capture_output=True, text=True)
        assert done.returncode == 1
        # The decoder of MP3 files prints lines of its own.
        lines = [line for line in done.stderr.splitlines() if line.startswith(start)]
        for part in ("text.mp3: libsndfile", "unprintable", r"\udcff.wav: is empty"):
            assert sum(part in line for line in lines) == 1, done.stderr
        assert len(lines) == 3
        assert (out / "clips.csv").exists() == skip
    assert done.stdout.startswith("recordings: 4 written, 0 unchanged, ")
    assert done.stdout.endswith("has 4 clips of 2 classes\n")


@pytest.fixture(scope="module")
def many_recordings(tmp_path_factory) -> tuple[pathlib.Path, dict[str, bytes]]:
    """A folder of 80 recordings, and the files of its data set."""
    folder = tmp_path_factory.mktemp("many")
    write_sounds(folder / "sounds", number=40, seconds=20, rate=8000)
    run("tools.make_dataset", folder / "sounds", folder / "out")
    return folder / "sounds", files_in(folder / "out")


def files_in(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_can_be_repeated(many_recordings, tmp_path, number):
    sounds, expected = many_recordings
    out = tmp_path / "out"
    with Process(tmp_path, "first", "tools.make_dataset", sounds, out) as process:
        while not list(out.glob("audio/*.wav")) and not process.ends_within(0.01):
            pass
        process.send(number)
        assert process.status() == (-9 if number == signal.SIGKILL else 130)
    wavs = list(out.glob("audio/*.wav"))
    assert 0 < len(wavs) < 80
    assert {soundfile.info(path).frames for path in wavs} == {20 * RATE}
    assert not (out / "clips.csv").exists()
    times = {path: path.stat().st_mtime_ns for path in wavs}
    changes = re.search(r"(\d+) written, ", run("tools.make_dataset", sounds, out))
    assert 0 < int(changes[1]) <= 80
    assert files_in(out) == expected
    # Only those that were being finished are written again, at most one per thread.
    again = [path for path in wavs if path.stat().st_mtime_ns != times[path]]
    assert len(again) <= os.cpu_count()


def test_from_recordings_to_tags(kitchen20, tmp_path):
    convert_recordings(kitchen20, tmp_path / "sounds")
    data, runs = tmp_path / "data", tmp_path / "runs"
    print(run("tools.make_dataset", tmp_path / "sounds", data))
    run(
        *("tools.make_validation_split", data / "clips.csv", f"--out_dir={data}"),
        "--group_by=recording",
    )
    common = (f"--class_map_path={data / 'class_map.csv'}", f"--train_dir={runs}")
    yamnet = os.environ.get(YAMNET_VARIABLE)
    train = ["runner.py", "--mode=train", "--max_steps=300", "--checkpoint_steps=300"]
    train += ["--hparams=lr=1e-3,batch_size=32,bndecay=0.9", "--seed=1"]
    if yamnet:
        names = ("yamnet.h5", "yamnet_class_map.csv")
        files = [pathlib.Path(yamnet) / name for name in names]
        run("tools.import_yamnet", *files, tmp_path / "yamnet")
        train = ["tools.fit_last_layer", f"--checkpoint={tmp_path / 'yamnet'}"]
    run(
        *(*train, *common, f"--train_clip_dir={data / 'audio'}"),
        f"--train_csv_path={data / 'clips_train.csv'}",
    )
    run(
        *("runner.py", "--mode=eval", *common, f"--eval_clip_dir={data / 'audio'}"),
        f"--eval_csv_path={data / 'clips_validation.csv'}",
        *(f"--eval_dir={runs / 'eval'}", "--eval_timeout_secs=0"),
    )
    result = (runs / "eval" / f"eval-{0 if yamnet else 300}.txt").read_text()
    lwlrap = float(re.search(r"Overall lwlrap = (\S+)", result)[1])
    known = compare_tags(kitchen20, runs, tmp_path, held_out=False)
    held_out = compare_tags(kitchen20, runs, tmp_path, held_out=True)
    print(f"lwlrap {lwlrap:.3f}; known clips {known}; held-out clips {held_out}")
    # From scratch, 300 steps are few. Chance is 0.18 for lwlrap, 1/20 for the rest.
    assert lwlrap > (0.7 if yamnet else 0.35)
    assert min(known) > (0.6 if yamnet else 0.25)
    assert min(held_out) > (0.4 if yamnet else 0.15)


def compare_tags(
    kitchen20: pathlib.Path, runs: pathlib.Path, folder: pathlib.Path, *, held_out: bool
) -> tuple[float, float]:
    """Tags a recording that is joined from clips.

    Returns:
      The share of the clips in which their class was detected, and the share of the
      detected seconds that are in a clip of their class.
    """
    placed = join_recordings(kitchen20, folder / "long.mp3", held_out=held_out)
    (folder / "segments.csv").unlink(missing_ok=True)  # It would not be replaced.
    run(
        *("tools.tag", runs, folder / "long.mp3", "--threshold=0.3"),
        f"--segments={folder / 'segments.csv'}",
    )
    found = [
        (float(row["start"]), float(row["end"]), row["class"])
        for row in csv.DictReader((folder / "segments.csv").open())
    ]
    hits = sum(
        any(part[2] == label and overlap(part, (start, end)) for part in found)
        for start, end, label in placed
    )
    detected = sum(end - start for start, end, _ in found)
    correct = sum(
        overlap(part, clip) for part in found for clip in placed if part[2] == clip[2]
    )
    return round(hits / len(placed), 3), round(correct / detected, 3)


if __name__ == "__main__":
    source, out = map(pathlib.Path, sys.argv[1:])
    convert_recordings(source, out / "sounds")
    for clip in join_recordings(source, out / "long.mp3", held_out=True):
        print("{:.2f} {:.2f} {}".format(*clip))

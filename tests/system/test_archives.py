"""Archives: tagging is killed at random moments and continues; sounds are found.

TAGGER_KILLS sets how often it is killed.
"""

import csv
import os
import pathlib
import random
import re
import signal
import subprocess
import sys

import numpy as np
from helpers import PROGRAM_ENVIRONMENT, ROOT, run_program, section_of, write_wav
from processes import Process

from recordings.archive import Archive

KILLS = int(os.environ.get("TAGGER_KILLS", 3))
FILES = 60


def test_nothing_is_lost_or_appears_twice(trained, tmp_path):
    rng = np.random.default_rng(0)
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number in range(FILES):
        size = int(rng.integers(20000, 90000))
        write_wav(sounds / f"{number:02d}.wav", 3000 * rng.normal(size=size))
    (sounds / "bad.wav").write_text("no recording")
    path = tmp_path / "a.db"
    command = ("tools.tag", trained, sounds, f"--archive={path}")
    delays, signals = random.Random(0), (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
    num_before = 0
    for number in range(KILLS):
        with Process(tmp_path, str(number), *command) as process:
            if process.wait_for("^file ") and not process.ends_within(
                delays.uniform(0, 0.3)
            ):
                process.send(signals[number % len(signals)])
            process.status()
            printed = len(re.findall(r"(?m)^file .* left$", process.out))
        with Archive(str(path)) as archive:
            num_done = sum(not file.error for file in archive.files())
        # A file may have been added, but its line was not printed any more.
        assert num_before + printed <= num_done <= num_before + printed + 1
        num_before = num_done
    tables = (f"--segments={tmp_path / 's.csv'}", f"--files={tmp_path / 'f.csv'}")
    done = run_program(*command, *tables, "--threshold=0", capture_output=True)
    assert done.returncode == 1  # because of the file that cannot be read
    once = tmp_path / "once.csv"
    whole = (*command[:3], f"--archive={tmp_path / 'b.db'}", f"--segments={once}")
    run_program(*whole, "--threshold=0", capture_output=True)
    assert (tmp_path / "s.csv").read_bytes() == once.read_bytes()
    with (tmp_path / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == len(rows) == FILES + 1
    assert rows[-1]["status"].startswith("failed: ")
    assert rows[-1]["detections"] == ""
    again = run_program("tools.tag", f"--archive={path}", *tables, "--threshold=0")
    assert again.returncode == 0  # without the checkpoint
    assert (tmp_path / "s.csv").read_bytes() == once.read_bytes()


def find(archive: pathlib.Path, *arguments: object) -> subprocess.CompletedProcess:
    command = ("tools.find", f"--archive={archive}", *arguments)
    return run_program(*command, capture_output=True, text=True)


def test_sounds_are_found(trained, dataset, tmp_path):
    path, table, page = (tmp_path / name for name in ("a.db", "f.csv", "f.html"))
    clips = dataset.clip_dir
    run_program("tools.tag", trained, clips, f"--archive={path}", capture_output=True)
    outputs = (f"--csv={table}", f"--page={page}", "--number=3")
    done = find(path, clips / "01.wav", *outputs)
    assert done.returncode == 0, done.stderr
    header, *rows = csv.reader(table.open())
    assert header == ["file", "start", "end", "similarity"]
    assert len(rows) == len(done.stdout.splitlines()) == 3
    assert str(clips / "01.wav") not in [row[0] for row in rows]
    assert "01.wav" not in page.read_text()
    done = find(path, "--classes=Tone,Noise", "--order=random", *outputs)
    assert done.returncode == 0, done.stderr
    header, *rows = csv.reader(table.open())
    assert header == ["file", "start", "end", "class", "score"]
    assert [row[3] for row in rows] == ["Tone"] * 3 + ["Noise"] * 3
    for arguments, problem in (
        (["--classes=Bark"], "--classes: .* no class Bark"),
        ([clips / "01.wav", f"--checkpoint={trained}/model.ckpt-0"], "--checkpoint"),
    ):
        done = find(path, *arguments)
        assert done.returncode == 1
        assert re.search(f"^error: .*{problem}", done.stderr, re.MULTILINE)


def test_the_commands_of_a_round_of_reviews(trained, tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("recordings", "quiet", "annotations"):
        (tmp_path / folder).mkdir()
    for name in ("recordings/a.wav", "recordings/b.wav", "quiet/c.wav"):
        samples = 1000 * rng.normal(size=20 * 44100)
        for start in range(0, 20 * 44100, 4 * 44100) if "quiet" not in name else ():
            samples[start : start + 44100] += 9000 * np.sin(0.1 * np.arange(44100))
        write_wav(tmp_path / name, samples)
    rows = [f"a.wav,{start},{start + 1},Bark\n" for start in (0, 4, 8, 12)]
    rows += [f"a.wav,{start},{start + 0.5},Rooster\n" for start in (2, 6, 10, 14)]
    table = "file,start,end,label\n" + "".join(rows)
    (tmp_path / "annotations" / "first.csv").write_text(table)
    (tmp_path / "yamnet").symlink_to(trained)
    page = section_of("docs/archive.md", "Rounds of reviews")
    commands = re.search(r"```\n(python .*?)```", page, re.DOTALL)[1]
    path = f"{ROOT}:{PROGRAM_ENVIRONMENT.get('PYTHONPATH', '')}"
    commands = commands.replace("python ", f"{sys.executable} ")
    # The network of the tests has shorter examples.
    done = subprocess.run(
        [
            "bash",
            "-e",
            "-c",
            commands.replace("--hparams example_hop_seconds=0.24", ""),
        ],
        cwd=tmp_path,
        env=PROGRAM_ENVIRONMENT | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = [line.split("  ") for line in done.stdout.splitlines() if ".wav  " in line]
    assert [row[3] for row in found] == ["Bark"] * 7 + ["Rooster"] * 7
    labelled = [(0, 1), (4, 5), (8, 9), (12, 13), (2, 2.5), (6, 6.5), (10, 10.5)]
    for path, start, end, *_ in found:
        if path.endswith("a.wav"):
            for first, last in labelled:
                assert float(start) >= last - 1e-3 or float(end) <= first + 1e-3
    assert (tmp_path / "review.html").is_file()

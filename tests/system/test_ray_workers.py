"""Tagging with two workers of Ray: one is killed; the same rows as of tools.tag."""

import csv
import importlib.util
import re

import numpy as np
import pytest
from helpers import run_program, write_wav
from processes import Process

from recordings.archive import Archive
from tools.tag_cluster.parts import read_parts

FILES = 12
WORKER = "ray::MapWorker"
HAS_RAY = importlib.util.find_spec("ray") is not None


def kill_worker(program: int) -> None:
    """Kills a worker that a program has started."""
    import psutil  # ipykernel needs it.

    started = psutil.Process(program).children(recursive=True)
    workers = [process for process in started if process.name().startswith(WORKER)]
    workers[0].kill()


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray(tmp_path):
    done = run_program(
        "tools.tag_cluster", "a", "b", "c", capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: Ray is not installed: pip install -r ")


@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
def test_a_killed_worker_loses_nothing(trained, tmp_path):
    rng = np.random.default_rng(0)
    sounds, out = tmp_path / "sounds", tmp_path / "out"
    sounds.mkdir()
    for number in range(FILES):
        write_wav(sounds / f"{number:02d}.wav", 3000 * rng.normal(size=60 * 44100))
    (sounds / "bad.wav").write_text("no recording")
    flags = ("--files_per_part=2", f"--archive={tmp_path / 'a.db'}", "--threshold=0.3")
    command = ("tools.tag_cluster", trained, sounds, out, *flags)
    with Process(tmp_path, "cluster", *command) as process:
        assert process.wait_for("^file ")
        kill_worker(process.pid)
        assert process.status() == 1  # because of the file that cannot be read
    assert len(re.findall("(?m)^file ", process.out)) == FILES
    again = run_program(*command, capture_output=True, text=True)
    assert f"13 of 13 files are in {out}" in again.stderr
    other = run_program(*command, "--threshold=0.4", capture_output=True, text=True)
    assert "error: --threshold, --thresholds: " in other.stderr
    columns = ["file", "error", "detections", "scores", "embeddings"]
    rows = {row["file"]: row for row in read_parts(out, columns)}
    assert sorted(rows) == sorted(map(str, sounds.iterdir()))
    assert "cannot decode" in rows.pop(str(sounds / "bad.wav"))["error"]
    tables = (
        f"--embeddings={tmp_path / 'embeddings.npz'}",
        f"--files={tmp_path / 'files.csv'}",
    )
    tag = ("tools.tag", trained, sounds, *tables, "--threshold=0.3")
    assert run_program(*tag, capture_output=True).returncode == 1
    single = np.load(tmp_path / "embeddings.npz")
    for index, path in enumerate(single["files"]):
        expected = single["embeddings"][single["file_index"] == index]
        np.testing.assert_allclose(rows[path]["embeddings"], expected, atol=1e-6)
    with (tmp_path / "files.csv").open() as file:
        for row in csv.DictReader(file):
            if row["seconds"]:
                found = rows[row["file"]]["detections"]
                assert len(found) == int(row["detections"])
    with Archive(str(tmp_path / "a.db")) as archive:
        for file in archive.files():
            if not file.error:
                scores, expected = archive.tags(file).scores, rows[file.path]["scores"]
                np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-6)

"""A full or read-only disk: an error in one line, and no incomplete file.

The disks are small file systems in memory. Only root can mount them; the tests are
skipped for other users.
"""

import pathlib
import resource
import signal
import subprocess

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from helpers import SMALL_HPARAMS, run_main

from tagger.errors import UserError
from tagger.runs import checkpoint_files, checkpoints
from tagger.runs.run import Run
from tools.make_dataset import dataset, sources

MEBIBYTE = 2**20


@pytest.fixture
def mount(tmp_path):
    """A function that mounts an empty file system with some options."""
    mounted = []

    def mount_tmpfs(options: str) -> pathlib.Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no permission to mount a file system")
        mounted.append(folder)
        return folder

    yield mount_tmpfs
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def last_line(capsys) -> str:
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors.splitlines()[-1]


def test_training_on_a_disk_that_fills_keeps_the_checkpoints_there(
    dataset, mount, capsys
):
    run = mount("size=32m") / "run"  # Room for two checkpoints of 13 MB.
    flags = dict(hparams=SMALL_HPARAMS + ",opt=sgd", checkpoint_steps=1, max_steps=9)
    assert run_main(dataset.train_flags(run, **flags)) == 1
    line = last_line(capsys)
    assert line.startswith(f"error: cannot write checkpoint model.ckpt-2 in {run}: ")
    assert "space" in line
    prefixes = Run(run).checkpoints()
    assert [checkpoint_files.checkpoint_step(p) for p in prefixes] == [0, 1]
    assert not list(run.glob(checkpoints.SAVING_PREFIX + "*"))
    assert len(checkpoints.shapes(prefixes[-1])) == 138
    assert run_main(dataset.train_flags(run, **flags | {"max_steps": 1})) == 0
    assert "already at step 1" in last_line(capsys)


def fill(disk: pathlib.Path, leave: int) -> None:
    """Fills a disk, except for some bytes."""
    (disk / "filler").write_bytes(bytes(MEBIBYTE - leave))


def test_evaluation_on_a_full_disk(dataset, trained, mount, capsys):
    disk = mount(f"size={MEBIBYTE}")
    eval_dir = disk / "eval"
    eval_dir.mkdir()
    fill(disk, 4096)
    assert run_main(dataset.eval_flags(trained, eval_dir)) == 1
    line = last_line(capsys)
    assert line.startswith("error: ")
    assert "space" in line
    assert str(eval_dir) in line
    assert not list(eval_dir.glob("eval-*.txt"))
    (disk / "filler").unlink()
    assert run_main(dataset.eval_flags(trained, eval_dir)) == 0
    assert len(list(eval_dir.glob("eval-*.txt"))) == 2


def test_inference_on_a_full_disk(dataset, trained, mount, capsys):
    disk = mount(f"size={MEBIBYTE}")
    fill(disk, 0)
    csv_path = disk / "submission.csv"
    assert run_main(dataset.inference_flags(trained, csv_path)) == 1
    line = last_line(capsys)
    assert line.startswith(f"error: cannot write {csv_path}: ")
    assert "space" in line
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_read_only_folders_name_their_flags(dataset, trained, mount, capsys):
    disk = mount("ro")
    for flags, flag in (
        (dataset.train_flags(disk / "run"), "--train_dir"),
        (dataset.train_flags(disk), "--train_dir"),
        (dataset.eval_flags(trained, disk / "eval"), "--eval_dir"),
        (dataset.eval_flags(trained, disk), "--eval_dir"),
        (dataset.inference_flags(trained, disk / "a.csv"), "--predictions_csv_path"),
    ):
        assert run_main(flags) == 1
        assert last_line(capsys).startswith(f"error: {flag}: ")


@pytest.fixture
def small_files():
    """Writes of more than 100 kB fail, as on a full disk, but without a mount."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_a_failed_write_keeps_the_earlier_checkpoints(tmp_path, small_files):
    small, large = (
        {"x": tf.Variable(np.ones(size)), "global_step": tf.Variable(0)}
        for size in (1000, 50000)
    )
    Run(tmp_path).save(small, 1)
    with pytest.raises(UserError, match=r"cannot write checkpoint model\.ckpt-2"):
        Run(tmp_path).save(large, 2)
    assert [p.name for p in tmp_path.iterdir() if "2" in p.name] == []
    checkpoints.restore(Run.find(tmp_path, "--flag").prefix, small)


def test_a_data_set_on_a_full_disk(tmp_path, small_files, capfd):
    for name, size in (("long", 300000), ("short", 30000)):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        samples = np.resize([0.1, -0.1], size)  # FLAC needs few bytes.
        soundfile.write(tmp_path / "sounds" / name / "a.flac", samples, 44100)
    out = tmp_path / "out"
    found = sources.find_recordings(str(tmp_path / "sounds"))
    with pytest.raises(UserError, match=f"cannot write {out}/audio/long__a.flac.wav: "):
        dataset.make_dataset(found, out, clip_seconds=100, skip=False)
    assert capfd.readouterr().err == ""
    names = [path.name for path in (out / "audio").iterdir()]
    assert names in ([], ["short__a.flac.wav"])
    assert not (out / "clips.csv").exists()

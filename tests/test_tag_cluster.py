"""Tagging with Ray: which recordings are tagged, what is stored, and the archive."""

import json
import os
import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from helpers import write_wav

from recordings.archive import Archive, Settings, file_status
from recordings.thresholds import Rule
from tagger.errors import UserError
from tagger.hparams import Hparams
from tools.tag import scoring
from tools.tag_cluster import __main__ as tag_cluster
from tools.tag_cluster import parts, sources
from tools.tag_cluster.worker import Worker


def test_paths_are_of_a_list_or_a_folder(tmp_path):
    for name in ("b.wav", "a.wav"):
        write_wav(tmp_path / name, np.zeros(9, np.int16))
    paths = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    assert sources.find_paths(str(tmp_path)) == paths
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*reversed(paths), "", paths[1]]))
    assert sources.find_paths(str(listed)) == [*reversed(paths)]
    for text in ("\n", None):
        listed.write_text(text) if text else listed.unlink()
        with pytest.raises(UserError, match="there is no path in it"):
            sources.find_paths(str(listed))
    write_wav(tmp_path / os.fsdecode(b"\xff.wav"), np.zeros(9, np.int16))
    with pytest.raises(UserError, match=r"/\?.wav: rename it; .* not in UTF-8"):
        sources.find_paths(str(tmp_path))


@pytest.fixture
def remote(tmp_path):
    """A folder as a URI of PyArrow's local file system: a recording, other files."""
    pytest.importorskip("pyarrow")
    folder = tmp_path / "50% #1"
    (folder / ".hidden").mkdir(parents=True)
    samples = 3000 * np.random.default_rng(0).normal(size=44100)
    for name in ("a b?.wav", ".hidden/b.wav"):
        write_wav(folder / name, samples)
    for name in ("c.FLAC", "notes.txt"):
        (folder / name).write_text("no recording")
    return folder


def test_paths_are_of_a_remote_folder_file_or_list(remote, tmp_path, capsys):
    uri = remote.as_uri()
    found = [f"{uri}/a%20b%3F.wav", f"{uri}/c.FLAC"]
    assert sources.find_paths(uri) == sources.find_paths(f"{uri}/") == found
    assert "1 other file ignored" in capsys.readouterr().err
    assert sources.find_paths(found[0]) == found[:1]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*found, "x://y", "/z.wav"]))
    for argument in (str(listed), listed.as_uri()):
        assert sources.find_paths(argument) == [*found, "x://y", "/z.wav"]
    for argument in ("x://y", f"{uri}/none", f"{uri}/none.txt"):
        with pytest.raises(UserError, match=f"^{argument}: "):
            sources.find_paths(argument)
    listed.write_text("s3://key:secret@bucket/a.wav")
    with pytest.raises(UserError, match="^s3://bucket/a.wav: .*password"):
        sources.find_paths(str(listed))
    for name in ("recordings", "list.txt"):
        with pytest.raises(UserError, match=f"^s3://bucket/{name}: .*password"):
            sources.find_paths(f"s3://key:secret@bucket/{name}")


def test_a_remote_file_is_copied_while_it_is_read(remote):
    path = remote / "a b?.wav"
    uri = path.as_uri()
    assert sources.file_status(uri) == file_status(path)
    with pytest.raises(UserError) as raised, sources.local_copy(uri) as name:
        copy = pathlib.Path(name)
        assert copy.suffix == ".wav" and copy.read_bytes() == path.read_bytes()
        raise UserError(f"{name}: is bad")
    assert str(raised.value) == f"{uri}: is bad"
    assert not copy.exists()
    assert sources.file_status((remote / "none").as_uri()) == (None, None)


def test_a_worker_writes_rows_of_local_and_remote_files(
    remote, trained, tmp_path, monkeypatch
):
    # TensorFlow has started in this process.
    monkeypatch.setattr(
        tf.config.threading, "set_intra_op_parallelism_threads", lambda number: None
    )
    monkeypatch.setattr(scoring, "SCORED_AT_ONCE", 1)
    out = tmp_path / "out"
    worker = Worker(str(trained), str(out), Rule(0.3), False, 1)
    names = ("a b?.wav", "c.FLAC", "none.wav")
    uris = [(remote / name).as_uri() for name in names]
    batch = {"path": np.array([str(remote / names[0]), *uris, "x://y"])}
    (problem,) = worker(batch)["problem"]
    assert problem.startswith(f"cannot write {out}/part-")
    out.mkdir()
    report = worker(batch)
    assert report["file"] == list(batch["path"])
    assert not any(report["problem"])
    local, *rows = parts.read_parts(out, parts.schema().names)
    for name in ("bytes", "modified", "seconds", "doubt", "error", "detections"):
        assert rows[0][name] == local[name]
    for name in parts.ARRAYS:
        np.testing.assert_array_equal(rows[0][name], local[name])
    for row, path, text in zip(
        rows[1:], batch["path"][2:], ("cannot decode", "no such file", "x"), strict=True
    ):
        assert row["error"].startswith(f"{path}: ") and text in row["error"]
        assert f"{tempfile.gettempdir()}/tmp" not in row["error"]
    assert [row["bytes"] is None for row in rows] == [False, False, True, True]


def test_the_results_of_workers_are_printed(capsys):
    row = dict(file="a", seconds=2.5, doubt="is silent", error=None, problem=None)
    failed = row | {"seconds": None, "doubt": "", "error": "b: is empty"}
    with pytest.raises(UserError, match="^disk\nfull$"):
        stopped = dict.fromkeys(row) | {"problem": "disk\nfull"}
        tag_cluster.print_results([row, failed, stopped], 1, 9)
    out, err = capsys.readouterr()
    assert out == "file 2 of 9: a (2.5 s)\n"
    assert err == "note: a: is silent\nerror: b: is empty\n"


def test_a_worker_needs_no_more_than_a_machine_has():
    tag_cluster.check_machines([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 2.0}], 4, 0.5)
    with pytest.raises(UserError, match="--gpus is 0.5, .* machines: 8 and 0$"):
        tag_cluster.check_machines([{"CPU": 8.0}], 4, 0.5)
    with pytest.raises(UserError, match="--cpus is 4 .* machines: 0 and 1, 2 and 0$"):
        tag_cluster.check_machines([{"CPU": 2.0}, {"GPU": 1.0}], 4, 0.5)
    with pytest.raises(UserError, match="CPUs and GPUs"):
        tag_cluster.check_machines([{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}], 4, 0.5)


def test_detections_of_a_folder_have_the_same_thresholds(tmp_path):
    by_class = Rule(*np.array([[0.1, 0.7], [0, 0.5], [1.2, 0], [1, 1]]))
    for rule in (Rule(0.3), by_class):
        values = json.loads(json.dumps({"rule": tag_cluster.stored_rule(rule)}))
        tag_cluster.check_rule(rule, values, tmp_path)
        for other in (Rule(0.4), rule._replace(mean_seconds=0.5)):
            with pytest.raises(UserError, match="^--threshold.*other thresholds"):
                tag_cluster.check_rule(other, values, tmp_path)


def write_part(out, rows):
    """Writes a Parquet file, as a worker does."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(rows, parts.schema())
    parts.write_part(out / "part-1.parquet", table)


def test_results_of_changed_files_are_not_taken(tmp_path, capsys):
    rng, rows = np.random.default_rng(0), []
    for name in ("a", "b", "bad"):
        path = write_wav(tmp_path / f"{name}.wav", np.zeros(9, np.int16))
        size, modified = file_status(path)
        row = {"file": str(path), "bytes": size, "modified": modified, "error": ""}
        scores, embeddings = (rng.random([3, n], np.float32) for n in (2, 4))
        row |= {"seconds": 1.5, "doubt": "silent", "detections": []}
        rows.append(row | {"scores": [*scores], "embeddings": [*embeddings]})
    failed = dict.fromkeys(("seconds", "detections", "scores", "embeddings"))
    rows[2] |= failed | {"error": "cannot decode"}
    write_part(tmp_path, rows)
    read = list(parts.read_parts(tmp_path, ["file", "scores", "embeddings"]))
    assert [row["file"] for row in read] == [row["file"] for row in rows]
    np.testing.assert_array_equal(read[1]["scores"], rows[1]["scores"])
    np.testing.assert_array_equal(read[1]["embeddings"], rows[1]["embeddings"])
    assert read[2]["scores"] is None
    paths = [row["file"] for row in rows]
    done = parts.read_statuses(tmp_path)
    assert parts.find_pending([*paths, "new"], done, tmp_path) == ["new"]
    write_wav(tmp_path / "a.wav", np.zeros(10, np.int16))
    with pytest.raises(UserError, match=f"1 file changed .*{paths[0]}; use a new"):
        parts.find_pending(paths, done, tmp_path)
    assert parts.find_pending(paths[1:], done, tmp_path) == []
    base = str(tmp_path / "a.db")
    settings = Settings("model.ckpt-1", 1, ["A", "B"], Hparams(), False)
    tag_cluster.add_to_archive(tmp_path, base, settings)
    assert "1 file changed since" in capsys.readouterr().err
    with Archive(base) as archive:
        assert [file[1:] for file in archive.files()] == [
            (paths[1], 1.5, "silent", ""),
            (paths[2], None, "", "cannot decode"),
        ]
        found = archive.tags(archive.find(paths[1])).scores
        np.testing.assert_allclose(found, rows[1]["scores"], atol=1e-3)


def test_a_file_that_was_not_read_is_tagged_again(tmp_path):
    rows = [
        {"file": "bad", "bytes": 1, "modified": 2, "error": "cannot decode"},
        {"file": "missing", "error": "no such file"},
    ]
    write_part(tmp_path, rows)
    done = parts.read_statuses(tmp_path)
    assert parts.find_pending(["missing"], done, tmp_path) == ["missing"]
    parts.delete_rows(tmp_path, ["missing"])
    assert list(parts.read_statuses(tmp_path)) == ["bad"]


def test_a_damaged_part_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "part-1.parquet").write_bytes(b"damaged")
    with pytest.raises(UserError, match="part-1.parquet: "):
        list(parts.read_parts(tmp_path, ["file"]))

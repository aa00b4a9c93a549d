"""Tagging with Ray: which recordings are tagged, what is stored, and the archive."""

import json
import os

import numpy as np
import pytest
from helpers import write_wav

from recordings.archive import Archive, Settings, file_status
from recordings.thresholds import Rule
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.terminal.files import atomic
from tools.tag_cluster import __main__ as tag_cluster
from tools.tag_cluster import parts, sources


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
    from pyarrow import parquet

    with atomic(out / "part-1.parquet") as file:
        table = pyarrow.Table.from_pylist(rows, parts.schema())
        parquet.write_table(table, file)


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
    assert parts.find_pending([*paths, "new"], tmp_path) == ["new"]
    write_wav(tmp_path / "a.wav", np.zeros(10, np.int16))
    with pytest.raises(UserError, match=f"1 file changed .*{paths[0]}; use a new"):
        parts.find_pending(paths, tmp_path)
    assert parts.find_pending(paths[1:], tmp_path) == []
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


def test_a_damaged_part_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "part-1.parquet").write_bytes(b"damaged")
    with pytest.raises(UserError, match="part-1.parquet: "):
        list(parts.read_parts(tmp_path, ["file"]))

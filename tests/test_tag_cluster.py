"""Tagging with Ray: which recordings are tagged."""

import numpy as np
import pytest
from helpers import write_wav

from tagger.errors import UserError
from tools import tag_cluster


def test_paths_are_of_a_list_or_a_folder(tmp_path):
    for name in ("b.wav", "a.wav"):
        write_wav(tmp_path / name, np.zeros(9, np.int16))
    paths = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    assert tag_cluster.find_paths(str(tmp_path)) == paths
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*reversed(paths), "", paths[1]]))
    assert tag_cluster.find_paths(str(listed)) == [*reversed(paths)]
    for text in ("\n", None):
        listed.write_text(text) if text else listed.unlink()
        with pytest.raises(UserError, match="there is no path in it"):
            tag_cluster.find_paths(str(listed))

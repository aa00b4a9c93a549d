"""A tf.data service that cannot start."""

import socket

import pytest

from tagger.errors import UserError
from tools.data_service import start_server


def test_a_dispatcher_that_cannot_start_says_why(tmp_path):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}"):
            start_server("dispatcher", port=port)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a directory"):
        start_server("dispatcher", port=0, work_dir=str(tmp_path / "file" / "x"))

"""How programs report errors."""

import gc
import io
import os
import re
import sys
import tomllib

import pytest
import tensorflow as tf
import tqdm
from helpers import ROOT, table_of_page

from tagger.errors import UserError
from tagger.terminal import program


def reason_of(function, *arguments) -> str:
    with pytest.raises(tf.errors.OpError) as error:
        function(*arguments)
    return program.tensorflow_reason(error.value)


def test_the_reason_of_an_error_in_a_graph():
    @tf.function(autograph=False)
    def check(value):
        with tf.control_dependencies([tf.debugging.Assert(value > 9, ["too low"])]):
            return tf.identity(value)

    assert reason_of(check, tf.constant(1)) == "assertion failed: [too low]"


def test_the_reason_of_an_error_in_a_pipeline(tmp_path):
    path = str(tmp_path / "gone")
    dataset = tf.data.Dataset.range(1).map(lambda _: tf.io.read_file(path)).prefetch(1)
    assert reason_of(lambda: list(dataset)).startswith(f"{path}; No such file")


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (UserError("one"), "error: one\n"),
        (UserError("a\nb", "two"), "error: a b\nerror: two\n"),
    ],
)
def test_errors_are_lines_on_stderr(error, printed, capsys):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as exit:
        program.run(main, ["program"])
    assert exit.value.code == 1
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize("error", [ValueError("deep"), OSError(), AssertionError()])
def test_a_bug_keeps_its_traceback(error, capsys):
    def main(argv):
        raise error

    with pytest.raises(type(error)) as raised:
        program.run(main, ["program"])
    sys.excepthook(raised.type, raised.value, raised.tb)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-2].startswith(type(error).__name__)
    assert "report" in lines[-1]


@pytest.mark.parametrize("encoding", [None, "ascii"])
def test_any_text_can_be_printed(monkeypatch, encoding):
    contents = io.BytesIO()
    stdout = encoding and io.TextIOWrapper(contents, encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as exit:
        program.run(lambda argv: print("\u00fc \udcff", flush=True), ["program"])
    assert not exit.value.code
    assert contents.getvalue() == (b"? ?\n" if encoding else b"")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_control_characters_of_names_are_escaped(monkeypatch, capfd, name):
    monkeypatch.setattr(sys, name, getattr(sys, f"__{name}__"))

    def main(argv):
        stream = getattr(sys, name)
        tqdm.tqdm.write("a\x1b[2J\x9b\u202e\rb\té\n\nc", file=stream)
        bar = tqdm.tqdm(total=2, file=stream, mininterval=0, ascii=True)
        bar.update()
        bar.close()

    with pytest.raises(SystemExit):
        program.run(main, ["program"])
    text, *bars = getattr(capfd.readouterr(), name[3:]).split("\r")
    assert text == "a\\x1b[2J\\x9b\\u202e\\rb\té\n\nc\n"
    assert [bar[:5] for bar in bars] == ["  0%|", " 50%|", " 50%|"]


@pytest.mark.parametrize("lossy", [True, False])
def test_a_full_pipe_that_does_not_block(lossy):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    output = program._Output(writer, lossy=lossy)
    text = bytes(2**20)
    assert output.write(text) < len(text)
    assert output.write(text) == (len(text) if lossy else None)
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_a_flagfile_that_is_not_text_is_named(tmp_path):
    (tmp_path / "flags").write_bytes(b"\xff")
    with pytest.raises(SystemExit, match="--flagfile"):
        program.run(lambda argv: 0, ["program", f"--flagfile={tmp_path / 'flags'}"])


def test_a_flagfile_that_is_missing_is_named(tmp_path):
    path = tmp_path / "none"
    with pytest.raises(SystemExit, match=f"^error: --flagfile: [^:]*: '{path}'$"):
        program.run(lambda argv: 0, ["program", f"--flagfile={path}"])


def test_gpus_that_the_driver_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program.list_gpus() == ""
    script = tmp_path / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\n"
        "echo 'GPU 0: NVIDIA T4 (UUID: GPU-a)'\n"
        "echo 'GPU 1: NVIDIA L4 (UUID: GPU-b)'\n"
    )
    script.chmod(0o755)
    assert program.list_gpus() == "GPU 0: NVIDIA T4, GPU 1: NVIDIA L4"
    script.write_text("#!/bin/sh\necho 'driver not loaded'; exit 9\n")
    assert program.list_gpus() == ""


def test_a_gpu_that_tensorflow_does_not_use_gives_a_warning(monkeypatch, capsys):
    monkeypatch.setattr(program, "list_gpus", lambda: "GPU 0: NVIDIA T4")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program.start_tensorflow()
    (line,) = capsys.readouterr().err.splitlines()
    assert "GPU 0: NVIDIA T4" in line
    assert "pip install -r requirements-gpu.txt" in line
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    program.start_tensorflow()
    assert not capsys.readouterr().err


def test_garbage_is_collected_after_the_start():
    program.start_tensorflow()
    frozen = gc.get_freeze_count()
    assert gc.isenabled()
    program.start_tensorflow()
    assert gc.get_freeze_count() <= frozen > 0


@pytest.mark.parametrize(
    ("version", "supported"),
    [((3, 10, 9), False), ((3, 11, 0), True), ((3, 13, 9), True), ((3, 14, 0), True)],
)
def test_other_versions_of_python_give_a_warning(
    monkeypatch, capsys, version, supported
):
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit):
        program.run(lambda argv: 0, ["program"])
    assert ("Python 3.11 to 3.13" in capsys.readouterr().err) == (not supported)


def test_the_supported_versions_of_python_are_the_same_everywhere():
    oldest, newest = (
        "{}.{}".format(*version)
        for version in (program.OLDEST_PYTHON, program.NEWEST_PYTHON)
    )
    for name in ("Makefile", "README.md", "requirements.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        ranges = re.findall(r"Python (3\.\d+) to (3\.\d+)", text)
        assert set(ranges) == {(oldest, newest)}, name
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    major, minor = program.NEWEST_PYTHON
    condition = f"{program.OLDEST_PYTHON} <= sys.version_info < {(major, minor + 1)}"
    assert condition in makefile
    assert f"--python-version {oldest} " in makefile
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["pyright"]["pythonVersion"] == oldest
    target = project["tool"]["ruff"]["target-version"]
    assert target == f"py{oldest.replace('.', '')}"
    matrix = (ROOT / "tests" / "matrix.sh").read_text(encoding="utf-8")
    tested = re.findall(r"^(3\.\d+) (\S+) (\S+)", matrix, re.MULTILINE)
    assert (tested[0][0], tested[-1][0]) == (oldest, newest)
    rows = table_of_page("docs/reference.md", "Versions")
    assert [tuple(row[:3]) for row in rows] == tested

"""How programs report errors."""

import pytest
import tensorflow as tf

from tagger import program


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
        (ValueError("one\ntwo"), "error: one\nerror: two\n"),
        (OSError(), "error: OSError()\n"),
        (FloatingPointError("nan"), "error: nan\n"),
    ],
)
def test_errors_are_lines_on_stderr(error, printed, capsys):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as exit:
        program.run(main, ["program"])
    assert exit.value.code == 1
    assert capsys.readouterr().err == printed


def test_a_flagfile_that_is_not_text_is_named(tmp_path, capsys):
    (tmp_path / "flags").write_bytes(b"\xff")
    with pytest.raises(SystemExit, match="--flagfile"):
        program.run(lambda argv: 0, ["program", f"--flagfile={tmp_path / 'flags'}"])


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

"""Programs as users start them: start-up time, signals, recipes, a benchmark."""

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from helpers import (
    PROGRAM_ENVIRONMENT,
    ROOT,
    SMALL_HPARAMS,
    program_command,
    run_program,
)
from processes import (
    HANG_SECONDS,
    SMALL_RUNNER,
    copy_code,
    forking_python,
    run_forked,
)

import runner
from tagger.terminal import signals

# What TensorFlow 2.16 to 2.21 write at the start, and three lines that users need.
LINES = b"""\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795992956.370739    8233 port.cc:153] oneDNN custom operations are on.
2026-11-29 22:47:24.123456: I tensorflow/core/util/port.cc:113] oneDNN is on.
To enable the following instructions: AVX2 FMA, rebuild TensorFlow.
E0000 00:00:1795992963.389449    8233 cuda_platform.cc:52] failed call to cuInit: 303
2026-11-29 22:47:24.1: E cuda_fft.cc:485] Unable to register cuFFT factory: again
2026-11-29 22:47:24.1: W py_utils.cc:38] TF-TRT Warning: Could not find TensorRT
W0000 00:00:1795992963.389449 8 computation_placer.cc:177] computation placer already \
registered.
E0000 00:00:1795992963.389449    8233 cuda_dnn.cc:10] Could not load cuDNN
W0000 00:00:1795992963.389449    8233 gpu_device.cc:2342] Cannot dlopen some libraries
a warning of Python
"""


@pytest.mark.parametrize("arguments", ["--help", "--mode=train"])
def test_help_and_wrong_flags_are_fast_without_tensorflow(arguments):
    code = f"""
import sys, runner
from tagger.terminal import program
try:
    program.run(runner.main, ["runner.py", {arguments!r}])
finally:
    assert not {{"tensorflow", "keras", "inputs"}} & set(sys.modules)
"""
    seconds = []
    for _ in range(3):  # The fastest counts, because others may use the machine.
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        seconds.append(time.monotonic() - started)
        assert done.returncode == 1
        assert "AssertionError" not in done.stderr
    assert min(seconds) < 2


def test_help_lists_every_flag():
    done = run_program("runner.py", "--help", capture_output=True, text=True)
    listed = re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, re.MULTILINE)
    flags = runner.FLAGS.get_key_flags_for_module("runner")
    assert sorted(listed) == sorted(flag.name for flag in flags)


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_program_exits_at_once_with_the_status_of_shells(tmp_path, number):
    program = tmp_path / "program.py"
    program.write_text(
        "import signal\nfrom tagger.terminal import signals\n"
        f"with signals.handler(signals.exit_now): signal.raise_signal({int(number)})\n"
    )
    done = run_program(program, capture_output=True, text=True)
    assert done.returncode == 128 + number
    assert done.stderr == f"stopped by {number.name}\n"


def test_the_recipe_ends_only_after_the_checkpoint_is_saved(tmp_path):
    """As with `timeout`, which sends SIGTERM to all processes of the recipe.

    This recipe calls that of the published baseline.
    """
    recipe = ROOT / "recipes" / "modern.sh"
    with subprocess.Popen(
        ["timeout", "1h", recipe, "--smoke", tmp_path, "--checkpoint_steps=999"],
        env=os.environ | {"PYTHON": forking_python()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("step 1:"):
                process.terminate()
                break
        status = process.wait(HANG_SECONDS)
        saved = {path.name for path in (tmp_path / "noisy").glob("*.index")}
        output = process.stdout.read()
    assert status == signals.exit_status(signal.SIGTERM)
    (step,) = re.findall(r"stopped by SIGTERM at step (\d)", output)
    assert saved == {"model.ckpt-0.index", f"model.ckpt-{step}.index"}
    assert not (tmp_path / "curated").exists()


def test_the_recipe_for_own_sounds_runs(tmp_path):
    """All recordings are symbolic links, or in a folder that is one."""
    rng = np.random.default_rng(0)
    for label in ("Noise", "Hum"):
        (tmp_path / "store" / label).mkdir(parents=True)
        for number in range(6):
            samples = rng.uniform(-0.5, 0.5, 48000)
            if label == "Hum":
                samples = np.sin(np.arange(48000) * rng.uniform(0.01, 0.02))
            path = tmp_path / "store" / label / f"{number}.flac"
            soundfile.write(path, samples, 48000)
    (tmp_path / "sounds" / "Hum").mkdir(parents=True)
    (tmp_path / "sounds" / "Hum" / "0 notes.txt").write_text("text")
    (tmp_path / "sounds" / "Hum" / "loop").symlink_to(tmp_path / "sounds")
    for path in (tmp_path / "store" / "Hum").iterdir():
        (tmp_path / "sounds" / "Hum" / path.name).symlink_to(path)
    (tmp_path / "sounds" / "Noise").symlink_to(tmp_path / "store" / "Noise")
    recipe = copy_code(tmp_path / "code") / "recipes" / "own_sounds.sh"
    done = subprocess.run(
        [recipe, tmp_path / "sounds", tmp_path / "out"],
        env=os.environ | {"PYTHON": forking_python(), "STEPS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    best = rf"^best of {tmp_path}/out/run/eval: step [02], overall lwlrap [01]\.\d+$"
    assert re.search(best, done.stderr, re.M)
    assert (tmp_path / "out" / "run" / "eval" / "report.html").exists()
    assert "sounds/Hum/0.flac (1.0 s)" in done.stdout


def test_the_recipe_for_a_detector_runs(tmp_path):
    """Tones of 1 s in noise, every 2.5 s, with a label track for each recording."""
    rng = np.random.default_rng(0)
    field, rate = tmp_path / "field notes", 22050
    (field / "quiet").mkdir(parents=True)
    times = np.arange(15 * rate) / rate
    is_tone = times % 2.5 >= 1.5
    for name in ("a", "b", "quiet/c"):
        tone = np.sin(2 * np.pi * 440 * times) * (is_tone & (name != "quiet/c"))
        noise = rng.normal(0, 0.01, times.size)
        soundfile.write(field / f"{name}.flac", noise + 0.3 * tone, rate)
    lines = [f"{start}\t{start + 1}\tTone\n" for start in np.arange(1.5, 15, 2.5)]
    for name in "ab":
        (field / f"{name}.txt").write_text("".join(lines))
    recipe = copy_code(tmp_path / "code") / "recipes" / "detector.sh"
    out = tmp_path / "out"
    done = subprocess.run(
        [recipe, field, field, out, "--background", field / "quiet"],
        env=os.environ
        | {"PYTHON": forking_python(), "STEPS": "2", "CLIP_SECONDS": "5"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^best of {out}/run/eval: step 0", done.stderr, re.M)
    assert re.search(r"^Tone +12 ", done.stdout, re.M)
    assert (out / "thresholds.csv").read_text().startswith("class,threshold,gap_")
    assert (out / "labels" / "a.flac.txt").exists()
    assert "field notes/a.flac (15.0 s)" in done.stdout
    with (out / "detections.csv").open() as file:
        assert file.readline() == "file,start,end,class,score\n"


@pytest.mark.parametrize("streams", ["2>&1 | head -n 1", ">/dev/full 2>&-"])
def test_a_training_survives_its_output(dataset, tmp_path, streams):
    flags = dataset.train_flags(
        tmp_path / "run", hparams=SMALL_HPARAMS, max_steps=3, seed=1
    )
    command = shlex.join(program_command(SMALL_RUNNER, *flags))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} {streams}"],
        env=PROGRAM_ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "model.ckpt-3.index").exists()


def test_help_that_is_not_read_to_its_end_has_no_traceback():
    command = shlex.join(program_command("runner.py", "--help"))
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1"], capture_output=True, text=True
    )
    assert done.stdout.startswith("Trains")
    assert not done.stderr


def test_a_result_that_cannot_be_written_to_stdout_is_an_error():
    with open("/dev/full", "w") as full:
        done = run_program(
            "make_class_map.py",
            input=b"fname,labels\na.wav,Bark\n",
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 1
    assert re.fullmatch(rb"error: .*No space left.*\n", done.stderr)


@pytest.mark.parametrize(("level", "hidden"), [("1", True), ("0", False)])
def test_routine_lines_of_tensorflow_are_hidden(tmp_path, level, hidden):
    """Lines that a stand-in for TensorFlow writes, before and after its import."""
    (tmp_path / "tensorflow.py").write_text(f"import os\nos.write(2, {LINES!r})\n")
    code = (
        "import os\n"
        "from tagger.terminal import program\n"
        "with program.without_routine_lines():\n"
        "    import tensorflow\n"
        "os.write(2, b'I0000 later')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "PATH": str(tmp_path),
            "TF_CPP_MIN_LOG_LEVEL": level,
        },
        capture_output=True,
    )
    shown = LINES.splitlines(keepends=True)[-3:] if hidden else [LINES]
    assert done.stderr == b"".join([*shown, b"I0000 later"])
    assert done.returncode == 0


def test_an_error_of_tensorflow_that_ends_the_process_is_shown(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'F0000 needs AVX\\n')\nos.abort()\n"
    )
    code = "from tagger.terminal import program; program.start_tensorflow()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGABRT
    assert done.stderr == b"F0000 needs AVX\n"


def test_a_program_writes_only_its_own_lines(dataset, tmp_path):
    flags = dataset.train_flags(tmp_path / "run", hparams=SMALL_HPARAMS, max_steps=1)
    done = run_program(SMALL_RUNNER, *flags, capture_output=True, text=True)
    assert done.returncode == 0
    assert not re.search(r"^[IWE]\d{4} |absl|oneDNN|cuInit", done.stderr, re.M)
    assert done.stderr.startswith(f"TensorFlow {tf.__version__}, Python")


def test_the_tables_of_learning_are_those_of_the_benchmark(tmp_path):
    docs = ROOT / "docs"
    shutil.copy(docs / "learning.csv", tmp_path)
    lines = (docs / "learning.md").read_text().splitlines()
    rows = {line for line in lines if line.startswith(("| clean", "| noisy"))}
    assert len(rows) > 10
    for reference in ("default", "modern"):
        flags = ["--data=none", "--options=", f"--reference={reference}"]
        command = ["benchmarks/learning.py", tmp_path, *flags]
        done = run_forked(*command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows -= set(done.stdout.splitlines())
    assert not rows


def test_the_table_of_starts_is_that_of_the_benchmark(tmp_path):
    docs = ROOT / "docs"
    shutil.copy(docs / "transfer.csv", tmp_path)
    flags = ["--data=none", "--folds=", "--starts="]
    command = ["benchmarks/transfer.py", tmp_path, *flags]
    done = run_forked(*command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = "\n".join(done.stdout.splitlines())
    assert table.count("\n") > 8
    assert table in (docs / "learning.md").read_text()


def test_the_table_of_detectors_is_that_of_the_benchmark(tmp_path):
    docs = ROOT / "docs"
    shutil.copy(docs / "detector.csv", tmp_path)
    with (docs / "detector.csv").open() as file:
        fields, ways, *_ = zip(*list(csv.reader(file))[1:])
    flags = [f"--fields={','.join(sorted(set(fields)))}", f"--ways={','.join(ways)}"]
    command = ["benchmarks/detector.py", tmp_path, *flags, "--yamnet=none"]
    done = run_forked(*command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = "\n".join(done.stdout.splitlines())
    assert table.count("\n") > 10
    assert table in (docs / "detecting.md").read_text().replace("±", "+-")

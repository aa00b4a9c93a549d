"""Packing and the Kaggle kernel as programs."""

import contextlib
import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import SMALL_HPARAMS, run_main, run_program, write_wav
from processes import copy_code, forking_python
from test_kaggle import kernel

PRIVATE_CLIPS = 3361  # of the private test set
# Runs a command without network, and with a folder that even root cannot write to.
SANDBOX = [
    *["unshare", "--map-root-user", "--net", "--mount", "sh", "-ec"],
    'mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; exec "$@"',
]


@pytest.fixture(scope="module", autouse=True)
def whole():
    """The network of this process has the first rows, as that of the kernel."""


def read_scores(path) -> tuple[list[str], dict[str, tuple[float, ...]]]:
    """The header of a CSV of scores, and the scores by name."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, {name: tuple(map(float, scores)) for name, *scores in rows}


def write_competition(folder, sources) -> dict[str, str]:
    """Writes test clips, links to a few files, and a sample that names one more.

    Returns:
      The name of the file of each clip, in the order of the sample.
    """
    rng = np.random.default_rng(0)
    good = [f"good{size}.wav" for size in (200, 2000, 5000, 13000)]
    bad = ["empty.wav", "text.wav", "cut.wav"]
    sources.mkdir()
    for name in good:
        write_wav(sources / name, 9000 * rng.normal(size=int(name[4:-4])))
    cut = (sources / good[-1]).read_bytes()[:999]
    for name, contents in zip(bad, (b"", b"not audio", cut)):
        (sources / name).write_bytes(contents)
    (folder / "test").mkdir(parents=True)
    files = {}
    for index, number in enumerate(rng.permutation(PRIVATE_CLIPS)):
        clip = f"{number:08x}.wav"
        files[clip] = good[index % 4] if index % 100 else bad[index // 100 % 3]
        (folder / "test" / clip).hardlink_to(sources / files[clip])
    lines = ["fname,Tone,Noise", *(f"{clip},0,0" for clip in [*files, "gone.wav"])]
    (folder / "sample_submission.csv").write_text("\n".join(lines))
    return files


def run_notebook(notebook, inputs, out) -> subprocess.CompletedProcess:
    """Runs the code of a notebook, in a sandbox if the machine permits it."""
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    program = notebook.with_name("cells.py")
    program.write_text("\n".join(code))
    sandbox = [*SANDBOX, str(inputs)]
    if subprocess.run([*sandbox, "true"], capture_output=True).returncode:
        sandbox = []
    return subprocess.run(
        [*sandbox, sys.executable, str(program)],
        cwd=out,
        env=os.environ | {kernel.INPUT_DIR_VARIABLE: str(inputs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_submission_of_as_many_clips_as_the_private_test_set(dataset, tmp_path):
    run, packed, out = (tmp_path / name for name in ("run", "packed", "out"))
    inputs, sources = (tmp_path / name for name in ("input", "sources"))
    # Without decay, the moving averages fit the clips, so that their scores differ.
    hparams = SMALL_HPARAMS.replace("bndecay=0.9", "bndecay=0")
    flags = dataset.train_flags(run, hparams=hparams, max_steps=2, checkpoint_steps=1)
    assert run_main(flags) == 0
    both = f"{run / 'model.ckpt-1'},{run}"
    done = subprocess.run(
        [
            *(forking_python(), "-m", "tools.pack_kernel", packed, "--owner=me"),
            f"--checkpoint={both}",
            f"--class_map_path={dataset.class_map_path}",
        ],
        cwd=copy_code(tmp_path / "code"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"kaggle datasets create -p {packed / 'dataset'} " in done.stdout
    assert f"kaggle kernels push -p {packed / 'kernel'}\n" in done.stdout

    files = write_competition(inputs / "competition", sources)
    (packed / "dataset").rename(inputs / "tagger")
    out.mkdir()
    done = run_notebook(packed / "kernel" / "kernel.ipynb", inputs, out)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    for clip, file in files.items():
        assert (clip in done.stdout) == (not file.startswith("good"))
    assert [path.name for path in out.iterdir()] == ["submission.csv"]
    header, submitted = read_scores(out / "submission.csv")
    assert header == ["fname", "Tone", "Noise"]
    assert list(submitted) == [*files, "gone.wav"]
    flags = dataset.inference_flags(both, tmp_path / "expected.csv", clip_dir=sources)
    assert run_main(flags) == 1
    _, expected = read_scores(tmp_path / "expected.csv")
    assert len(set(expected.values())) == 4 + 1  # The bad clips all have zeros.
    expected["gone.wav"] = (0.0, 0.0)
    for clip, scores in submitted.items():
        wanted = expected[files.get(clip, clip)]
        np.testing.assert_allclose(scores[::-1], wanted, atol=1e-6, err_msg=clip)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["OUT", "--checkpoint=a"], "--owner"),
        (["OUT", "--owner=me"], "--checkpoint"),
        (["OUT", "--owner=me", "--checkpoint=a", "--train"], "--train"),
        (["OUT", "--owner=me", "--train", "--hparams=bn=0"], "--hparams"),
        (["--checkpoint=a", "--owner=me"], "OUT"),
        (["OUT", "b", "--checkpoint=a", "--owner=me"], "OUT"),
    ],
)
def test_wrong_arguments_of_pack_are_named(tmp_path, arguments, message):
    arguments = [str(tmp_path / a) if a == "OUT" else a for a in arguments]
    done = run_program("tools.pack_kernel", *arguments, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


FAILS_ON_GPU = """
import os, pathlib, sys
if os.environ.get("CUDA_VISIBLE_DEVICES") == "-1":
    pathlib.Path(sys.argv[1]).touch()
sys.exit("CUDA error")
"""


@pytest.mark.parametrize("nvidia_smi", [None, "/bin/nvidia-smi"])
def test_scoring_that_fails_on_a_gpu_is_repeated_on_the_cpu(
    tmp_path, monkeypatch, capsys, nvidia_smi
):
    monkeypatch.setattr(kernel.shutil, "which", lambda name: nvidia_smi)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    predictions = tmp_path / "predictions.csv"
    command = [sys.executable, "-c", FAILS_ON_GPU, str(predictions)]
    fails = pytest.raises(SystemExit, match="exit status 1")
    with contextlib.nullcontext() if nvidia_smi else fails:
        kernel.score(command, predictions)
    assert capsys.readouterr().out.count("CUDA error") == (2 if nvidia_smi else 1)
    assert predictions.exists() == bool(nvidia_smi)

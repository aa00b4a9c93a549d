"""Packing and the Kaggle kernel as programs."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SMALL_HPARAMS, run_main, run_program, write_wav

PRIVATE_CLIPS = 3361  # of the private test set
# Runs a command without network, and with a folder that is read-only for root too.
SANDBOX = [
    *["unshare", "--map-root-user", "--net", "--mount", "sh", "-ec"],
    'mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; exec "$@"',
]


def run_kernel(program, inputs, folder) -> subprocess.CompletedProcess:
    """Runs a kernel in a folder, in a sandbox if the machine permits it."""
    sandbox = [*SANDBOX, str(inputs)]
    if subprocess.run([*sandbox, "true"], capture_output=True).returncode:
        sandbox = []
    return subprocess.run(
        [*sandbox, sys.executable, str(program)],
        cwd=folder,
        env=os.environ | {"TAGGER_INPUT_DIR": str(inputs)},
        capture_output=True,
        text=True,
    )


def read_scores(path) -> tuple[list[str], dict[str, tuple[float, ...]]]:
    """The header of a CSV of scores, and the scores by name."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, {name: tuple(map(float, scores)) for name, *scores in rows}


def test_a_submission_of_as_many_clips_as_the_private_test_set(dataset, tmp_path):
    """From packing to submission.csv, by the cells of the notebook."""
    run, packed, inputs, out = (
        tmp_path / name for name in ("run", "pack", "in", "out")
    )
    # Without decay, the moving averages fit the clips, so that their scores differ.
    hparams = SMALL_HPARAMS.replace("bndecay=0.9", "bndecay=0")
    flags = dataset.train_flags(run, hparams=hparams, max_steps=2, checkpoint_steps=1)
    assert run_main(flags) == 0
    both = f"{run / 'model.ckpt-1'},{run}"
    done = run_program(
        *("kaggle/pack.py", packed, "--owner=me", f"--checkpoint={both}"),
        f"--class_map_path={dataset.class_map_path}",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"kaggle datasets create -p {packed / 'dataset'} " in done.stdout
    assert f"kaggle kernels push -p {packed / 'kernel'}\n" in done.stdout

    sources, test = tmp_path / "sources", inputs / "competition" / "test"
    for folder in (sources, test, out):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for size in (200, 2000, 5000, 13000):
        write_wav(sources / f"{size}.wav", 9000 * rng.normal(size=size))
    cut = (sources / "5000.wav").read_bytes()[:999]
    bad = {"cut.wav": cut, "empty.wav": b"", "text.wav": b"not audio"}
    good = sorted(path.name for path in sources.iterdir())
    for name, contents in bad.items():
        (sources / name).write_bytes(contents)
    of = {}
    for index, number in enumerate(rng.permutation(PRIVATE_CLIPS)):
        clip = f"{number:08x}.wav"
        broken = index % 100 == 0
        of[clip] = [*bad][index // 100 % 3] if broken else good[index % 4]
        (test / clip).hardlink_to(sources / of[clip])
    lines = ["fname,Tone,Noise", *(f"{clip},0,0" for clip in [*of, "gone.wav"])]
    (test.parent / "sample_submission.csv").write_text("\n".join(lines))
    (packed / "dataset").rename(inputs / "tagger")
    notebook = json.loads((packed / "kernel" / "kernel.ipynb").read_text())
    program = tmp_path / "cells.py"
    cells = [c["source"] for c in notebook["cells"] if c["cell_type"] == "code"]
    program.write_text("\n".join("".join(source) for source in cells))

    done = run_kernel(program, inputs, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "34 clips" in done.stdout
    assert all(clip in done.stdout for clip, source in of.items() if source in bad)
    assert [path.name for path in out.iterdir()] == ["submission.csv"]
    header, submitted = read_scores(out / "submission.csv")
    assert header == ["fname", "Tone", "Noise"]
    assert list(submitted) == [*of, "gone.wav"]
    expected_csv = tmp_path / "expected.csv"
    flags = dataset.inference_flags(both, expected_csv, clip_dir=sources)
    assert run_main(flags) == 1
    _, expected = read_scores(expected_csv)
    assert len({expected[name] for name in good}) == len(good)
    for clip, scores in submitted.items():
        wanted = expected[of[clip]] if clip in of else (0.0, 0.0)
        np.testing.assert_allclose(scores[::-1], wanted, atol=1e-6, err_msg=clip)
        assert any(scores) == (of.get(clip) in good), clip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["OUT", "--checkpoint=a"], "--owner"),
        (["OUT", "--owner=me"], "--checkpoint"),
        (["--checkpoint=a", "--owner=me"], "OUT"),
        (["OUT", "b", "--checkpoint=a", "--owner=me"], "OUT"),
    ],
)
def test_wrong_arguments_of_pack_are_named(tmp_path, arguments, message):
    arguments = [str(tmp_path / a) if a == "OUT" else a for a in arguments]
    done = run_program("kaggle/pack.py", *arguments, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


FAILS_ON_GPU = """
import os, sys
flags = dict(argument.split("=", 1) for argument in sys.argv[1:])
if os.environ.get("CUDA_VISIBLE_DEVICES") == "-1":
    with open(flags["--predictions_csv_path"], "w") as file:
        file.write("fname,A\\na.wav,0.5\\n")
sys.exit("CUDA error")
"""


@pytest.mark.parametrize("gpus", [False, True])
def test_a_failure_on_a_gpu_is_repeated_on_the_cpu(tmp_path, monkeypatch, gpus):
    inputs, tools, out = (tmp_path / name for name in ("input", "tools", "out"))
    for folder in (inputs / "test", tools, out):
        folder.mkdir(parents=True)
    (inputs / "runner.py").write_text(FAILS_ON_GPU)
    (inputs / "class_map.csv").write_text("0,A\n")
    (inputs / "model.ckpt-1.index").touch()
    (inputs / "test" / "a.wav").touch()
    (tools / "nvidia-smi").write_text("#!/bin/sh\n")
    (tools / "nvidia-smi").chmod(0o755 if gpus else 0o644)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    done = run_kernel(ROOT / "kaggle" / "kernel.py", inputs, out)
    assert done.stdout.count("CUDA error") == 1 + gpus
    if gpus:
        assert done.returncode == 0, done.stderr
        assert (out / "submission.csv").read_text() == "fname,A\na.wav,0.5\n"
    else:
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert not any(out.iterdir())

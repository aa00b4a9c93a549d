"""The tools as programs: correct and wrong arguments, and --help."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import (
    PROGRAM_ENVIRONMENT,
    ROOT,
    program_command,
    run_program,
    table_of_page,
    write_wav,
)

TOOLS = {  # Each with the page and the section that list its flags, if any.
    "make_class_map.py": None,
    "tools.make_demo_data": None,
    "tools.make_dataset": ("docs/own-recordings.md", "Creating a data set"),
    "tools.make_validation_split": ("docs/usage.md", "Validation split"),
    "tools.find": ("docs/archive.md", "Finding sounds"),
    "tools.tag": ("docs/own-recordings.md", "Tagging"),
    "tools.report": ("docs/usage.md", "Error analysis by class and clip"),
    "tools.score": ("docs/usage.md", "Scoring predictions"),
    "tools.score_detections": ("docs/detecting.md", "Scoring detections"),
    "tools.tag_cluster": ("docs/distributed.md", "Tagging an archive"),
    "tools.import_yamnet": None,
    "tools.join_predictions": None,
    "tools.fit_last_layer": ("docs/own-recordings.md", "Solving the last layer"),
    "tools.export_model": ("docs/export.md", "Exporting a model"),
    "tools.data_service": ("docs/distributed.md", "Data service"),
}
FIT_FLAGS = (
    "--checkpoint=x --class_map_path=x --train_clip_dir=x --train_csv_path=x "
    "--train_dir=x"
)


def run(tool: str, *arguments: object, stdin: bytes = b"") -> bytes:
    done = run_program(tool, *arguments, input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_without_tensorflow(folder, tool: str, *arguments: str):
    """Runs a program for which importing TensorFlow is an error."""
    (folder / "tensorflow.py").write_text("raise ImportError('not needed here')\n")
    return subprocess.run(
        program_command(tool, *arguments),
        env=PROGRAM_ENVIRONMENT | {"PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("tool", TOOLS)
def test_help_lists_the_documented_flags(tool, tmp_path):
    done = run_without_tensorflow(tmp_path, tool, "--help")
    assert done.stderr == ""
    name = tool.removesuffix(".py").split(".")[-1]
    assert re.search(rf"python .*{name}", done.stdout)
    flags = set(re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, re.MULTILINE))
    rows = table_of_page(*TOOLS[tool]) if TOOLS[tool] else []
    assert flags == {row[0].strip("`-") for row in rows}


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("make_class_map.py --wrong", "wrong"),
        ("make_class_map.py clips.csv", "stdin"),
        ("make_class_map.py", "stdin:1"),
        ("tools.make_demo_data", "folder"),
        ("tools.make_validation_split --out_dir=out", "CSV"),
        ("tools.make_validation_split none.csv", "error: --out_dir is required"),
        ("tools.make_validation_split none.csv --out_dir=out", "none.csv"),
        ("tools.make_validation_split a/x.csv b/x.csv --out_dir=out", "names"),
        (
            "tools.make_validation_split none.csv --out_dir=out --fraction=1.1",
            "--fraction",
        ),
        ("tools.make_validation_split none.csv --out_dir=out --folds=1", "--folds"),
        ("tools.make_validation_split none.csv --out_dir=out --seed=-1", "--seed"),
        ("tools.make_dataset sounds", "OUT"),
        ("tools.make_dataset none out", "none"),
        ("tools.make_dataset . ../out --csv=none.csv", "none.csv"),
        ("tools.make_dataset . ../out --csv=a.csv --annotations=b", "--annotations"),
        ("tools.make_dataset . ../out --background=none", "none"),
        ("tools.make_dataset . ../out --only_annotated", "--annotations"),
        ("tools.make_dataset . out --clip_seconds=0", "--clip_seconds"),
        ("tools.tag runs/first", "file"),
        ("tools.tag runs/first none.wav", "none.wav"),
        ("tools.tag runs/first . --threshold=2", "--threshold"),
        ("tools.tag runs/first . --threshold=nan", "--threshold"),
        ("tools.tag runs/first . --thresholds=none.csv", "--thresholds"),
        ("tools.tag runs/first . --calibration=none.csv", "--calibration"),
        ("tools.tag runs/first . --calibration=c --top=0", "--calibration needs --f"),
        ("tools.tag runs/first . --calibration=c --archive=a", "--calibration needs"),
        ("tools.tag --archive=a --raven=r.txt --calibration=c", "--calibration needs"),
        ("tools.report runs/first/eval --calibration=c.txt", "--calibration"),
        ("tools.tag runs/first . --thresholds=t --threshold=0.5", "--threshold;"),
        ("tools.tag runs/first . --hparams=x=1", "--hparams"),
        ("tools.tag runs/first --segments a.wav b.wav", "--segments"),
        ("tools.tag runs/first --embeddings a.wav b.wav", "--embeddings"),
        ("tools.tag runs/first . --raven a.wav", "--raven"),
        ("tools.tag runs/first --archive a.db", "--archive"),
        ("tools.tag --archive none.db", "table"),
        ("tools.tag --archive none.db --segments=s.csv", "none.db"),
        ("tools.tag runs/first . --archive a.db --plot p", "--plot"),
        ("tools.tag runs/first . --archive a.db --embeddings e.npz", "--embeddings"),
        ("tools.tag runs/first . --retry_failed", "--retry_failed"),
        ("tools.tag_cluster runs/first .", "folder"),
        ("tools.tag_cluster a . out --thresholds=t --threshold=0.5", "--threshold;"),
        ("tools.find none.wav", "--archive"),
        ("tools.find none.wav --archive a.db", "none.wav"),
        ("tools.find --archive a.db", "--classes"),
        ("tools.find --archive a.db --classes=A", "a.db"),
        ("tools.find --archive a.db --classes=A --scores=0.5,0.4", "0.5,0.4"),
        ("tools.find --archive a.db --classes=A --scores=x", "--scores"),
        ("tools.find --archive a.db --classes=A --page=a.wav", "--page"),
        ("tools.make_dataset . ./out", "OUT"),
        ("tools.make_dataset audio .", "SOUNDS"),
        ("tools.make_dataset ./audio/Dog .", "SOUNDS"),
        ("tools.make_dataset . out --clip_seconds=nan", "--clip_seconds"),
        ("tools.report --clip_dir=.", "--eval_dir"),
        ("tools.score scores.csv", "labels"),
        ("tools.score none.csv labels.csv", "labels.csv"),
        ("tools.score_detections d.csv", "--annotations"),
        ("tools.score_detections --annotations=none", "DETECTIONS"),
        ("tools.score_detections d.csv --annotations=none/a", "none"),
        ("tools.report none", "none/scores-best.npz"),
        ("tools.report none --clip_dir=none", "none"),
        ("tools.report none --clip_dir=.", "none/scores-best.npz"),
        ("tools.import_yamnet a b", "OUT"),
        ("tools.import_yamnet a.h5 b.csv out", "a.h5"),
        ("tools.join_predictions", "CSV"),
        ("tools.join_predictions none.csv", "none.csv"),
        ("tools.export_model --export_dir=x", "error: --checkpoint is required"),
        ("tools.export_model --checkpoint=x", "--export_dir"),
        ("tools.fit_last_layer --checkpoint=x", "--class_map_path"),
        (f"tools.fit_last_layer {FIT_FLAGS} --c=0", "--c"),
        (f"tools.fit_last_layer {FIT_FLAGS} --folds=1", "--folds"),
        (f"tools.fit_last_layer {FIT_FLAGS} --folds=0", "--c"),
        (f"tools.fit_last_layer {FIT_FLAGS} --thresholds=t.csv", "--events"),
        (f"tools.fit_last_layer {FIT_FLAGS} --precision=0.9", "--events"),
        (
            f"tools.fit_last_layer {FIT_FLAGS} --events=e --precision=0.9",
            "--thresholds",
        ),
        (
            f"tools.fit_last_layer {FIT_FLAGS} --folds=0 --c=1 --eval_dir=e",
            "--eval_dir",
        ),
        (f"tools.fit_last_layer {FIT_FLAGS} --events=e --skip_doubtful", "--events"),
        (
            f"tools.fit_last_layer {FIT_FLAGS} --folds=0 --c=1 --skip_doubtful",
            "--skip_doubtful",
        ),
        ("tools.data_service --port=0", "dispatcher or worker"),
        ("tools.data_service trainer --port=0", "trainer"),
        ("tools.data_service dispatcher", "--port"),
        ("tools.data_service dispatcher --port=65536", "--port"),
        ("tools.data_service worker --port=0 --dispatcher=host", "--dispatcher"),
    ],
)
def test_wrong_arguments_are_named(command, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_without_tensorflow(tmp_path, *command.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_the_programs_work_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("tools.make_demo_data", "data")
    table = (tmp_path / "data" / "train_curated.csv").read_bytes()
    assert run("make_class_map.py", stdin=table).startswith(b"0,Bass_drum\n1,Buzz\n")
    (tmp_path / "noisy.csv").write_bytes(table)
    sources = ("data/train_curated.csv", "noisy.csv")
    run("tools.make_validation_split", *sources, "--out_dir=out", "--folds=2")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{source}_fold{fold}_{part}.csv"
        for source in ("noisy", "train_curated")
        for fold in (1, 2)
        for part in ("train", "validation")
    ]
    for shard, name in enumerate("ab"):
        text = f"fname,Bark,fingerprint\n{name}.wav,1.0,ab12-2\n"
        (tmp_path / f"s-{shard}-of-2.csv").write_text(text)
    run("tools.join_predictions", "s.csv")
    assert (tmp_path / "s.csv").read_text() == "fname,Bark\na.wav,1.0\nb.wav,1.0\n"


@pytest.mark.parametrize(
    ("program", "arguments", "contents", "expected"),
    [
        ("make_class_map.py", [], b"fname,labels\na.wav,Meow\nb.wav,Bark\n", b"0,Bark"),
        ("runner.py", ["--help"], b"", b"Trains, evaluates"),
    ],
)
def test_the_programs_run_as_they_stand(program, arguments, contents, expected):
    """As the original's: ./runner.py, with the python3 of the environment."""
    path = ROOT / program
    assert os.access(path, os.X_OK)
    assert path.read_text().splitlines()[0] == "#!/usr/bin/env python3"
    folders = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        [path, *arguments],
        input=contents,
        capture_output=True,
        env=os.environ | {"PATH": folders},
    )
    assert done.stdout.startswith(expected), done.stderr


def run_tagger(folder, *arguments: str, **environment: str):
    """Runs bin/tagger in a folder, whose modules cannot be imported."""
    for name in ("model", "tools", "tensorflow"):
        (folder / f"{name}.py").write_text("raise ImportError('of the folder')\n")
    link = folder / "tagger"
    if not link.exists():
        link.symlink_to(ROOT / "bin" / "tagger")
    return subprocess.run(
        [link, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
    )


def test_tagger_lists_all_programs_without_their_environment(tmp_path):
    done = run_tagger(tmp_path, PYTHON="none")
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^  (\w+) +[A-Z].*[^.]$", done.stdout, re.MULTILINE)
    tools = [tool.removeprefix("tools.").removesuffix(".py") for tool in TOOLS]
    assert listed[:3] == ["train", "eval", "inference"]
    assert listed[3:] == sorted(listed[3:])
    assert {*tools, "pack_kernel"} <= {*listed[3:]}


def test_tagger_ends_if_its_list_is_not_read():
    with subprocess.Popen(
        [sys.executable, "-u", ROOT / "bin" / "tagger"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_tagger_runs_programs_in_any_folder(tmp_path):
    done = run_tagger(tmp_path, "make_demo_data", "data")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "data" / "train_curated.csv").exists()
    done = run_tagger(tmp_path, "score", "a.csv", "data/train_curated.csv")
    assert (done.returncode, done.stderr) == (1, "error: there is no file a.csv\n")
    done = run_tagger(tmp_path, "eval", "--eval_dir=a")
    assert "--mode eval needs" in done.stderr
    done = run_tagger(tmp_path, "make_class_map", "--help")
    assert "make_class_map.py <" in done.stdout


def test_tagger_names_an_unknown_program_and_a_missing_environment(tmp_path):
    done = run_tagger(tmp_path, "trian")
    assert done.returncode == 1
    assert re.fullmatch("error: .* trian; .*\n", done.stderr)
    tagger = tmp_path / "repository" / "bin" / "tagger"
    tagger.parent.mkdir(parents=True)
    tagger.write_bytes((ROOT / "bin" / "tagger").read_bytes())
    done = subprocess.run(
        ["/usr/bin/env", "-u", "PYTHON", sys.executable, "-S", tagger, "train"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.fullmatch("error: there is no .*venv.*README.md\n", done.stderr)


def test_tools_do_their_work_if_their_output_is_not_read(tmp_path):
    """As with `| head`, which gives SIGPIPE."""
    (tmp_path / "sounds" / "Dog").mkdir(parents=True)
    write_wav(tmp_path / "sounds" / "Dog" / "a.wav", 1000 * np.ones(5000))
    table = tmp_path / "demo" / "train_curated.csv"
    out = tmp_path / "out"
    for command, written in (
        (("make_demo_data", tmp_path / "demo"), table),
        (
            ("make_validation_split", table, f"--out_dir={out}", "--folds=5"),
            out / "train_curated_fold5_validation.csv",
        ),
        (
            ("make_dataset", tmp_path / "sounds", tmp_path / "data"),
            tmp_path / "data" / "class_map.csv",
        ),
    ):
        tool, *arguments = command
        reader, writer = os.pipe()
        os.close(reader)
        done = run_program(
            f"tools.{tool}", *arguments, stdout=writer, stderr=subprocess.PIPE
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b"")
        assert written.exists()

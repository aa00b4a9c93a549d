"""Helpers of the tests: the command line, small clips, tables of the documentation."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import wave
from collections.abc import Sequence

import numpy as np

import runner
from tagger.hparams import Hparams, parse_overrides
from tagger.metrics.lwlrap import Lwlrap
from tagger.runs import eval_folder
from tagger.runs.eval_folder import EvalFolder
from tagger.terminal import program

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
PROGRAM_ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
ALT_HPARAMS = (
    "stft_window_seconds=0.032,stft_hop_seconds=0.016,mel_bands=64,mel_min_hz=125,"
    "mel_max_hz=7500,mel_log_offset=0.01,example_window_seconds=0.96,"
    "example_hop_seconds=0.48"
)
# Of `write_evaluation`. The last one has no clips.
CLASS_NAMES = ["Bark", "</script><script>alert(1)</script>", 'Bär "x"', "Unused"]
CLIP_NAME = '<img src=x onerror="alert({})"> é 100%25 #?.wav'
# Small examples, so that a training step takes a fraction of a second.
SMALL_HPARAMS = (
    "batch_size=4,mel_bands=16,example_window_seconds=0.2,example_hop_seconds=0.1,"
    "bndecay=0.9,lr=1e-3"
)


def parse_hparams(text: str) -> Hparams:
    """The defaults, with the pairs of a --hparams flag overriding them."""
    return Hparams(**parse_overrides(text))


def write_wav(path: pathlib.Path, samples: np.ndarray) -> str:
    """Writes int16 samples as a plain 44.1 kHz mono WAV."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44100, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return str(path)


def write_evaluation(
    folder: pathlib.Path, seed: int, num_clips: int = 40
) -> tuple[np.ndarray, np.ndarray, Lwlrap]:
    """Writes an eval_dir with random scores that are higher for the labels.

    Returns:
      The labels, the scores and their lwlrap.
    """
    rng = np.random.default_rng(0)
    labels = np.zeros([num_clips, len(CLASS_NAMES)], np.float32)
    labels[np.arange(num_clips), np.arange(num_clips) % 3] = 1
    labels[::5, 0] = 1
    rng = np.random.default_rng(seed)
    scores = np.clip(0.4 * labels + rng.uniform(0, 0.6, labels.shape), 0, 1)
    folder.mkdir(parents=True)
    clips = [CLIP_NAME.format(number) for number in range(num_clips)]
    np.savez(
        folder / eval_folder.SCORES_FILE,
        step=20,
        class_names=np.array(CLASS_NAMES),
        clips=np.array(clips),
        labels=labels,
        scores=scores,
    )
    lwlrap = Lwlrap(CLASS_NAMES)
    lwlrap.accumulate(labels, scores)
    EvalFolder(str(folder)).marker(20).write_text(f"{lwlrap}\n")
    EvalFolder(str(folder)).marker(0).write_text("Overall lwlrap = 0.300000\n")
    return labels, scores, lwlrap


def store_contents(eval_dir: pathlib.Path, train_dir: pathlib.Path) -> None:
    """Describes in an eval_dir that its results are of the run in train_dir."""
    from tagger.runs.run import Run

    contents = {"run": Run(train_dir).id}
    EvalFolder(eval_dir, train_dir).check(contents, write=True)


def free_ports(number: int) -> list[int]:
    """Different ports that are not in use."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.socket()) for _ in range(number)]
        for server in servers:
            server.bind(("127.0.0.1", 0))
        return [server.getsockname()[1] for server in servers]


def seeded_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The weights that golden/seeded_network.npz was made with, by variable name."""
    rng = np.random.default_rng(20190)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        kind = name.split("/")[-1]
        if kind == "moving_variance":
            return rng.uniform(0.5, 2, shape)
        if kind == "gamma":
            return rng.uniform(0.5, 1.5, shape)
        if kind == "depthwise_weights":
            return np.sqrt(2 / 9) * rng.normal(size=shape)
        if kind == "weights":
            return np.sqrt(2 / np.prod(shape[:-1])) * rng.normal(size=shape)
        return 0.1 * rng.normal(size=shape)

    return {name: draw(name, shapes[name]).astype("f4") for name in sorted(shapes)}


def run_program(*command: object, **options) -> subprocess.CompletedProcess:
    """Runs a file of the repository, or a tool as `tools.NAME`, to its end."""
    return subprocess.run(program_command(*command), env=PROGRAM_ENVIRONMENT, **options)


def program_command(program: object, *arguments: object) -> list[str]:
    """The command line of a file of the repository, or of a tool, `tools.NAME`."""
    name = str(program)
    start = ["-m", name] if name.startswith("tools.") else [str(ROOT / name)]
    return [sys.executable, *start, *map(str, arguments)]


def section_of(page: str, title: str) -> str:
    """The text below a heading on a page of the documentation."""
    text = (ROOT / page).read_text()
    return re.split(rf"^#+ {title}$", text, flags=re.MULTILINE)[1]


def table_of_page(page: str, title: str) -> list[list[str]]:
    """The rows of the first table after a heading of a page."""
    section = section_of(page, title)
    lines = re.search(r"(?:^\|.*\|\n)+", section, re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def run_main(arguments: Sequence[str]) -> int:
    """Runs runner.py with arguments in this process; returns the exit status."""
    for flag in runner.FLAGS.get_key_flags_for_module("runner"):
        flag.unparse()  # The flags of the previous call are still set.
    try:
        program.run(runner.main, ["runner.py", *arguments])
    except SystemExit as exit:
        return exit.code
    except Exception:
        sys.excepthook(*sys.exc_info())  # as at the end of a process
    return 1


class Dataset:
    """Twelve WAV files, each with a tone, noise, or both."""

    def __init__(self, root: pathlib.Path):
        rng = np.random.default_rng(1)
        self.clip_dir = root / "clips"
        self.clip_dir.mkdir()
        self.csv_path = root / "clips.csv"
        self.class_map_path = root / "class_map.csv"
        self.class_map_path.write_text("0,Noise\n1,Tone\n")
        rows = ["fname,labels"]
        for index in range(12):
            size = int(rng.integers(8000, 30000))
            tone = 9000 * np.sin(np.arange(size) * rng.uniform(0.05, 0.2))
            noise = 3000 * rng.normal(size=size)
            samples, labels = [(tone, "Tone"), (noise, "Noise"), (tone + noise, "")][
                index % 3
            ]
            write_wav(self.clip_dir / f"{index:02d}.wav", np.clip(samples, -3e4, 3e4))
            rows.append(f'{index:02d}.wav,"{labels or "Noise,Tone"}"')
        self.csv_path.write_text("\n".join(rows) + "\n")

    def train_flags(self, train_dir: pathlib.Path, **flags: object) -> list[str]:
        """Arguments for --mode train."""
        return [
            "--mode=train",
            f"--class_map_path={self.class_map_path}",
            f"--train_clip_dir={self.clip_dir}",
            f"--train_csv_path={self.csv_path}",
            f"--train_dir={train_dir}",
            *[f"--{name}={value}" for name, value in flags.items()],
        ]

    def eval_flags(
        self, train_dir: pathlib.Path, eval_dir: pathlib.Path, **flags: object
    ) -> list[str]:
        """Arguments for --mode eval, without waiting."""
        return [
            "--mode=eval",
            f"--class_map_path={self.class_map_path}",
            f"--eval_clip_dir={self.clip_dir}",
            f"--eval_csv_path={self.csv_path}",
            f"--train_dir={train_dir}",
            f"--eval_dir={eval_dir}",
            *[f"--{k}={v}" for k, v in ({"eval_timeout_secs": 0} | flags).items()],
        ]

    def inference_flags(
        self, checkpoint: object, csv_path: pathlib.Path, **flags: object
    ) -> list[str]:
        """Arguments for --mode inference."""
        return [
            "--mode=inference",
            f"--class_map_path={self.class_map_path}",
            f"--inference_clip_dir={flags.pop('clip_dir', self.clip_dir)}",
            f"--inference_checkpoint={checkpoint}",
            f"--predictions_csv_path={csv_path}",
            *[f"--{name}={value}" for name, value in flags.items()],
        ]


def values_of(prefix: str) -> dict[str, np.ndarray]:
    """The values of a checkpoint by name."""
    import tensorflow as tf

    from tagger.runs import checkpoints

    reader = tf.train.load_checkpoint(prefix)
    return {name: reader.get_tensor(name) for name in checkpoints.shapes(prefix)}


def save_without_finite_scores(prefix: str, folder: pathlib.Path) -> None:
    """Saves a checkpoint of two classes to a folder, with a bias that is NaN."""
    import tensorflow as tf

    from tagger.runs import checkpoint_files
    from tagger.runs.run import Run

    values = {name: tf.Variable(value) for name, value in values_of(prefix).items()}
    values["fully_connected/biases"].assign([np.nan, 0])
    Run(folder).save(values, checkpoint_files.checkpoint_step(prefix))

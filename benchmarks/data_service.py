"""Compares the local pipeline with 1 and 2 data workers, in audio per second.

    python benchmarks/data_service.py

Each data worker runs on its own core, if there are enough cores. This process receives
examples like a trainer, but without shuffling and training. On two cores, the second
data worker shares its core with this process.
"""

import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import measure
from absl import flags

from tagger.terminal import program, signals

CLIPS, CLIP_SECONDS = 200, 10
WARM_UP_BATCHES, BATCHES = 40, 150
ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("rounds", 5, "Measurements of each row.", lower_bound=1)


@contextlib.contextmanager
def running(*arguments: object, core: int | None = None) -> Iterator[None]:
    """Runs a part of a data service within the block, which starts when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.data_service", *map(str, arguments)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if core is not None:
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(process.pid, {cores[core % len(cores)]})
        for line in process.stderr:
            if "is ready" in line:
                break
        else:
            raise ValueError(f"the server did not start: {arguments}")
        yield
    finally:
        process.kill()
        process.wait()


def audio_per_second(root: pathlib.Path, address: str, name: str) -> float:
    """The seconds of audio that are received per second, as examples.

    Args:
      root: folder that `measure.make_data` wrote.
      address: address of the data service; empty: features are computed here.
      name: name of the job of the data service.
    """
    import numpy as np

    import inference
    import inputs
    from tagger.data import clips, wav
    from tagger.hparams import SAMPLE_RATE, Hparams

    hparams = Hparams()
    inputs.EXAMPLE_SHUFFLE_BUFFER = 1
    paths = [str(root / "clips" / n) for n in inference.list_wavs(str(root / "clips"))]
    headers = wav.read_wav_headers(paths)
    table = clips.make_clips(paths, headers, np.zeros([len(paths), 1], np.float32))
    stream = iter(
        inputs.train_input(table, hparams, seed=0, data_service=address, job_name=name)
    )
    for _ in range(WARM_UP_BATCHES):
        next(stream)
    started = time.perf_counter()
    for _ in range(BATCHES):
        next(stream)
    seconds = time.perf_counter() - started
    audio = table.num_samples.sum() / SAMPLE_RATE
    examples = hparams.num_examples(table.num_samples).sum()
    return BATCHES * hparams.batch_size * audio / examples / seconds


def main(argv: Sequence[str]) -> int:
    """Measures and prints the table."""
    program.check_no_arguments(argv)
    program.start_tensorflow()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = pathlib.Path(folder) / "data"
        measure.make_data(root, CLIPS, CLIP_SECONDS)
        rates = {"this process, all cores": [], "1 data worker": []}
        rates["2 data workers"] = []
        addresses = {"this process, all cores": ""}
        for number, name in enumerate(("1 data worker", "2 data workers"), start=1):
            (port,) = measure.free_ports(1)
            stack.enter_context(running("dispatcher", "--port", port))
            addresses[name] = f"grpc://localhost:{port}"
            for core in range(number):
                options = ("--dispatcher", f"localhost:{port}", "--port", 0)
                options += ("--host", "localhost")
                stack.enter_context(running("worker", *options, core=core))
        # A signal to all processes ends the servers; TensorFlow would wait for them.
        stack.enter_context(signals.end_at_once())
        for turn in range(FLAGS.rounds):
            for name, address in addresses.items():
                rates[name].append(audio_per_second(root, address, f"turn-{turn}"))
    print(measure.machine("tensorflow"))
    print("\nSeconds of audio per second, as examples\n")
    print("| | median | from - to |")
    print("|---|---|---|")
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.0f} | {min(values):.0f} - {max(values):.0f} |")
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)

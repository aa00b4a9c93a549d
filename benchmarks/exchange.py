"""Measures the bytes that workers exchange per training step.

    python benchmarks/exchange.py

This trains in 2 and 3 processes on this machine, with small examples. It counts the
bytes on the loopback interface between two steps. In a ring of n workers, each worker
is expected to send 2(n-1)/n times the size of the gradients.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import measure

from tagger.terminal import program

LOOPBACK = "lo"
FIRST, LAST = 20, 120  # steps between which bytes are counted
CLIPS, SECONDS = 20, 2
HPARAMS = "mel_bands=16,example_window_seconds=0.1,example_hop_seconds=0.1,batch_size=6"
FLOAT32_BYTES = 4
END_SECONDS = 60  # for all workers to end after the chief


def bytes_sent() -> int:
    """Bytes that the loopback interface has sent since the machine started."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, values = line.partition(":")
        if name.strip() == LOOPBACK:
            return int(values.split()[8])
    raise ValueError(f"there is no interface {LOOPBACK}")


def train_together(root: pathlib.Path, num_workers: int) -> float:
    """The bytes on the loopback per step, for all workers."""
    addresses = [f"localhost:{port}" for port in measure.free_ports(num_workers)]
    command = measure.train_command(root, LAST + 1)  # The last step also saves.
    command += [f"--hparams={HPARAMS}", "--checkpoint_steps=1000000"]
    command.append(f"--train_dir={root / f'train{num_workers}'}")
    processes = []
    try:
        for index in range(num_workers):
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": addresses}, "task": task}
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, command)],
                    env=os.environ | {"TF_CONFIG": json.dumps(config)},
                    stdout=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
        sent = {}
        for line in processes[0].stdout:
            for step in (FIRST, LAST):
                if line.startswith(f"step {step}:"):
                    sent[step] = bytes_sent()
        if any(process.wait(END_SECONDS) for process in processes):
            raise ValueError("a worker has failed")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return (sent[LAST] - sent[FIRST]) / (LAST - FIRST)


def main(argv: Sequence[str]) -> int:
    """Measures and prints the table."""
    program.check_no_arguments(argv)
    program.start_tensorflow()
    import model
    from tagger.hparams import Hparams, parse_overrides

    network = model.define_model(
        "mobilenet-v1",
        num_classes=measure.CLASSES,
        hparams=Hparams(**parse_overrides(HPARAMS)),
    )
    values = sum(math.prod(v.shape) for v in network.trainable_weights)
    size = values * FLOAT32_BYTES
    print(measure.machine("tensorflow"))
    print(f"\nGradients of {values} weights\n")
    print("| workers | gradients, MB | expected per step, MB | on the loopback, MB |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "data"
        measure.make_data(root, CLIPS, SECONDS)
        for num_workers in (2, 3):
            expected = 2 * (num_workers - 1) * size
            sent = train_together(root, num_workers)
            print(
                f"| {num_workers} | {size / 1e6:.2f} | {expected / 1e6:.1f} "
                f"| {sent / 1e6:.1f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    program.run(main)

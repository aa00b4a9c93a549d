"""The devices and processes that train together, and what they agree on.

On TensorFlow's own strategies: one device as ever, MirroredStrategy for several devices
of a process, MultiWorkerMirroredStrategy for the processes that TF_CONFIG lists. A
replica is a device with its own copy of all variables. A worker is a process; the first
is the chief, which alone writes.
"""

import contextlib
import dataclasses
import functools
import json
import os
import platform
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tagger import signals

CLUSTER_VARIABLE = "TF_CONFIG"
CHIEF_JOB, WORKER_JOB = "chief", "worker"
# What TensorFlow raises where a peer is gone, or has itself given up.
LOST_PEER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)
ABORTED = "Collective ops is aborted by: "  # before the reason, in such an error


def num_cpu_cores() -> int:
    """The CPU cores that this process may use; on macOS, all that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_platform() -> str:
    """The versions that run, and what on."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in gpus
    ]
    cores = f"no GPU, {num_cpu_cores()} CPU cores"
    device = f"GPU: {', '.join(names)}" if names else cores
    return f"TensorFlow {tf.__version__}, Python {platform.python_version()}, {device}"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The place of this process among the workers; 0 is the chief."""

    worker: int = 0
    num_workers: int = 1

    def __str__(self) -> str:
        return f"worker {self.worker} of {self.num_workers}"


def read_cluster() -> Cluster:
    """Reads TF_CONFIG; without it, or with one worker only, this process is alone.

    Raises:
      ValueError: it is not as TensorFlow's strategies for many workers take it.
    """
    text = os.environ.get(CLUSTER_VARIABLE, "")
    if not text.strip():
        return Cluster()
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        job, index = task["type"], int(task["index"])
        tasks = {name: [str(address) for address in jobs[name]] for name in jobs}
    except KeyError as error:
        raise ValueError(f"{CLUSTER_VARIABLE} lacks {error}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{CLUSTER_VARIABLE} must be JSON such as "
            '{"cluster": {"worker": ["host:port", "host:port"]}, '
            '"task": {"type": "worker", "index": 0}}, '
            f"but reading it gave {type(error).__name__}: {error}"
        ) from None
    allowed = (CHIEF_JOB, WORKER_JOB)
    for name in (*tasks, job):
        if name not in allowed:
            raise ValueError(
                f"{CLUSTER_VARIABLE}: jobs are {' and '.join(allowed)}, but got "
                f"'{name}'; evaluation is --mode eval, without {CLUSTER_VARIABLE}"
            )
    addresses = [
        address for job_addresses in tasks.values() for address in job_addresses
    ]
    for address in addresses:
        if not re.fullmatch(r".+:\d{1,5}", address) or addresses.count(address) > 1:
            raise ValueError(
                f"{CLUSTER_VARIABLE}: each worker must have a host:port of its own, "
                f"but got {', '.join(addresses)}"
            )
    chiefs, workers = (tasks.get(name, []) for name in allowed)
    if len(chiefs) > 1:
        raise ValueError(f"{CLUSTER_VARIABLE}: one chief at most, but got {chiefs}")
    if not 0 <= index < len(tasks.get(job, [])):
        raise ValueError(
            f"{CLUSTER_VARIABLE}: task {job} {index} is not among the "
            f"{len(tasks.get(job, []))} of job {job}"
        )
    worker = index if job == CHIEF_JOB else index + len(chiefs)
    return Cluster(worker, len(chiefs) + len(workers))


class Distribution:
    """What trains together.

    Args:
      devices: names such as GPU:0 to train on; none: all GPUs, or else the CPU.
      cluster: the place of this process.

    Attributes:
      strategy: TensorFlow's; its default one where there is one replica.
      cluster: the place of this process.

    Raises:
      ValueError: a device is not there.
      OSError: the other workers cannot be reached.
    """

    def __init__(self, devices: Sequence[str] = (), cluster: Cluster = Cluster()):
        self.cluster = cluster
        _show_only(devices)
        if cluster.num_workers > 1:
            if any(
                device.startswith("CPU") and device != "CPU:0" for device in devices
            ):
                raise ValueError(
                    f"--devices: with {CLUSTER_VARIABLE}, each worker trains on its "
                    f"GPUs or on CPU:0, but got {','.join(devices)}"
                )
            self.strategy = self._join()
        elif len(names := _gpu_names() or devices) > 1:
            self.strategy = _mirrored(tuple(names))
        else:
            self.strategy = tf.distribute.get_strategy()
        if self.num_replicas > 1:
            print(f"{self.num_replicas} devices train together", file=sys.stderr)
        self._mean = tf.function(self._mean_of_replicas, autograph=False)

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes checkpoints, events and hparams.json."""
        return self.cluster.worker == 0

    @property
    def num_replicas(self) -> int:
        """Devices over all workers."""
        return self.strategy.num_replicas_in_sync

    def _join(self) -> tf.distribute.Strategy:
        """Waits until all workers are there."""
        print(f"{self.cluster}: waiting for the others", file=sys.stderr, flush=True)
        try:
            # SIGINT ends the wait; TensorFlow takes SIGTERM for itself, for later.
            with signals.end_at_once():
                return tf.distribute.MultiWorkerMirroredStrategy()
        except LOST_PEER as error:
            reason = str(error.message).splitlines()[0]
            raise ConnectionError(
                f"{CLUSTER_VARIABLE}: {self.cluster} cannot join the others "
                f"({reason}); its host:port must be its own machine's and free, and "
                f"the others running"
            ) from None

    @contextlib.contextmanager
    def lost_peer_reported(self) -> Iterator[None]:
        """Turns TensorFlow's errors about a lost worker into one line.

        Raises:
          ConnectionError: another worker is gone.
        """
        try:
            yield
        except LOST_PEER as error:
            if self.cluster.num_workers == 1:
                raise
            lines = str(error.message).splitlines()
            aborted = [line for line in lines if line.startswith(ABORTED)] or lines
            reason = aborted[0].replace(ABORTED, "")
            raise ConnectionError(
                f"{self.cluster}: another worker is gone, or this one failed; see the "
                f"last lines of all. Started again, all go on from the newest "
                f"checkpoint ({reason})"
            ) from None

    def chief_value(self, value: int) -> int:
        """The chief's value of a number below 2**53, on every worker."""
        if self.cluster.num_workers == 1:
            return value
        with self.strategy.scope():
            # A variable starts with the chief's value everywhere.
            return int(tf.Variable(value, dtype=tf.float64).numpy())

    def check_alike(self, facts: Any, complaint: str) -> None:
        """Compares facts by their text; every worker must call it.

        Raises:
          ValueError: with the complaint, on every worker, where they differ.
        """
        checksum = zlib.crc32(repr(facts).encode())
        if self.cluster.num_workers > 1 and self._mean_float(checksum) != checksum:
            raise ValueError(complaint)

    def wait_for_all(self) -> None:
        """Returns when every worker has called it."""
        if self.cluster.num_workers > 1:
            self._mean_float(0)

    def batches(self, stream: Iterator[Any]) -> Iterator[Any]:
        """Yields what a step runs on: a batch of the stream for each own replica.

        Args:
          stream: of batches for one replica, features float32 [E, T, F] and labels
            float32 [E, C].
        """
        if self.num_replicas == 1:
            yield from stream
            return
        while True:
            yield self.strategy.experimental_distribute_values_from_function(
                lambda _: next(stream)
            )

    def first_of(self, values: Sequence[Any]) -> list[tf.Tensor]:
        """What a step ran on, of the first own replica."""
        return [self.strategy.experimental_local_results(v)[0] for v in values]

    def _mean_float(self, value: float) -> float:
        # Of float64: exact, and known to every transport.
        return float(self._mean(tf.constant(value, tf.float64)))

    def _mean_of_replicas(self, value: tf.Tensor) -> tf.Tensor:
        def mean(value: tf.Tensor) -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            # The copy is on the device of the replica, where its mean shall be.
            return replica.all_reduce(tf.distribute.ReduceOp.MEAN, tf.identity(value))

        results = self.strategy.run(mean, args=(value,))
        return self.strategy.experimental_local_results(results)[0]


@functools.cache
def _mirrored(names: tuple[str, ...]) -> tf.distribute.Strategy:
    """One a process: two of them would mix up each other's collective operations."""
    return tf.distribute.MirroredStrategy(names)


def _gpu_names() -> list[str]:
    """The GPUs that are left to see, numbered anew."""
    return [
        device.name.removeprefix("/device:")
        for device in tf.config.list_logical_devices("GPU")
    ]


def _show_only(devices: Sequence[str]) -> None:
    """Hides the GPUs that are not among the devices; splits the CPU where it is asked.

    `CPU:1` and so on exist only as parts of the one CPU that TensorFlow knows; they
    show on any machine how several devices train.
    """
    if not devices:
        return
    indices = {"CPU": [], "GPU": []}
    for device in devices:
        kind, index = device.split(":")
        indices[kind].append(int(index))
    gpus = tf.config.list_physical_devices("GPU")
    missing = [index for index in indices["GPU"] if index >= len(gpus)]
    if missing:
        raise ValueError(
            f"--devices: there is no GPU:{missing[0]}; TensorFlow finds {len(gpus)}"
        )
    if gpus:
        tf.config.set_visible_devices([gpus[i] for i in indices["GPU"]], "GPU")
    (cpu,) = tf.config.list_physical_devices("CPU")
    num_cpus = 1 + max(indices["CPU"], default=0)
    if num_cpus > len(tf.config.get_logical_device_configuration(cpu) or [cpu]):
        parts = [tf.config.LogicalDeviceConfiguration()] * num_cpus
        tf.config.set_logical_device_configuration(cpu, parts)

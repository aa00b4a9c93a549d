"""Takes the figures that the tests carry out of the folder of references.

    python tests/golden/make_golden.py REFERENCE_DIR

`features.npz` holds three short clips as int16 samples, their log mel examples for two
sets of hyperparameters, evaluated in float64 from the documented formulas, and
`seeded_network.npz` the scores that the original baseline (TensorFlow 1 graph) gave for
such examples, with the weights that tests/conftest.py draws again.
"""

import pathlib
import shutil
import sys
import wave

import numpy as np

CLIPS = ("harmonics_0p3s", "hop_boundary_151_frames", "noise_burst_1p7s")
HERE = pathlib.Path(__file__).resolve().parent


def main(reference: pathlib.Path) -> None:
    """Writes the golden files beside this script."""
    arrays = {}
    for name in CLIPS:
        with wave.open(str(reference / "clips" / f"{name}.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        arrays[f"clips/{name}"] = samples
        for kind in ("features", "features_alt"):
            values = np.load(reference / kind / f"{name}.npy")
            arrays[f"{kind}/{name}"] = values.astype(np.float32)
    np.savez_compressed(HERE / "features.npz", **arrays)
    shutil.copyfile(reference / "seeded_network.npz", HERE / "seeded_network.npz")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

"""Makes the golden files of the tests from the folder of references.

    python tests/golden/make_golden.py REFERENCE_DIR

`features.npz` has three short clips as int16 samples, and their log mel examples for
two sets of hyperparameters, computed in float64 from the documented formulas.
`seeded_network.npz` has the scores that the original baseline (TensorFlow 1 graph) gave
for these examples, with the weights of `helpers.seeded_weights`.
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

"""Imports YAMNet's weights, as a checkpoint to start from or to use as it is.

    python -m tools.import_yamnet yamnet.h5 yamnet_class_map.csv OUT
    python -m tools.import_yamnet FOLDER FOLDER/assets/yamnet_class_map.csv OUT

YAMNet (Plakal & Ellis 2019, Apache 2.0) is a MobileNet v1 that Google trained on the
521 classes of AudioSet. Both files are linked in the README of YAMNet, in
https://github.com/tensorflow/models/tree/master/research/audioset/yamnet. FOLDER is
YAMNet as a SavedModel, from Kaggle Models or TensorFlow Hub.

This writes the new folder OUT with model.ckpt-0, hparams.json and class_map.csv. All
arrays that do not fit are reported, and nothing is written.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tagger.data.csv_files import read_records, write_csv
from tagger.errors import UserError
from tagger.hparams import model_hparams
from tagger.terminal import program
from tagger.terminal.files import make_folder
from tagger.terminal.progress import print_result

MODEL_NAME = "yamnet"
CLASS_MAP_HEADER = ["index", "mid", "display_name"]
# YAMNet's names of its convolutions, in order.
CONVOLUTIONS = (
    "layer1/conv",
    *(
        f"layer{number}/{kind}_conv"
        for number in range(2, 15)
        for kind in ("depthwise", "pointwise")
    ),
)
BATCH_NORM = ("beta", "moving_mean", "moving_variance")  # There is no gamma.
# All layers with weights, in order, as a SavedModel numbers them.
LAYERS = (
    *(name for conv in CONVOLUTIONS for name in (conv, f"{conv}/bn")),
    "dense",
)
# A weight in the checkpoint of a SavedModel: the number of its layer, and its name.
SAVED_WEIGHT = r"(?:.*/)?layer_with_weights-(\d+)/(\w+)/\.ATTRIBUTES/VARIABLE_VALUE"


def read_class_names(path: str) -> list[str]:
    """Reads the names of the classes.

    Raises:
      UserError: the file is not YAMNet's class map.
    """
    header, *rows = [fields for _, fields in read_records(path)] or [[]]
    names, indices = [row[-1] for row in rows], [row[0] for row in rows]
    if header != CLASS_MAP_HEADER or indices != list(map(str, range(len(rows)))):
        raise UserError(
            f"{path}: expected the header {','.join(CLASS_MAP_HEADER)}, and indices "
            f"from 0"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{path}: a class appears twice")
    return names


def read_h5(path: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a weights file of Keras, by name.

    Raises:
      UserError: it is not such a file.
    """
    import h5py

    def names(item: Any, attribute: str) -> list[str]:
        """The names in an attribute of a group."""
        # Keras 2 wrote bytes of a fixed length; h5py may also return strings.
        return [
            name.decode() if isinstance(name, bytes) else str(name)
            for name in item.attrs[attribute]
        ]

    try:
        with h5py.File(path) as file:
            return {
                name.removesuffix(":0"): np.asarray(file[layer][name][()], np.float32)
                for layer in names(file, "layer_names")
                for name in names(file[layer], "weight_names")
            }
    # h5py raises these for names that are numbers or lead to something else.
    except (OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: is not a weights file of Keras: {error}") from None


def read_saved_model(folder: str) -> dict[str, np.ndarray]:
    """Reads the arrays of YAMNet as a SavedModel, by their names in `yamnet.h5`.

    Raises:
      UserError: it is not YAMNet as a SavedModel.
    """
    from tagger.runs import checkpoints

    prefix = os.path.join(folder, "variables", "variables")
    index = prefix + checkpoints.INDEX_SUFFIX
    if not os.path.isfile(index):
        raise UserError(f"{folder}: is not a SavedModel: there is no file {index}")
    keys = [re.fullmatch(SAVED_WEIGHT, key) for key in checkpoints.shapes(prefix)]
    weights = [(int(key[1]), key[2], key[0]) for key in keys if key]
    layers = {layer for layer, _, _ in weights}
    if layers != set(range(len(LAYERS))):
        raise UserError(
            f"{folder}: is not YAMNet: expected layer_with_weights-0 to "
            f"layer_with_weights-{len(LAYERS) - 1}, but got {len(layers)} such layers"
        )
    names = [f"{LAYERS[layer]}/{weight}" for layer, weight, _ in weights]
    if len(set(names)) < len(names):
        raise UserError(f"{folder}: is not YAMNet: it contains several networks")
    with checkpoints.open_reader(prefix) as reader:
        arrays = [np.asarray(reader.get_tensor(key), np.float32) for *_, key in weights]
    return dict(zip(names, arrays))


def find_weights(
    arrays: Mapping[str, np.ndarray], network: Any
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Finds the array for each variable of a network.

    Args:
      arrays: YAMNet's arrays, by name.
      network: from `model.define_model`.

    Returns:
      The arrays by the names of the variables, and all problems.
    """
    from tagger.network.layers import Convolution

    sources = {}  # YAMNet's name of each variable, by our name
    layers = [layer for layer in network.layers if isinstance(layer, Convolution)]
    for layer, name in zip(layers, CONVOLUTIONS, strict=True):
        kernel = "depthwise_kernel" if layer.depthwise else "kernel"
        sources[layer.kernel.path] = f"{name}/{kernel}"
        for part in BATCH_NORM:
            sources[f"{layer.name}/BatchNorm/{part}"] = f"{name}/bn/{part}"
    # The last layer has no fixed name. It is the only one with a matrix.
    for name, array in arrays.items():
        if array.ndim == 2:
            sources["fully_connected/weights"] = name
            sources["fully_connected/biases"] = name.removesuffix("kernel") + "bias"
    values, problems = {}, []
    for variable in network.weights:
        name, shape = sources.get(variable.path), tuple(variable.shape)
        if variable.path.endswith("/gamma"):
            values[variable.path] = np.ones(shape, np.float32)
        elif name not in arrays:
            problems.append(f"there is no array {name} for {variable.path}")
        elif arrays[name].shape != shape:
            problems.append(
                f"{name} has shape {list(arrays[name].shape)}, but {variable.path} has "
                f"{list(shape)}"
            )
        elif not np.isfinite(arrays[name]).all():
            problems.append(f"{name} has values that are not finite")
        else:
            values[variable.path] = arrays[name]
    for name in sorted(arrays.keys() - sources.values()):
        problems.append(f"the array {name} is not known")
    return values, problems


def import_yamnet(weights_path: str, class_map_path: str, out: str) -> None:
    """Writes YAMNet as a checkpoint of this program to the new folder `out`.

    Raises:
      UserError: a file cannot be used or written; the message names it.
    """
    import model
    from tagger.runs import checkpoints
    from tagger.runs.run import Run

    if os.path.exists(out):
        raise UserError(f"OUT must be a new folder, but {out} exists")
    class_names = read_class_names(class_map_path)
    hparams = model_hparams(MODEL_NAME, {})
    network = model.define_model(
        MODEL_NAME, num_classes=len(class_names), hparams=hparams
    )
    read = read_saved_model if os.path.isdir(weights_path) else read_h5
    values, problems = find_weights(read(weights_path), network)
    if problems:
        raise UserError(*[f"{weights_path}: {problem}" for problem in problems])
    make_folder(out, "OUT")
    write_csv(os.path.join(out, "class_map.csv"), enumerate(class_names))
    run = Run(out)
    run.write_record(model_name=MODEL_NAME, hparams=hparams, class_names=class_names)
    values[checkpoints.GLOBAL_STEP] = np.int64(0)
    prefix = run.save(values, step=0)
    print_result(f"{len(class_names)} classes in {prefix}")


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 4:
        raise UserError(
            f"expected yamnet.h5 or the folder of a SavedModel, yamnet_class_map.csv "
            f"and OUT, but got {len(argv) - 1} arguments"
        )
    for path, exists in zip(argv[1:3], (os.path.exists, os.path.isfile)):
        if not exists(path):
            raise UserError(f"there is no file {path}")
    program.start_tensorflow()
    import_yamnet(*argv[1:])
    return 0


if __name__ == "__main__":
    program.run(main)

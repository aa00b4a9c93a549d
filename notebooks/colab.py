# %% [markdown]
"""# Train a tagger in a notebook

This notebook trains a tagger, shows the training in TensorBoard, and tags sounds. It
uses synthetic demo data, or your own recordings. On Colab, first choose a GPU
(*Runtime*, *Change runtime type*), and then *Run all*.

- `SOUNDS`: `demo`, or `upload` to upload a zip file on Colab with one folder per class,
  such as `Bark/dog 1.mp3`; or the path of a folder with these.
- `STEPS`: number of training steps. 120 are enough for the demo data; use 1000 or more
  for your own recordings.
"""

# %% tags=["parameters"]
SOUNDS = "demo"  # @param ["demo", "upload"] {"allow-input": true}
STEPS = 120  # @param {"type": "integer"}

# %% [markdown]
"""## Installation

If the files of the project are not here yet, the next cell asks for a zip file of the
repository, which `git archive --output tagger.zip HEAD` makes.
"""

# %%
import csv
import glob
import os
import pathlib
import re
import shlex
import shutil
import sys
import zipfile

from IPython import get_ipython
from IPython.display import Image, display

try:
    from google.colab import files
except ImportError:  # This is not Colab.
    files = None

# Commands use the Python of this notebook.
os.environ["PATH"] = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
# The first folder of the notebook, also if this cell runs again.
start = pathlib.Path(os.environ.setdefault("TAGGER_START", os.getcwd()))
sounds = start / SOUNDS


def run(command: str) -> None:
    """Runs a command in a shell. If it fails, the notebook stops."""
    get_ipython().system(command)
    if status := get_ipython().user_ns.get("_exit_code"):
        raise RuntimeError(f"exit status {status}: {command}")


def upload_zip(what: str, folder: str) -> None:
    """Uploads a zip file, and extracts it to a folder."""
    if not files:
        raise FileNotFoundError(
            f"cannot upload the {what}: this is possible only on Colab"
        )
    print(f"Choose a zip file of the {what}.")
    for name in files.upload():
        zipfile.ZipFile(name).extractall(folder)


def find_code() -> list[str]:
    """The paths of runner.py in the parent folder and below this folder."""
    return [*glob.glob("../runner.py"), *glob.glob("**/runner.py", recursive=True)]


if not find_code():
    upload_zip("repository", "tagger")
os.chdir(pathlib.Path(find_code()[0]).parent)
run("python -m pip install --quiet --requirement requirements.txt")

# %% [markdown]
"""## Data

The recordings are converted to 16-bit WAV files. A fifth of them is kept for
evaluation.
"""

# %%
# The folder of all results.
work = "runs/" + re.sub(r"\W+", "_", pathlib.Path(SOUNDS).name)
if SOUNDS == "demo":
    run(f"python -m tools.make_demo_data {work}/demo")
    source = f"{work}/demo/train_curated --csv {work}/demo/train_curated.csv"
else:
    if SOUNDS == "upload":
        sounds = pathlib.Path(work, "sounds")
        shutil.rmtree(sounds, ignore_errors=True)  # of an earlier upload
        upload_zip("recordings", str(sounds))
        folders = [path for path in sounds.iterdir() if path.name != "__MACOSX"]
        if len(folders) == 1:  # The zip file has a folder around those of the classes.
            sounds = folders[0]
    source = shlex.quote(str(sounds))
run(f"python -m tools.make_dataset {source} {work}/data --clip_seconds 10")
run(
    f"python -m tools.make_validation_split {work}/data/clips.csv \
        --out_dir {work}/data --group_by recording --fraction 0.2"
)

# %% [markdown]
"""## Training

TensorBoard is empty until the training starts; then use its button *Reload*. If the
training is interrupted, run its cell again to resume from the last checkpoint.
"""

# %%
# %load_ext tensorboard
# %tensorboard --logdir {work}

# %%
run(
    f"python runner.py --mode train \
        --class_map_path {work}/data/class_map.csv \
        --train_clip_dir {work}/data/audio \
        --train_csv_path {work}/data/clips_train.csv \
        --train_dir {work}/train \
        --hparams lr=1e-3,batch_size=32,bndecay=0.9 \
        --max_steps {STEPS} --checkpoint_steps 50"
)

# %% [markdown]
"""## Evaluation

The lwlrap of each class, and overall, on recordings that are not in the training set; 1
is perfect.
"""

# %%
run(
    f"python runner.py --mode eval \
        --class_map_path {work}/data/class_map.csv \
        --eval_clip_dir {work}/data/audio \
        --eval_csv_path {work}/data/clips_validation.csv \
        --train_dir {work}/train \
        --eval_dir {work}/train/eval --eval_timeout_secs 0"
)

# %% [markdown]
"""## Tags

The tags of three of these recordings, from the best checkpoint. To tag others, upload
them in the panel *Files*, and name them here.
"""

# %%
with open(f"{work}/data/clips_validation.csv", encoding="utf-8", newline="") as file:
    names = [row["fname"] for row in csv.DictReader(file)][:3]
recordings = shlex.join(f"{work}/data/audio/{name}" for name in names)
run(f"python -m tools.tag best:{work}/train/eval {recordings} --plot {work}/tags")
for name in names:
    print(name)
    display(Image(f"{work}/tags/{name}.png"))

# %% [markdown]
"""Colab deletes all files when the session ends. Download what you need in the panel
*Files*: both files of a checkpoint (`model.ckpt-N.index` and `model.ckpt-N.data-...`)
and `hparams.json`.
"""

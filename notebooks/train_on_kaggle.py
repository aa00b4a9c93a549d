# %% [markdown]
"""# The published recipe on Kaggle

This notebook trains on the noisy set, and then on the curated set, with the values of
the published baseline. It runs `recipes/published_baseline.sh`.

A session on Kaggle ends after 12 hours. The notebook stops the training before that,
with a checkpoint. The checkpoints are the output of this version of the notebook. The
next version has them among its inputs, and resumes from them.

Inputs:

- the competition `freesound-audio-tagging-2019`;
- the data set with the code, which `tools.pack_kernel --train` makes;
- from the second version on, the output of this notebook.
"""

# %% tags=["parameters"]
INPUT_DIR = "/kaggle/input"  # This notebook searches all folders below.
HOURS = 11  # to train in this version
FLAGS = ["--keep_checkpoints=3"]  # further flags of `runner.py --mode train`
PRINT_STEPS = 500  # steps between printed losses

# %%
import glob
import os
import pathlib
import re
import subprocess
import sys

OUT = pathlib.Path("published_baseline")  # in the working directory
TIMED_OUT = 124  # exit status of `timeout`


def find_folders(name: str) -> list[pathlib.Path]:
    """The folders below INPUT_DIR that have a file or a folder of this name."""
    paths = glob.glob(f"{glob.escape(INPUT_DIR)}/**/{name}", recursive=True)
    folders = sorted(pathlib.Path(path).parent for path in paths)
    print(f"{name}:", *(folders or ["not found"]))
    return folders


codes = find_folders("runner.py")
competitions = find_folders("train_noisy.csv")
earlier = find_folders(f"{OUT}/noisy")
if not codes or not competitions:
    raise FileNotFoundError(
        f"the code or the competition is not below {INPUT_DIR}; add them as inputs"
    )

# %% [markdown]
"""## The checkpoints of the previous version

Inputs are read-only, so the checkpoints are copied to the output of this version.
"""

# %%
if earlier and not OUT.exists():
    part = OUT.with_suffix(".part")
    copy = ["cp", "--recursive", "--no-preserve=mode", f"{earlier[0]}/.", part]
    subprocess.run(copy, check=True)
    part.rename(OUT)
for stage in ("noisy", "curated"):
    print(f"{stage}: {len(list(OUT.glob(f'{stage}/*.index')))} checkpoints")

# %% [markdown]
"""## Training

After HOURS, the training gets SIGTERM, saves a checkpoint and stops. It uses the whole
curated set, and nothing is evaluated.
"""

# %%
command = [
    *("timeout", "--signal=TERM", f"{HOURS}h"),
    *("bash", f"{codes[0]}/recipes/published_baseline.sh", f"{competitions[0]}", OUT),
    *FLAGS,
]
with subprocess.Popen(
    command,
    env=os.environ | {"PYTHON": sys.executable, "VALIDATION": "0"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    encoding="utf-8",
    errors="replace",
) as process:
    try:
        for line in process.stdout:  # Notebooks only show what Python prints.
            step = re.match(r"step (\d+): ", line)
            if not step or int(step[1]) % PRINT_STEPS == 0:
                print(line, end="", flush=True)
    finally:
        process.terminate()  # Also stops the training if this cell is interrupted.

# %%
if process.returncode == 0:
    print(f"The training is complete. The scores of the test set: {OUT}/submission.csv")
elif process.returncode == TIMED_OUT:
    print(
        "The time limit was reached. Run the next version with this output as an input."
    )
else:
    raise RuntimeError(
        f"the recipe failed with exit status {process.returncode}; its output is above"
    )

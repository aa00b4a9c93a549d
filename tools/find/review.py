"""The page to review examples of recordings; its script is in review.html."""

import contextlib
import hashlib
import json
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

from recordings import plots
from recordings.archive import Example
from recordings.decoding import read_part
from recordings.pages import fill_page
from tagger.data.csv_files import BACKGROUND
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.terminal.progress import printable, progress_bar

TEMPLATE = pathlib.Path(__file__).with_name("review.html")
CONTEXT_SECONDS = 1.0  # before and after an example, in its picture


def make_page(
    found: Sequence[tuple[Example, str]],
    *,
    title: str,
    value: str,
    label: str,
    class_names: Sequence[str],
    hparams: Hparams,
    page_dir: str,
) -> str:
    """The page as HTML.

    Args:
      found: the examples, each with its class; "": that of `label`.
      title: the title of the page.
      value: what the values of the examples are, such as "score".
      label: the class of examples without one that are right; the page can change it.
      class_names: C names to choose from.
      hparams: hyperparameters of the features, for the pictures.
      page_dir: folder of the page. The players find the recordings relative to it.
    """
    items = []
    with progress_bar(len(found), what="pictures", unit="example") as bar:
        for example, class_name in found:
            items.append(_item(example, class_name, hparams, page_dir))
            bar.update()
    places = [[item[name] for name in ("file", "start", "label")] for item in items]
    data = {
        # Another page, with other examples, has decisions of its own.
        "id": hashlib.sha256(json.dumps([title, places]).encode()).hexdigest(),
        "value": value,
        "label": label,
        "classes": list(class_names),
        "items": items,
    }
    return fill_page(
        TEMPLATE,
        title=title,
        data=data,
        summary=f"{len(items)} examples, by {value}.",
        background=BACKGROUND,
    )


def _item(
    example: Example, class_name: str, hparams: Hparams, page_dir: str
) -> dict[str, Any]:
    """An example, as the script needs it."""
    import inputs

    path, start, end, value = example
    first, last, image = max(0.0, start - CONTEXT_SECONDS), end + CONTEXT_SECONDS, ""
    with contextlib.suppress(UserError):  # The page says that it cannot be read.
        waveform = read_part(path, first, last)
        last = first + len(waveform) / SAMPLE_RATE
        log_mel = inputs.waveform_to_log_mel_spectrogram(waveform, hparams)
        image = plots.spectrogram_url(log_mel.numpy())
    address = os.fsencode(os.path.relpath(path, page_dir))
    return {
        "file": printable(path),
        "name": printable(os.path.basename(path)),
        "src": urllib.parse.quote(address),
        "start": round(start, 3),
        "end": round(end, 3),
        "from": first,
        "to": last,
        "value": value,
        "label": class_name,
        "image": image,
    }

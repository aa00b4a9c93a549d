"""Fills the templates of HTML pages, which work offline."""

import html
import json
import pathlib
import string
from typing import Any

HEAD = pathlib.Path(__file__).with_name("page_head.html")


def fill_page(template: pathlib.Path, *, title: str, data: Any, **values: str) -> str:
    """The HTML of a page.

    Args:
      template: what follows HEAD. "$name" stands for the value of this name.
      title: plain text.
      data: what the script of the page reads, for JSON.
      values: HTML.
    """
    text = HEAD.read_text(encoding="utf-8") + template.read_text(encoding="utf-8")
    return string.Template(text).substitute(
        title=html.escape(title),
        # "<" would end the script if a class is named "</script>".
        data=json.dumps(data).replace("<", "\\u003c"),
        **values,
    )

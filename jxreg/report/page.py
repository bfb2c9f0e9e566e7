"""The page: a template, the words of a record, and pictures inside."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jxreg.report import words

PLATES = {
    "xray": ("X-ray", "as acquired"),
    "start": ("Start", "contours of the DRR at the starting pose"),
    "end": ("Result", "contours of the DRR at the registered pose"),
    "drr_start": ("DRR before", "rendered at the starting pose"),
    "drr_end": ("DRR after", "rendered at the registered pose"),
    "checkerboard": ("Checkerboard", "X-ray grey, DRR teal: edges must continue"),
    "difference_start": ("Difference before", "X-ray minus DRR: red absorbs more than expected"),
    "difference_end": ("Difference after", "white is agreement, once contrast is matched"),
}
"""Pictures of the page, in order: key, title and caption. A missing one is left out."""


def report_html(record: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page of one registration: one HTML file, safe against markup in any name.

    Args:
        record: What `registration_record` gave.
        pictures: JPEG, PNG or SVG files by the keys of `PLATES`, and `curve`, the similarity.
    """
    return _rendered(
        "report.html.jinja",
        record=record,
        verdict=words.verdict(record),
        rows=words.pose_rows(record),
        checks=words.checks(record),
        figures=words.key_figures(record),
        letters=words.edge_letters(record),
        plates=[(k, *PLATES[k], data_uri(pictures[k])) for k in PLATES if k in pictures],
        curve=data_uri(pictures["curve"]) if "curve" in pictures else None,
    )


def batch_html(records: Sequence[Mapping[str, Any]], links: Sequence[str]) -> str:
    """The list of a batch, one line a frame.

    Args:
        records: What `registration_record` gave for each frame.
        links: Address of each frame's page, relative to this one.
    """
    lines = [
        (record, words.verdict(record), link) for record, link in zip(records, links, strict=True)
    ]
    return _rendered("batch.html.jinja", lines=lines)


def data_uri(picture: bytes) -> str:
    """A picture as an address that holds the picture itself."""
    kinds = {b"\xff\xd8": "jpeg", b"\x89P": "png"}
    kind = kinds.get(picture[:2], "svg+xml")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _rendered(name: str, **values: Any) -> str:
    import jinja2

    folder = resources.files("jxreg.report")
    files = {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir() if _is_part(p.name)}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(files),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = words.number
    script = files["page.js"]
    # Only this very script may run: the browser checks its hash.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(name).render(
        script=script, digest=digest, style=files["page.css"], words=words, **values
    )


def _is_part(name: str) -> bool:
    return name.endswith((".jinja", ".css", ".js"))

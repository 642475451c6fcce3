"""A finished run on one page, for a notebook: what was run, what came out, its figures."""

import base64
import html
import io
from pathlib import Path
from typing import Any

WIDTH = 640  # pixels of a figure: the run's own are for print


def run_html(path: Path, record: dict[str, Any], summary: dict[str, Any]) -> str:
    """Command, final figures as a table, and the run's pictures, in themselves.

    Args:
      path: the run directory.
      record: its `config.json`.
      summary: its `summary.json`; only single numbers and words are shown.
    """
    figures = {k: x for k, x in summary.items() if isinstance(x, bool | int | float | str)}
    rows = "".join(
        f'<tr><td style="text-align:left">{html.escape(name)}</td>'
        f"<td>{html.escape(_short(value))}</td></tr>"
        for name, value in figures.items()
    )
    pictures = "".join(
        f'<img src="data:image/png;base64,{_small(each)}" alt="{html.escape(each.stem)}">'
        for each in sorted((path / "figures").glob("*.png"))
    )
    return (
        f"<b>{html.escape(str(record.get('experiment', 'run')))}</b>, {html.escape(str(path))}"
        f"<pre>{html.escape(record['command'])}</pre><table>{rows}</table>{pictures}"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _small(picture: Path) -> str:
    from PIL import Image

    content = io.BytesIO()
    with Image.open(picture) as image:
        image.thumbnail((WIDTH, 10 * WIDTH))
        image.save(content, format="png")
    return base64.b64encode(content.getvalue()).decode()

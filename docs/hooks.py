"""What the pages take from the code: the reference of the commands, as typer writes it."""

import subprocess
import sys
from typing import Any

COMMANDS = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with the reference of all commands where it asks for it."""
    if COMMANDS not in markdown:
        return markdown
    typer = [sys.executable, "-m", "typer", "unirouter_plugins.cli", "utils", "docs", "--name", "unirouter"]
    written = subprocess.run(typer, capture_output=True, text=True, check=True).stdout
    return markdown.replace(COMMANDS, written.partition("\n")[2].replace("\n## ", "\n### "))


def on_page_content(html: str, **_: Any) -> str:
    """Return the page with docstrings' `::`, which announces a literal block, as a colon."""
    return html.replace("::</p>", ":</p>")

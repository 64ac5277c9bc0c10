"""A hook of MkDocs: files beside `docs/` that its pages link to become files of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)")  # of a page in docs/, to what lies beside the folder
INSIDE = re.compile(r"\]\(docs/")  # of a page beside the folder


def on_files(files: Files, *, config: Any) -> Files:
    """Add what is linked from outside, and the pages beside the folder."""
    named = {"README.md", "README.ja.md", "CHANGELOG.md", "LICENSE"}
    for page in Path(config.docs_dir).glob("*.md"):
        named |= set(OUTSIDE.findall(page.read_text(encoding="utf-8")))
    for name in sorted(named):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links as they are within the site."""
    return INSIDE.sub("](", OUTSIDE.sub(r"](\1", markdown))

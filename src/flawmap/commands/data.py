"""`flawmap data`: what a data set is understood to hold."""

from __future__ import annotations

from pathlib import Path

from flawmap.core.settings import ImageSettings
from flawmap.data.layouts import find_dataset
from flawmap.data.summary import DatasetSummary, describe


def data(path: Path, images: ImageSettings) -> DatasetSummary:
    """What a folder or manifest is understood to hold; nothing is trained or written."""
    return describe(find_dataset(path), images)

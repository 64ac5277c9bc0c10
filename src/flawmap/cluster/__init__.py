"""Work on many machines, on Ray: archives of images are scored into tables, and labelled sets for their metrics.

Folders, manifests and URLs come in; a folder of Parquet files, its parts, goes out.
It calls evaluation, scoring, imaging, data and core.
"""

"""Work on many machines, on Ray: archives of images are scored into tables.

Folders, manifests and URLs come in; a folder of Parquet files, its parts, goes out.
It calls scoring, imaging, data and core.
"""

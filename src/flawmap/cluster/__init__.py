"""Work on many machines, on Ray: archives of images are scored into tables, and jobs run side by side.

Folders, manifests, URLs and jobs come in; folders of Parquet files, and what became of the jobs, go out.
It calls scoring, imaging, data and core.
"""

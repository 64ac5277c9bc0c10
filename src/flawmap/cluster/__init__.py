"""Work on many machines, on Ray: archives are scored into tables, labelled sets for their metrics, and jobs run.

Folders, manifests, URLs and jobs come in; folders of Parquet files, and what became of the jobs, go out.
It calls evaluation, scoring, imaging, data and core.
"""

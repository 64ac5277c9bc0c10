"""Models behind HTTP, a store of results, a watched folder, and what the line is told.

Images come by requests or as files of a folder; results, pictures and messages go out.
It calls scoring, reporting, imaging and core.
"""

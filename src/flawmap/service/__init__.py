"""flawmap as a service: resident models behind HTTP, a store of results, and the line's ways in and out."""

"""What the paper claims and shows, made again: figures, tables, and whether each claim holds."""

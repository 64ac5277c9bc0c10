"""Data sets: layouts, splits, what they hold, and patches of their images; synthetic images, too.

Folders come in; samples, splits and batches of patches go out.
It calls core and imaging.
"""

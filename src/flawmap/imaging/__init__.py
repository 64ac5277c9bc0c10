"""Image files and images: formats, reading by rows, resizing, regions of interest, morphology, writing.

Paths and arrays come in; images in [0, 1], masks and files go out. No torch here.
It calls core.
"""

"""From an image to its residual map and its inspection, whole or by bands of rows; the model file.

Images by rows and a fitted model come in; bands of the map, regions and verdicts go out.
It calls core, imaging, nets, data and methods.
"""

"""Methods: what is fitted to patches of good images, and what a fitted one says of a patch. One row each.

Settings and patches come in; states (tensors and JSON) and residuals of patches go out.
It calls core and nets.
"""

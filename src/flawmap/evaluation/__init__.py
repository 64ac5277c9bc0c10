"""Thresholds from held-out good images, and metrics on labelled ones, with intervals.

Residual maps and ground truth come in; thresholds, metrics and curves go out.
It calls core, imaging, nets, data, methods and scoring.
"""

"""The one family of exceptions. Every message says what was expected, what was found, and what to do."""


class FlawmapError(Exception):
    """Base of every error that flawmap raises on purpose; the command line prints it and exits with 2."""


class InputError(FlawmapError, ValueError):
    """An image, mask, array or path does not meet what the call needs."""


class OutputError(InputError):
    """A file cannot be written: no such folder, no right, no room."""


class ConfigError(FlawmapError, ValueError):
    """A setting makes no sense, alone or together with another one."""


class ArtifactError(FlawmapError, ValueError):
    """A model file is damaged, foreign, or written by a newer flawmap."""


class TrainingError(FlawmapError, RuntimeError):
    """Training cannot go on: a NaN loss, or a loss that never leaves the plateau."""


class LostProcessError(FlawmapError, RuntimeError):
    """Another process of a training that several share is out of reach."""

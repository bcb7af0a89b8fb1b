"""The errors that a user may see: one line that names the file or key, and says what to do."""

from __future__ import annotations


class ConfigurationError(ValueError):
    """What was asked for cannot be done; the message names the key or option."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file or data set."""


class RunError(RuntimeError):
    """A run directory or record that cannot be used; the message names it."""


class Diverged(RunError):
    """A loss or a gradient is NaN or infinite; the message names step, terms and checkpoint."""


class DiskFull(OSError):
    """There is no room for a file; what was there before is intact."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which interrupts as Ctrl-C does."""

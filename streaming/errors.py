"""The errors of hedmlive: one root, and each kind is also the built-in that a caller would expect.

::

    HedmLiveError
    |-- SettingsError   (ValueError)   a settings file, a recipe or an argument is wrong
    |-- DocumentError   (ValueError)   a document is malformed, or comes where it cannot
    |-- FrameError      (ValueError)   a frame is missing, has the wrong shape or holds no number
    |-- ArchiveError    (OSError)      an archive cannot be written, or is not what it should be
    |-- ReplayError     (ValueError)   a source cannot be replayed
    `-- PublishError    (RuntimeError) the Tiled server refused a batch for good

Every message is one line that names what came, what was wanted, which run, frame, file or key, and what to do.
"""


class HedmLiveError(Exception):
    """Root of every error that hedmlive raises on purpose."""


class SettingsError(HedmLiveError, ValueError):
    """A settings file, a recipe or an argument is wrong."""


class DocumentError(HedmLiveError, ValueError):
    """A document is malformed, or comes where it cannot."""


class FrameError(HedmLiveError, ValueError):
    """A frame is missing, has the wrong shape, or holds no number."""


class ArchiveError(HedmLiveError, OSError):
    """An archive cannot be written, or is not what it should be."""


class ReplayError(HedmLiveError, ValueError):
    """A source cannot be replayed."""


class PublishError(HedmLiveError, RuntimeError):
    """The Tiled server refused a batch for good."""


class BatchTooLarge(PublishError):
    """The Tiled server, or a proxy before it, takes smaller batches only."""

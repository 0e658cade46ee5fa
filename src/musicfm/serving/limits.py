"""What a server takes on, and how it says no."""

from dataclasses import dataclass

from musicfm.errors import MusicFMError


@dataclass(frozen=True)
class Limits:
    """What one client, and all clients together, may ask for."""

    max_bytes: int = 200_000_000
    """Largest upload, in bytes."""
    max_seconds: float = 1_800.0
    """Longest recording, in seconds."""
    upload_seconds: float = 300.0
    """The longest time for an upload to arrive, in seconds."""
    work_seconds: float = 600.0
    """The longest time from an upload's arrival to its result, in seconds, including waiting."""
    max_requests: int = 32
    """The largest number of requests at once, from arrival to answer."""
    keep_seconds: float = 3_600.0
    """The time for which the result of a job is kept, in seconds."""
    max_kept: int = 200
    """The largest number of such results; if there are more, the oldest are deleted."""


class RequestError(MusicFMError):
    """A request is not answered with a result.

    Args:
        status: of HTTP.
        reason: one sentence, for the client.
        retry_seconds: after which to try again, if that may help.
    """

    def __init__(self, status: int, reason: str, retry_seconds: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.retry_seconds = status, retry_seconds

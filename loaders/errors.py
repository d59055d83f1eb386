"""Errors of the loaders: each names what was asked, what was found and who can act."""

from __future__ import annotations


class LoaderError(Exception):
    """Root of everything this floor raises on purpose."""


class LoaderInputError(LoaderError, ValueError):
    """A call with an argument outside what is allowed; the caller acts.

    Examples
    --------
    >>> raise LoaderInputError("kind", "random", "sequential, uniform or balanced")
    Traceback (most recent call last):
    loaders.errors.LoaderInputError: kind='random' is not allowed; expected sequential, uniform or balanced
    """

    def __init__(self, field: str, got: object, allowed: str) -> None:
        super().__init__(f"{field}={got!r} is not allowed; expected {allowed}")
        self.field, self.got, self.allowed = field, got, allowed


class StateMismatchError(LoaderError, ValueError):
    """A saved position that belongs to another stream; the caller starts anew or restores the configuration.

    Examples
    --------
    >>> raise StateMismatchError("12ab", "34cd")
    Traceback (most recent call last):
    loaders.errors.StateMismatchError: the saved position is of stream 12ab, and this one is 34cd; restore the \
release, seed and sampler configuration it was saved with, or start a new stream
    """

    def __init__(self, saved: str, here: str) -> None:
        super().__init__(
            f"the saved position is of stream {saved}, and this one is {here}; restore the release, seed and sampler "
            "configuration it was saved with, or start a new stream"
        )
        self.saved, self.here = saved, here


class PackError(LoaderError, ValueError):
    """A pack that is damaged, incomplete or of another format; the operator copies or makes it again.

    Examples
    --------
    >>> raise PackError("pack/records/c/3", "other bytes than were packed", "copy it again, or pack again")
    Traceback (most recent call last):
    loaders.errors.PackError: pack/records/c/3: other bytes than were packed; copy it again, or pack again
    """

    def __init__(self, where: str, found: str, remedy: str) -> None:
        super().__init__(f"{where}: {found}; {remedy}")
        self.where, self.found, self.remedy = where, found, remedy

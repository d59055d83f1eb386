"""Errors of the workshop: each names what was asked, what was found and what to do.

Every leaf inherits `ModelError` and a builtin, so callers may catch either.
"""

from __future__ import annotations


class ModelError(Exception):
    """Root of everything this floor raises on purpose."""


class ModelInputError(ModelError, ValueError):
    """A call with an argument outside what is allowed; the caller acts.

    Examples
    --------
    >>> raise ModelInputError("dim", 10, "a multiple of 16")
    Traceback (most recent call last):
    model.errors.ModelInputError: dim=10 is not allowed; expected a multiple of 16
    """

    def __init__(self, field: str, got: object, allowed: str) -> None:
        super().__init__(f"{field}={got!r} is not allowed; expected {allowed}")
        self.field, self.got, self.allowed = field, got, allowed


class CheckpointError(ModelError, ValueError):
    """A file of weights that is not what it should be, or would run code when read; refused, the caller acts.

    Examples
    --------
    >>> raise CheckpointError("esm2.pt", "it holds no weights", "take an ESM2 checkpoint of fair-esm")
    Traceback (most recent call last):
    model.errors.CheckpointError: esm2.pt was refused: it holds no weights; take an ESM2 checkpoint of fair-esm
    """

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        super().__init__(f"{path} was refused: {reason}; {remedy}")
        self.path, self.reason, self.remedy = path, reason, remedy


class WeightsUnavailableError(ModelError, OSError):
    """Trained weights that could not be fetched; the operator gets them another way.

    Examples
    --------
    >>> raise WeightsUnavailableError("ESM2 8M", "no connection", "pass a local checkpoint")
    Traceback (most recent call last):
    model.errors.WeightsUnavailableError: could not fetch ESM2 8M: no connection; pass a local checkpoint
    """

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        super().__init__(f"could not fetch {what}: {reason}; {remedy}")
        self.what, self.reason, self.remedy = what, reason, remedy


class TrainingDivergedError(ModelError, ArithmeticError):
    """A run whose loss left where it was and did not come back, or is no number; the caller changes the recipe.

    Examples
    --------
    >>> raise TrainingDivergedError(120, "denoise/0.8 is no number", 0.002)
    Traceback (most recent call last):
    model.errors.TrainingDivergedError: diverged at step 120 with learning rate 0.002: denoise/0.8 is ...
    """

    def __init__(self, step: int, what: str, rate: float) -> None:
        super().__init__(
            f"diverged at step {step} with learning rate {rate:.3g}: {what}; train again with a lower learning rate, a "
            "smaller clip or a longer warm-up"
        )
        self.step, self.what, self.rate = step, what, rate

"""Errors of the forecast: the caller decides whether to fall back or to stop."""


class MlError(Exception):
    """Base of everything this package raises on purpose."""


class SeriesError(MlError):
    """A load file that cannot be read as load series; names the row and the column."""


class ModelUnavailableError(MlError):
    """A model, its card or their agreement cannot be trusted; serve a stated rule instead."""


class TrainingError(MlError):
    """Training refused: too little data, or an exported model that disagrees with its source."""


class LearnedStateError(MlError):
    """Stored learned state that this version cannot read; start from an empty one and say so."""

"""What can go wrong, one class for each thing a caller would catch apart."""


class UniRouterError(Exception):
    """The base of every exception that unirouter raises on purpose."""


class InvalidDataError(UniRouterError):
    """Input that cannot be used: a wrong shape, a value outside its range, a bad line in a file."""


class MissingOutcomesError(InvalidDataError):
    """An estimator that learns from training models' answers was not given them."""


class NotFittedError(UniRouterError):
    """Something was asked of an object before its ``fit``."""


class UnknownModelError(UniRouterError, KeyError):
    """A model that is not in the pool; a `KeyError`, as a pool is a mapping."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnknownPriceError(UniRouterError):
    """A model whose price is not known; it is never taken as $0."""


class NoCandidateError(UniRouterError):
    """No model of the pool may answer this prompt."""


class EmbedderMismatchError(UniRouterError):
    """An embedder that gives other vectors than the router was fitted on."""


class ArtifactError(UniRouterError):
    """A router folder that cannot be read or written: truncated, edited, foreign, newer, or of mixed fits."""

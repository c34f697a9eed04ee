"""A router as a folder: JSON and plain arrays, one file for each model, written atomically and checked when read.

    my.router/
      router.json              schema version, id of the fit, settings, token count, default cost_weight, texts or not
      weights.npz              the fitted arrays, the embedder's three check vectors, hashes of the prompts fitted on
      validation/<id>.jsonl    the prompts that profiles were measured on, or only their digests
      validation/<id>.npz      their vectors and the training models' errors on them
      pool/<model>.json        one file for each model, its name percent-encoded

A validation set is named by its content, and a save writes or removes the files of those models only that have changed
in this router since it last read or wrote the folder, and writes the cost_weight only if it has: two machines that work
on two models in one folder cannot lose each other's work. A save that removes a model takes the text out of validation
sets that no model of the folder names any more; their digests stay.
"""

from unirouter_core.artifact.files import SCHEMA
from unirouter_core.artifact.read import load
from unirouter_core.artifact.state import arrays_of, described, fit_id, settings_of
from unirouter_core.artifact.write import Held, save

__all__ = ["SCHEMA", "Held", "arrays_of", "described", "fit_id", "load", "save", "settings_of"]

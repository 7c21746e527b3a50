"""Opens and runs damaged ONNX files, sealed and without a seal; prints what happened. A crash would
end the process.
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import onnx

from dhp_sr.deploy.onnx_runner import open_session
from dhp_sr.utils.errors import UserError

from .fuzzing import mutate

TRIES = 150


def bare(content):
    """Return a model without metadata, as other programs write it."""
    model = onnx.load_model_from_string(content)
    del model.metadata_props[:]
    return model.SerializeToString()


def attempt(path):
    """Open a file and run it; return the reason of its refusal."""
    try:
        session = open_session(path)
    except UserError as error:
        return str(error)
    try:
        session.run(None, {session.get_inputs()[0].name: np.zeros((1, 1, 8, 8), np.float32)})
    except Exception:  # onnxruntime's own classes; that it raises is all that is asked
        return None


def fuzz(content, path):
    """Return how many were refused, and what it cost."""
    reasons = []
    path.write_bytes(content)
    attempt(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(TRIES):
        path.write_bytes(mutate(content, seed))
        reasons.append(attempt(path))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    refused = [reason for reason in reasons if reason]
    kinds = len({reason.split(": ")[1][:30] for reason in refused})
    found = {"refused": len(refused), "opened": TRIES - len(refused), "reasons": kinds}
    return {**found, "grown": grown}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    whole = (folder / "whole.onnx").read_bytes()
    print(json.dumps([fuzz(content, folder / "damaged.onnx") for content in (whole, bare(whole))]))

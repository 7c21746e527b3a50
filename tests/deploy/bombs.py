"""Small files that would become large, or run. As a program: loads them with limited memory, prints
what happened.
"""

import json
import pickle
import resource
import struct
import sys
import zipfile
from pathlib import Path

import torch

from dhp_sr.archs import EDSR
from dhp_sr.deploy import load_model, load_weights, save_model
from dhp_sr.utils.errors import UserError

MORE_BYTES = 2**29
HUGE = 2**33


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_all(folder):
    """Write every bomb; return their names."""
    weights = EDSR(num_feat=4, num_block=1, upscale=2).state_dict()
    torch.save(weights, folder / "whole.pth")
    save_model(EDSR(num_feat=4, num_block=1, upscale=2), folder / "whole.safetensors")
    files = {
        "code.pth": Call(Path.mkdir, folder / "executed"),
        "bytes.pth": Call(bytearray, HUGE),
        "tensor.pth": Call(torch.FloatTensor, HUGE),
        "repeated.pth": torch.zeros(1).expand(HUGE),
    }
    for name, content in files.items():
        torch.save({**weights, "more": content}, folder / name)
    _zip_bomb(folder / "whole.pth", folder / "zip.pth")
    (folder / "pickle.safetensors").write_bytes(
        pickle.dumps(Call(Path.mkdir, folder / "executed"), protocol=2)
    )
    (folder / "header.safetensors").write_bytes(
        struct.pack("<Q", 90_000_000) + b"{" + b" " * 89_999_999
    )
    _many_tensors(folder / "many.safetensors", 4_000)
    _many_tensors(folder / "more.safetensors", 60_000)
    _wide(folder / "wide.safetensors")
    return [
        *files,
        "zip.pth",
        "pickle.safetensors",
        "header.safetensors",
        "many.safetensors",
        "more.safetensors",
        "wide.safetensors",
    ]


def _zip_bomb(source, target):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("/data/0"):
                data = bytes(2**28)
            new.writestr(entry.filename, data, compress_type=zipfile.ZIP_DEFLATED)


def _many_tensors(path, count):
    """As many tensors as blocks are asked for, none of the right name."""
    save_model(EDSR(num_feat=4, num_block=1, upscale=2), path)
    header = _header(path)
    manifest = json.loads(header["__metadata__"]["manifest"])
    manifest["arguments"]["num_block"] = count
    metadata = {"format": "dhp_sr", "format_version": "1", "manifest": json.dumps(manifest)}
    entries = {
        f"t{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
        for number in range(count)
    }
    _write(path, {"__metadata__": metadata, **entries}, b"")


def _wide(path):
    """A tensor of a shape that would take 2 TiB, in a file of a few bytes."""
    save_model(EDSR(num_feat=4, num_block=1, upscale=2), path)
    header = _header(path)
    first = next(key for key in header if key != "__metadata__")
    header[first]["shape"] = [2**20, 2**19]
    _write(path, header, path.read_bytes()[8 + int.from_bytes(path.read_bytes()[:8], "little") :])


def _header(path):
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def _write(path, header, data):
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def limit_memory():
    """Let the address space grow by no more than `MORE_BYTES`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def attempt(path):
    """Load a file; return the reason of its refusal and MiB that the process grew by."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        (load_weights if path.suffix == ".pth" else load_model)(path)
        reason = ""
    except UserError as error:
        reason = str(error)[:300]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return reason, grown


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    load_weights(folder / "whole.pth")
    load_model(folder / "whole.safetensors")
    limit_memory()
    print(json.dumps({name: attempt(folder / name) for name in names}))

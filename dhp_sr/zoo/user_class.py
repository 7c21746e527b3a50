"""A network class in a file of the user: `path/to/net.py:CLASS`.

The file is code, and importing it runs it. So only a name on the command line or in an option file
leads here, never a checkpoint or a model file. A model file names such a network `user:CLASS`; the
program that loads it registers the class first.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from dhp_sr.deploy import register
from dhp_sr.utils.errors import UserError, constructor_error, nearest
from dhp_sr.zoo.value_range import adapt_range

PACKAGE = "user"
"""Package in the names of such networks in model files."""


def is_user_class(name: str) -> bool:
    """Return whether a name has the form `path/to/net.py:CLASS`."""
    # From the right: a path on Windows has a colon after its drive.
    path, colon, class_name = name.rpartition(":")
    return bool(colon) and path.endswith(".py") and class_name.isidentifier()


def class_file(name: str) -> Path | None:
    """Return the file of a name of the form `path/to/net.py:CLASS`; None for another name."""
    return Path(name.rpartition(":")[0]) if is_user_class(name) else None


def user_class_name(name: str) -> str:
    """Return the name in model files: `user:CLASS`."""
    return f"{PACKAGE}:{name.rpartition(':')[2]}"


def build_user_class(name: str, arguments: Mapping[str, object]) -> nn.Module:
    """Construct a network of the user's class; model files of this process may name it, too.

    Raises:
        UserError: The file cannot be imported, has no such class, or the class refuses the
            arguments.
    """
    class_object = load_user_class(name)

    def construct(**values: object) -> nn.Module:
        return adapt_range(lambda inner: class_object(**inner), values)

    # Not under the path: a file that is passed on must not tell where it was made.
    register(user_class_name(name), construct)
    try:
        return class_object(**arguments)
    except Exception as error:
        raise constructor_error(name, arguments, error) from error


def load_user_class(name: str) -> type[nn.Module]:
    """Import the user's file and return the class.

    Raises:
        UserError: See `build_user_class`.
    """
    path_text, _, class_name = name.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise UserError(f"{path}: expected a Python file with the class {class_name}, found none")
    # By the whole path: another file of the user may have the same stem.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    module_name = f"dhp_sr_user_{digest}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None, "the suffix is .py"
        module = importlib.util.module_from_spec(spec)
        # Before it is executed, as import does: pickling and dataclasses look their module up.
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            # The user's code raises anything; a script without a main guard may end the program.
            # A half-made module must not be taken for the whole.
            del sys.modules[module_name]
            raise UserError(
                f"{path}: cannot be imported: {type(error).__name__}: {error}"
            ) from error
    class_object = getattr(module, class_name, None)
    if not isinstance(class_object, type) or not issubclass(class_object, nn.Module):
        # Classes that the file defines; those that it imports are not meant.
        known = []
        for key, value in vars(module).items():
            is_network = isinstance(value, type) and issubclass(value, nn.Module)
            if is_network and value.__module__ == module_name:
                known.append(key)
        raise UserError(
            f"{path}: expected a class {class_name} of torch.nn.Module"
            f"{nearest(class_name, known)}; found {', '.join(known) or 'none'}"
        )
    return class_object

"""Write the pages of docs/reference that follow from the code.

    $ python scripts/generate_docs.py            # writes them
    $ python scripts/generate_docs.py --check    # changes nothing, fails if one is out of date

commands.md comes from the argument parsers, options.md from the classes in dhp_sr/config,
operators.md from the operator registry.
"""

import argparse
import ast
import importlib.util
import inspect
import itertools
import json
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dhp_sr.cli import model_parsers, parsers  # noqa: E402
from dhp_sr.config.datasets import CLASSIFICATION, KINDS  # noqa: E402
from dhp_sr.config.renamed import RENAMED  # noqa: E402
from dhp_sr.config.schema import Options  # noqa: E402
from dhp_sr.config.section import Section  # noqa: E402
from dhp_sr.operators import registry  # noqa: E402
from dhp_sr.operators.spec import Activation, OpSpec, Target  # noqa: E402
from dhp_sr.utils.cost_kinds import COST_KINDS  # noqa: E402
from dhp_sr.utils.files import write_text  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"
NOTICE = "<!-- Written by scripts/generate_docs.py; change the code instead. -->\n\n"

FORMS = {"images": "super-resolution and denoising", CLASSIFICATION: "classification"}
"""Form of the section `datasets` -> tasks that it is for, in words."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 if `--check` finds a page that is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args(argv)
    outdated = []
    for name, make_page in PAGES.items():
        path = REFERENCE / name
        text = NOTICE + make_page()
        if arguments.check and path.read_text(encoding="utf-8") != text:
            outdated.append(path)
        if not arguments.check:
            write_text(path, text)
    for path in outdated:
        print(f"{path}: out of date; run python scripts/generate_docs.py", file=sys.stderr)
    return 1 if outdated else 0


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table; a bar inside a cell is escaped, and a line break becomes a blank."""
    lines = []
    for cells in (header, ["---"] * len(header), *rows):
        escaped = [" ".join(cell.split()).replace("|", r"\|") for cell in cells]
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join(lines) + "\n"


# Commands


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the argument parser of every command, by the file that is run."""
    prepare_data = _module_from_file(ROOT / "scripts" / "prepare_data.py")
    return {
        "dhp_sr/train.py": parsers.train_parser(),
        "dhp_sr/test.py": model_parsers.evaluate_parser(),
        "dhp_sr/plan.py": parsers.plan_parser(),
        "dhp_sr/export.py": model_parsers.export_parser(),
        "dhp_sr/infer.py": model_parsers.infer_parser(),
        "dhp_sr/report.py": parsers.report_parser(),
        "dhp_sr/compress.py": parsers.compress_parser(),
        "scripts/prepare_data.py": prepare_data._make_parser(),
    }


def commands_page() -> str:
    """Return the page with the arguments of every command."""
    page = (
        "# Commands\n\n"
        "Every command has `--help`. Exit codes: 0 success; 1 some images failed (`infer.py`), or a"
        " fault of the program; 2 a mistake in the arguments, the options or the files; 130\n"
        "interrupted. After `pip install .` the same commands are called `dhp-sr-train`,"
        " `dhp-sr-test`, `dhp-sr-plan`,\n"
        "`dhp-sr-compress`, `dhp-sr-export`, `dhp-sr-infer` and `dhp-sr-report`.\n"
    )
    for file, parser in command_parsers().items():
        subcommands = _subcommands(parser)
        first_line = (parser.description or "").strip().splitlines()[0]
        page += f"\n## {Path(file).name}\n\n{first_line} Run as `python {file}`.\n"
        if subcommands:
            for name, subparser in subcommands.items():
                page += f"\n### {Path(file).name} {name}\n\n{subparser.description or ''}\n\n"
                page += _arguments_table(subparser)
        else:
            page += "\n" + _arguments_table(parser)
    return page


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _arguments_table(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            rows.append([_argument_text(action), _help_text(action)])
    return table(["argument", "meaning"], rows)


def _argument_text(action: argparse.Action) -> str:
    """Return an argument as it is typed, such as `--size H W`."""
    value = ""
    if action.nargs != 0:
        name = action.metavar or action.dest.upper()
        names = [name] if isinstance(name, str) else list(name)
        if action.choices:
            names = [" | ".join(str(choice) for choice in action.choices)]
        if isinstance(action.nargs, int) and len(names) == 1:
            names = names * action.nargs
        value = " ".join(names) + (" ..." if action.nargs in ("+", "*") else "")
    if not action.option_strings:
        return f"`{value}`"
    typed = ", ".join(
        f"`{name} {value}`" if value else f"`{name}`" for name in action.option_strings
    )
    return f"{typed} (required)" if action.required else typed


def _help_text(action: argparse.Action) -> str:
    # The number of processes depends on the machine, and the page must not.
    default = "one for each CPU" if action.dest == "workers" else action.default
    return (action.help or "") % {"default": default}


def _module_from_file(path: Path) -> ModuleType:
    search_path = list(sys.path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = search_path  # the script puts the project's folder first
    return module


# Option files


def options_page() -> str:
    """Return the page with every key of an option file, section by section."""
    page = (
        "# Option files\n\n"
        "An option file is YAML in BasicSR's form, with the section `compress` added. It is decoded"
        " once into typed classes;\n"
        "every mistake is reported at once, with the nearest valid name. `--set section.key=value`"
        " changes any key from the\n"
        "command line. `base: FILE` at the top takes all keys of another file, which the file"
        " itself then overrides.\n\n"
        "A key without a default is required.\n"
    )
    for path, section, title in option_sections():
        heading = f"`{path}`{title}" if path else "Top level"
        page += f"\n## {heading}\n\n{_first_paragraph(section)}\n\n"
        page += table(
            ["key", "type and range", "default", "meaning"], list(_key_rows(section, path))
        )
    return page + "\n## Former names\n\n" + _former_names()


def option_sections() -> Iterator[tuple[str, type[Section], str]]:
    """Yield dotted path, class and what follows the path in the heading, for every section."""
    yield from _sections_below("", Options)


def _sections_below(path: str, section: type[Section]) -> Iterator[tuple[str, type[Section], str]]:
    yield path, section, ""
    for name, field in section.model_fields.items():
        inner_path = f"{path}.{name}" if path else name
        if inner_path == "datasets":
            for form, kinds in KINDS.items():
                for key, kind in zip(("train", "val"), kinds, strict=True):
                    yield f"datasets.{key}", kind, f" of {FORMS[form]}"
            continue
        for kind in _section_types(field.annotation):
            yield from _sections_below(inner_path, kind)


def _section_types(annotation: Any) -> list[type[Section]]:
    """Return the section classes inside an annotation such as `Compress | None`, each once."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    found: list[type[Section]] = []
    for inner in typing.get_args(annotation):
        found += [kind for kind in _section_types(inner) if kind not in found]
    return found


def _key_rows(section: type[Section], path: str) -> Iterator[list[str]]:
    schemas = section.model_json_schema()["properties"]
    meanings = _field_docstrings(section)
    for name, field in section.model_fields.items():
        if path == "" and name == "datasets":
            type_text = "sections `datasets.train`, `datasets.val`, `datasets.val_1`, ..."
        else:
            type_text = _type_text(schemas[name], f"{path}.{name}" if path else name)
        default = ""
        if not field.is_required():
            default = _default_text(field.get_default(call_default_factory=True))
        meaning = meanings.get(name, "")
        if path == "compress.target":  # its keys come from the table of cost kinds
            meaning = f"Fraction of the dense network's {COST_KINDS[name].label} to keep."
        yield [f"`{name}`", type_text, default, meaning]


def _type_text(schema: dict[str, Any], path: str) -> str:
    """Return a field's type and range in words, from its JSON schema."""
    for key in ("anyOf", "oneOf"):
        if key in schema:
            parts = [_type_text(part, path) for part in schema[key]]
            return " or ".join(part for part in parts if part != "null")
    if "$ref" in schema:
        return f"section `{path}`"
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    if schema.get("type") == "array":
        length = ""
        if schema.get("minItems") is not None:
            least, most = schema["minItems"], schema.get("maxItems")
            length = f" of {least}" if least == most else f" of {least} to {most}"
            length = f" of at least {least}" if most is None else length
        return f"list{length}: {_type_text(schema['items'], path)}"
    names = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
    limits = []
    for key, sign in (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
    ):
        if key in schema:
            value = schema[key]
            limits.append(f"{sign} {'2^63' if value == 2**63 else f'{value:g}'}")
    text = names.get(schema.get("type", ""), schema.get("type", "anything"))
    return " ".join([text, ", ".join(limits)]).strip()


def _default_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Section):
        return "its defaults"
    if value == "":
        return "empty"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _field_docstrings(section: type[Section]) -> dict[str, str]:
    """Return the text below each field of a class and of its bases, by field name."""
    meanings: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if not issubclass(base, Section) or base is Section:
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue  # made by create_model from a table, see compress.target
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
        for statement, following in itertools.pairwise(body):
            if not isinstance(statement, ast.AnnAssign):
                continue
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                meanings[ast.unparse(statement.target)] = str(following.value.value)
    return meanings


def _first_paragraph(section: type[Section]) -> str:
    return " ".join((inspect.getdoc(section) or "").split("\n\n")[0].split())


def _former_names() -> str:
    text = (
        "Names of earlier versions are still read, with a warning that says what to write instead"
        " (`dhp_sr/config/renamed.py`).\n\n"
    )
    rows = []
    for row in RENAMED:
        values = ", ".join(f"`{old}` is now `{new}`".lower() for old, new in row.values.items())
        key = "unchanged" if row.former == row.current else f"`{row.current}`"
        rows.append([f"`{row.former}`", key, values])
    return text + table(["former key", "key today", "values"], rows)


# Operators


def operators_page() -> str:
    """Return the page with every operator that has an entry in the registry."""
    page = (
        "# Operator coverage\n\n"
        "What dhp_sr knows of each operator. An operator that is not listed pins the channels that"
        " go into it: nothing is pruned\n"
        "wrongly, and the plan names it. Without a receptive field, images are not processed in"
        " tiles unless `--overlap` says\n"
        "how. Multiply-adds are counted for layers with a weight. To add one:"
        " [an operator](../contributing/operator.md).\n\n"
        "**Spelling**: `nn.X` a module, `F.x` and `torch.x` functions, `.x()` a method of tensors."
        " A subclass of a module is another\n"
        "operator: its forward may differ.\n"
    )
    for module in _operator_modules():
        first_line = (module.__doc__ or "").strip().splitlines()[0]
        page += f"\n## {Path(str(module.__file__)).stem.replace('_', ' ').capitalize()}\n\n"
        page += f"{first_line}\n\n{_operators_table(module.OPS)}"
    return page


def _operator_modules() -> list[ModuleType]:
    """Return the modules that the registry is made of, in its order."""
    order = {spec: index for index, spec in enumerate(registry.registered_specs())}
    modules = [
        module
        for _, module in inspect.getmembers(registry, inspect.ismodule)
        if getattr(module, "OPS", ())
    ]
    return sorted(modules, key=lambda module: order[module.OPS[0]])


def _operators_table(specs: Sequence[OpSpec]) -> str:
    # Operators that differ only in their names share a row, as all activation functions do.
    names: dict[tuple[str, ...], list[str]] = {}
    for spec in specs:
        facts = (
            _rule_text(spec.channels),
            _rule_text(spec.receptive_field) if spec.receptive_field else "none: no image",
            _macs_text(spec),
            _kind_text(spec),
        )
        names.setdefault(facts, []).append(f"**{spec.name}**: {_spellings(spec.targets)}")
    rows = [["; ".join(operators), *facts] for facts, operators in names.items()]
    header = ["operator and spellings", "channels", "receptive field", "multiply-adds", "kind"]
    return table(header, rows)


def _rule_text(rule: Callable[..., Any]) -> str:
    """Return the first line of a rule's docstring, without the verb that all of them share."""
    first_line = (inspect.getdoc(rule) or rule.__name__).splitlines()[0]
    text = first_line.removeprefix("Return ").rstrip(".")
    return text[0].upper() + text[1:]


def _macs_text(spec: OpSpec) -> str:
    if spec.macs is None:
        return "none"
    return f"weights x positions ({spec.macs.kind})"


def _kind_text(spec: OpSpec) -> str:
    kinds = [] if spec.activation is Activation.NONE else [spec.activation.value]
    if spec.resize is not None:
        kinds.append("has weights")
    return ", ".join(kinds)


def _spellings(targets: Sequence[Target]) -> str:
    return ", ".join(dict.fromkeys(f"`{_spelling(target)}`" for target in targets))


def _spelling(target: Target) -> str:
    if isinstance(target, str):
        return target if "." in target else f".{target}()"
    module = getattr(target, "__module__", None) or "torch"
    if isinstance(target, type):
        return f"nn.{target.__name__}"
    if "functional" in module or module == "torch._C._nn":
        return f"F.{target.__name__}"
    prefix = {"_operator": "operator", "builtins": ""}.get(module, "torch")
    return f"{prefix}.{target.__name__}".lstrip(".")


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "options.md": options_page,
    "operators.md": operators_page,
}
"""Name in docs/reference -> function that makes the page."""


if __name__ == "__main__":
    sys.exit(main())

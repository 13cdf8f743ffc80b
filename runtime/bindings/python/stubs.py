"""Prints `margay/__init__.pyi`: the types of everything that `margay/__init__.py` has, read off the module that UniFFI generates.

    python stubs.py margay/__init__.py path/to/margay_uniffi.py > margay/__init__.pyi
"""

import ast
import sys

HEAD = '''"""Types of everything here; made by `stubs.py` from what UniFFI generates."""

import enum
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self
'''

# What `__init__.py` adds.
ADDED = {
    "AnswerStream": ["def __aiter__(self) -> AsyncGenerator[StreamEvent, None]: ..."],
    "BlockingStream": [
        "def __iter__(self) -> Iterator[StreamEvent]: ...",
        "def __enter__(self) -> Self: ...",
        "def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, "
        "trace: TracebackType | None, /) -> None: ...",
    ],
}


def type_of(node: ast.expr) -> str:
    """An annotation in the words of today's Python."""
    match node:
        case ast.Subscript(value=ast.Attribute(attr="Optional"), slice=inner):
            return f"{type_of(inner)} | None"
        case ast.Subscript(value=ast.Attribute(attr="List"), slice=inner):
            return f"list[{type_of(inner)}]"
        case ast.Subscript(value=ast.Attribute(attr="Union"), slice=ast.Tuple(elts=[ast.Name(id="object"), inner])):
            return type_of(inner)
        case ast.Name(id="Duration"):
            return "timedelta"
    return ast.unparse(node)


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    given = function.args
    parts = [argument.arg if argument.annotation is None else f"{argument.arg}: {type_of(argument.annotation)}" for argument in given.args]
    for place, _ in enumerate(given.defaults, len(parts) - len(given.defaults)):
        parts[place] += " = ..."
    if given.kwonlyargs:
        parts.append("*")
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        parts.append(f"{argument.arg}: {type_of(argument.annotation)}" + (" = ..." if default else ""))
    return ", ".join(parts)


def method(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    decorators = [f"@{ast.unparse(decorator)}" for decorator in function.decorator_list]
    kind = "async def" if isinstance(function, ast.AsyncFunctionDef) else "def"
    returns = "None" if function.returns is None else type_of(function.returns)
    return [*decorators, f"{kind} {function.name}({arguments(function)}) -> {returns}: ..."]


def methods(body: list[ast.stmt]) -> list[str]:
    functions = [item for item in body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
    public = [function for function in functions if not function.name.startswith("_")]
    return [line for function in public for line in method(function)]


def fields(body: list[ast.stmt]) -> list[str]:
    """What a record's `__init__` takes is what it has."""
    begins = next(item for item in body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
    taken = [*begins.args.args[1:], *begins.args.kwonlyargs]
    lines = [f"{argument.arg}: {type_of(argument.annotation)}" for argument in taken]
    return [*lines, *method(begins)]


def stub(name: str, found: list[ast.ClassDef]) -> list[str]:
    if len(found) == 2:  # a base, and the kinds of it
        lines = [f"class {name}(Exception):", "    detail: str"]
        for kind in (item for item in found[1].body if isinstance(item, ast.ClassDef)):
            taken = [argument.arg for argument in kind.body[1].args.args[1:]]
            types = {"detail": "str", "partial_text": "str | None"}
            lines.append(f"    class {kind.name}({name}):")
            lines += [f"        {field}: {types[field]}" for field in taken]
            lines.append(f"        def __init__(self, {', '.join(f'{field}: {types[field]}' for field in taken)}) -> None: ...")
        return lines
    [one] = found
    if any(ast.unparse(base) == "enum.Enum" for base in one.bases):
        values = [ast.unparse(item) for item in one.body if isinstance(item, ast.Assign)]
        return [f"class {name}(enum.Enum):", *(f"    {value}" for value in values)]
    variants = [item for item in one.body if isinstance(item, ast.ClassDef)]
    if variants:
        lines = [f"class {name}:"]
        for variant in variants:
            lines.append(f"    class {variant.name}({name}):")
            lines += [f"        {line}" for line in fields(variant.body)]
        return lines
    if any(ast.unparse(decorator) == "dataclass" for decorator in one.decorator_list):
        lines = fields(one.body)
    else:
        lines = methods(one.body)
        begins = [item for item in one.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        if begins and begins[0].args.vararg is None:
            lines = [*method(begins[0]), *lines]
    return [f"class {name}:", *(f"    {line}" for line in [*lines, *ADDED.get(name, [])])]


def main(package: str, generated: str) -> None:
    with open(package) as file:
        imported = next(item for item in ast.parse(file.read()).body if isinstance(item, ast.ImportFrom))
    with open(generated) as file:
        module = ast.parse(file.read()).body
    names = [alias.name for alias in imported.names]
    print(HEAD)
    print("__all__ = [\n" + "".join(f"    {name!r},\n" for name in names).replace("'", '"') + "]")
    for name in names:
        found = [item for item in module if isinstance(item, ast.ClassDef) and item.name == name]
        functions = [item for item in module if isinstance(item, ast.FunctionDef) and item.name == name]
        print("\n" + "\n".join(stub(name, found) if found else method(functions[0])))


main(*sys.argv[1:])

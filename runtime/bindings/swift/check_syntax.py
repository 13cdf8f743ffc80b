"""Exits with 1 and the first lines that are not Swift, by tree-sitter's grammar of it.

One attribute is left out, the compiler's own `@_documentation`, which the grammar does not know.
"""

import pathlib
import sys

import tree_sitter
import tree_sitter_swift

parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))
source = pathlib.Path(sys.argv[1]).read_bytes()
tree = parser.parse(source.replace(b"@_documentation(visibility: private)", b""))


def errors(node):
    if node.type == "ERROR" or node.is_missing:
        yield node
    elif node.has_error:
        for child in node.children:
            yield from errors(child)


wrong = list(errors(tree.root_node))
for node in wrong[:5]:
    print(f"{sys.argv[1]}:{node.start_point[0] + 1}: {node.text.decode()[:200]}", file=sys.stderr)
sys.exit(bool(wrong))

"""Names that the installed transformers accepts, read from its source without importing it.

Importing transformers' trainer takes seconds; a typo in an override should not.
"""

import ast
import importlib.util
from functools import cache
from pathlib import Path


def training_argument_names() -> list[str]:
    """List the fields of transformers.TrainingArguments."""
    return _annotated_names("training_args.py", "TrainingArguments")


def optimizer_names() -> list[str]:
    """List the values that TrainingArguments.optim accepts."""
    return _enum_values("training_args.py", "OptimizerNames")


def scheduler_names() -> list[str]:
    """List the values that TrainingArguments.lr_scheduler_type accepts."""
    return _enum_values("trainer_utils.py", "SchedulerType")


def _annotated_names(file: str, class_name: str) -> list[str]:
    body = _class_body(file, class_name)
    return [
        node.target.id
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def _enum_values(file: str, class_name: str) -> list[str]:
    return [
        node.value.value
        for node in _class_body(file, class_name)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]


def _class_body(file: str, class_name: str) -> list[ast.stmt]:
    for node in _parse(file).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return node.body
    raise LookupError(f"transformers' {file} has no class {class_name}")


@cache
def _parse(file: str) -> ast.Module:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None, "transformers is a dependency"
    return ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))

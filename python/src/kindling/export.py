"""A torch.nn.Module becomes a program: `torch.export` with a dynamic batch, in train mode, on the CPU.

torch traces a module with example inputs. Their shapes and types come from the columns that will feed it, so what is
exported is what the data is: a column of whole numbers makes an int64 input where the module takes one (an embedding),
and a floating one as wide as the module's own parameters where it does not.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import threading
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pyspark.ml.linalg import VectorUDT
from pyspark.sql.types import (
    ArrayType,
    ByteType,
    DataType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    ShortType,
)

from kindling.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    import torch
    from pyspark.sql import DataFrame

_INTEGERS = (ByteType, ShortType, IntegerType, LongType)
_NUMBERS = (*_INTEGERS, FloatType, DoubleType, DecimalType)

# Rows of the example batch. Not 1, which torch takes for a constant; any other number would do.
_EXAMPLE_ROWS = 4

# torch.export keeps its state in the process: two at once, as CrossValidator's threads would, trip over each other.
_EXPORTING = threading.Lock()

# Combinations of id and number that are tried for columns of whole numbers: six such inputs.
_MOST_CHOICES = 64


@dataclass(frozen=True)
class Input:
    """One input of a program: the shape of a row, and whether its columns hold whole numbers."""

    shape: tuple[int, ...]
    integers: bool


def export(module: torch.nn.Module, inputs: Sequence[torch.Tensor], path: str | PathLike[str]) -> None:
    """Write `module` as a .pt2 file that Kindling trains, with the batch (the first axis of each input) left open.

    `inputs` are example batches, one per argument of `forward`, of two rows or more. Only shapes and types matter.
    The module itself is left as it was.

    >>> kindling.export(net, [torch.zeros(4, 64)], "net.pt2")  # doctest: +SKIP
    """
    import torch

    examples = tuple(inputs)
    for index, example in enumerate(examples):
        if example.dim() == 0 or len(example) < 2:  # noqa: PLR2004 - see _EXAMPLE_ROWS
            raise InvalidArgumentError(f"example input {index} needs a batch of two rows or more as its first axis")
    # A copy: its modes, its device and its gradients are the user's.
    net = copy.deepcopy(module).cpu().train()
    batch = torch.export.Dim("batch", min=2)
    shapes = tuple({0: batch} for _ in examples)
    with _EXPORTING:
        try:
            program = torch.export.export(net, examples, dynamic_shapes=shapes, strict=False)
        except Exception as first:  # noqa: BLE001 - torch documents no common ancestor of what it raises here
            try:
                # Tracing bytecode gets through some Python that plain tracing does not.
                program = torch.export.export(net, examples, dynamic_shapes=shapes, strict=True)
            except Exception:  # noqa: BLE001
                raise InvalidArgumentError(
                    f"torch.export could not export {type(module).__name__} with inputs"
                    f" {', '.join(_described(x) for x in examples)}: {_first_line(first)}"
                ) from None
    torch.export.save(program, path)


def export_for(
    module: torch.nn.Module,
    dataset: DataFrame,
    columns: Sequence[str],
    shapes: Sequence[Sequence[int]] | None,
    path: str,
) -> None:
    """Write `module` as a .pt2 file for these columns of a DataFrame."""
    import torch

    inputs = read_inputs(dataset, columns, shapes, _arguments(module))
    floating = _floating(module)

    # Whole numbers may be ids for an embedding or plain features: the module itself knows. It is asked by running it,
    # as tracing lets Linear take int64. Ids are tried first.
    refusals = []
    whole = sum(i.integers for i in inputs)
    for choice in islice(itertools.product((True, False), repeat=whole), _MOST_CHOICES):
        ids = iter(choice)
        examples = [
            torch.zeros((_EXAMPLE_ROWS, *i.shape), dtype=torch.int64 if i.integers and next(ids) else floating)
            for i in inputs
        ]
        refusal = _refusal(module, examples)
        if refusal is None:
            export(module, examples, path)
            return
        refusals.append(f"{', '.join(_described(x) for x in examples)}: {_first_line(refusal)}")
    # The floating form is what a network without ids would have been given: its complaint is the telling one.
    raise InvalidArgumentError(f"{type(module).__name__} does not take inputs {refusals[-1]}")


def _refusal(module: torch.nn.Module, examples: Sequence[torch.Tensor]) -> Exception | None:
    """What the module says to these inputs, run once; None when it takes them."""
    import torch

    probe = copy.deepcopy(module).cpu().train()  # batch norm would count the zeros
    try:
        with _EXPORTING, torch.no_grad(), torch.random.fork_rng(devices=[]):
            probe(*examples)
    except Exception as error:  # noqa: BLE001 - any code of the user's may run here
        return error
    return None


def read_inputs(
    dataset: DataFrame, columns: Sequence[str], shapes: Sequence[Sequence[int]] | None, arguments: int | None
) -> list[Input]:
    """The inputs of a program over these columns: one input per column, or one that holds all of them side by side.

    `shapes` decides where it is given, then the number of `arguments` that forward requires (None: any number).
    """
    found = [_column(dataset, name) for name in columns]
    count = len(shapes) if shapes is not None else arguments
    if count == 1 or len(found) == 1:
        groups = [found]
    elif count is None or count == len(found):
        groups = [[one] for one in found]
    else:
        raise InvalidArgumentError(
            f"the network takes {count} inputs, but inputCols names {len(found)} columns: give one column per input"
        )
    if shapes is not None and len(shapes) != len(groups):
        raise InvalidArgumentError(f"inputShapes holds {len(shapes)} shapes for {len(groups)} input columns")
    integers = [all(kind for _, kind in group) for group in groups]
    if shapes is not None:
        return [Input(tuple(shape), whole) for shape, whole in zip(shapes, integers, strict=True)]
    widths = [sum(_width(dataset, name) for name, _ in group) for group in groups]
    return [Input((width,), whole) for width, whole in zip(widths, integers, strict=True)]


def _column(dataset: DataFrame, name: str) -> tuple[str, bool]:
    """The column's name and whether it holds whole numbers; an error when it holds no numbers at all."""
    if name not in dataset.columns:
        raise InvalidArgumentError(f"there is no column {name!r}: the columns are {', '.join(dataset.columns)}")
    kind: DataType = dataset.schema[name].dataType
    element = kind.elementType if isinstance(kind, ArrayType) else kind
    if not isinstance(element, (*_NUMBERS, VectorUDT)):
        raise InvalidArgumentError(f"column {name!r} is {kind.simpleString()}: features must be numbers")
    return name, isinstance(element, _INTEGERS)


def _width(dataset: DataFrame, name: str) -> int:
    """Numbers per row: 1, or the length of the first array or vector. Later rows are checked as they are read."""
    field = dataset.schema[name]
    if not isinstance(field.dataType, (ArrayType, VectorUDT)):
        return 1
    named = field.metadata.get("ml_attr", {}).get("num_attrs")
    if named is not None:
        return int(named)  # VectorAssembler writes it down: no job is needed
    quoted = "`{}`".format(name.replace("`", "``"))  # a bare dot would mean a field of a struct
    first = dataset.select(quoted).where(dataset[quoted].isNotNull()).first()
    if first is None:
        raise InvalidArgumentError(f"column {name!r} has no values to read its length from: set inputShapes")
    return len(first[0])


def _arguments(module: torch.nn.Module) -> int | None:
    """How many inputs forward requires; None when its signature does not say."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters) or None


def _floating(module: torch.nn.Module) -> torch.dtype:
    """The module's own width: the type of its first floating parameter."""
    import torch

    found = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    if found not in (torch.float32, torch.float64):
        raise InvalidArgumentError(f"the module's parameters are {found}: train it in float32 or float64")
    return found


def _described(example: torch.Tensor) -> str:
    return f"{str(example.dtype).removeprefix('torch.')}[batch{''.join(f', {size}' for size in example.shape[1:])}]"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

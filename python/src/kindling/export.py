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
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    ByteType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    ShortType,
    StringType,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from kindling.errors import InvalidArgumentError
from kindling.keras_models import input_names, is_keras

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    import torch
    from pyspark.sql import DataFrame

_INTEGERS = (BooleanType, ByteType, ShortType, IntegerType, LongType, DateType)
_NUMBERS = (*_INTEGERS, FloatType, DoubleType, DecimalType, TimestampType, TimestampNTZType)

# The fields of Spark's image data source.
_IMAGE = ["origin", "height", "width", "nChannels", "mode", "data"]

# Rows of the example batch. Not 1, which torch takes for a constant; any other number would do.
_EXAMPLE_ROWS = 4

# torch.export traces and saves with state of the process: two at once, as CrossValidator's threads would, trip over
# each other.
_EXPORTING = threading.Lock()

# Combinations of id and number that are tried for columns of whole numbers: six such inputs.
_MOST_CHOICES = 64


@dataclass(frozen=True)
class Input:
    """One input of a program: the shape of a row, and whether its columns hold whole numbers."""

    shape: tuple[int, ...]
    integers: bool


def export(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
    path: str | PathLike[str],
    *,
    output: str | int | None = None,
) -> None:
    """Write `module` as a .pt2 file that Kindling trains, with the batch (the first axis of each input) left open.

    `inputs` are example batches of two rows or more: one per argument of `forward`, in order, or a mapping from the
    names of arguments. Only shapes and types matter. The module itself is left as it was.

    `output` picks one of several results, by its key or its place. Without it, a HuggingFace model gives its `logits`
    where it has them, and any other module everything it returns.

    A Keras 3 model on Keras' torch backend is a module too; its weights are named by its variables' paths.

    >>> kindling.export(net, [torch.zeros(4, 64)], "net.pt2")  # doctest: +SKIP
    >>> kindling.export(bert, {"input_ids": ids, "attention_mask": mask}, "bert.pt2")  # doctest: +SKIP
    """
    import torch

    # By name, or by place.
    examples: dict[Any, torch.Tensor] = dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(inputs))
    for name, example in examples.items():
        if example.dim() == 0 or len(example) < 2:  # noqa: PLR2004 - see _EXAMPLE_ROWS
            raise InvalidArgumentError(f"example input {name} needs a batch of two rows or more as its first axis")
    net, arguments, named = _traceable(module, examples)
    net.register_forward_hook(lambda _, __, returned: _picked(returned, output, type(module).__name__))
    batch = torch.export.Dim("batch", min=2)
    shapes = {name: {0: batch} for name in named} if named else _positional_shapes(net, len(arguments), batch)
    with _EXPORTING:
        try:
            program = torch.export.export(net, arguments, named, dynamic_shapes=shapes, strict=False)
        except InvalidArgumentError:
            raise
        except Exception as first:  # noqa: BLE001 - torch documents no common ancestor of what it raises here
            try:
                # Tracing bytecode gets through some Python that plain tracing does not.
                program = torch.export.export(net, arguments, named, dynamic_shapes=shapes, strict=True)
            except Exception:  # noqa: BLE001
                raise InvalidArgumentError(
                    f"torch.export could not export {type(module).__name__} with inputs"
                    f" {_listed(examples)}: {_first_line(first)}"
                ) from None
        torch.export.save(program, path)


def _traceable(
    module: torch.nn.Module, examples: Mapping[Any, torch.Tensor]
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """A copy in train mode that torch.export can read, and its positional and named example inputs."""
    names = [name for name in examples if isinstance(name, str)]
    if is_keras(module):
        from kindling.keras_net import KerasNet

        order = input_names(module)
        if names and (order is None or set(order) != set(names)):
            says = "takes no inputs by name" if order is None else f"has the inputs {', '.join(order)}"
            raise InvalidArgumentError(f"the Keras model {says}, not {', '.join(names)}")
        # The program takes its inputs as they are given here, the model as its own list of inputs has them.
        places = [names.index(name) for name in order or ()] if names else range(len(examples))
        values = tuple(examples.values())
        return KerasNet(module, values, places).train(), values, {}
    # A copy: its modes, its device and its gradients are the user's.
    net = copy.deepcopy(module).cpu().train()
    _without_surprises(net)
    if not names:
        return net, tuple(examples.values()), {}
    known = _names(net)
    unknown = [name for name in names if name not in known]
    if unknown and not _takes_any_name(net):
        raise InvalidArgumentError(
            f"forward of {type(module).__name__} has no argument {unknown[0]!r}: it takes {', '.join(known)}"
        )
    return net, (), {name: examples[name] for name in names}


def _without_surprises(net: torch.nn.Module) -> None:
    """Settings of a HuggingFace model that do not belong into a program for training."""
    config: Any = getattr(net, "config", None)
    if getattr(config, "use_cache", None):
        config.use_cache = False  # keys and values kept for generating text: outputs that training never reads
    masked = any(getattr(config, name, 0) for name in ("mask_time_prob", "mask_feature_prob"))
    if getattr(config, "apply_spec_augment", False) and masked:
        raise InvalidArgumentError(
            f"{type(net).__name__} draws its SpecAugment masks in NumPy, and a program would repeat one draw forever:"
            " set config.apply_spec_augment to False"
        )


def _picked(returned: Any, output: str | int | None, kind: str) -> Any:
    """What the program returns of what the module does."""
    if output is None:
        # transformers' ModelOutput: a mapping and a dataclass. A loss it computed itself comes along.
        if not (is_dataclass(returned) and "logits" in (named := vars(returned))):
            return returned
        kept = [named[name] for name in ("loss", "logits") if named.get(name) is not None]
        return kept[0] if len(kept) == 1 else tuple(kept)
    try:
        return returned[output]
    except (KeyError, IndexError, TypeError):
        pass
    if isinstance(returned, Mapping):
        has = f"results {', '.join(str(name) for name in returned)}"
    elif isinstance(returned, (tuple, list)):
        has = f"{len(returned)} results"
    else:
        has = "a single result"
    raise InvalidArgumentError(f"{kind} has no output {output!r}: it returns {has}")


def _positional_shapes(net: torch.nn.Module, count: int, batch: Any) -> tuple[Any, ...]:
    """One entry per parameter of forward; `*inputs` is one parameter that holds the rest as a tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(net.forward).parameters.values()]
    single = [{0: batch} for _ in range(count)]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(single)
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*single[:first], tuple(single[first:]))


def export_for(
    module: torch.nn.Module,
    dataset: DataFrame,
    columns: Sequence[str],
    shapes: Sequence[Sequence[int]] | None,
    path: str,
    *,
    indexed: Sequence[str] = (),
) -> None:
    """Write `module` as a .pt2 file for these columns of a DataFrame, of which strings in `indexed` become numbers.

    Columns that are all named as arguments of forward (or inputs of a Keras model) feed those; others feed forward's
    arguments in order.
    """
    import torch

    known = _names(module)
    by_name = all(name in known for name in columns)
    inputs = read_inputs(dataset, columns, shapes, len(columns) if by_name else _arguments(module), indexed=indexed)
    floating = _floating(module)

    # Whole numbers may be ids for an embedding or plain features: the module itself knows. It is asked by running it,
    # as tracing lets Linear take int64. Ids are tried first.
    refusals = []
    whole = sum(i.integers for i in inputs)
    for choice in islice(itertools.product((True, False), repeat=whole), _MOST_CHOICES):
        ids = iter(choice)
        tensors = [
            torch.zeros((_EXAMPLE_ROWS, *i.shape), dtype=torch.int64 if i.integers and next(ids) else floating)
            for i in inputs
        ]
        examples: dict[Any, torch.Tensor] = dict(zip(columns if by_name else range(len(tensors)), tensors, strict=True))
        refusal = _refusal(module, examples)
        if refusal is None:
            export(module, examples if by_name else tensors, path)
            return
        refusals.append(f"{_listed(examples)}: {_first_line(refusal)}")
    # The floating form is what a network without ids would have been given: its complaint is the telling one.
    raise InvalidArgumentError(f"{type(module).__name__} does not take inputs {refusals[-1]}")


def _refusal(module: torch.nn.Module, examples: Mapping[Any, torch.Tensor]) -> Exception | None:
    """What the module says to these inputs, run once; None when it takes them."""
    import torch

    try:
        with _EXPORTING, torch.no_grad(), torch.random.fork_rng(devices=[]):
            # On a copy: batch norm would count the zeros.
            net, arguments, named = _traceable(module, examples)
            net(*arguments, **named)
    except InvalidArgumentError:
        raise
    except Exception as error:  # noqa: BLE001 - any code of the user's may run here
        return error
    return None


def read_inputs(
    dataset: DataFrame,
    columns: Sequence[str],
    shapes: Sequence[Sequence[int]] | None,
    arguments: int | None,
    *,
    indexed: Sequence[str] = (),
) -> list[Input]:
    """The inputs of a program over these columns: one input per column, or one that holds all of them side by side.

    `shapes` decides where it is given, then the number of `arguments` that forward requires (None: any number).
    """
    dataset = _with_fields(dataset, columns)
    found = [_column(dataset, name, indexed) for name in columns]
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


def _with_fields(dataset: DataFrame, names: Sequence[str]) -> DataFrame:
    """The data with the fields of structs among `names` (`a.b`) as columns; a column of that name comes first."""
    for name in dict.fromkeys(names):
        path = None if name in dataset.columns else _path(dataset.schema, name)
        if path is not None:
            dataset = dataset.withColumn(name, functions.col(".".join(_quoted(part) for part in path)))
    return dataset


def _path(schema: StructType, name: str) -> list[str] | None:
    """The fields that lead to the one of this path; their names may hold dots themselves."""
    for field in schema.fields:
        if field.name == name:
            return [name]
        if isinstance(field.dataType, StructType) and name.startswith(field.name + "."):
            rest = _path(field.dataType, name[len(field.name) + 1 :])
            if rest is not None:
                return [field.name, *rest]
    return None


def _quoted(name: str) -> str:
    """The name for Spark, to which a bare dot would mean a field of a struct."""
    return "`{}`".format(name.replace("`", "``"))


def _column(dataset: DataFrame, name: str, indexed: Sequence[str]) -> tuple[str, bool]:
    """The column's name and whether it holds whole numbers; an error when it holds no numbers at all."""
    if name not in dataset.columns:
        raise InvalidArgumentError(f"there is no column {name!r}: the columns are {', '.join(dataset.columns)}")
    kind: DataType = dataset.schema[name].dataType
    if isinstance(kind, StringType) and name in indexed:
        return name, True
    if _holds_pictures(kind):
        return name, False
    element = kind.elementType if isinstance(kind, ArrayType) else kind
    if not isinstance(element, (*_NUMBERS, VectorUDT)):
        hint = ", or strings named in indexCols" if isinstance(kind, StringType) else ""
        raise InvalidArgumentError(f"column {name!r} is {kind.simpleString()}: features must be numbers{hint}")
    return name, isinstance(element, _INTEGERS)


def _holds_pictures(kind: DataType) -> bool:
    """Files in a binary column, or the structs of Spark's image data source."""
    return isinstance(kind, BinaryType) or (isinstance(kind, StructType) and kind.names == _IMAGE)


def _width(dataset: DataFrame, name: str) -> int:
    """Numbers per row: 1, or the length of the first array or vector. Later rows are checked as they are read."""
    field = dataset.schema[name]
    if _holds_pictures(field.dataType):
        raise InvalidArgumentError(
            f"column {name!r} holds pictures: say their size in inputShapes, as in [[3, 32, 32]]"
        )
    if not isinstance(field.dataType, (ArrayType, VectorUDT)):
        return 1
    named = field.metadata.get("ml_attr", {}).get("num_attrs")
    if named is not None:
        return int(named)  # VectorAssembler writes it down: no job is needed
    quoted = _quoted(name)
    first = dataset.select(quoted).where(dataset[quoted].isNotNull()).first()
    if first is None:
        raise InvalidArgumentError(f"column {name!r} has no values to read its length from: set inputShapes")
    return len(first[0])


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _arguments(module: torch.nn.Module) -> int | None:
    """How many inputs forward requires; None when its signature does not say."""
    if is_keras(module):
        names = input_names(module)
        return len(names) if names else None
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in _POSITIONAL and p.default is inspect.Parameter.empty for p in parameters) or None


def _names(module: torch.nn.Module) -> list[str]:
    """The arguments of forward that can be given by name, or the inputs of a Keras model."""
    if is_keras(module):
        return input_names(module) or []
    nameable = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in inspect.signature(module.forward).parameters.items() if p.kind in nameable]


def _takes_any_name(module: torch.nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _floating(module: torch.nn.Module) -> torch.dtype:
    """The module's own width: the type of its first floating parameter."""
    import torch

    found = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    if found not in (torch.float32, torch.float64):
        raise InvalidArgumentError(f"the module's parameters are {found}: train it in float32 or float64")
    return found


def _listed(examples: Mapping[Any, torch.Tensor]) -> str:
    """The inputs for a message: `float32[batch, 2]`, with their names where they have some."""
    return ", ".join(
        f"{name} {_described(example)}" if isinstance(name, str) else _described(example)
        for name, example in examples.items()
    )


def _described(example: torch.Tensor) -> str:
    return f"{str(example.dtype).removeprefix('torch.')}[batch{''.join(f', {size}' for size in example.shape[1:])}]"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

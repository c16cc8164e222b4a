"""Write the corpus: damaged archives and hostile programs, one fault each, every file named by its fault.

`archive/` holds whole files. `model/` holds the JSON of an archive that is otherwise whole (the program, the weights,
the constants, with a NUL between them), because an archive's checksums would keep a fuzzer out of it.

    python make_corpus.py
"""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "corpus"
Json = Any

SYMBOL = "Symbol('s77', positive=True, integer=True)"


def meta(*sizes: Any, dtype: int = 7) -> Json:
    def size(size: Any) -> Json:
        return {"as_int": size} if isinstance(size, int) else {"as_expr": {"expr_str": size, "hint": None}}

    strides, step = [], 1
    for each in reversed(sizes):
        strides.insert(0, {"as_int": step})
        step *= each if isinstance(each, int) else 1
    return {
        "dtype": dtype,
        "sizes": [size(each) for each in sizes],
        "requires_grad": True,
        "device": {"type": "cpu", "index": None},
        "strides": strides,
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }


def tensor(name: str) -> Json:
    return {"as_tensor": {"name": name}}


def node(target: str, inputs: list[tuple[str, Json]], outputs: list[Json]) -> Json:
    named = [{"name": name, "arg": arg, "kind": 1} for name, arg in inputs]
    return {"target": target, "inputs": named, "outputs": outputs, "metadata": {}, "name": target.split(".")[-2]}


def graph(inputs: list[str], nodes: list[Json], outputs: list[Json], metas: dict[str, Json]) -> Json:
    return {
        "inputs": [tensor(name) for name in inputs],
        "outputs": outputs,
        "nodes": nodes,
        "tensor_values": metas,
        "sym_int_values": {},
        "sym_bool_values": {},
    }


RELU = node("torch.ops.aten.relu.default", [("self", tensor("a"))], [tensor("b")])
INNER = graph(["a"], [RELU], [tensor("b")], {"a": meta(SYMBOL, 3), "b": meta(SYMBOL, 3)})


def region(target: str, before: list[Json], graphs: list[Json], operands: list[Json], output: str = "out") -> Json:
    inner = [{"as_graph": {"name": f"g{index}", "graph": each}} for index, each in enumerate(graphs)]
    call = node(
        f"torch.ops.higher_order.{target}.x", [("", arg) for arg in [*before, *inner, *operands]], [tensor(output)]
    )
    return {**call, "target": f"torch.ops.higher_order.{target}", "name": target}


GRAD = ("wrap_with_set_grad_enabled", [{"as_bool": False}])


def base() -> dict[str, Json]:
    linear = node(
        "torch.ops.aten.linear.default",
        [("input", tensor("x")), ("weight", tensor("w")), ("bias", tensor("v"))],
        [tensor("y")],
    )
    metas = {"w": meta(3, 2), "v": meta(3), "x": meta(SYMBOL, 2), "y": meta(SYMBOL, 3), "out": meta(SYMBOL, 3)}
    leaf = {"type": None, "context": None, "children_spec": []}
    model = {
        "schema_version": {"major": 8, "minor": 17},
        "opset_version": {"aten": 10},
        "range_constraints": {"s77": {"min_val": 2, "max_val": None}},
        "verifiers": ["TRAINING"],
        "graph_module": {
            "graph": graph(["w", "v", "x"], [linear], [tensor("y")], metas),
            "signature": {
                "input_specs": [
                    {"parameter": {"arg": {"name": "w"}, "parameter_name": "weight"}},
                    {"parameter": {"arg": {"name": "v"}, "parameter_name": "bias"}},
                    {"user_input": {"arg": tensor("x")}},
                ],
                "output_specs": [{"user_output": {"arg": tensor("y")}}],
            },
            "module_call_graph": [{"fqn": "", "signature": {"out_spec": json.dumps([1, leaf])}}],
        },
    }
    payload = {"is_param": True, "use_pickle": False}
    weights = {
        "weight": {"path_name": "weight_0", "tensor_meta": meta(3, 2), **payload},
        "bias": {"path_name": "weight_1", "tensor_meta": meta(3), **payload},
    }
    return {"model": model, "weights": {"config": weights}, "constants": {"config": {}}}


def text(parts: dict[str, Json]) -> bytes:
    order = ("model", "weights", "constants")
    return b"\0".join(json.dumps(parts[key], separators=(",", ":")).encode() for key in order)


def models() -> dict[str, bytes]:  # noqa: PLR0915 - a list, one line a fault
    found: dict[str, bytes] = {}

    def spoil(name: str, change: Any) -> None:
        parts = copy.deepcopy(base())
        inside = parts["model"]["graph_module"]
        change(parts, inside["graph"], inside["signature"])
        found[name] = text(parts)

    def push(*nodes: Json) -> Any:
        return lambda _parts, graph, _signature: graph["nodes"].extend(nodes)

    spoil("whole", lambda *_: None)
    spoil("no-gradients", push(region(*GRAD, [INNER], [tensor("y")])))
    spoil("cond", push(region("cond", [tensor("y")], [INNER, INNER], [{"as_tensors": [{"name": "y"}]}])))
    settings = [{"as_string": "cpu"}, {"as_scalar_type": 13}, {"as_bool": True}, {"as_none": True}]
    spoil("autocast", push(region("wrap_with_autocast", settings, [INNER], [tensor("y")])))
    spoil(
        "autocast-to-int",
        push(region("wrap_with_autocast", [settings[0], {"as_scalar_type": 5}, *settings[2:]], [INNER], [tensor("y")])),
    )
    spoil("checkpoint", push(region("tag_activation_checkpoint", [], [INNER], [tensor("y")])))
    spoil("region-with-too-few-operands", push(region(*GRAD, [INNER], [])))
    spoil("region-without-a-graph", push(region(*GRAD, [], [tensor("y")])))
    spoil("region-that-sees-outside", push(region(*GRAD, [{**INNER, "inputs": []}], [])))
    spoil("region-that-returns-nothing", push(region(*GRAD, [{**INNER, "outputs": []}], [tensor("y")])))
    spoil("cond-with-one-graph", push(region("cond", [tensor("y")], [INNER], [])))
    uneven = {**INNER, "outputs": [tensor("b"), tensor("a")]}
    spoil("cond-with-uneven-branches", push(region("cond", [tensor("y")], [INNER, uneven], [tensor("y")])))

    deep = INNER
    for _ in range(60):
        deep = graph(["a"], [region(*GRAD, [deep], [tensor("a")], "b")], [tensor("b")], INNER["tensor_values"])
    spoil("regions-nested-deeply", push(region(*GRAD, [deep], [tensor("y")])))
    found["arrays-nested-deeply"] = b'{"schema_version":{"major":8,"minor":0},"x":' + b"[" * 4000
    spoil(
        "cycle",
        push(
            node("torch.ops.aten.relu.default", [("self", tensor("out"))], [tensor("p")]),
            node("torch.ops.aten.relu.default", [("self", tensor("p"))], [tensor("out")]),
        ),
    )
    spoil("defined-by-itself", push(node("torch.ops.aten.relu.default", [("self", tensor("out"))], [tensor("out")])))
    spoil("defined-twice", push(node("torch.ops.aten.relu.default", [("self", tensor("x"))], [tensor("y")])))
    spoil(
        "reads-files",
        push(node("torch.ops.aten.from_file.default", [("filename", {"as_string": "/etc/passwd"})], [tensor("out")])),
    )

    for name, argument in {
        "type": {"as_scalar_type": 77},
        "layout": {"as_layout": -1},
        "format": {"as_memory_format": 2**40},
        "kind": {"as_from_the_future": {"deep": [1, {"er": None}]}},
        "device": {"as_device": {"type": "\0", "index": -1}},
    }.items():
        spoil(f"unknown-{name}", push(node("torch.ops.aten.relu.default", [("self", argument)], [tensor("out")])))
    spoil(
        "two-kinds-at-once",
        push(node("torch.ops.aten.relu.default", [("self", {"as_int": 1, "as_bool": True})], [tensor("out")])),
    )
    half = {"as_sym_float": {"as_name": "half"}}
    size = {"as_sym_int": {"as_name": "rows"}}
    sizes = node("torch.ops.aten.sym_size.int", [("self", tensor("x")), ("dim", {"as_int": 0})], [size])
    spoil(
        "floats-of-sizes",
        push(
            sizes,
            node("_operator.truediv", [("a", size), ("b", {"as_int": 0})], [half]),
            node("torch.ops.aten.mul.Tensor", [("self", tensor("y")), ("other", half)], [tensor("out")]),
        ),
    )
    spoil(
        "a-size-used-as-a-tensor",
        push(sizes, node("torch.ops.aten.relu.default", [("self", tensor("rows"))], [tensor("out")])),
    )

    def x_meta(value: Json) -> Any:
        return lambda _parts, graph, _signature: graph["tensor_values"].update(x=value)

    spoil("an-expression-nested-deeply", x_meta(meta(SYMBOL, "Add(" * 1500)))
    spoil("an-expression-of-many-terms", x_meta(meta(SYMBOL, f"Add({', '.join(['s77'] * 1500)})")))
    spoil("a-symbol-without-end", x_meta(meta(SYMBOL, "Symbol('" + "s" * 4000)))
    spoil("a-thousand-dimensions", x_meta(meta(SYMBOL, *[1] * 400)))
    spoil("negative-sizes", x_meta(meta(SYMBOL, -2)))

    def weight(key: str, value: Json) -> Any:
        return lambda parts, *_: parts["weights"]["config"]["weight"]["tensor_meta"].update({key: value})

    spoil("weights-shorter-than-declared", weight("storage_offset", {"as_int": 59}))
    spoil("strides-beyond-64-bits", weight("strides", [{"as_int": 2**62}, {"as_int": 2**62}]))
    spoil("an-offset-beyond-64-bits", weight("storage_offset", {"as_int": 2**63 - 1}))
    spoil("sizes-beyond-64-bits", weight("sizes", [{"as_int": 2**40}, {"as_int": 2**40}]))
    spoil("a-weight-of-symbolic-size", weight("sizes", [{"as_expr": {"expr_str": SYMBOL}}, {"as_int": 2}]))
    for name, path in {
        "above": "../../../etc/passwd",
        "absolute": "/etc/passwd",
        "empty": "",
        "itself": "model_weights_config.json",
    }.items():
        spoil(
            f"a-weight-whose-path-is-{name}",
            lambda parts, *_, path=path: parts["weights"]["config"]["weight"].update(path_name=path),
        )
    spoil("a-pickled-weight", lambda parts, *_: parts["weights"]["config"]["weight"].update(use_pickle=True))

    def out_spec(value: str) -> Any:
        def change(parts: Json, *_: Any) -> None:
            parts["model"]["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = value

        return change

    spoil("an-output-tree-nested-deeply", out_spec('[1, {"type":"t","context":null,"children_spec":[' * 500))
    keys = json.dumps(["k" * 2000])
    leaf = '{"type":null,"context":null,"children_spec":[]}'
    spoil(
        "an-output-tree-with-long-keys",
        out_spec(f'[1, {{"type":"builtins.dict","context":{json.dumps(keys)},"children_spec":[{leaf}]}}]'),
    )
    spoil("an-output-tree-of-nothing", out_spec("[1, null]"))
    found["another-schema"] = found["whole"].replace(b'"major":8', b'"major":9')
    found["numbers-without-end"] = found["whole"].replace(b'"min_val":2', b'"min_val":1e99999')
    found["half"] = found["whole"][: len(found["whole"]) // 2]
    found["nothing"] = b""
    return found


def archives() -> dict[str, bytes]:
    parts = [json.dumps(part).encode() for part in base().values()]
    names = [
        "models/model.json",
        "data/weights/model_weights_config.json",
        "data/constants/model_constants_config.json",
    ]
    files = [
        *zip(names, parts, strict=True),
        ("data/weights/weight_0", bytes(24)),
        ("data/weights/weight_1", bytes(12)),
    ]

    def pack(files: list[tuple[str, bytes]], root: str = "net/", method: int = zipfile.ZIP_STORED) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, content in files:
                archive.writestr(zipfile.ZipInfo(root + name), content, method)
        return out.getvalue()

    whole = pack(files)
    directory, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")

    def patch(offset: int, form: str, value: int) -> bytes:
        return whole[:offset] + struct.pack(form, value) + whole[offset + struct.calcsize(form) :]

    second = whole.index(b"PK\x01\x02", directory + 4)
    found = {
        "whole": whole,
        "truncated-in-the-directory": whole[: directory + 50],
        "truncated-at-its-end": whole[:-1],
        "empty": b"PK\x05\x06" + bytes(18),
        "only-a-signature": b"PK",
        "nothing": b"",
        "entries-announced-and-not-there": patch(end + 10, "<H", 0xFFFF),
        "a-directory-beyond-the-file": patch(end + 16, "<I", 0xFFFFFFF0),
        "an-entry-of-four-gigabytes": patch(directory + 24, "<I", 0xFFFFFFF0),
        "an-entry-that-starts-beyond-the-file": patch(directory + 42, "<I", 0xFFFFFFF0),
        "an-entry-that-is-encrypted": patch(directory + 8, "<H", 1),
        "an-entry-of-another-checksum": patch(directory + 16, "<I", 0),
        # Both point at one header: a few of these would be read over and over.
        "entries-that-overlap": patch(second + 42, "<I", 0),
        "compressed": pack(files, method=zipfile.ZIP_DEFLATED),
        "an-entry-above-the-archive": pack([*files, ("../../etc/passwd", b"x")]),
        "an-absolute-entry": pack([*files, ("/etc/passwd", b"x")], root=""),
        "an-entry-with-a-backslash": pack([*files, ("data\\weights\\weight_0", b"x")]),
        "weights-shorter-than-declared": pack([*files[:3], ("data/weights/weight_0", bytes(20)), files[4]]),
        "two-programs": pack([*files, ("models/other.json", parts[0])]),
        "a-torchscript-file": pack([("code/__torch__.py", b"op_version_set = 1"), ("data.pkl", b"\x80\x02.")]),
        "big-endian": pack([*files, ("byteorder", b"big")]),
    }
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found["an-entry-twice"] = pack([*files, files[3]])
    return found


for target, entries in {"archive": archives(), "model": models()}.items():
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in entries.items():
        (folder / name).write_bytes(content)
    print(target, len(entries), sum(map(len, entries.values())))

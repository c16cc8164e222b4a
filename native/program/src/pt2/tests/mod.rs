//! Archives made here, one fault at a time. Real archives are read by the integration tests.

mod accepted;
mod refused;
mod written;

use serde_json::{Value as Json, json};

use crate::error::Error;
use crate::ir::Program;

/// The parts of an archive: `linear(x, weight, bias)` with a 3x2 weight, ready to be spoilt.
struct Parts {
    model: Json,
    weights: Json,
    constants: Json,
    files: Vec<(String, Vec<u8>)>,
    method: rawzip::CompressionMethod,
}

fn meta(sizes: Json, strides: Json) -> Json {
    let ints = |list: &Json| list.as_array().unwrap().iter().map(|size| json!({"as_int": size})).collect::<Vec<_>>();
    json!({"dtype": 7, "sizes": ints(&sizes), "strides": ints(&strides), "storage_offset": {"as_int": 0},
           "requires_grad": true, "device": {"type": "cpu", "index": null}, "layout": 7})
}

/// A float tensor of that many columns and a symbolic number of rows.
fn rows(columns: i64) -> Json {
    let mut meta = meta(json!([0, columns]), json!([columns, 1]));
    meta["sizes"][0] = json!({"as_expr": {"expr_str": "Symbol('s77', positive=True, integer=True)", "hint": null}});
    meta
}

fn tensor(name: &str) -> Json {
    json!({"as_tensor": {"name": name}})
}

fn named(name: &str, arg: Json) -> Json {
    json!({"name": name, "arg": arg, "kind": 1})
}

fn node(target: &str, inputs: &[Json], outputs: &[Json]) -> Json {
    json!({"target": target, "inputs": inputs, "outputs": outputs, "metadata": {"stack_trace": "…"},
           "name": target.rsplit('.').nth(1).unwrap_or(target)})
}

fn payload(path: &str, sizes: Json, strides: Json) -> Json {
    json!({"path_name": path, "is_param": true, "use_pickle": false, "tensor_meta": meta(sizes, strides)})
}

impl Parts {
    fn new() -> Self {
        let linear = node(
            "torch.ops.aten.linear.default",
            &[named("input", tensor("x")), named("weight", tensor("p_weight")), named("bias", tensor("p_bias"))],
            &[tensor("linear")],
        );
        Self {
            model: json!({
                "schema_version": {"major": 8, "minor": 17},
                "opset_version": {"aten": 10},
                "range_constraints": {"s77": {"min_val": 2, "max_val": null}},
                "verifiers": ["TRAINING"],
                "graph_module": {
                    "graph": {
                        "nodes": [linear],
                        "tensor_values": {
                            "p_weight": meta(json!([3, 2]), json!([2, 1])),
                            "p_bias": meta(json!([3]), json!([1])),
                            "x": rows(2),
                            "linear": rows(3),
                        },
                    },
                    "signature": {
                        "input_specs": [
                            {"parameter": {"arg": {"name": "p_weight"}, "parameter_name": "weight"}},
                            {"parameter": {"arg": {"name": "p_bias"}, "parameter_name": "bias"}},
                            {"user_input": {"arg": tensor("x")}},
                        ],
                        "output_specs": [{"user_output": {"arg": tensor("linear")}}],
                    },
                },
            }),
            weights: json!({
                "weight": payload("weight_0", json!([3, 2]), json!([2, 1])),
                "bias": payload("weight_1", json!([3]), json!([1])),
            }),
            constants: json!({}),
            files: vec![
                ("data/weights/weight_0".into(), (0..24).collect()),
                ("data/weights/weight_1".into(), vec![0; 12]),
                ("byteorder".into(), b"little".to_vec()),
            ],
            method: rawzip::CompressionMethod::STORE,
        }
    }

    fn graph(&mut self) -> &mut Json {
        &mut self.model["graph_module"]["graph"]
    }

    fn signature(&mut self) -> &mut Json {
        &mut self.model["graph_module"]["signature"]
    }

    /// Adds a node after the linear layer, with the metas of its results.
    fn push_node(&mut self, node: Json, results: &[(&str, Json)]) -> &mut Self {
        self.graph()["nodes"].as_array_mut().unwrap().push(node);
        for (name, meta) in results {
            self.graph()["tensor_values"][*name] = meta.clone();
        }
        self
    }

    fn push_input(&mut self, spec: Json) {
        self.signature()["input_specs"].as_array_mut().unwrap().push(spec);
    }

    fn zip(&self) -> Vec<u8> {
        let json = |json: &Json| serde_json::to_vec(json).unwrap();
        let mut files = self.files.clone();
        files.push(("models/model.json".into(), json(&self.model)));
        for (folder, config) in [("weights", &self.weights), ("constants", &self.constants)] {
            if !config.is_null() {
                files.push((format!("data/{folder}/model_{folder}_config.json"), json(&json!({"config": config}))));
            }
        }
        zip(&files, self.method)
    }

    fn read(&self) -> Result<Program, Error> {
        Program::read(self.zip())
    }

    fn error(&self) -> Error {
        self.read().unwrap_err()
    }
}

fn zip(files: &[(String, Vec<u8>)], method: rawzip::CompressionMethod) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut bytes);
    for (path, content) in files {
        let path = format!("net/{path}");
        let (mut entry, config) = archive
            .new_file(rawzip::path::EntryPath::verbatim(path.as_bytes()))
            .compression_method(method)
            .start()
            .unwrap();
        let mut writer = config.wrap(&mut entry);
        std::io::Write::write_all(&mut writer, content).unwrap();
        let (_, descriptor) = writer.finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap();
    bytes
}

macro_rules! assert_error {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {{
        let error = $error;
        assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}: {error}");
    }};
}
use assert_error;

//! Small files that ask for much memory. Alone in its process, because it watches how much the process takes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

use std::path::Path;

use kindling_program::fuzzing;

/// The most address space this process has had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/model/whole");
    let whole = std::fs::read_to_string(path).unwrap();
    let replaced = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        whole.replacen(from, to, 1)
    };
    let node = |inputs: &str| {
        let call = r#"{"target":"torch.ops.aten.relu.default","outputs":[],"metadata":{},"name":"r","inputs":["#;
        replaced("\"nodes\":[", &format!("\"nodes\":[{call}{inputs}]}},"))
    };
    let million = 1_000_000;
    let first = r#"{"parameter":{"arg":{"name":"w"},"parameter_name":"weight"}},"#;
    let again: String = (0..50_000)
        .map(|index| format!(r#"{{"parameter":{{"arg":{{"name":"w{index}"}},"parameter_name":"weight"}}}},"#))
        .collect();
    let leaf = r#"{\"type\":null,\"context\":null,\"children_spec\":[]}"#;
    let keys = "k".repeat(100_000);
    let bombs = [
        ("numbers", node(&format!(r#"{{"name":"self","arg":{{"as_ints":[1{}]}}}}"#, ",1".repeat(million)))),
        (
            "arguments",
            node(&format!(
                r#"{{"name":"","arg":{{"as_none":true}}}}{}"#,
                r#",{"name":"","arg":{"as_none":true}}"#.repeat(100_000)
            )),
        ),
        (
            "tensors",
            node(&format!(
                r#"{{"name":"self","arg":{{"as_tensors":[{{"name":"x"}}{}]}}}}"#,
                r#",{"name":"x"}"#.repeat(300_000)
            )),
        ),
        ("aliases of one weight", replaced(first, &format!("{first}{again}"))),
        (
            "dimensions",
            replaced(
                r#""sizes":[{"as_int":3}"#,
                &format!(r#""sizes":[{}{{"as_int":3}}"#, r#"{"as_int":1},"#.repeat(200_000)),
            ),
        ),
        (
            "keys of an output tree",
            replaced(
                &format!("[1, {}", r#"{\"type\": null, \"context\": null, \"children_spec\": []}"#),
                &format!(
                    r#"[1, {{\"type\":\"d\",\"context\":\"[\\\"{keys}\\\"]\",\"children_spec\":[{{\"type\":\"t\",\"context\":null,\"children_spec\":[{leaf}{}]}}]}}"#,
                    format!(",{leaf}").repeat(20_000)
                ),
            ),
        ),
    ];
    for (name, json) in bombs {
        let file = fuzzing::around(json.as_bytes()).unwrap();
        let length = file.len() as u64;
        let before = peak();
        assert_eq!(fuzzing::archive(&file), Ok(()), "{name}");
        let grown = peak() - before;
        // What the threads of this process reserve comes on top.
        assert!(grown <= 64 * length + (128 << 20), "{name}: {grown} bytes for a file of {length}");
    }
}

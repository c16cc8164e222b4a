//! `kindling-rows`: serves a shard over Arrow Flight, for clients that are not Kindling.
//!
//! Usage: `kindling-rows ROWS SECRET plain|tls`. Row r has the input `x` = (r, r + 0.5) in float32 and the label r. It
//! prints where it serves and what to ask for as one line of JSON, and ends when its standard input does.

use std::io::Read;

use kindling_shards::{
    Budget, Column, ColumnData, DType, Role, Secret, ServeSpec, ShardSpec, ShardStore, Split, Ticket,
};

const RUN: &str = "rows";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rows, secret, mode] = arguments.as_slice() else {
        return Err("usage: kindling-rows ROWS SECRET plain|tls".into());
    };
    let rows: u32 = rows.parse()?;
    let store = ShardStore::new();
    let column = |name: &str, role, dtype, width| Column { name: name.into(), role, dtype, width };
    let key = store.open(ShardSpec {
        run: RUN.into(),
        partition: 0,
        attempt: 0,
        live_runs: Vec::new(),
        columns: vec![column("x", Role::Input, DType::Float32, 2), column("label", Role::Label, DType::Int64, 1)],
        budget: Budget::default(),
    })?;
    #[expect(clippy::cast_precision_loss, reason = "tests ask for fewer rows than float32 counts exactly")]
    let x: Vec<f32> = (0..rows).flat_map(|row| [row as f32, row as f32 + 0.5]).collect();
    let labels: Vec<i64> = (0..rows).map(i64::from).collect();
    store.write_rows(key, Split::Train, &[ColumnData::Float32(&x), ColumnData::Int64(&labels)])?;
    store.close(key)?;
    let encrypted = match mode.as_str() {
        "plain" => false,
        "tls" => true,
        other => return Err(format!("{other:?} is neither plain nor tls").into()),
    };
    let secret = Secret::from_hex(secret)?;
    let endpoint = store.serve(ServeSpec { run: RUN.into(), secret, host: "127.0.0.1".into(), encrypted })?;
    let ticket = Ticket {
        run: RUN.into(),
        partition: 0,
        key,
        split: Split::Train,
        first: 0,
        rows: u64::from(rows),
        compressed: false,
    };
    println!("{}", serde_json::json!({ "endpoint": endpoint, "ticket": ticket }));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

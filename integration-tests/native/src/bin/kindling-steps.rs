//! `kindling-steps PROGRAM BATCHES [SETTINGS [DEVICE]]`: trains an exported program step by step, as `make bench-programs` asks.
//!
//! BATCHES is a safetensors file of stacked batches: `x0`, `x1`, … and `y`, of shape (steps, rows, …); SETTINGS a JSON object
//! that takes the place of settings of the training; DEVICE `cpu` (the default) or `cuda:N`. Says `{}` when it is ready. Then
//! one line in, one JSON object out: `steps N` trains on the next N batches and answers with their losses and the time they
//! took; `peak` answers with the peak of anonymous memory above what there was before training was set up.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use kindling_integration_tests::{Result, read_program};
use kindling_train::{Replica, TrainingConfig};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (program, batches, settings, device) = match arguments.as_slice() {
        [program, batches] => (program, batches, "{}", "cpu"),
        [program, batches, settings] => (program, batches, settings.as_str(), "cpu"),
        [program, batches, settings, device] => (program, batches, settings.as_str(), device.as_str()),
        _ => return Err("usage: kindling-steps PROGRAM BATCHES [SETTINGS [DEVICE]]".into()),
    };
    tch::set_num_threads(1);
    let batches = Batches::read(Path::new(batches))?;
    let program = read_program(Path::new(program))?;
    let before = Memory::mark()?;
    let mut replica = Replica::on(device.parse()?, program, None, &config(settings)?, 0)?;
    let mut next = 0;
    answer(&json!({}))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            Some(("steps", count)) => answer(&steps(&mut replica, &batches, &mut next, count.parse()?)?)?,
            None if line == "peak" => answer(&json!({"peak_mb": before.growth_of_peak()?}))?,
            _ => return Err(format!("there is no command {line:?}").into()),
        }
    }
    Ok(())
}

fn config(settings: &str) -> Result<TrainingConfig> {
    let mut config: BTreeMap<String, Value> = serde_json::from_value(json!({
        "loss": {"name": "crossEntropy"},
        "optimizer": {"name": "adamw", "learningRate": 1e-3, "weightDecay": 0.01, "beta1": 0.9, "beta2": 0.999,
                      "epsilon": 1e-8},
        "batchSize": 1, "maxEpochs": 1, "seed": 0, "shuffle": false, "progressIntervalMs": 1000, "recordRows": false
    }))?;
    config.extend(serde_json::from_str::<BTreeMap<String, Value>>(settings)?);
    Ok(serde_json::from_value(serde_json::to_value(config)?)?)
}

fn steps(replica: &mut Replica, batches: &Batches, next: &mut i64, count: i64) -> Result<Value> {
    let begun = Instant::now();
    let mut losses = Vec::new();
    for step in *next..*next + count {
        let inputs = batches.inputs.iter().map(|input| input.f_get(step)).collect::<std::result::Result<_, _>>()?;
        losses.push(replica.train(inputs, batches.labels.f_get(step)?)?);
    }
    *next += count;
    Ok(json!({"seconds": begun.elapsed().as_secs_f64(), "losses": losses}))
}

fn answer(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

struct Batches {
    inputs: Vec<Tensor>,
    labels: Tensor,
}

impl Batches {
    fn read(path: &Path) -> Result<Batches> {
        let bytes = std::fs::read(path)?;
        let file = SafeTensors::deserialize(&bytes)?;
        let mut inputs = Vec::new();
        while let Ok(view) = file.tensor(&format!("x{}", inputs.len())) {
            inputs.push(tensor(&view)?);
        }
        Ok(Batches { inputs, labels: tensor(&file.tensor("y")?)? })
    }
}

fn tensor(view: &safetensors::tensor::TensorView<'_>) -> Result<Tensor> {
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::I64 => Kind::Int64,
        other => return Err(format!("batches of {other:?} are not read").into()),
    };
    let sizes = view.shape().iter().map(|&size| i64::try_from(size)).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Tensor::f_from_data_size(view.data(), &sizes, kind)?)
}

/// Resident anonymous memory, in kB, at the mark: pages of libraries, which are read when code first runs, are not what a
/// net needs.
struct Memory(f64);

impl Memory {
    /// Forgets the peak so far.
    fn mark() -> Result<Memory> {
        std::fs::write("/proc/self/clear_refs", "5")?;
        Ok(Memory(status("RssAnon:")?))
    }

    fn growth_of_peak(&self) -> Result<f64> {
        // The kernel keeps the peak of both kinds together; pages of files only become more.
        Ok((status("VmHWM:")? - status("RssFile:")? - self.0) / 1024.0)
    }
}

fn status(field: &str) -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).ok_or("the kernel does not tell memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

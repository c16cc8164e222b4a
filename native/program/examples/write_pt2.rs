//! Puts trained weights into a model: `write_pt2 MODEL WEIGHTS training|evaluation OUT`.

use std::error::Error;
use std::fs::{File, read};
use std::io::BufWriter;

use kindling_program::{Mode, write_pt2};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, weights, mode, out] = arguments.as_slice() else {
        return Err("usage: write_pt2 MODEL WEIGHTS training|evaluation OUT".into());
    };
    let mode = match mode.as_str() {
        "training" => Mode::Training,
        "evaluation" => Mode::Evaluation,
        other => return Err(format!("there is no mode {other}").into()),
    };
    write_pt2(read(model)?, &read(weights)?, mode, BufWriter::new(File::create(out)?))?;
    Ok(())
}

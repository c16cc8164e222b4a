//! `kindling-replay < request.json > outcome.json`: runs a fit outside Spark and tells which rows made up each batch.

use kindling_integration_tests::{Request, Result, fit, processes};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--rank"), Some(rank)) => processes::serve(rank.parse()?),
        _ => {
            let request: Request = serde_json::from_reader(std::io::stdin().lock())?;
            println!("{}", serde_json::to_string(&fit(&request)?)?);
            Ok(())
        }
    }
}

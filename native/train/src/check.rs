//! Checks of single settings that several configurations share; each names the setting that it refuses.

use crate::error::{Error, Result};

/// Refuses what is no number or is below `least`.
pub(crate) fn at_least(least: f64, name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= least {
        return Ok(());
    }
    Err(Error::Config(format!("{name} must be a number of at least {least}, not {value}")))
}

/// Refuses what is no number above 0.
pub(crate) fn positive(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Error::Config(format!("{name} must be a number above 0, not {value}")))
}

/// Refuses what does not lie in [0, 1).
pub(crate) fn below_one(name: &str, value: f64) -> Result<()> {
    at_least(0.0, name, value)?;
    if value < 1.0 { Ok(()) } else { Err(Error::Config(format!("{name} must be below 1, not {value}"))) }
}

/// Refuses what does not lie in [0, 1].
pub(crate) fn at_most_one(name: &str, value: f64) -> Result<()> {
    at_least(0.0, name, value)?;
    if value <= 1.0 { Ok(()) } else { Err(Error::Config(format!("{name} must be at most 1, not {value}"))) }
}

//! Writes the `log` crate's records to stderr, where Spark keeps an executor's own log.
//!
//! One line a record: UTC time of day, level, module, text. Small enough not to want a crate.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{LevelFilter, Log, Metadata, Record};

/// Process-wide because the `log` crate has one logger for all code in this library.
static STDERR: Stderr = Stderr;

/// Lets records up to `level` through from now on. May be called again to change the level.
pub(crate) fn set_level(level: LevelFilter) {
    // An error means that a logger is installed already: ours, from an earlier call.
    let _ = log::set_logger(&STDERR);
    log::set_max_level(level);
}

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {} {}: {}\n", time_of_day(), record.level(), record.target(), record.args());
            // One write a line keeps lines of several threads whole. A closed stderr is nothing to fail for.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// "21:50:01.123Z", or midnight where the clock stands before 1970.
fn time_of_day() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = now.as_secs() % 86_400;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}Z", seconds % 60, now.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_can_be_set_again() {
        set_level(LevelFilter::Info);
        assert!(log::log_enabled!(log::Level::Info));
        set_level(LevelFilter::Off);
        assert!(!log::log_enabled!(log::Level::Error));
    }

    #[test]
    fn the_time_is_written_to_the_millisecond() {
        assert_eq!(time_of_day().len(), "21:50:01.123Z".len());
    }
}

//! What a program returns, by name.

use crate::ir::Program;

impl Program {
    /// The position of the output of that name.
    #[must_use]
    pub fn output_named(&self, name: &str) -> Option<usize> {
        self.output_names.iter().position(|found| found == name)
    }

    /// The outputs for a message: `0 (loss), 1 (logits)`.
    #[must_use]
    pub fn output_list(&self) -> String {
        let described = |(index, name): (usize, &String)| {
            if *name == index.to_string() { name.clone() } else { format!("{index} ({name})") }
        };
        self.output_names.iter().enumerate().map(described).collect::<Vec<_>>().join(", ")
    }
}

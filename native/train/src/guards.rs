//! What a program lets a batch look like: the sizes of its inputs, checked before anything runs.
//!
//! An exported size is a number, a symbol with a range, or an expression over symbols. A symbol has one size wherever it
//! stands, in every input. The one bound that is not checked is the least number of rows: export states 2 unless it is told
//! otherwise, and the last batch of an epoch may be smaller. Such a batch runs through the same operators with its true
//! sizes, which is what PyTorch's module computes for it unless its Python code asks how many rows there are.

use std::collections::{HashMap, HashSet};

use kindling_program::{Dim, Expression, Program, SizeRange};

use crate::error::{Error, Result};

/// The sizes that a program's inputs may have.
pub(crate) struct Guards {
    inputs: Vec<Guarded>,
}

struct Guarded {
    name: String,
    sizes: Vec<Size>,
}

enum Size {
    Fixed(i64),
    Symbol { name: String, range: SizeRange },
    Computed(Expression),
}

/// The sizes of symbols, and where each was found first.
type Known<'g> = HashMap<&'g str, (i64, usize, usize)>;

impl Guards {
    pub(crate) fn new(program: &Program) -> Result<Guards> {
        let rows: HashSet<&str> = program
            .inputs
            .iter()
            .filter_map(|input| match input.shape.first() {
                Some(Dim::Symbolic { name }) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let size = |dim: &Dim| match dim {
            Dim::Static(size) => Ok(Size::Fixed(*size)),
            Dim::Symbolic { name } => match Expression::parse(name) {
                Some(Expression::Symbol(name)) => {
                    let range = program.ranges.get(&name).copied().unwrap_or(SizeRange { min: None, max: None });
                    let min = range.min.filter(|_| !rows.contains(name.as_str()));
                    Ok(Size::Symbol { name, range: SizeRange { min, ..range } })
                }
                Some(expression) => Ok(Size::Computed(expression)),
                None => Err(Error::Config(format!("the program has an input of size {name}, which cannot be checked"))),
            },
        };
        let guarded = |input: &kindling_program::Input| {
            let sizes = input.shape.iter().map(size).collect::<Result<_>>()?;
            Ok(Guarded { name: input.name.clone(), sizes })
        };
        Ok(Guards { inputs: program.inputs.iter().map(guarded).collect::<Result<_>>()? })
    }

    /// Checks the shapes of a batch, one per input.
    pub(crate) fn check(&self, shapes: &[Vec<i64>]) -> Result<()> {
        if shapes.len() != self.inputs.len() {
            return Err(Error::Config(format!("the program takes {} inputs, not {}", self.inputs.len(), shapes.len())));
        }
        let mut known = Known::new();
        for (position, (input, shape)) in self.inputs.iter().zip(shapes).enumerate() {
            if shape.len() != input.sizes.len() {
                return Err(Error::Config(format!(
                    "input {} has shape {shape:?}, which has {} dimensions; the program takes {}",
                    input.name,
                    shape.len(),
                    input.wanted()
                )));
            }
            for (dimension, (size, &found)) in input.sizes.iter().zip(shape).enumerate() {
                let refuse = |allowed: String| Err(input.refusal(shape, dimension, found, &allowed));
                match size {
                    Size::Fixed(size) if *size != found => return refuse(size.to_string()),
                    Size::Symbol { range, .. } if !allows(*range, found) => return refuse(range_text(*range)),
                    Size::Symbol { name, .. } => {
                        let &mut (first, other, place) =
                            known.entry(name.as_str()).or_insert((found, position, dimension));
                        if first != found {
                            let other = self.inputs.get(other).map_or("", |input| input.name.as_str());
                            return refuse(format!("{first}, the size of dimension {place} of input {other}"));
                        }
                    }
                    Size::Fixed(_) | Size::Computed(_) => {}
                }
            }
        }
        self.check_computed(shapes, known)
    }

    fn check_computed<'g>(&'g self, shapes: &[Vec<i64>], mut known: Known<'g>) -> Result<()> {
        for (position, (input, shape)) in self.inputs.iter().zip(shapes).enumerate() {
            for (dimension, (size, &found)) in input.sizes.iter().zip(shape).enumerate() {
                let Size::Computed(expression) = size else { continue };
                let value = |known: &Known<'_>| expression.evaluate(&|name| known.get(name).map(|&(size, ..)| size));
                if let (None, Some((symbol, size))) = (value(&known), solve(expression, &known, found)) {
                    known.insert(symbol, (size, position, dimension));
                }
                match value(&known) {
                    Some(value) if value == found => {}
                    Some(value) => {
                        return Err(input.refusal(shape, dimension, found, &format!("{expression} = {value}")));
                    }
                    None => return Err(input.refusal(shape, dimension, found, &expression.to_string())),
                }
            }
        }
        Ok(())
    }
}

/// The size of the one symbol that is not known yet, if the expression grows with it at a constant rate.
fn solve<'e>(expression: &'e Expression, known: &Known<'_>, found: i64) -> Option<(&'e str, i64)> {
    let mut unknown = HashSet::new();
    expression.symbols(&mut |name| {
        if !known.contains_key(name) {
            unknown.insert(name);
        }
    });
    let mut unknown = unknown.into_iter();
    let (Some(symbol), None) = (unknown.next(), unknown.next()) else { return None };
    let at = |size: i64| {
        expression.evaluate(&|name| if name == symbol { Some(size) } else { known.get(name).map(|&(size, ..)| size) })
    };
    let start = at(0)?;
    let rate = at(1)?.checked_sub(start)?;
    let rest = found.checked_sub(start)?;
    let size = rest.checked_div(rate)?;
    (at(size)? == found).then_some((symbol, size))
}

fn allows(range: SizeRange, size: i64) -> bool {
    range.min.is_none_or(|min| size >= min) && range.max.is_none_or(|max| size <= max)
}

fn range_text(range: SizeRange) -> String {
    match (range.min, range.max) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => "any".to_owned(),
    }
}

impl Guarded {
    fn refusal(&self, shape: &[i64], dimension: usize, found: i64, allowed: &str) -> Error {
        Error::Config(format!(
            "input {} has shape {shape:?}, whose dimension {dimension} is {found}; the program allows {allowed} there (it \
             takes {})",
            self.name,
            self.wanted()
        ))
    }

    /// For messages: `[any, 3 to 64, 2*s0]`.
    fn wanted(&self) -> String {
        let sizes = self.sizes.iter().map(|size| match size {
            Size::Fixed(size) => size.to_string(),
            Size::Symbol { range, .. } => range_text(*range),
            Size::Computed(expression) => expression.to_string(),
        });
        format!("[{}]", sizes.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program whose inputs have these sizes; `rows` and `steps` have ranges.
    fn guards(inputs: &[&[&str]]) -> Guards {
        let layers = r#"{"inputShape":[4],"layers":[{"type":"relu"}]}"#;
        let mut program = Program::read(layers.as_bytes().to_vec()).unwrap();
        program.ranges.insert("rows".to_owned(), SizeRange { min: Some(2), max: Some(100) });
        program.ranges.insert("steps".to_owned(), SizeRange { min: Some(3), max: Some(64) });
        let one = program.inputs.remove(0);
        let dim = |text: &&str| text.parse().map_or_else(|_| Dim::Symbolic { name: (*text).to_owned() }, Dim::Static);
        for (index, sizes) in inputs.iter().enumerate() {
            let shape = sizes.iter().map(dim).collect();
            program.inputs.push(kindling_program::Input { name: format!("x{index}"), shape, ..one.clone() });
        }
        Guards::new(&program).unwrap()
    }

    fn refusal(guards: &Guards, shapes: &[&[i64]]) -> String {
        let shapes: Vec<Vec<i64>> = shapes.iter().map(|shape| shape.to_vec()).collect();
        guards.check(&shapes).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_size_outside_its_range_is_named_with_what_is_allowed() {
        let guards = guards(&[&["rows", "steps", "4"]]);
        assert_eq!(refusal(&guards, &[&[5, 3, 4]]), "");
        let error = refusal(&guards, &[&[5, 65, 4]]);
        assert!(
            error.contains("input x0") && error.contains("dimension 1 is 65") && error.contains("3 to 64"),
            "{error}"
        );
        assert!(refusal(&guards, &[&[5, 2, 4]]).contains("3 to 64"));
        assert!(refusal(&guards, &[&[101, 3, 4]]).contains("at most 100"));
        assert!(refusal(&guards, &[&[5, 3, 5]]).contains("allows 4 there"));
        assert!(refusal(&guards, &[&[5, 3]]).contains("2 dimensions"));
        assert!(refusal(&guards, &[]).contains("takes 1 inputs, not 0"));
    }

    #[test]
    fn fewer_rows_than_the_export_s_least_are_allowed() {
        assert_eq!(refusal(&guards(&[&["rows", "4"]]), &[&[1, 4]]), "");
    }

    #[test]
    fn one_symbol_has_one_size_in_all_inputs() {
        let guards = guards(&[&["rows", "steps"], &["rows", "steps"]]);
        assert_eq!(refusal(&guards, &[&[5, 3], &[5, 3]]), "");
        let error = refusal(&guards, &[&[5, 3], &[5, 4]]);
        assert!(error.contains("input x1") && error.contains("3, the size of dimension 1 of input x0"), "{error}");
    }

    #[test]
    fn computed_sizes_are_checked_and_solved_for_a_symbol_of_their_own() {
        let both = guards(&[&["rows", "Mul(Integer(2), Symbol('steps'))"], &["rows", "steps"]]);
        assert_eq!(refusal(&both, &[&[5, 8], &[5, 4]]), "");
        let error = refusal(&both, &[&[5, 9], &[5, 4]]);
        assert!(error.contains("dimension 1 is 9") && error.contains("2*steps = 8"), "{error}");

        let alone = guards(&[&["rows", "Add(Mul(Integer(2), Symbol('_half')), Integer(1))"]]);
        assert_eq!(refusal(&alone, &[&[5, 9]]), "");
        assert!(refusal(&alone, &[&[5, 8]]).contains("2*_half + 1"));
    }
}

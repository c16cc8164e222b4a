//! Sizes that are computed from other sizes, such as the `2*s0` rows of an input that holds pairs.
//!
//! Export writes them as sympy prints them for its own reader: `Mul(Integer(2), Symbol('s0', positive=True,
//! integer=True))`. An [`Expression`] is checked when it is read: nothing in it is unknown, and it is as deep as a person
//! would write it.

use std::fmt;

/// Deeper nesting is nobody's shape.
const DEPTH: usize = 32;

/// A size computed from symbols.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// A size of its own: `s77`.
    Symbol(String),
    /// A number.
    Integer(i64),
    /// The sum of all.
    Add(Vec<Self>),
    /// The product of all.
    Mul(Vec<Self>),
    /// The first divided by the second, rounded down.
    FloorDiv(Box<[Self; 2]>),
    /// The first divided by the second, rounded up.
    CeilDiv(Box<[Self; 2]>),
    /// What the division leaves.
    Mod(Box<[Self; 2]>),
    /// The largest of all.
    Max(Vec<Self>),
    /// The smallest of all.
    Min(Vec<Self>),
}

impl Expression {
    /// Reads what export writes, or a symbol's plain name. `None` if there is anything in it that is not listed above.
    ///
    /// ```
    /// use kindling_program::Expression;
    ///
    /// let pairs = Expression::parse("Mul(Integer(2), Symbol('s0', positive=True, integer=True))").unwrap();
    /// assert_eq!(pairs.to_string(), "2*s0");
    /// assert_eq!(pairs.evaluate(&|name| (name == "s0").then_some(5)), Some(10));
    /// ```
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader { rest: text };
        let expression = reader.expression(0)?;
        reader.rest.trim().is_empty().then_some(expression)
    }

    /// The size, given those of its symbols; `None` if one is missing, or the size has no 64-bit value.
    pub fn evaluate(&self, symbol: &impl Fn(&str) -> Option<i64>) -> Option<i64> {
        let both = |sides: &[Self; 2]| {
            let [a, b] = sides;
            Some((a.evaluate(symbol)?, b.evaluate(symbol)?))
        };
        let fold = |terms: &[Self], with: fn(i64, i64) -> Option<i64>| {
            let mut terms = terms.iter().map(|term| term.evaluate(symbol));
            let first = terms.next()??;
            terms.try_fold(first, |total, term| with(total, term?))
        };
        match self {
            Self::Symbol(name) => symbol(name),
            Self::Integer(value) => Some(*value),
            Self::Add(terms) => fold(terms, i64::checked_add),
            Self::Mul(factors) => fold(factors, i64::checked_mul),
            Self::Max(terms) => fold(terms, |a, b| Some(a.max(b))),
            Self::Min(terms) => fold(terms, |a, b| Some(a.min(b))),
            Self::FloorDiv(sides) => both(sides).and_then(|(a, b)| divide(a, b)),
            Self::CeilDiv(sides) => both(sides).and_then(|(a, b)| divide(a.checked_neg()?, b)?.checked_neg()),
            Self::Mod(sides) => both(sides).and_then(|(a, b)| a.checked_sub(divide(a, b)?.checked_mul(b)?)),
        }
    }

    /// Calls `visit` with the name of every symbol in it.
    pub fn symbols<'e>(&'e self, visit: &mut impl FnMut(&'e str)) {
        match self {
            Self::Symbol(name) => visit(name),
            Self::Integer(_) => {}
            Self::Add(terms) | Self::Mul(terms) | Self::Max(terms) | Self::Min(terms) => {
                terms.iter().for_each(|term| term.symbols(visit));
            }
            Self::FloorDiv(sides) | Self::CeilDiv(sides) | Self::Mod(sides) => {
                sides.iter().for_each(|side| side.symbols(visit));
            }
        }
    }
}

fn divide(a: i64, b: i64) -> Option<i64> {
    let quotient = a.checked_div(b)?;
    let inexact = a.checked_rem(b)? != 0;
    if inexact && (a < 0) != (b < 0) { quotient.checked_sub(1) } else { Some(quotient) }
}

/// As a person writes it: `2*s0 + 1`.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, terms: &[Self], with: &str| {
            for (index, term) in terms.iter().enumerate() {
                if index > 0 {
                    f.write_str(with)?;
                }
                match term {
                    Self::Add(_) if with == "*" => write!(f, "({term})")?,
                    _ => write!(f, "{term}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::Symbol(name) => f.write_str(name),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Add(terms) => joined(f, terms, " + "),
            Self::Mul(factors) => joined(f, factors, "*"),
            Self::Max(terms) | Self::Min(terms) => {
                f.write_str(if matches!(self, Self::Max(_)) { "max(" } else { "min(" })?;
                joined(f, terms, ", ")?;
                f.write_str(")")
            }
            Self::FloorDiv(sides) | Self::CeilDiv(sides) | Self::Mod(sides) => {
                let [a, b] = sides.as_ref();
                let name = match self {
                    Self::FloorDiv(_) => "floor",
                    Self::CeilDiv(_) => "ceil",
                    _ => "mod",
                };
                write!(f, "{name}({a}, {b})")
            }
        }
    }
}

struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn expression(&mut self, depth: usize) -> Option<Expression> {
        if depth > DEPTH {
            return None;
        }
        if let Some(number) = self.number() {
            return Some(Expression::Integer(number));
        }
        let name = self.word()?;
        if !self.take("(") {
            return Some(Expression::Symbol(name.to_owned()));
        }
        match name {
            "Symbol" => return self.symbol(),
            "Integer" => {
                let number = self.number()?;
                return self.take(")").then_some(Expression::Integer(number));
            }
            _ => {}
        }
        let mut arguments = Vec::new();
        loop {
            arguments.push(self.expression(depth + 1)?);
            if self.take(")") {
                break;
            }
            if !self.take(",") {
                return None;
            }
        }
        match name {
            "Add" => Some(Expression::Add(arguments)),
            "Mul" => Some(Expression::Mul(arguments)),
            "Max" => Some(Expression::Max(arguments)),
            "Min" => Some(Expression::Min(arguments)),
            "FloorDiv" | "CleanDiv" => Some(Expression::FloorDiv(pair(arguments)?)),
            "CeilDiv" | "CeilToInt" => Some(Expression::CeilDiv(pair(arguments)?)),
            "Mod" | "PythonMod" => Some(Expression::Mod(pair(arguments)?)),
            _ => None,
        }
    }

    /// The rest of `Symbol('s77', positive=True, integer=True)`.
    fn symbol(&mut self) -> Option<Expression> {
        self.take("'").then_some(())?;
        let (name, rest) = self.rest.split_once('\'')?;
        let (flags, rest) = rest.split_once(')')?;
        self.rest = rest;
        let sane = !flags.contains(['(', '\'']) && !name.is_empty() && name.chars().all(is_word);
        sane.then(|| Expression::Symbol(name.to_owned()))
    }

    fn number(&mut self) -> Option<i64> {
        let text = self.rest.trim_start();
        let length = text.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(text.len());
        let (number, rest) = text.split_at_checked(length)?;
        let number = number.parse().ok()?;
        self.rest = rest;
        Some(number)
    }

    fn word(&mut self) -> Option<&'t str> {
        let text = self.rest.trim_start();
        let length = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
        let (word, rest) = text.split_at_checked(length)?;
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
}

fn pair(arguments: Vec<Expression>) -> Option<Box<[Expression; 2]>> {
    <[Expression; 2]>::try_from(arguments).ok().map(Box::new)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(name: &str) -> Option<i64> {
        match name {
            "s0" => Some(7),
            "s1" => Some(3),
            _ => None,
        }
    }

    #[test]
    fn what_export_writes_is_read_evaluated_and_written_as_a_person_would() {
        let symbol = |name: &str| format!("Symbol('{name}', positive=True, integer=True)");
        for (text, shown, value) in [
            ("s0".to_owned(), "s0", Some(7)),
            (symbol("s0"), "s0", Some(7)),
            ("Integer(-4)".to_owned(), "-4", Some(-4)),
            (format!("Mul(Integer(2), {})", symbol("s0")), "2*s0", Some(14)),
            (format!("Add({}, Integer(1))", symbol("s0")), "s0 + 1", Some(8)),
            (format!("Mul(Integer(2), Add({}, {}))", symbol("s0"), symbol("s1")), "2*(s0 + s1)", Some(20)),
            (format!("FloorDiv({}, Integer(2))", symbol("s0")), "floor(s0, 2)", Some(3)),
            (format!("CeilDiv({}, Integer(2))", symbol("s0")), "ceil(s0, 2)", Some(4)),
            (format!("PythonMod({}, {})", symbol("s0"), symbol("s1")), "mod(s0, s1)", Some(1)),
            (format!("Max({}, {})", symbol("s0"), symbol("s1")), "max(s0, s1)", Some(7)),
            (format!("Min({}, {})", symbol("s0"), symbol("s1")), "min(s0, s1)", Some(3)),
            (symbol("s9"), "s9", None),
            ("FloorDiv(s0, Integer(0))".to_owned(), "floor(s0, 0)", None),
            ("Mul(s0, Integer(9223372036854775807))".to_owned(), "s0*9223372036854775807", None),
        ] {
            let expression = Expression::parse(&text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(expression.to_string(), shown);
            assert_eq!(expression.evaluate(&sizes), value, "{text}");
        }
    }

    #[test]
    fn anything_else_is_not_an_expression() {
        let nested = "Add(".repeat(10_000);
        for text in [
            "",
            "(",
            "Symbol(s0)",
            "Symbol('')",
            "Symbol('a b')",
            "Integer(x)",
            "Exp(s0)",
            "Mul(s0",
            "s0 s1",
            "Mod(s0)",
            &nested,
        ] {
            assert_eq!(Expression::parse(text), None, "{text}");
        }
    }
}

//! Which labels a loss takes: known before training, so that a wrong one is named and not trained on.

use kindling_program::TensorMeta;

use super::Loss;

/// The labels that a loss takes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Labels {
    /// None: the data has no label column.
    None,
    /// Any number.
    Numbers,
    /// Class indices, as int64.
    Classes {
        /// Number of classes, if the program says it.
        classes: Option<i64>,
        /// A value that is taken beside them.
        ignored: Option<i64>,
    },
    /// Numbers in 0..=1.
    Probabilities,
    /// Numbers of at least 0.
    Counts,
    /// 1 or -1, and 0 for the latter where `zero` says so.
    Signs {
        /// Whether 0 stands for -1.
        zero: bool,
    },
    /// A row of class indices as int64, padded at its end.
    Sequence {
        /// Number of classes, if the program says it.
        classes: Option<i64>,
        /// Class that pads.
        blank: i64,
        /// Another value that pads.
        padding: Option<i64>,
        /// Steps that the labels must fit into; none if it is not known or they need not.
        time: Option<i64>,
    },
}

impl Loss {
    /// The labels it takes. `soft` says that the label column holds fractions; `output` is what is judged.
    pub(crate) fn labels(&self, soft: bool, output: Option<&TensorMeta>) -> Labels {
        let size = |dim: usize| output.and_then(|output| output.shape.get(dim)?.as_static());
        match self {
            Loss::CrossEntropy { .. } if soft => Labels::Probabilities,
            Loss::CrossEntropy { ignore_index, .. } => Labels::Classes { classes: size(1), ignored: *ignore_index },
            Loss::CategoricalHinge {} => Labels::Classes { classes: size(1), ignored: None },
            Loss::BinaryCrossEntropy {} | Loss::BinaryCrossEntropyWithLogits { .. } => Labels::Probabilities,
            Loss::Poisson { .. } | Loss::Kl { log_target: false } => Labels::Counts,
            Loss::Hinge {} | Loss::SquaredHinge {} => Labels::Signs { zero: true },
            Loss::Cosine { .. } | Loss::MarginRanking { .. } => Labels::Signs { zero: false },
            Loss::Ctc { blank, ignore_index, zero_infinity } => Labels::Sequence {
                classes: size(2),
                blank: *blank,
                padding: *ignore_index,
                time: size(1).filter(|_| !zero_infinity),
            },
            Loss::Triplet { .. } | Loss::Model {} => Labels::None,
            Loss::Mse {}
            | Loss::Mae {}
            | Loss::Huber { .. }
            | Loss::SmoothL1 { .. }
            | Loss::Kl { .. }
            | Loss::CosineSimilarity {} => Labels::Numbers,
        }
    }
}

impl Labels {
    /// Whether a look at every label is needed.
    pub(crate) fn restricted(&self) -> bool {
        !matches!(self, Labels::None | Labels::Numbers)
    }

    /// What is wrong with the labels of a row: the value, and a sentence about what is allowed.
    pub(crate) fn problem(&self, row: &[f64]) -> Option<(f64, String)> {
        let first = |wrong: &dyn Fn(f64) -> bool| row.iter().copied().find(|&value| wrong(value));
        let (value, allowed) = match self {
            Labels::None | Labels::Numbers => return None,
            Labels::Classes { classes, ignored } => {
                (first(&|value| !is_class(value, *classes) && !is(value, *ignored))?, class_range(*classes))
            }
            Labels::Probabilities => {
                (first(&|value| !(0.0..=1.0).contains(&value))?, "labels are probabilities, from 0 to 1".to_owned())
            }
            Labels::Counts => (first(&|value| value.is_nan() || value < 0.0)?, "labels are at least 0".to_owned()),
            Labels::Signs { zero } => {
                let taken = |value: f64| value == 1.0 || value == -1.0 || (*zero && value == 0.0);
                let allowed = if *zero { "labels are 1, and -1 or 0" } else { "labels are 1 or -1" };
                (first(&|value| !taken(value))?, allowed.to_owned())
            }
            Labels::Sequence { classes, blank, padding, time } => {
                return sequence_problem(row, *classes, *blank, *padding, *time);
            }
        };
        Some((value, allowed))
    }
}

#[expect(clippy::cast_precision_loss, reason = "class indices, far below 2^53")]
fn is_class(value: f64, classes: Option<i64>) -> bool {
    value >= 0.0 && classes.is_none_or(|classes| value < classes as f64)
}

#[expect(clippy::cast_precision_loss, reason = "class indices, far below 2^53")]
fn is(value: f64, wanted: Option<i64>) -> bool {
    wanted.is_some_and(|wanted| value == wanted as f64)
}

fn class_range(classes: Option<i64>) -> String {
    match classes {
        Some(classes) => format!("the program has {classes} classes, so labels go from 0 to {}", classes - 1),
        None => "labels count classes from 0".to_owned(),
    }
}

fn sequence_problem(
    row: &[f64],
    classes: Option<i64>,
    blank: i64,
    padding: Option<i64>,
    time: Option<i64>,
) -> Option<(f64, String)> {
    let pads = |value: f64| is(value, Some(blank)) || is(value, padding);
    let (labels, rest) = row.split_at(row.iter().position(|&value| pads(value)).unwrap_or(row.len()));
    if let Some(&value) = labels.iter().find(|&&value| !is_class(value, classes)) {
        return Some((value, class_range(classes)));
    }
    if let Some(&value) = rest.iter().find(|&&value| !pads(value)) {
        return Some((value, "it stands behind padding, which belongs at the end of the labels".to_owned()));
    }
    // Equal neighbours need a blank between them.
    let repeats = labels.windows(2).filter(|pair| matches!(pair, [one, other] if one == other)).count();
    let needed = labels.len() + repeats;
    let (last, time) = (labels.last()?, time?);
    (needed as i64 > time).then(|| {
        let fit = format!(
            "the row has {} labels, which need {needed} steps of time, and the program gives {time}",
            labels.len()
        );
        (*last, format!("{fit}: shorten them, or set zeroInfinity to leave such rows out"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_label_is_checked_and_the_first_wrong_value_told() {
        let classes = Labels::Classes { classes: Some(3), ignored: Some(-100) };
        assert_eq!(classes.problem(&[0.0, 2.0, -100.0]), None);
        assert_eq!(classes.problem(&[0.0, 3.0]).unwrap().0, 3.0);
        assert!(classes.problem(&[-1.0]).unwrap().1.contains("0 to 2"));
        assert_eq!(Labels::Probabilities.problem(&[0.0, 0.5, 1.0]), None);
        assert_eq!(Labels::Probabilities.problem(&[1.5]).unwrap().0, 1.5);
        assert!(Labels::Probabilities.problem(&[f64::NAN]).is_some());
        assert_eq!(Labels::Counts.problem(&[-1.0]).unwrap().0, -1.0);
        assert_eq!(Labels::Signs { zero: true }.problem(&[1.0, 0.0, -1.0]), None);
        assert_eq!(Labels::Signs { zero: false }.problem(&[1.0, 0.0]).unwrap().0, 0.0);
        assert_eq!(Labels::Numbers.problem(&[-7.0]), None);
    }

    #[test]
    fn a_sequence_is_padded_at_its_end_and_fits_into_its_time() {
        let labels = Labels::Sequence { classes: Some(5), blank: 0, padding: Some(-1), time: Some(4) };
        assert_eq!(labels.problem(&[1.0, 2.0, 3.0, 4.0]), None);
        assert_eq!(labels.problem(&[1.0, 1.0, 2.0, 0.0, -1.0]), None, "three labels and one repeat take four steps");
        assert_eq!(labels.problem(&[-1.0, -1.0]), None, "an empty row");
        assert_eq!(labels.problem(&[1.0, 5.0]).unwrap().0, 5.0);
        assert!(labels.problem(&[1.0, 0.0, 2.0]).unwrap().1.contains("padding"));
        assert!(labels.problem(&[1.0, 1.0, 1.0]).unwrap().1.contains("5 steps"));
    }
}

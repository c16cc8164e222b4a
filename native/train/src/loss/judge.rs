//! A loss fitted to a program: which of its outputs are judged, which one predicts, what rows weigh.

use kindling_program::{Program, TensorMeta};
use kindling_shards::{Column, DType};
use tch::{Kind, Tensor};

use super::reduce::Reduce;
use super::{Labels, Loss, binary, classes, ctc, own, pairs, values};
use crate::error::{Doing, Error, Result};

/// See the module.
pub(crate) struct Judge {
    loss: Loss,
    /// The outputs that are judged, in the loss's order.
    judged: Vec<usize>,
    /// The output that predicts.
    prediction: usize,
    /// Type and shape of the first judged output.
    output: Option<TensorMeta>,
}

/// Some rows of a batch, as far as the loss looks at them.
pub(crate) struct Rows<'a> {
    pub(crate) count: i64,
    /// Rows first; absent for a loss that takes none.
    pub(crate) labels: Option<&'a Tensor>,
    /// float64, one per row; all 1 if absent.
    pub(crate) weights: Option<&'a Tensor>,
}

impl<'a> Rows<'a> {
    pub(crate) fn labels(&self) -> Result<&'a Tensor> {
        self.labels.ok_or_else(|| Error::Data("the loss judges by labels and the data has no label column".to_owned()))
    }
}

/// What rows sum to before anything has judged them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Sums {
    /// Their number.
    pub(crate) rows: u64,
    /// The denominator of the objective.
    pub(crate) weight: f64,
    /// Labels that can be answered right.
    pub(crate) answers: f64,
}

impl Judge {
    /// Fits `loss` to `program`. `prediction` chooses the output that predicts, by name or index.
    pub(crate) fn new(loss: &Loss, program: &Program, prediction: Option<&str>) -> Result<Judge> {
        loss.check()?;
        let chosen = prediction.map(|chosen| find_output(program, chosen)).transpose()?;
        if let (Some(name), Some(index)) = (prediction, chosen) {
            refuse_scalar(program, name, index)?;
        }
        let usual = || program.output_named("logits");
        let (judged, prediction) = match loss {
            Loss::Model {} => {
                let loss = own_loss(program)?;
                let other = (0..program.outputs.len()).find(|&index| index != loss);
                (vec![loss], chosen.or_else(usual).or(other).unwrap_or(loss))
            }
            Loss::Cosine { .. } | Loss::MarginRanking { .. } => {
                (several(loss, program, 2)?, chosen.or_else(usual).unwrap_or(0))
            }
            Loss::Triplet { .. } => (several(loss, program, 3)?, chosen.or_else(usual).unwrap_or(0)),
            _ => {
                several(loss, program, 1)?;
                let output = chosen.or_else(usual).unwrap_or(0);
                (vec![output], output)
            }
        };
        let output = judged.first().and_then(|&index| program.outputs.get(index));
        let activation = output.and_then(|&value| program.activation(value));
        refuse_activation(loss, activation)?;
        let output = output.and_then(|&value| program.meta(value)).cloned();
        Ok(Judge { loss: loss.clone(), judged, prediction, output })
    }

    /// A loss over outputs of a test's own.
    #[cfg(test)]
    pub(crate) fn over(loss: &Loss, outputs: &[Tensor]) -> Judge {
        let shape = outputs
            .first()
            .map_or_else(Vec::new, |output| output.size().into_iter().map(kindling_program::Dim::Static).collect());
        let output = Some(TensorMeta { dtype: kindling_program::DType::Float32, shape });
        Judge { loss: loss.clone(), judged: (0..outputs.len()).collect(), prediction: 0, output }
    }

    /// The output that predicts.
    pub(crate) fn prediction(&self) -> usize {
        self.prediction
    }

    /// Type and shape of the output that is judged first.
    pub(crate) fn output(&self) -> Option<&TensorMeta> {
        self.output.as_ref()
    }

    /// The output that is judged first, in float32 or float64.
    pub(crate) fn judged(&self, outputs: &[Tensor]) -> Result<Tensor> {
        let output = self.judged.first().and_then(|&index| outputs.get(index));
        wide(output.ok_or_else(|| Error::Config(format!("the program returned {} outputs", outputs.len())))?)
    }

    /// Which labels are taken from `column`; a sentence if the column does not suit the loss at all.
    pub(crate) fn labels(&self, column: Option<&Column>) -> Result<Labels> {
        let name = self.loss.name();
        let wanted = self.loss.labels(column.is_some_and(|column| is_float(column.dtype)), self.output.as_ref());
        match (&wanted, column) {
            (Labels::None, None) => Ok(wanted),
            (Labels::None, Some(_)) => Err(Error::Config(format!(
                "the loss {name} takes no label and the data has a label column: leave it out"
            ))),
            (_, None) => Err(Error::Config(format!("the loss {name} needs a label column and the data has none"))),
            (Labels::Classes { .. } | Labels::Sequence { .. }, Some(column)) if column.dtype != DType::Int64 => {
                Err(Error::Config(format!("{name} takes int64 labels and the column holds {}", column.dtype.name())))
            }
            (Labels::Probabilities, Some(_)) => match self.loss {
                Loss::CrossEntropy { ignore_index: Some(_), .. } => Err(Error::Config(
                    "ignoreIndex names a class and the labels are probabilities: leave it unset".to_owned(),
                )),
                Loss::CrossEntropy { .. } if self.size(1).is_none() => Err(Error::Config(
                    "labels that are probabilities need a program with a fixed number of classes".to_owned(),
                )),
                _ => Ok(wanted),
            },
            _ => Ok(wanted),
        }
    }

    /// Refuses weights for a loss that cannot be weighted.
    pub(crate) fn check_weights(&self) -> Result<()> {
        match (&self.loss, &self.output) {
            (Loss::Model {}, Some(output)) if output.shape.is_empty() => Err(own::no_weights()),
            _ => Ok(()),
        }
    }

    /// A fixed size of the judged output.
    fn size(&self, dim: usize) -> Option<i64> {
        self.output.as_ref()?.shape.get(dim)?.as_static()
    }

    /// What any `rows` rows sum to, if it follows from their number; else it takes their labels and weights.
    pub(crate) fn uniform(&self, rows: u64, label: Option<&Column>, weighted: bool) -> Option<Sums> {
        let per_label = match &self.loss {
            Loss::CrossEntropy { class_weights, ignore_index, .. } => {
                label.is_some_and(|label| label.dtype == DType::Int64)
                    && (class_weights.is_some() || ignore_index.is_some())
            }
            _ => false,
        };
        if weighted || per_label {
            return None;
        }
        let width = label.map_or(0.0, |label| f64::from(label.width));
        let soft = label.is_some_and(|label| is_float(label.dtype));
        #[expect(clippy::cast_precision_loss, reason = "rows of a batch, far below 2^53")]
        let count = rows as f64;
        let per_row = if self.counts_labels() && !soft { width } else { 1.0 };
        Some(Sums { rows, weight: count * per_row, answers: count * self.answers(width, soft) })
    }

    /// What these rows sum to.
    pub(crate) fn sums(&self, rows: &Rows<'_>) -> Result<Sums> {
        let count = u64::try_from(rows.count).unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "rows of a batch, far below 2^53")]
        let plain = count as f64;
        let row_weights = || match rows.weights {
            Some(weights) => weights.f_sum(Kind::Double)?.f_double_value(&[]),
            None => Ok(plain),
        };
        let doing = "summing the weights";
        let Some(labels) = rows.labels else {
            return Ok(Sums { rows: count, weight: row_weights().doing(doing)?, answers: 0.0 });
        };
        match &self.loss {
            // Every label counts 1: nothing to look at.
            Loss::CrossEntropy { class_weights: None, ignore_index: None, .. }
                if labels.kind() == Kind::Int64 && rows.weights.is_none() =>
            {
                #[expect(clippy::cast_precision_loss, reason = "labels of a batch, far below 2^53")]
                let labels = labels.numel() as f64;
                Ok(Sums { rows: count, weight: labels, answers: labels })
            }
            Loss::CrossEntropy { class_weights, ignore_index, .. } if labels.kind() == Kind::Int64 => {
                let (weight, answers) =
                    label_weights(labels, rows.weights, class_weights.as_deref(), *ignore_index).doing(doing)?;
                Ok(Sums { rows: count, weight, answers })
            }
            _ => {
                let soft = labels.kind() != Kind::Int64;
                #[expect(clippy::cast_precision_loss, reason = "labels of a row, far below 2^53")]
                let width = labels.numel() as f64 / plain.max(1.0);
                let answers = plain * self.answers(width, soft);
                Ok(Sums { rows: count, weight: row_weights().doing(doing)?, answers })
            }
        }
    }

    /// Whether the objective's denominator counts labels, not rows, where labels are integers.
    fn counts_labels(&self) -> bool {
        matches!(self.loss, Loss::CrossEntropy { .. })
    }

    /// Answers of a row with `width` label values.
    fn answers(&self, width: f64, soft: bool) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "classes of a program, far below 2^53")]
        match &self.loss {
            loss if !loss.classifies() => 0.0,
            Loss::CrossEntropy { .. } if soft => self.size(1).map_or(0.0, |classes| width / classes as f64),
            _ => width,
        }
    }

    /// Judges the outputs of a program for `rows`, which are a share of a batch that sums to `totals`: returns the rows'
    /// share of the objective of the global batch, a scalar with its graph. Shares add up.
    pub(crate) fn judge(&self, outputs: &[Tensor], rows: &Rows<'_>, totals: &Sums) -> Result<Tensor> {
        let picked = self.judged.iter().map(|&index| match outputs.get(index) {
            Some(output) => wide(output),
            None => Err(Error::Config(format!("the program returned {} outputs", outputs.len()))),
        });
        let picked = picked.collect::<Result<Vec<_>>>()?;
        let reduce = reduce(rows, totals)?;
        match (&self.loss, picked.as_slice()) {
            (Loss::CrossEntropy { .. } | Loss::CategoricalHinge {}, [output]) => {
                classes::judge(&self.loss, output, rows, &reduce)
            }
            (Loss::BinaryCrossEntropy {} | Loss::BinaryCrossEntropyWithLogits { .. }, [output]) => {
                binary::judge(&self.loss, output, rows, &reduce)
            }
            (Loss::Ctc { blank, ignore_index, zero_infinity }, [output]) => {
                ctc::judge(output, rows, &reduce, *blank, *ignore_index, *zero_infinity)
            }
            (Loss::Model {}, [output]) => own::judge(output, rows, &reduce, totals),
            (_, [output]) => values::judge(&self.loss, output, rows, reduce),
            (_, outputs) => pairs::judge(&self.loss, outputs, rows, &reduce),
        }
    }

    /// How many of the rows' labels are answered right, an int64 that nobody has read yet: reading it waits for the device.
    /// None where the loss does not know what that means. Only for outputs that were judged.
    pub(crate) fn right(&self, outputs: &[Tensor], rows: &Rows<'_>) -> Result<Option<Tensor>> {
        if !self.loss.classifies() {
            return Ok(None);
        }
        let (Some(output), Some(labels)) = (self.judged.first().and_then(|&index| outputs.get(index)), rows.labels)
        else {
            return Ok(None);
        };
        let right = match self.loss {
            Loss::CrossEntropy { ignore_index, .. } => classes::right(&wide(output)?, labels, ignore_index),
            Loss::CategoricalHinge {} => classes::right(&wide(output)?, labels, None),
            Loss::BinaryCrossEntropy {} => binary::right(&wide(output)?, labels, 0.5, 0.5),
            Loss::BinaryCrossEntropyWithLogits { .. } => binary::right(&wide(output)?, labels, 0.0, 0.5),
            _ => binary::right(&wide(output)?, labels, 0.0, 0.0),
        };
        right.map(Some).doing("counting right answers")
    }
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::Float32 | DType::Float64)
}

fn find_output(program: &Program, chosen: &str) -> Result<usize> {
    let by_index = || chosen.parse().ok().filter(|&index: &usize| index < program.outputs.len());
    program.output_named(chosen).or_else(by_index).ok_or_else(|| {
        Error::Config(format!(
            "predictionOutput is {chosen} and the program has no such output: its outputs are {}",
            program.output_list()
        ))
    })
}

/// A number for a whole batch predicts nothing of a row.
fn refuse_scalar(program: &Program, chosen: &str, index: usize) -> Result<()> {
    let meta = program.outputs.get(index).and_then(|&output| program.meta(output));
    if meta.is_none_or(|meta| !meta.shape.is_empty()) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "predictionOutput is {chosen}, which is one number for the whole batch and predicts nothing of a row: choose another \
         of the program's outputs, {}",
        program.output_list()
    )))
}

/// The first `count` outputs.
fn several(loss: &Loss, program: &Program, count: usize) -> Result<Vec<usize>> {
    if program.outputs.len() >= count {
        return Ok((0..count).collect());
    }
    Err(Error::Config(format!(
        "the loss {} judges {count} outputs and the program returns {}",
        loss.name(),
        program.outputs.len()
    )))
}

/// The output named `loss`, else the first scalar.
fn own_loss(program: &Program) -> Result<usize> {
    let scalar = |&value: &kindling_program::ValueId| program.meta(value).is_some_and(|meta| meta.shape.is_empty());
    program.output_named("loss").or_else(|| program.outputs.iter().position(scalar)).ok_or_else(|| {
        Error::Config(format!(
            "the loss is the program's own and none of its outputs is named loss or is a single number: its outputs are {}",
            program.output_list()
        ))
    })
}

/// A program that ends in what the loss applies itself would train, slowly and wrongly.
fn refuse_activation(loss: &Loss, activation: Option<&str>) -> Result<()> {
    let advice = match (loss, activation) {
        (Loss::CrossEntropy { .. }, Some("softmax" | "sigmoid")) => {
            "remove that last layer (the loss applies softmax itself, and the fitted model's probabilities do too)"
        }
        (Loss::BinaryCrossEntropyWithLogits { .. }, Some("softmax" | "sigmoid")) => {
            "remove that last layer, or use the loss binaryCrossEntropy"
        }
        (Loss::Kl { .. }, Some("softmax" | "sigmoid")) => "return log-probabilities (log_softmax) instead",
        (Loss::Ctc { .. }, Some("softmax" | "sigmoid")) => "remove that last layer, or return log-probabilities",
        _ => return Ok(()),
    };
    let takes = if matches!(loss, Loss::Kl { .. }) { "log-probabilities" } else { "logits" };
    let activation = activation.unwrap_or_default();
    Err(Error::Config(format!("{} takes {takes} and the program ends in {activation}; {advice}", loss.name())))
}

fn reduce(rows: &Rows<'_>, totals: &Sums) -> Result<Reduce> {
    match rows.weights {
        Some(weights) => {
            let shares = weights.f_reshape([rows.count]).and_then(|weights| weights.f_div_scalar(totals.weight));
            Ok(Reduce::Weighted { shares: shares.doing("weighting the rows")? })
        }
        None if u64::try_from(rows.count) == Ok(totals.rows) => Ok(Reduce::Mean),
        None => Ok(Reduce::Sum { total: totals.weight }),
    }
}

/// What integer labels weigh by class and row, those ignored left out, and how many are left.
fn label_weights(
    labels: &Tensor,
    rows: Option<&Tensor>,
    class_weights: Option<&[f64]>,
    ignored: Option<i64>,
) -> std::result::Result<(f64, f64), tch::TchError> {
    let kept = match ignored {
        Some(ignored) => labels.f_ne(ignored)?,
        None => labels.f_ones_like()?,
    };
    let mut weights = kept.f_to_kind(Kind::Double)?;
    let answers = weights.f_sum(Kind::Double)?.f_double_value(&[])?;
    if let Some(class_weights) = class_weights {
        // An ignored label need not be a class; any class will do, as it weighs nothing.
        let classes = labels.f_masked_fill(&kept.f_logical_not()?, 0)?.f_reshape([-1])?;
        let each = Tensor::from_slice(class_weights).f_to_device(labels.device())?.f_index_select(0, &classes)?;
        weights = weights.f_mul(&each.f_view_as(&weights)?)?;
    }
    if let Some(rows) = rows {
        let per_row: Vec<i64> =
            labels.size().iter().enumerate().map(|(at, &size)| if at == 0 { size } else { 1 }).collect();
        weights = weights.f_mul(&rows.f_reshape(&per_row)?)?;
    }
    Ok((weights.f_sum(Kind::Double)?.f_double_value(&[])?, answers))
}

/// Half precision becomes float32; the rest stays.
fn wide(output: &Tensor) -> Result<Tensor> {
    match output.kind() {
        Kind::Half | Kind::BFloat16 => output.f_to_kind(Kind::Float).doing("widening an output"),
        _ => Ok(output.shallow_clone()),
    }
}

/// Labels of the output's type and shape.
pub(crate) fn shaped_like(loss: &Loss, output: &Tensor, rows: &Rows<'_>) -> Result<Tensor> {
    let labels = rows.labels()?;
    if output.numel() != labels.numel() || output.size().first() != Some(&rows.count) {
        return Err(Error::Config(format!(
            "{} takes as many labels as outputs per row; the program returned {:?} for {} rows with {} labels each",
            loss.name(),
            output.size(),
            rows.count,
            labels.numel() / usize::try_from(rows.count).unwrap_or(1).max(1)
        )));
    }
    labels.f_to_kind(output.kind()).and_then(|labels| labels.f_view_as(output)).doing("shaping the labels")
}

/// Numbers as a tensor of the output's type, where the output is.
pub(crate) fn vector(values: &[f64], output: &Tensor) -> Result<Tensor> {
    let values = Tensor::from_slice(values).f_to_kind(output.kind());
    values.and_then(|values| values.f_to_device(output.device())).doing("laying out weights")
}

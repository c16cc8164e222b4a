//! What a fitted model tells of an output, by the loss it was trained with.

use tch::{Kind, Tensor};

use super::Loss;

impl Loss {
    /// The prediction, and the probabilities where the loss makes the output one; float64, rows first, dense.
    ///
    /// * `crossEntropy`: the class with the largest logit, and softmax's probabilities, class by class. Of an output with
    ///   further positions, one class and one set of probabilities per position.
    /// * `binaryCrossEntropy`, `binaryCrossEntropyWithLogits`: 1 where the probability is above one half, else 0, and the
    ///   probabilities.
    /// * `categoricalHinge`: the class with the largest value.
    /// * All others: the output itself.
    pub(crate) fn predictions(&self, output: &Tensor) -> std::result::Result<Vec<Tensor>, tch::TchError> {
        let dense = |tensor: Tensor| tensor.f_to_kind(Kind::Double)?.f_contiguous();
        match self {
            Loss::CrossEntropy { .. } => {
                let probabilities = output.f_softmax(1, Kind::Double)?.f_movedim_int(1, -1)?;
                Ok(vec![dense(output.f_argmax(1, false)?)?, dense(probabilities)?])
            }
            Loss::CategoricalHinge {} => Ok(vec![dense(output.f_argmax(1, false)?)?]),
            Loss::BinaryCrossEntropy {} => Ok(vec![dense(output.f_gt(0.5)?)?, dense(output.shallow_clone())?]),
            Loss::BinaryCrossEntropyWithLogits { .. } => {
                let probabilities = output.f_to_kind(Kind::Double)?.f_sigmoid()?;
                Ok(vec![dense(output.f_gt(0.0)?)?, dense(probabilities)?])
            }
            _ => Ok(vec![dense(output.shallow_clone())?]),
        }
    }
}

//! What a fitted model tells of an output, by the loss it was trained with.

use tch::{Device, Kind, Tensor};

use super::Loss;

type Torch<T> = std::result::Result<T, tch::TchError>;

/// What [`Loss::predictions`] is asked for and, the same way round, what it gives.
pub(crate) struct Told<T> {
    pub(crate) prediction: T,
    pub(crate) probabilities: T,
}

impl Loss {
    /// The prediction, and the probabilities where the loss makes the output one; float64, rows first, dense. What is not
    /// wanted is not computed.
    ///
    /// * `crossEntropy`: the class with the largest logit, and softmax's probabilities, class by class. Of an output with
    ///   further positions, one class and one set of probabilities per position.
    /// * `binaryCrossEntropy`, `binaryCrossEntropyWithLogits`: 1 where the probability is above one half, else 0, and the
    ///   probabilities.
    /// * `categoricalHinge`: the class with the largest value.
    /// * All others: the output itself.
    pub(crate) fn predictions(&self, output: &Tensor, wanted: &Told<bool>) -> Torch<Told<Option<Tensor>>> {
        let prediction = || match self {
            Loss::CrossEntropy { .. } | Loss::CategoricalHinge {} => dense(&output.f_argmax(1, false)?),
            Loss::BinaryCrossEntropy {} => dense(&output.f_gt(0.5)?),
            Loss::BinaryCrossEntropyWithLogits { .. } => dense(&output.f_gt(0.0)?),
            _ => dense(output),
        };
        let probabilities = || match self {
            Loss::CrossEntropy { .. } => softmax(output).map(Some),
            Loss::BinaryCrossEntropy {} => dense(output).map(Some),
            Loss::BinaryCrossEntropyWithLogits { .. } => {
                output.f_to_kind(Kind::Double)?.f_sigmoid().and_then(|p| dense(&p)).map(Some)
            }
            _ => Ok(None),
        };
        Ok(Told {
            prediction: wanted.prediction.then(prediction).transpose()?,
            probabilities: if wanted.probabilities { probabilities()? } else { None },
        })
    }
}

fn dense(tensor: &Tensor) -> Torch<Tensor> {
    tensor.f_to_kind(Kind::Double)?.f_contiguous()
}

/// Softmax over dimension 1, which becomes the last, in float64.
///
/// On the processor libtorch's own works through one row at a time, at a cost per row that is several times that of a few
/// classes. Those are worked through operator by operator, all rows at once: the same formula, a third of the time at ten
/// classes.
fn softmax(output: &Tensor) -> Torch<Tensor> {
    let values = output.f_to_kind(Kind::Double)?.f_movedim_int(1, -1)?;
    let classes = values.size().last().copied().unwrap_or(0);
    if values.device() != Device::Cpu || !(1..=MOST_AT_ONCE).contains(&classes) {
        return values.f_softmax(-1, Kind::Double)?.f_contiguous();
    }
    let mut powers = values.f_sub(&values.f_amax(-1, true)?)?.f_contiguous()?.f_exp_()?;
    let sums = powers.f_sum_dim_intlist(-1, true, Kind::Double)?;
    powers.f_div_(&sums)
}

/// From about so many classes on libtorch's softmax is as fast.
const MOST_AT_ONCE: i64 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_of_few_and_of_many_classes_is_libtorch_s() {
        for sizes in
            [vec![7, 1], vec![5, 10], vec![3, MOST_AT_ONCE], vec![3, MOST_AT_ONCE + 1], vec![4, 6, 2, 3], vec![0, 4]]
        {
            let logits = Tensor::randn(sizes.as_slice(), (Kind::Float, Device::Cpu)) * 40;
            let found = softmax(&logits).unwrap();
            let expected = logits.softmax(1, Kind::Double).movedim_int(1, -1);
            assert_eq!((found.size(), found.kind(), found.is_contiguous()), (expected.size(), Kind::Double, true));
            // A last bit of the sum, which is taken in another order.
            assert!(found.allclose(&expected, 1e-15, 0.0, false), "{sizes:?}");
        }
    }

    #[test]
    fn what_is_not_wanted_is_not_told() {
        let logits = Tensor::from_slice(&[1f32, 3.0, 2.0]).view([1, 3]);
        let loss: Loss = serde_json::from_str(r#"{"name": "crossEntropy"}"#).unwrap();
        let told = |prediction, probabilities| loss.predictions(&logits, &Told { prediction, probabilities }).unwrap();
        let both = told(true, true);
        assert_eq!(both.prediction.as_ref().unwrap().double_value(&[0]), 1.0);
        assert_eq!(both.probabilities.as_ref().unwrap().size(), [1, 3]);
        let one = told(true, false);
        assert!(one.prediction == both.prediction && one.probabilities.is_none());
        let other = told(false, true);
        assert!(other.prediction.is_none() && other.probabilities == both.probabilities);
    }
}

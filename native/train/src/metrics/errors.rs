//! Deviations of outputs from labels that are numbers: what mae, rmse and r2 are made of.
//!
//! The variance of the labels is kept as a mean and the squares around it, and merged as Chan, Golub and LeVeque do
//! (1979): sums of squares would lose every digit where labels are large and vary little.

use tch::{Kind, TchError, Tensor};

/// Sums over rows, by weight; per element of a row where vectors.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Errors {
    weight: f64,
    /// Absolute deviations of all elements.
    absolute: f64,
    squares: Vec<f64>,
    mean: Vec<f64>,
    /// Squares of the labels around their mean.
    around: Vec<f64>,
}

impl Errors {
    /// Adds rows of shape (rows, elements) in float64, with a weight for each of shape (rows, 1).
    pub(super) fn add(&mut self, output: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<(), TchError> {
        let weight = weights.f_sum(Kind::Double)?.f_double_value(&[])?;
        if weight <= 0.0 {
            return Ok(());
        }
        let by_element = |values: &Tensor| -> Result<Tensor, TchError> {
            values.f_mul(weights)?.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)
        };
        let off = output.f_sub(labels)?;
        let mean = by_element(labels)?.f_div_scalar(weight)?;
        let around = by_element(&labels.f_sub(&mean)?.f_square()?)?;
        self.merge_with(&Errors {
            weight,
            absolute: by_element(&off.f_abs()?)?.f_sum(Kind::Double)?.f_double_value(&[])?,
            squares: Vec::try_from(by_element(&off.f_square()?)?)?,
            mean: Vec::try_from(mean)?,
            around: Vec::try_from(around)?,
        });
        Ok(())
    }

    pub(super) fn figures(&self) -> Vec<f64> {
        [&[self.weight, self.absolute], self.squares.as_slice(), &self.mean, &self.around].concat()
    }

    /// Adds another rank's.
    pub(super) fn merge(&mut self, figures: &[f64]) {
        let [weight, absolute, rest @ ..] = figures else { return };
        let width = rest.len() / 3;
        let part = |at: usize| rest.get(at * width..(at + 1) * width).unwrap_or(&[]).to_vec();
        self.merge_with(&Errors {
            weight: *weight,
            absolute: *absolute,
            squares: part(0),
            mean: part(1),
            around: part(2),
        });
    }

    fn merge_with(&mut self, other: &Errors) {
        if other.weight <= 0.0 {
            return;
        }
        if self.weight <= 0.0 {
            self.clone_from(other);
            return;
        }
        let weight = self.weight + other.weight;
        for ((mean, around), (their_mean, their_around)) in
            self.mean.iter_mut().zip(&mut self.around).zip(other.mean.iter().zip(&other.around))
        {
            let apart = their_mean - *mean;
            *mean += apart * (other.weight / weight);
            *around += their_around + apart * apart * (self.weight * other.weight / weight);
        }
        self.squares.iter_mut().zip(&other.squares).for_each(|(sum, more)| *sum += more);
        self.absolute += other.absolute;
        self.weight = weight;
    }

    /// What all elements of all rows weigh.
    #[expect(clippy::cast_precision_loss, reason = "elements of a row, far below 2^53")]
    fn all(&self) -> f64 {
        self.weight * self.squares.len() as f64
    }

    pub(super) fn mae(&self) -> Option<f64> {
        (self.all() > 0.0).then(|| self.absolute / self.all())
    }

    pub(super) fn rmse(&self) -> Option<f64> {
        (self.all() > 0.0).then(|| (self.squares.iter().sum::<f64>() / self.all()).sqrt())
    }

    /// As scikit-learn has it: where a label never varies, 1 if it is met exactly, else 0.
    pub(super) fn r2(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "elements of a row, far below 2^53")]
        let width = self.squares.len() as f64;
        let each = self.squares.iter().zip(&self.around).map(|(&squares, &around)| {
            if around > 0.0 { 1.0 - squares / around } else { f64::from(u8::from(squares == 0.0)) }
        });
        (self.all() > 0.0).then(|| each.sum::<f64>() / width)
    }
}

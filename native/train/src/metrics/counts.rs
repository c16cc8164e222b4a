//! Classes counted: what accuracy, precision, recall and f1 are made of.

use tch::{Kind, TchError, Tensor};

use super::answers::Answered;

/// Per class, by weight: answered and right, answered, and there. And what was among the largest outputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counts {
    right: Vec<f64>,
    answered: Vec<f64>,
    there: Vec<f64>,
    /// Among the largest outputs, and all that was asked.
    top: [f64; 2],
}

impl Counts {
    /// Makes room for as many classes, known from the first batch on.
    fn widen(&mut self, classes: usize) {
        for part in [&mut self.right, &mut self.answered, &mut self.there] {
            part.resize(classes.max(part.len()), 0.0);
        }
    }

    pub(super) fn add(&mut self, answers: &Answered) -> Result<(), TchError> {
        let classes = answers.classes;
        self.widen(usize::try_from(classes).unwrap_or(0));
        let counted = |of: &Tensor, weights: &Tensor| -> Result<Vec<f64>, TchError> {
            Vec::try_from(of.f_bincount(Some(weights), classes)?)
        };
        let hits = answers.answer.f_eq_tensor(&answers.truth)?.f_to_kind(Kind::Double)?;
        add(&mut self.right, &counted(&answers.truth, &hits.f_mul(&answers.weights)?)?);
        add(&mut self.answered, &counted(&answers.answer, &answers.weights)?);
        add(&mut self.there, &counted(&answers.truth, &answers.weights)?);
        if let Some(among) = &answers.among {
            let among = among.f_to_kind(Kind::Double)?.f_mul(&answers.weights)?.f_sum(Kind::Double)?;
            add(
                &mut self.top,
                &[among.f_double_value(&[])?, answers.weights.f_sum(Kind::Double)?.f_double_value(&[])?],
            );
        }
        Ok(())
    }

    /// All of it as numbers that add up over ranks.
    pub(super) fn figures(&self) -> Vec<f64> {
        [&self.right, &self.answered, &self.there, self.top.as_slice()].concat()
    }

    /// Adds another rank's.
    pub(super) fn merge(&mut self, figures: &[f64]) {
        let mut rest = figures;
        self.widen(figures.len().saturating_sub(self.top.len()) / 3);
        for part in [&mut self.right, &mut self.answered, &mut self.there] {
            let (mine, after) = rest.split_at_checked(part.len()).unwrap_or((&[], &[]));
            add(part, mine);
            rest = after;
        }
        add(&mut self.top, rest);
    }

    pub(super) fn accuracy(&self) -> Option<f64> {
        part(self.right.iter().sum(), self.there.iter().sum())
    }

    pub(super) fn top_k(&self) -> Option<f64> {
        let [among, all] = self.top;
        part(among, all)
    }

    pub(super) fn precision(&self) -> Option<f64> {
        self.over_classes(|right, answered, _| if answered > 0.0 { right / answered } else { 0.0 })
    }

    pub(super) fn recall(&self) -> Option<f64> {
        self.over_classes(|right, _, there| if there > 0.0 { right / there } else { 0.0 })
    }

    pub(super) fn f1(&self) -> Option<f64> {
        self.over_classes(|right, answered, there| 2.0 * right / (answered + there))
    }

    /// Of class 1 where there are two; else the mean over the classes that were answered or are there.
    fn over_classes(&self, of: impl Fn(f64, f64, f64) -> f64) -> Option<f64> {
        let classes = self.right.iter().zip(&self.answered).zip(&self.there);
        let mut each = classes.map(|((&right, &answered), &there)| (right, answered, there));
        if self.there.iter().sum::<f64>() <= 0.0 {
            return None;
        }
        let value =
            |(right, answered, there): (f64, f64, f64)| (answered + there > 0.0).then(|| of(right, answered, there));
        if self.right.len() == 2 {
            // Where nobody is positive and nobody was taken for it, sklearn says 0.
            return each.nth(1).map(|class| value(class).unwrap_or(0.0));
        }
        let (mut sum, mut count) = (0.0, 0.0);
        for found in each.filter_map(value) {
            sum += found;
            count += 1.0;
        }
        part(sum, count)
    }
}

fn add(to: &mut [f64], more: &[f64]) {
    to.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

fn part(of: f64, all: f64) -> Option<f64> {
    (all > 0.0).then(|| of / all)
}

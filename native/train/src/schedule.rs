//! Learning rate schedules: the rate of every optimizer step, from the rate that the optimizer or a parameter group is
//! given.
//!
//! Values are those of `torch.optim.lr_scheduler`, stepped once per optimizer step, in closed form: the rate of a step
//! depends on its number alone, so a run that resumes goes on as if it had never stopped. `reduceOnPlateau` is the one
//! that has a state; it looks at the loss after each epoch. Where PyTorch's would rise again or fail beyond its last
//! step (`cosine`, `oneCycle`), the last rate stays.

use std::f64::consts::PI;

use serde::Deserialize;

use crate::check::{at_least, at_most_one, positive};
use crate::error::{Error, Result};
use crate::metrics::Metric;

/// The names of schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScheduleName {
    /// The same rate throughout.
    #[default]
    Constant,
    /// Times `gamma` every `steps` steps (`StepLR`).
    Step,
    /// Times `gamma` at each of `milestones` (`MultiStepLR`).
    Multistep,
    /// Times `gamma` every step (`ExponentialLR`).
    Exponential,
    /// Half a cosine down to `minimum` within `steps` steps (`CosineAnnealingLR`).
    Cosine,
    /// The same again and again: each cycle is `cycleFactor` times as long as the one before
    /// (`CosineAnnealingWarmRestarts`).
    CosineRestarts,
    /// From `startFactor` to `endFactor` times the rate within `steps` steps (`LinearLR`).
    Linear,
    /// `(1 - t / steps) ^ power` times the rate (`PolynomialLR`).
    Polynomial,
    /// Up to the rate and down again within `steps` steps (`OneCycleLR` with `max_lr` = the rate; momentum stays).
    OneCycle,
    /// Times `gamma` after `patience` epochs whose loss is no better than the best (`ReduceLROnPlateau`).
    ReduceOnPlateau,
}

/// How the rate goes from one value to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Anneal {
    /// Along half a cosine.
    Cos,
    /// Along a line.
    Linear,
}

/// What `threshold` is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ThresholdMode {
    /// Of the best loss.
    Rel,
    /// Of 1.
    Abs,
}

/// A schedule as a run is given it. A setting that the named schedule does not have is refused; what is left out has
/// PyTorch's default, and `steps` of `cosine`, `linear`, `polynomial` and `oneCycle` is what remains of the run after
/// the warm-up. Steps are optimizer steps: an epoch has rows / batchSize of them, rounded up.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Which schedule.
    pub name: ScheduleName,
    /// Steps in which the rate first rises along a line, before the schedule begins; none by default.
    #[serde(default)]
    pub warmup_steps: Option<u64>,
    /// The same as a fraction of all steps of the run.
    #[serde(default)]
    pub warmup_fraction: Option<f64>,
    /// The rate of the first step of the warm-up, as a fraction of the one it rises to: 0 by default.
    #[serde(default)]
    pub warmup_start: Option<f64>,
    /// `step`: steps between two changes. `cosineRestarts`: length of the first cycle. Others: length of the schedule.
    #[serde(default)]
    pub steps: Option<u64>,
    /// The factor of `step`, `multistep`, `reduceOnPlateau` (0.1 by default) and `exponential`.
    #[serde(default)]
    pub gamma: Option<f64>,
    /// `multistep`: the steps, counted from the end of the warm-up, at which the rate changes.
    #[serde(default)]
    pub milestones: Option<Vec<u64>>,
    /// `cosine`, `cosineRestarts`, `reduceOnPlateau`: the lowest rate, 0 by default.
    #[serde(default)]
    pub minimum: Option<f64>,
    /// `cosineRestarts`: a whole number, 1 by default.
    #[serde(default)]
    pub cycle_factor: Option<u64>,
    /// `linear`: 1 by default (PyTorch's 1/3 is meant for a warm-up).
    #[serde(default)]
    pub start_factor: Option<f64>,
    /// `linear`: 0 by default (PyTorch's 1 is meant for a warm-up).
    #[serde(default)]
    pub end_factor: Option<f64>,
    /// `polynomial`: 1 by default.
    #[serde(default)]
    pub power: Option<f64>,
    /// `oneCycle`: the part of the steps in which the rate rises, 0.3 by default.
    #[serde(default)]
    pub peak_fraction: Option<f64>,
    /// `oneCycle`: the first rate is the highest divided by this, 25 by default.
    #[serde(default)]
    pub div_factor: Option<f64>,
    /// `oneCycle`: the last rate is the first divided by this, 10000 by default.
    #[serde(default)]
    pub final_div_factor: Option<f64>,
    /// `oneCycle`: `cos` by default.
    #[serde(default)]
    pub anneal: Option<Anneal>,
    /// `reduceOnPlateau`: epochs without progress that are borne, 10 by default.
    #[serde(default)]
    pub patience: Option<u64>,
    /// `reduceOnPlateau`: the metric of the validation rows that it watches; by default their loss, or that of training
    /// where nothing validates.
    #[serde(default)]
    pub metric: Option<Metric>,
    /// `reduceOnPlateau`: how much lower than the best a loss must be to count as progress, 0.0001 by default.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// `reduceOnPlateau`: `rel` by default.
    #[serde(default)]
    pub threshold_mode: Option<ThresholdMode>,
    /// `reduceOnPlateau`: epochs after a change in which losses are not judged, 0 by default.
    #[serde(default)]
    pub cooldown: Option<u64>,
}

impl ScheduleConfig {
    /// Refuses settings that the named schedule does not have, and values that none takes.
    pub fn check(&self) -> Result<()> {
        use ScheduleName as N;
        let of = |names: &[ScheduleName]| names.contains(&self.name);
        let settings: [(&str, bool, bool); 16] = [
            (
                "steps",
                self.steps.is_some(),
                of(&[N::Step, N::Cosine, N::CosineRestarts, N::Linear, N::Polynomial, N::OneCycle]),
            ),
            ("gamma", self.gamma.is_some(), of(&[N::Step, N::Multistep, N::Exponential, N::ReduceOnPlateau])),
            ("milestones", self.milestones.is_some(), of(&[N::Multistep])),
            ("minimum", self.minimum.is_some(), of(&[N::Cosine, N::CosineRestarts, N::ReduceOnPlateau])),
            ("cycleFactor", self.cycle_factor.is_some(), of(&[N::CosineRestarts])),
            ("startFactor", self.start_factor.is_some(), of(&[N::Linear])),
            ("endFactor", self.end_factor.is_some(), of(&[N::Linear])),
            ("power", self.power.is_some(), of(&[N::Polynomial])),
            ("peakFraction", self.peak_fraction.is_some(), of(&[N::OneCycle])),
            ("divFactor", self.div_factor.is_some(), of(&[N::OneCycle])),
            ("finalDivFactor", self.final_div_factor.is_some(), of(&[N::OneCycle])),
            ("anneal", self.anneal.is_some(), of(&[N::OneCycle])),
            ("patience", self.patience.is_some(), of(&[N::ReduceOnPlateau])),
            ("threshold", self.threshold.is_some() || self.threshold_mode.is_some(), of(&[N::ReduceOnPlateau])),
            ("metric", self.metric.is_some(), of(&[N::ReduceOnPlateau])),
            ("cooldown", self.cooldown.is_some(), of(&[N::ReduceOnPlateau])),
        ];
        if let Some((name, ..)) = settings.iter().find(|(_, set, known)| *set && !known) {
            return Err(Error::Config(format!("the schedule {:?} has no {name}: leave it out", self.name)));
        }
        if self.warmup_steps.is_some() && self.warmup_fraction.is_some() {
            return Err(Error::Config("warmupSteps and warmupFraction are both set: set one of them".to_owned()));
        }
        let warms = self.warmup_steps.is_some() || self.warmup_fraction.is_some();
        if self.warmup_start.is_some() && !warms {
            return Err(Error::Config("warmupStart is set without warmupSteps or warmupFraction".to_owned()));
        }
        at_most_one("warmupFraction", self.warmup_fraction.unwrap_or(0.0))?;
        at_most_one("warmupStart", self.warmup_start.unwrap_or(0.0))?;
        if self.steps == Some(0) {
            return Err(Error::Config(format!("the schedule {:?} needs steps of at least 1", self.name)));
        }
        if matches!(self.name, N::Step | N::CosineRestarts) && self.steps.is_none() {
            return Err(Error::Config(format!("the schedule {:?} needs steps", self.name)));
        }
        if self.name == N::Exponential && self.gamma.is_none() {
            return Err(Error::Config("the schedule Exponential needs gamma".to_owned()));
        }
        positive("gamma", self.gamma.unwrap_or(0.1))?;
        if self.name == N::ReduceOnPlateau && self.gamma.is_some_and(|gamma| gamma >= 1.0) {
            return Err(Error::Config("gamma of reduceOnPlateau must be below 1".to_owned()));
        }
        if self.name == N::Multistep {
            let milestones = self.milestones.as_deref().unwrap_or(&[]);
            if milestones.is_empty() || !milestones.is_sorted_by(|a, b| a < b) {
                return Err(Error::Config(format!(
                    "the schedule Multistep needs milestones, each larger than the one before, not {milestones:?}"
                )));
            }
        }
        at_least(0.0, "minimum", self.minimum.unwrap_or(0.0))?;
        if self.cycle_factor == Some(0) {
            return Err(Error::Config("cycleFactor must be at least 1".to_owned()));
        }
        at_least(0.0, "startFactor", self.start_factor.unwrap_or(1.0))?;
        at_least(0.0, "endFactor", self.end_factor.unwrap_or(0.0))?;
        at_least(0.0, "power", self.power.unwrap_or(1.0))?;
        at_most_one("peakFraction", self.peak_fraction.unwrap_or(0.3))?;
        at_least(1.0, "divFactor", self.div_factor.unwrap_or(25.0))?;
        at_least(1.0, "finalDivFactor", self.final_div_factor.unwrap_or(1e4))?;
        at_least(0.0, "threshold", self.threshold.unwrap_or(0.0))
    }
}

/// A schedule whose length is known, and what it has seen.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    shape: Shape,
    /// Steps of the warm-up.
    warmup: u64,
    warmup_start: f64,
    /// Of `reduceOnPlateau`.
    pub(crate) plateau: Option<Plateau>,
}

#[derive(Debug, Clone)]
enum Shape {
    Constant,
    Step { steps: u64, gamma: f64 },
    Multistep { milestones: Vec<u64>, gamma: f64 },
    Exponential { gamma: f64 },
    Cosine { steps: u64, minimum: f64 },
    CosineRestarts { steps: u64, factor: u64, minimum: f64 },
    Linear { steps: u64, start: f64, end: f64 },
    Polynomial { steps: u64, power: f64 },
    OneCycle { steps: u64, peak: f64, first: f64, last: f64, anneal: Anneal },
}

impl Schedule {
    /// Fits the schedule to a run of `total` steps; `None` where nobody knows how long it will be.
    pub(crate) fn new(config: &ScheduleConfig, total: Option<u64>) -> Result<Schedule> {
        config.check()?;
        let total_for = |what: &str| {
            total.ok_or_else(|| Error::Config(format!("the run has no known length, so the schedule needs {what}")))
        };
        let warmup = match (config.warmup_steps, config.warmup_fraction) {
            (Some(steps), _) => steps,
            (None, Some(fraction)) => of_steps(total_for("warmupSteps instead of warmupFraction")?, fraction),
            (None, None) => 0,
        };
        let length = || -> Result<u64> {
            match config.steps {
                Some(steps) => Ok(steps),
                None => Ok(total_for("steps")?.saturating_sub(warmup).max(1)),
            }
        };
        let gamma = config.gamma.unwrap_or(0.1);
        let minimum = config.minimum.unwrap_or(0.0);
        let shape = match config.name {
            ScheduleName::Constant | ScheduleName::ReduceOnPlateau => Shape::Constant,
            ScheduleName::Step => Shape::Step { steps: length()?, gamma },
            ScheduleName::Multistep => {
                Shape::Multistep { milestones: config.milestones.clone().unwrap_or_default(), gamma }
            }
            ScheduleName::Exponential => Shape::Exponential { gamma },
            ScheduleName::Cosine => Shape::Cosine { steps: length()?, minimum },
            ScheduleName::CosineRestarts => {
                Shape::CosineRestarts { steps: length()?, factor: config.cycle_factor.unwrap_or(1), minimum }
            }
            ScheduleName::Linear => Shape::Linear {
                steps: length()?,
                start: config.start_factor.unwrap_or(1.0),
                end: config.end_factor.unwrap_or(0.0),
            },
            ScheduleName::Polynomial => Shape::Polynomial { steps: length()?, power: config.power.unwrap_or(1.0) },
            ScheduleName::OneCycle => {
                let first = 1.0 / config.div_factor.unwrap_or(25.0);
                let last = first / config.final_div_factor.unwrap_or(1e4);
                let peak = config.peak_fraction.unwrap_or(0.3);
                Shape::OneCycle { steps: length()?, peak, first, last, anneal: config.anneal.unwrap_or(Anneal::Cos) }
            }
        };
        let plateau = (config.name == ScheduleName::ReduceOnPlateau).then(|| Plateau {
            gamma,
            minimum,
            patience: config.patience.unwrap_or(10),
            threshold: config.threshold.unwrap_or(1e-4),
            mode: config.threshold_mode.unwrap_or(ThresholdMode::Rel),
            cooldown: config.cooldown.unwrap_or(0),
            rises: config.metric.is_some_and(Metric::rises),
            best: if config.metric.is_some_and(Metric::rises) { f64::NEG_INFINITY } else { f64::INFINITY },
            bad: 0,
            cooling: 0,
            reductions: 0,
        });
        Ok(Schedule { shape, warmup, warmup_start: config.warmup_start.unwrap_or(0.0), plateau })
    }

    /// Refuses rates that lie below the schedule's lowest: they would rise.
    pub(crate) fn check_rate(&self, rate: f64) -> Result<()> {
        let minimum = match (&self.shape, &self.plateau) {
            (Shape::Cosine { minimum, .. } | Shape::CosineRestarts { minimum, .. }, _) => *minimum,
            (_, Some(plateau)) => plateau.minimum,
            _ => return Ok(()),
        };
        if rate >= minimum {
            return Ok(());
        }
        Err(Error::Config(format!(
            "the schedule's lowest rate is {minimum}, above the learning rate {rate} that it falls from"
        )))
    }

    /// The rate of step `step`, counted from 0 over the whole run, for what has the learning rate `base`.
    pub(crate) fn rate(&self, base: f64, step: u64) -> f64 {
        let base = self.plateau.as_ref().map_or(base, |plateau| plateau.rate(base));
        if step < self.warmup {
            let target = self.shape.rate(base, 0);
            return target * (self.warmup_start + (1.0 - self.warmup_start) * part(step, self.warmup));
        }
        self.shape.rate(base, step - self.warmup)
    }

    /// Hears what it watches of an epoch.
    pub(crate) fn epoch(&mut self, value: f64) {
        if let Some(plateau) = &mut self.plateau {
            plateau.epoch(value);
        }
    }
}

impl Shape {
    fn rate(&self, base: f64, t: u64) -> f64 {
        match *self {
            Shape::Constant => base,
            Shape::Step { steps, gamma } => base * power(gamma, t / steps),
            Shape::Multistep { ref milestones, gamma } => {
                base * power(gamma, milestones.partition_point(|&milestone| milestone <= t) as u64)
            }
            Shape::Exponential { gamma } => base * power(gamma, t),
            Shape::Cosine { steps, minimum } => cosine(minimum, base, part(t.min(steps), steps)),
            Shape::CosineRestarts { steps, factor, minimum } => {
                let (mut start, mut length) = (0u64, steps);
                if factor == 1 {
                    start = t / steps * steps;
                } else {
                    while t - start >= length {
                        start += length;
                        length = length.saturating_mul(factor);
                    }
                }
                cosine(minimum, base, part(t - start, length))
            }
            Shape::Linear { steps, start, end } => base * (start + (end - start) * part(t.min(steps), steps)),
            Shape::Polynomial { steps, power } => base * (1.0 - part(t.min(steps), steps)).powf(power),
            Shape::OneCycle { steps, peak, first, last, anneal } => {
                let (t, steps) = (count(t.min(steps.saturating_sub(1))), count(steps));
                let (top, end) = (peak * steps - 1.0, steps - 1.0);
                let between = |from: f64, to: f64, part: f64| match anneal {
                    Anneal::Cos => cosine(to, from, part),
                    Anneal::Linear => from + (to - from) * part,
                };
                let factor = if t <= top || end <= top {
                    if top > 0.0 { between(first, 1.0, t / top) } else { 1.0 }
                } else {
                    between(1.0, last, (t - top) / (end - top))
                };
                base * factor
            }
        }
    }
}

/// Half a cosine from `high` (at 0) to `low` (at 1).
fn cosine(low: f64, high: f64, part: f64) -> f64 {
    low + (high - low) * (1.0 + (PI * part).cos()) / 2.0
}

fn power(gamma: f64, exponent: u64) -> f64 {
    gamma.powf(count(exponent))
}

fn part(of: u64, all: u64) -> f64 {
    count(of) / count(all)
}

#[expect(clippy::cast_precision_loss, reason = "steps stay far below 2^53")]
fn count(steps: u64) -> f64 {
    steps as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a fraction of a count, rounded")]
fn of_steps(total: u64, fraction: f64) -> u64 {
    (count(total) * fraction).round() as u64
}

/// The state of `reduceOnPlateau`, as `ReduceLROnPlateau` keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Plateau {
    gamma: f64,
    minimum: f64,
    patience: u64,
    threshold: f64,
    mode: ThresholdMode,
    cooldown: u64,
    /// Whether a larger value is a better one.
    rises: bool,
    /// The best value that counted as progress.
    pub(crate) best: f64,
    /// Epochs without progress.
    pub(crate) bad: u64,
    /// Epochs that the cooldown still lasts.
    pub(crate) cooling: u64,
    /// How often the rate has been reduced.
    pub(crate) reductions: u64,
}

/// A smaller change than this is none (PyTorch's `eps`).
const LEAST_CHANGE: f64 = 1e-8;

impl Plateau {
    fn epoch(&mut self, value: f64) {
        let better = match (self.mode, self.rises) {
            (ThresholdMode::Rel, false) => value < self.best * (1.0 - self.threshold),
            (ThresholdMode::Abs, false) => value < self.best - self.threshold,
            (ThresholdMode::Rel, true) => value > self.best * (1.0 + self.threshold),
            (ThresholdMode::Abs, true) => value > self.best + self.threshold,
        };
        if better {
            self.best = value;
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.bad = 0;
        }
        if self.bad > self.patience {
            self.reductions += 1;
            self.cooling = self.cooldown;
            self.bad = 0;
        }
    }

    /// Reduces one by one, as every reduction is bounded and may be too small to count.
    fn rate(&self, base: f64) -> f64 {
        let mut rate = base;
        for _ in 0..self.reductions {
            let reduced = (rate * self.gamma).max(self.minimum);
            if rate - reduced <= LEAST_CHANGE {
                break;
            }
            rate = reduced;
        }
        rate
    }
}

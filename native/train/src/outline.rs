//! What is known of a run before its data is read: whether its settings suit the program, and how much is trained.
//!
//! A session checks the same when it opens. A driver asks here first, since reading the data may take hours.

use kindling_program::Program;
use serde::Serialize;

use crate::error::Result;
use crate::fit::TrainingConfig;
use crate::loss::Judge;
use crate::optimizer::Groups;
use crate::replica::rewritten;
use crate::schedule::Schedule;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outline {
    /// Elements of the parameters that are trained: those of frozen groups are left out.
    pub trained_elements: u64,
}

impl Outline {
    /// Refuses settings that cannot train `program`, by name.
    pub fn of(mut program: Program, config: &TrainingConfig) -> Result<Outline> {
        config.check()?;
        let judge = Judge::new(&config.loss, &program, config.prediction_output.as_deref())?;
        config.measures(&judge)?;
        let groups = Groups::assign(&mut program, &config.groups, &config.optimizer)?;
        // The length of the run is not known yet; no rate is below the schedule's lowest, whatever it is.
        let schedule = Schedule::new(&config.schedule, Some(1))?;
        groups.settings.iter().try_for_each(|group| schedule.check_rate(group.learning_rate))?;
        rewritten(&program, config)?;
        let trained = program.parameters.iter().filter(|parameter| parameter.requires_grad);
        Ok(Outline {
            trained_elements: trained.map(|parameter| parameter.tensor.elements()).fold(0, u64::saturating_add),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(more: &str) -> Result<Outline> {
        let layers = r#"{"inputShape":[3],"seed":1,"layers":[{"type":"dense","units":2},{"type":"dense","units":2}]}"#;
        let training = format!(
            r#"{{"loss": {{"name": "mse"}}, "optimizer": {{"name": "sgd", "learningRate": 0.1}}, "batchSize": 4,
                "maxEpochs": 1, "seed": 0, "shuffle": true, "progressIntervalMs": 1000, "recordRows": false{more}}}"#
        );
        Outline::of(Program::read(layers.as_bytes().to_vec())?, &serde_json::from_str(&training).unwrap())
    }

    #[test]
    fn frozen_parameters_are_not_trained() {
        assert_eq!(outline("").unwrap().trained_elements, 3 * 2 + 2 + 2 * 2 + 2);
        let frozen = r#", "groups": [{"pattern": "*", "maxDimensions": 1, "frozen": true}]"#;
        assert_eq!(outline(frozen).unwrap().trained_elements, 3 * 2 + 2 * 2);
    }

    #[test]
    fn what_a_session_would_refuse_is_refused_by_name() {
        for (more, named) in [
            (r#", "predictionOutput": "logits""#, "predictionOutput is logits"),
            (r#", "groups": [{"pattern": "none", "frozen": true}]"#, "\"none\" matches no parameter"),
            (
                r#", "schedule": {"name": "cosine", "minimum": 0.05}, "groups": [{"pattern": "*", "learningRate": 0.01}]"#,
                "lowest rate is 0.05",
            ),
            (r#", "activationCheckpointing": ["encoder.*"]"#, "no module matches \"encoder.*\""),
        ] {
            let error = outline(more).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}

//! Parameter groups: which parameters have a learning rate or a weight decay of their own, and which are frozen.
//!
//! A group takes the parameters whose name its pattern matches and that no earlier group has taken; what is left follows
//! the optimizer. No weight decay on biases and norms, as usual with transformers, is the one group
//! `{"pattern": "*", "maxDimensions": 1, "weightDecay": 0}`: biases and the weights of norms are what has one dimension.

use kindling_program::{Parameter, Program};
use serde::Deserialize;

use super::OptimizerConfig;
use crate::check::at_least;
use crate::error::{Error, Result};

/// Parameters that are trained in a way of their own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupConfig {
    /// The names it takes: `*` stands for any characters, dots included, and `?` for any one. A tied parameter is taken
    /// by any of its names.
    pub pattern: String,
    /// Takes only parameters of at most this many dimensions; any by default.
    #[serde(default)]
    pub max_dimensions: Option<usize>,
    /// Step size before the schedule; the optimizer's by default.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// Weight decay; the optimizer's by default.
    #[serde(default)]
    pub weight_decay: Option<f64>,
    /// Whether its parameters stay as they are: no gradient is computed for them, and none exchanged.
    #[serde(default)]
    pub frozen: bool,
}

impl GroupConfig {
    /// Refuses settings that cannot work, whatever the program.
    pub(crate) fn check(&self) -> Result<()> {
        let named = |error| Error::Config(format!("{}: {error}", self.describe()));
        at_least(0.0, "learningRate", self.learning_rate.unwrap_or(0.0)).map_err(named)?;
        at_least(0.0, "weightDecay", self.weight_decay.unwrap_or(0.0)).map_err(named)?;
        match (self.frozen, self.learning_rate.is_some() || self.weight_decay.is_some()) {
            (true, true) => Err(Error::Config(format!(
                "{} is frozen, so its learningRate and weightDecay do nothing: leave them out",
                self.describe()
            ))),
            (false, false) => Err(Error::Config(format!(
                "{} sets nothing: give it a learningRate, a weightDecay, or \"frozen\": true",
                self.describe()
            ))),
            _ => Ok(()),
        }
    }

    fn takes(&self, parameter: &Parameter) -> bool {
        let few = self.max_dimensions.is_none_or(|most| parameter.tensor.sizes.len() <= most);
        few && std::iter::once(&parameter.name).chain(&parameter.aliases).any(|name| matches(&self.pattern, name))
    }

    fn describe(&self) -> String {
        match self.max_dimensions {
            Some(most) => format!("the parameter group \"{}\" (at most {most} dimensions)", self.pattern),
            None => format!("the parameter group \"{}\"", self.pattern),
        }
    }
}

/// The step size and weight decay of one group, before any schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Group {
    pub(crate) learning_rate: f64,
    pub(crate) weight_decay: f64,
}

/// Which group every parameter belongs to.
#[derive(Debug)]
pub(crate) struct Groups {
    /// The groups that train; the first one is the optimizer's own.
    pub(crate) settings: Vec<Group>,
    /// Per parameter of the program: its index in `settings`.
    pub(crate) of: Vec<usize>,
}

impl Groups {
    /// Shares the parameters of `program` out, and freezes those of frozen groups in it.
    pub(crate) fn assign(
        program: &mut Program,
        configs: &[GroupConfig],
        optimizer: &OptimizerConfig,
    ) -> Result<Groups> {
        let own = Group { learning_rate: optimizer.learning_rate(), weight_decay: optimizer.weight_decay() };
        let mut groups = Groups { settings: vec![own], of: vec![0; program.parameters.len()] };
        let mut taken = vec![false; program.parameters.len()];
        for config in configs {
            config.check()?;
            groups.settings.push(Group {
                learning_rate: config.learning_rate.unwrap_or(own.learning_rate),
                weight_decay: config.weight_decay.unwrap_or(own.weight_decay),
            });
            let (mut matched, mut trainable, mut took) = (false, false, false);
            for ((parameter, taken), group) in program.parameters.iter_mut().zip(&mut taken).zip(&mut groups.of) {
                if !config.takes(parameter) {
                    continue;
                }
                matched = true;
                trainable |= parameter.requires_grad || *taken;
                if !*taken {
                    *taken = true;
                    took |= parameter.requires_grad;
                    *group = groups.settings.len() - 1;
                    parameter.requires_grad &= !config.frozen;
                }
            }
            if !took {
                return Err(Error::Config(nothing_to_do(config, program, matched, trainable)));
            }
        }
        Ok(groups)
    }
}

fn nothing_to_do(config: &GroupConfig, program: &Program, matched: bool, trainable: bool) -> String {
    let group = config.describe();
    if !matched {
        let names: Vec<&str> = program.parameters.iter().take(5).map(|parameter| parameter.name.as_str()).collect();
        return format!("{group} matches no parameter; the program's begin with {}", names.join(", "));
    }
    if !trainable {
        return format!("{group} matches only parameters that the program has frozen already (requires_grad=False)");
    }
    format!(
        "{group} matches only parameters that earlier groups take: the first group that matches wins, so move it up"
    )
}

/// Whether `name` is what `pattern` describes.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star was, and how much of the name it has swallowed: going back there is all the search there is.
    let mut star: Option<(usize, usize)> = None;
    while let Some(character) = name.get(n) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == character => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, swallowed)) => {
                    star = Some((at, swallowed + 1));
                    p = at + 1;
                    n = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|&rest| rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Program {
        let layers = r#"{"inputShape":[3],"seed":1,"layers":[{"type":"dense","units":2},{"type":"dense","units":2}]}"#;
        Program::read(layers.as_bytes().to_vec()).unwrap()
    }

    fn groups(json: &str) -> std::result::Result<(Groups, Program), String> {
        let configs: Vec<GroupConfig> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let optimizer = serde_json::from_str(r#"{"name":"adamw","learningRate":0.1,"weightDecay":0.5}"#).unwrap();
        let mut program = program();
        let groups = Groups::assign(&mut program, &configs, &optimizer).map_err(|error| error.to_string())?;
        Ok((groups, program))
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "a.b", true),
            ("*.bias", "layer.0.bias", true),
            ("*.bias", "bias", false),
            ("*bias", "bias", true),
            ("encoder.*.weight", "encoder.layers.0.weight", true),
            ("encoder.*.weight", "encoder.weight", false),
            ("?.weight", "0.weight", true),
            ("?.weight", "10.weight", false),
            ("a*b*c", "abxbc", true),
            ("a*b*c", "abxbcd", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_first_group_that_matches_wins_and_the_rest_follows_the_optimizer() {
        let (groups, program) =
            groups(r#"[{"pattern":"*","maxDimensions":1,"weightDecay":0},{"pattern":"1.*","learningRate":0.01}]"#)
                .unwrap();
        let names: Vec<&str> = program.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        assert_eq!(names, ["0.weight", "0.bias", "1.weight", "1.bias"]);
        assert_eq!(groups.of, [0, 1, 2, 1]);
        let settings: Vec<_> = groups.settings.iter().map(|group| (group.learning_rate, group.weight_decay)).collect();
        assert_eq!(settings, [(0.1, 0.5), (0.1, 0.0), (0.01, 0.5)]);
    }

    #[test]
    fn a_frozen_group_freezes_the_program() {
        let (_, program) = groups(r#"[{"pattern":"0.*","frozen":true}]"#).unwrap();
        let trains: Vec<bool> = program.parameters.iter().map(|parameter| parameter.requires_grad).collect();
        assert_eq!(trains, [false, false, true, true]);
    }

    #[test]
    fn a_group_that_would_do_nothing_is_refused_by_name() {
        for (json, said) in [
            (r#"[{"pattern":"2.*","frozen":true}]"#, "matches no parameter; the program's begin with 0.weight"),
            (r#"[{"pattern":"0.*","frozen":true},{"pattern":"0.bias","learningRate":1}]"#, "move it up"),
            (r#"[{"pattern":"0.*"}]"#, "sets nothing"),
            (r#"[{"pattern":"0.*","frozen":true,"weightDecay":0}]"#, "is frozen"),
            (r#"[{"pattern":"0.*","learningRate":-1}]"#, "learningRate"),
            (r#"[{"pattern":"0.*","momentum":1}]"#, "momentum"),
        ] {
            let error = groups(json).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }
}

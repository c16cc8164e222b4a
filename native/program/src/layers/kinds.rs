//! The types of layers, and how one is read from its JSON.
//!
//! A type is written as here (`conv2d`) or as Keras names the class (`Conv2D`). A family of layers lists its types in a
//! table; a layer is its settings, which serde reads, and a function that builds nodes from them.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Visitor, value};
use serde_json::{Map, Value};

use super::build::{Build, Built, Rows};
use super::{
    activation, attention, basic, convolution, merge, normalization, pooling, recurrent, reshaping, transposed,
};

/// A layer of one input.
pub(super) trait Layer {
    fn build(&self, b: &mut Build, x: &Rows) -> Built;
}

/// A layer that joins several.
pub(super) trait Join {
    /// How many it takes.
    fn takes(&self) -> std::ops::RangeInclusive<usize>;
    fn build(&self, b: &mut Build, inputs: &[Rows]) -> Built;
}

/// A layer whose settings have been read.
pub(super) enum AnyLayer {
    Layer(Box<dyn Layer>),
    Join(Box<dyn Join>),
}

impl AnyLayer {
    pub(super) fn layer(layer: impl Layer + 'static) -> Self {
        Self::Layer(Box::new(layer))
    }

    pub(super) fn join(join: impl Join + 'static) -> Self {
        Self::Join(Box::new(join))
    }
}

/// One type of layer.
pub(super) struct Kind {
    /// The type as the JSON writes it.
    pub(super) name: &'static str,
    /// Keras' class.
    pub(super) class: &'static str,
    pub(super) read: fn(Settings) -> Result<AnyLayer, String>,
}

const FAMILIES: &[&[Kind]] = &[
    basic::KINDS,
    activation::KINDS,
    convolution::KINDS,
    transposed::KINDS,
    pooling::KINDS,
    normalization::KINDS,
    recurrent::KINDS,
    attention::KINDS,
    merge::KINDS,
    reshaping::KINDS,
];

fn kinds() -> impl Iterator<Item = &'static Kind> {
    FAMILIES.iter().copied().flatten()
}

impl Kind {
    pub(super) fn named(name: &str) -> Result<&'static Self, String> {
        let spelled = |kind: &&Kind| {
            kind.name == name || kind.class == name || name.strip_prefix(lower(kind.class)) == kind.class.get(1..)
        };
        kinds().find(spelled).ok_or_else(|| {
            let names: Vec<&str> = kinds().map(|kind| kind.name).collect();
            format!("there is no layer type {name:?}: it is one of {}", names.join(", "))
        })
    }
}

/// The class's first letter in lower case, for `batchNormalization` beside `batchNorm`.
fn lower(class: &str) -> char {
    class.chars().next().unwrap_or_default().to_ascii_lowercase()
}

/// A layer's JSON without what all layers have.
pub(super) struct Settings(pub(super) Map<String, Value>);

impl Settings {
    /// The settings as a struct of serde. A key that it lacks is refused with what it may have meant.
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T, String> {
        let known = fields::<T>();
        if let Some(stranger) = self.0.keys().find(|key| !known.contains(&key.as_str())) {
            let meant = camel_case(stranger);
            let hint = match known {
                _ if known.contains(&meant.as_str()) => format!("did you mean {meant}?"),
                [] => "it takes none".to_owned(),
                _ => format!("it takes {}", known.join(", ")),
            };
            return Err(format!("it has no setting {stranger}: {hint}"));
        }
        serde_json::from_value(Value::Object(self.0)).map_err(|error| error.to_string())
    }
}

/// `kernel_size` as `kernelSize`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_').filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let initial = letters.next().map(|letter| letter.to_ascii_uppercase());
        name + &initial.into_iter().chain(letters).collect::<String>()
    })
}

/// The names of a struct's fields, as its JSON writes them.
fn fields<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    struct Probe<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("only the names are asked for"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    // The error is the probe's own: the names have been noted before it.
    let _ = T::deserialize(Probe(&mut names));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_type_is_listed_twice_and_each_is_found_by_its_names() {
        let mut seen = std::collections::HashSet::new();
        for kind in kinds() {
            assert!(seen.insert(kind.name) && seen.insert(kind.class), "{}", kind.name);
            let camel = format!("{}{}", lower(kind.class), &kind.class[1..]);
            for name in [kind.name, kind.class, &camel] {
                assert_eq!(Kind::named(name).unwrap().class, kind.class, "{name}");
            }
        }
    }

    #[test]
    fn snake_case_becomes_camel_case() {
        for (snake, camel) in [("kernel_size", "kernelSize"), ("units", "units"), ("_a__bc_d", "aBcD")] {
            assert_eq!(camel_case(snake), camel);
        }
    }
}

use super::*;

fn read(text: &str) -> serde_json::Result<Loss> {
    serde_json::from_str(text)
}

#[test]
fn a_loss_is_an_object_and_takes_its_own_settings_only() {
    let plain = Loss::CrossEntropy { class_weights: None, label_smoothing: 0.0, ignore_index: None };
    assert_eq!(read(r#"{"name": "crossEntropy"}"#).unwrap(), plain);
    assert_eq!(read(r#"{"name": "smoothL1", "beta": 0.5}"#).unwrap(), Loss::SmoothL1 { beta: 0.5 });
    assert!(read(r#"{"name": "mse", "delta": 1}"#).unwrap_err().to_string().contains("delta"));
    assert!(read(r#"{"name": "huber", "beta": 1}"#).unwrap_err().to_string().contains("beta"));
    assert!(read(r#"{"name": "hing"}"#).unwrap_err().to_string().contains("hing"));
    assert!(read(r#""mse""#).is_err());
}

#[test]
fn the_name_is_the_one_that_is_read() {
    let names = [
        "crossEntropy",
        "binaryCrossEntropy",
        "binaryCrossEntropyWithLogits",
        "mse",
        "mae",
        "huber",
        "smoothL1",
        "poisson",
        "kl",
        "cosine",
        "cosineSimilarity",
        "hinge",
        "squaredHinge",
        "categoricalHinge",
        "marginRanking",
        "triplet",
        "ctc",
        "model",
    ];
    for name in names {
        let loss = read(&format!(r#"{{"name": "{name}"}}"#)).unwrap();
        assert_eq!(loss.name(), name);
        assert!(loss.check().is_ok(), "{name}: its defaults are fine");
    }
}

#[test]
fn settings_that_no_loss_takes_are_refused_by_name() {
    for (text, named) in [
        (r#"{"name": "crossEntropy", "labelSmoothing": 1.5}"#, "labelSmoothing"),
        (r#"{"name": "crossEntropy", "classWeights": [1, -1]}"#, "classWeights"),
        (r#"{"name": "crossEntropy", "classWeights": []}"#, "classWeights"),
        (r#"{"name": "binaryCrossEntropyWithLogits", "posWeight": [-2]}"#, "posWeight"),
        (r#"{"name": "huber", "delta": 0}"#, "delta"),
        (r#"{"name": "smoothL1", "beta": -1}"#, "beta"),
        (r#"{"name": "cosine", "margin": 2}"#, "margin"),
        (r#"{"name": "triplet", "margin": 0}"#, "margin"),
        (r#"{"name": "triplet", "normDegree": 0}"#, "normDegree"),
        (r#"{"name": "ctc", "blank": -1}"#, "blank"),
    ] {
        let error = read(text).unwrap().check().unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

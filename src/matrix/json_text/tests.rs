use proptest::{collection::vec, prelude::*};
use ruma::canonical_json::CanonicalJsonValue;
use serde_json::{Map, Number, Value};

use super::*;

fn canonical(text: &str) -> String {
    canonical_text(text.as_bytes(), MAX_JSON_DEPTH).unwrap()
}

fn lists(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

fn objects(depth: usize) -> String {
    r#"{"b":0,"a":"#.repeat(depth) + "1" + &"}".repeat(depth)
}

#[test]
fn keys_are_sorted_and_space_is_left_out() {
    let text = " { \"b\" : [ 1 , { \"d\" : null , \"c\" : true } ] , \"a\" : \"x y\" }\n";

    assert_eq!(
        canonical(text),
        r#"{"a":"x y","b":[1,{"c":true,"d":null}]}"#
    );
}

#[test]
fn the_last_value_of_a_duplicate_key_counts() {
    assert_eq!(
        canonical(r#"{"a":{"x":1},"b":2,"a":3}"#),
        r#"{"a":3,"b":2}"#
    );
    assert_eq!(canonical(r#"{"a":1,"\u0061":2}"#), r#"{"a":2}"#);
}

#[test]
fn escapes_are_written_in_the_shortest_way() {
    let text = r#"{"\u00e9":"\u0041\/\n\u0001\"\\\ud83d\ude00"}"#;

    assert_eq!(canonical(text), "{\"é\":\"A/\\n\\u0001\\\"\\\\😀\"}");
}

#[test]
fn numbers_are_not_rewritten() {
    let text = "[0,-1,1.50,2e3,123456789012345678901234567890]";

    assert_eq!(canonical(text), text);
}

#[test]
fn the_canonical_form_equals_that_of_ruma() {
    let texts = [
        r#"{"z":[],"a":{},"m":{"y":[{"k":"v","j":-7}],"x":"\t\u007f"}}"#,
        r#"{"本":2,"日":1,"":{"":[[[]]]}}"#,
        r#"[1,[2,[3,{"c":[4],"b":[5]}]]]"#,
        r#""text""#,
    ];
    for text in texts {
        let expected: CanonicalJsonValue = serde_json::from_str(text).unwrap();

        assert_eq!(canonical(text), serde_json::to_string(&expected).unwrap());
    }
}

#[test]
fn text_that_is_not_json_is_refused() {
    let broken = [
        "",
        " ",
        "{",
        "[",
        "]",
        "}",
        "{]",
        "[}",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "nul",
        "nulll",
        "truefalse",
        "01",
        "1.",
        ".5",
        "+1",
        "-",
        "1e",
        "0x1",
        "1 2",
        "\"",
        "\"\\\"",
        "\"\n\"",
        "\"\\ud800\"",
        "\"\\x\"",
        "[1]]",
        "{}{}",
        "1e999",
        "NaN",
        "'a'",
    ];
    for text in broken {
        assert!(is_refused_as_not_json(text.as_bytes()), "{text:?}");
        assert!(serde_json::from_str::<Value>(text).is_err(), "{text:?}");
    }
    assert!(is_refused_as_not_json(b"\"\xff\""));
}

fn is_refused_as_not_json(text: &[u8]) -> bool {
    matches!(
        canonical_text(text, MAX_JSON_DEPTH),
        Err(Error::Refused {
            code: RefusalCode::NotJson,
            ..
        })
    )
}

#[test]
fn json_deeper_than_the_limit_is_refused() {
    for nested in [lists, objects] {
        let fits = canonical_text(nested(5).as_bytes(), 5);
        let deeper = canonical_text(nested(6).as_bytes(), 5);

        assert!(fits.is_ok());
        assert!(matches!(deeper, Err(Error::BadJson(_))));
        assert!(check_depth(&nested(5), 5).is_ok());
        assert!(check_depth(&nested(6), 5).is_err());
    }
}

#[test]
fn brackets_in_strings_add_no_depth() {
    let text = r#"["[[[[\"[[[[","{{{{{"]"#;

    assert!(check_depth(text, 1).is_ok());
    assert!(canonical_text(text.as_bytes(), 1).is_ok());
}

#[test]
fn text_of_a_million_levels_has_a_canonical_form() {
    let depth = 1_000_000;

    let deep_lists = canonical_text(lists(depth).as_bytes(), usize::MAX).unwrap();
    let deep_objects = canonical_text(objects(depth).as_bytes(), usize::MAX).unwrap();

    assert_eq!(deep_lists, lists(depth));
    assert!(deep_objects.starts_with(r#"{"a":{"a":"#));
    assert!(deep_objects.ends_with(r#"},"b":0},"b":0}"#));
}

#[test]
fn only_objects_of_limited_depth_are_accepted_from_servers() {
    let taken = |text: &str| {
        let raw = RawValue::from_string(text.to_owned()).unwrap();
        canonical_object(&raw).map(|taken| taken.get().to_owned())
    };

    assert_eq!(taken(r#"{"b":1,"a":2}"#).unwrap(), r#"{"a":2,"b":1}"#);
    assert_eq!(taken("[]"), None);
    assert_eq!(taken("\"{\""), None);
    assert_eq!(taken(&objects(MAX_JSON_DEPTH + 1)), None);
}

/// The largest integer that canonical JSON allows.
const MAX_INTEGER: i64 = (1 << 53) - 1;

/// Returns any JSON whose numbers are integers.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-MAX_INTEGER..=MAX_INTEGER).prop_map(|number| Value::Number(Number::from(number))),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let members = vec(("[a-cA-C\\x00-\\x{ff}😀]{0,3}", inner.clone()), 0..4);
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::Array),
            members.prop_map(|members| Value::Object(Map::from_iter(members))),
        ]
    })
}

/// Writes JSON with spaces, and with the keys of its objects in ascending or descending order.
fn write_in_order(value: &Value, is_descending: bool) -> String {
    match value {
        Value::Array(list) => {
            let list = list
                .iter()
                .map(|value| write_in_order(value, is_descending));
            format!("[ {} ]", list.collect::<Vec<_>>().join(" , "))
        }
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| {
                let key = Value::String(key.clone());
                format!("{key} : {}", write_in_order(value, is_descending))
            };
            let mut members: Vec<String> = members.iter().map(member).collect();
            if is_descending {
                members.reverse();
            }
            format!("{{ {} }}", members.join(",\n"))
        }
        flat => flat.to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_order_of_keys_does_not_change_the_canonical_form(value in any_json()) {
        let ascending = canonical(&write_in_order(&value, false));
        let descending = canonical(&write_in_order(&value, true));

        prop_assert_eq!(ascending, descending);
    }

    #[test]
    fn the_canonical_form_of_any_json_is_its_own_canonical_form(value in any_json()) {
        let text = canonical(&value.to_string());

        prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        prop_assert_eq!(canonical(&text), text);
    }

    #[test]
    fn the_canonical_form_of_any_json_equals_that_of_ruma(value in any_json()) {
        let expected: CanonicalJsonValue = serde_json::from_value(value.clone()).unwrap();
        let expected = serde_json::to_string(&expected).unwrap();

        prop_assert_eq!(canonical(&write_in_order(&value, true)), expected);
    }

    #[test]
    fn a_signed_object_has_only_integers_that_canonical_json_allows(
        number in prop_oneof![any::<i64>(), MAX_INTEGER - 2..MAX_INTEGER + 3],
        sign in prop_oneof![Just(1), Just(-1)],
    ) {
        let number = number.saturating_mul(sign);
        let text = format!(r#"{{"number":{number}}}"#);
        let is_allowed = (-MAX_INTEGER..=MAX_INTEGER).contains(&number);

        prop_assert_eq!(canonical(&text), text.clone());
        prop_assert_eq!(signed_object(&text).is_ok(), is_allowed);
    }
}

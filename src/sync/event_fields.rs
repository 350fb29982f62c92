//! The `event_fields` of a filter, which select parts of each event.

use serde_json::{Map, Value, value::RawValue};

/// Returns an event with only the fields that a filter lists. Each is a path with dots; `\.` is a dot in a name.
pub(super) fn keep_fields(event: Box<RawValue>, fields: Option<&[String]>) -> Box<RawValue> {
    let Some(fields) = fields else { return event };
    let Ok(Value::Object(whole)) = serde_json::from_str(event.get()) else {
        return event;
    };
    let mut selected = Map::new();
    for field in fields {
        let path = split_path(field);
        copy_path(&whole, &mut selected, &path);
    }
    serde_json::value::to_raw_value(&selected).unwrap_or(event)
}

fn split_path(field: &str) -> Vec<String> {
    let (mut path, mut name, mut is_escaped) = (Vec::new(), String::new(), false);
    for c in field.chars() {
        match c {
            '\\' if !is_escaped => is_escaped = true,
            '.' if !is_escaped => path.push(std::mem::take(&mut name)),
            other => {
                if is_escaped && !matches!(other, '.' | '\\') {
                    name.push('\\');
                }
                name.push(other);
                is_escaped = false;
            }
        }
    }
    path.push(name);
    path
}

fn copy_path(from: &Map<String, Value>, to: &mut Map<String, Value>, path: &[String]) {
    let Some((name, rest)) = path.split_first() else {
        return;
    };
    let Some(value) = from.get(name) else { return };
    if rest.is_empty() {
        to.insert(name.clone(), value.clone());
    } else if let Value::Object(inner) = value {
        let slot = to
            .entry(name.clone())
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(slot) = slot {
            copy_path(inner, slot, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;

    #[test]
    fn only_the_listed_paths_are_kept() {
        let event = to_raw_value(&json!({
            "type": "m.room.message", "sender": "@a:b", "content": {"body": "hi", "a.b": 1, "other": 2},
        }))
        .unwrap();
        let fields = [
            "type".to_owned(),
            "content.body".to_owned(),
            "content.a\\.b".to_owned(),
        ];

        let kept: Value = serde_json::from_str(keep_fields(event, Some(&fields)).get()).unwrap();

        assert_eq!(
            kept,
            json!({"type": "m.room.message", "content": {"body": "hi", "a.b": 1}})
        );
    }
}

//! What an answer has that its schema does not allow. It knows the part of JSON Schema that the document uses and
//! refuses the rest, so that no rule in it is passed over.

use serde_json::{Value, json};

/// What `value`, found at `place`, has that `schema` does not allow.
pub(super) fn faults(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return faults(document, resolve(document, reference), value, place);
    }
    if value.is_null() && schema["nullable"] == true {
        return Vec::new();
    }
    let fits = match schema["type"].as_str().unwrap_or_else(|| panic!("{place}: a schema without type")) {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{place}: a schema of type {other}"),
    };
    let mut found = Vec::new();
    if !fits {
        return vec![format!("{place}: {value} is no {}", schema["type"])];
    }
    for (key, rule) in schema.as_object().unwrap() {
        match key.as_str() {
            "type" | "nullable" | "description" | "default" | "properties" => {}
            "format" => found.extend(is_no_time(value).then(|| format!("{place}: {value} is no time"))),
            "enum" => {
                let is_known = rule.as_array().unwrap().contains(value);
                found.extend((!is_known).then(|| format!("{place}: {value} is none of {rule}")));
            }
            "minItems" => {
                let is_short = (value.as_array().unwrap().len() as u64) < rule.as_u64().unwrap();
                found.extend(is_short.then(|| format!("{place}: too short")));
            }
            "items" => {
                for (index, item) in value.as_array().unwrap().iter().enumerate() {
                    found.extend(faults(document, rule, item, &format!("{place}[{index}]")));
                }
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    let is_missing = value.get(name.as_str().unwrap()).is_none();
                    found.extend(is_missing.then(|| format!("{place}: {name} is missing")));
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties");
                for (name, more) in value.as_object().unwrap() {
                    if known.is_some_and(|known| known.get(name).is_some()) {
                        continue;
                    }
                    match rule {
                        Value::Bool(false) => found.push(format!("{place}: {name} is not documented")),
                        rule => found.extend(faults(document, rule, more, &format!("{place}.{name}"))),
                    }
                }
            }
            other => panic!("{place}: the test does not know the rule '{other}'"),
        }
    }
    for (name, rule) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(member) = value.get(name) {
            found.extend(faults(document, rule, member, &format!("{place}.{name}")));
        }
    }
    found
}

fn is_no_time(value: &Value) -> bool {
    value.as_str().is_none_or(|text| text.parse::<jiff::Timestamp>().is_err())
}

pub(super) fn resolve<'d>(document: &'d Value, reference: &str) -> &'d Value {
    let found = document.pointer(reference.strip_prefix('#').unwrap());
    found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

#[test]
fn the_check_finds_faults() {
    let schema = json!({ "type": "object", "required": ["a"], "additionalProperties": false,
                         "properties": { "a": { "type": "array", "items": { "type": "integer" } } } });
    let found = |value: Value| faults(&json!({}), &schema, &value, "x").len();
    assert_eq!(found(json!({ "a": [1] })), 0);
    for wrong in
        [json!({}), json!({ "a": ["1"] }), json!({ "a": [], "b": 1 }), json!({ "a": null }), json!([])]
    {
        assert_eq!(found(wrong.clone()), 1, "{wrong}");
    }
}

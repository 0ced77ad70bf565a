//! Holds a JSON document to a schema, in both directions: it has every required field, and none that the schema does
//! not name.

use serde_json::{Map, Value};

/// What schemars writes for the agent's types. Another keyword must be added here first.
const KEYWORDS: [&str; 14] = [
    "$schema",
    "additionalProperties",
    "anyOf",
    "const",
    "description",
    "enum",
    "format",
    "items",
    "maximum",
    "minimum",
    "oneOf",
    "properties",
    "required",
    "title",
];

/// The first difference, with its path.
pub fn check(value: &Value, schema: &Value, path: &str) -> Result<(), String> {
    let Some(keywords) = schema.as_object() else {
        return Err(format!("{path}: the schema is {schema}"));
    };
    let unknown =
        keywords.keys().find(|name| *name != "type" && !KEYWORDS.contains(&name.as_str()));
    assert_eq!(unknown, None, "{path}: a keyword that is not checked");
    let wrong = |expected: &Value| Err(format!("{path}: {value} is not {expected}"));
    if let Some(types) = keywords.get("type")
        && !is_of_type(value, types)
    {
        return wrong(types);
    }
    if let Some(expected) = keywords.get("const")
        && value != expected
    {
        return wrong(expected);
    }
    if let Some(all) = keywords.get("enum")
        && !all.as_array().unwrap().contains(value)
    {
        return wrong(all);
    }
    for variants in ["oneOf", "anyOf"].iter().filter_map(|name| keywords.get(*name)) {
        let tried = variants.as_array().unwrap().iter().map(|variant| check(value, variant, path));
        let errors: Result<Vec<_>, ()> = tried.map(|tried| tried.err().ok_or(())).collect();
        if let Ok(errors) = errors {
            return Err(errors.join("; or "));
        }
    }
    match value {
        Value::Object(fields) => check_fields(fields, keywords, path),
        Value::Array(items) => items.iter().enumerate().try_for_each(|(place, item)| {
            check(item, &keywords["items"], &format!("{path}[{place}]"))
        }),
        _ => Ok(()),
    }
}

fn check_fields(
    fields: &Map<String, Value>,
    keywords: &Map<String, Value>,
    path: &str,
) -> Result<(), String> {
    // A variant has its own fields, and was checked with them.
    if ["oneOf", "anyOf"].iter().any(|name| keywords.contains_key(*name)) {
        return Ok(());
    }
    for name in keywords.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            return Err(format!("{path} lacks {name}"));
        }
    }
    let properties = keywords.get("properties").and_then(Value::as_object);
    for (name, value) in fields {
        let schema = properties.and_then(|properties| properties.get(name));
        let schema = schema.or_else(|| keywords.get("additionalProperties"));
        let Some(schema) = schema else {
            return Err(format!("{path} has {name}, which is not documented"));
        };
        check(value, schema, &format!("{path}.{name}"))?;
    }
    Ok(())
}

fn is_of_type(value: &Value, types: &Value) -> bool {
    let is = |name: &Value| match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other} is not checked"),
    };
    types.as_array().map_or_else(|| is(types), |types| types.iter().any(is))
}

#[test]
fn a_field_too_many_or_too_few_or_of_another_type_is_found() {
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "a": {"type": ["integer", "null"]},
            "b": {"anyOf": [
                {"oneOf": [
                    {"type": "object", "properties": {"is": {"const": "x"}}, "required": ["is"]},
                    {"type": "object", "properties": {"is": {"const": "y"}, "why": {"type": "string"}},
                     "required": ["is", "why"]},
                ]},
                {"type": "null"},
            ]},
        },
        "required": ["a"],
    });
    let check = |text: &str| check(&serde_json::from_str(text).unwrap(), &schema, "");
    for right in [
        r#"{"a": 1}"#,
        r#"{"a": null, "b": null}"#,
        r#"{"a": 1, "b": {"is": "x"}}"#,
        r#"{"a": 1, "b": {"is": "y", "why": "z"}}"#,
    ] {
        check(right).unwrap();
    }
    for wrong in [
        "[]",
        "{}",
        r#"{"a": "1"}"#,
        r#"{"a": 1, "c": 1}"#,
        r#"{"a": 1, "b": {"is": "y"}}"#,
        r#"{"a": 1, "b": {"is": "x", "why": "z"}}"#,
        r#"{"a": 1, "b": {"is": "z"}}"#,
    ] {
        check(wrong).unwrap_err();
    }
}

//! `json.md`, from the schemas of the documents that commands print.

use serde_json::{Map, Value};
use sockline::{
    api,
    cli::documents::{self, Described},
};

use crate::{cell, head, row};

pub fn page() -> String {
    let mut page = head("JSON of the commands", "the types in agent/src/");
    page += &format!(
        "With `-o json` these commands print one document in the form of the Kubernetes API. The admin socket has the \
         same form.\n\n\
         - Every document has `apiVersion`, which is `{version}`, and `kind`.\n\
         - Later builds may add fields, and values to those that are listed, within `{version}`: ignore what you do not \
         know. Only another `apiVersion` removes or renames a field, or changes its meaning.\n\
         - A command and an agent of another `apiVersion` refuse each other with an error that names both. Use the \
         `sockline` in the agent's pod then.\n\
         - A time is in RFC 3339, in UTC. A duration is as Go writes it: `1m30s`, `250ms`. Numbers are counts, ports or \
         IDs; one with another unit has it in its name (`…Seconds`).\n\
         - `a.b` is the field `b` of the object `a`, and `a[].b` that of each object in the list `a`. A field that is \
         not present has no value; its meaning says when.\n\
         - Texts named `message` and `remedy` are for people and may change at any time; `reason`, `state`, `type` and \
         names are for programs.\n\n",
        version = api::VERSION
    );
    page += &row(&["command", "kind"]);
    page += "|---|---|\n";
    let documents = documents::all();
    for Described { command, kind, .. } in &documents {
        let anchor = kind.to_lowercase();
        page += &row(&[
            &format!("[`sockline {command} -o json`](cli.md#sockline-{command})"),
            &format!("[`{kind}`](#{anchor})"),
        ]);
    }
    for document in &documents {
        page += &section(document);
    }
    page
}

fn section(Described { command, kind, schema }: &Described) -> String {
    let schema = schema.as_value();
    let mut section =
        format!("\n## {kind}\n\n`sockline {command} -o json`: {}\n\n", lower(&description(schema)));
    section += &row(&["field", "type", "present", "meaning"]);
    section += "|---|---|---|---|\n";
    let mut rows = Vec::new();
    fields(schema, "", &mut rows);
    for Row { path, kind, present, meaning } in rows {
        if path == "apiVersion" || path == "kind" {
            continue;
        }
        assert!(!meaning.is_empty(), "{path} of {command} has no comment");
        section += &row(&[&format!("`{path}`"), &kind, &present, &cell(&meaning)]);
    }
    section
}

struct Row {
    path: String,
    kind: String,
    present: String,
    meaning: String,
}

/// Adds a row for each field of an object, and for the fields in it.
fn fields(schema: &Value, path: &str, rows: &mut Vec<Row>) {
    if let Some(variants) = tagged(schema) {
        return fields_of_variants(&variants, path, rows);
    }
    for (name, field) in properties(schema) {
        let present = if is_required(schema, name) { "always" } else { "not always" };
        add(field, &format!("{path}{name}"), present.to_owned(), rows);
    }
}

/// Adds a row for a field, and for the fields in it.
fn add(field: &Value, path: &str, present: String, rows: &mut Vec<Row>) {
    let (value, is_nullable) = without_null(field);
    let mut kind = kind_of(value);
    // An absent field is not null.
    if is_nullable && present == "always" {
        kind += " or null";
    }
    let meaning = [description(field), values(value)].join(" ");
    rows.push(Row { path: path.to_owned(), kind, present, meaning: meaning.trim().to_owned() });
    match value.get("items") {
        Some(item) => fields(item, &format!("{path}[]."), rows),
        None => fields(value, &format!("{path}."), rows),
    }
}

/// Adds the fields of an object that has others depending on the value of one field, the tag.
fn fields_of_variants(variants: &[&Value], path: &str, rows: &mut Vec<Row>) {
    let is_tag = |name: &str| {
        variants.iter().all(|variant| variant["properties"][name].get("const").is_some())
    };
    let Some((tag, _)) = properties(variants[0]).find(|(name, _)| is_tag(name)) else {
        panic!("the variants of {path} have no tag")
    };
    let value_of = |variant: &Value| {
        variant["properties"][tag]["const"].as_str().unwrap_or_default().to_owned()
    };
    let values = variants.iter().map(|variant| with_meaning(&value_of(variant), variant));
    rows.push(Row {
        path: format!("{path}{tag}"),
        kind: "string".to_owned(),
        present: "always".to_owned(),
        meaning: one_of(&values.collect::<Vec<_>>()),
    });
    let mut others: Vec<(&str, &Value, Vec<String>)> = Vec::new();
    for variant in variants {
        for (name, field) in properties(variant).filter(|(name, _)| *name != tag) {
            let value = format!("`{}`", value_of(variant));
            match others.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, other, values)) => {
                    assert_eq!(description(other), description(field), "{path}{name}");
                    values.push(value);
                }
                None => others.push((name, field, vec![value])),
            }
        }
    }
    for (name, field, values) in others {
        let is_sure = variants.iter().all(|variant| {
            !properties(variant).any(|(other, _)| other == name) || is_required(variant, name)
        });
        let if_at_all = if is_sure { "if" } else { "not always, only if" };
        let present = format!("{if_at_all} `{tag}` is {}", values.join(" or "));
        add(field, &format!("{path}{name}"), present, rows);
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flat_map(Map::iter).map(|(name, field)| (name.as_str(), field))
}

fn is_required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|names| names.iter().any(|other| other == name))
}

/// The variants of an object that depends on a tag.
fn tagged(schema: &Value) -> Option<Vec<&Value>> {
    let variants: Vec<&Value> = schema.get("oneOf")?.as_array()?.iter().collect();
    variants.iter().all(|variant| variant.get("properties").is_some()).then_some(variants)
}

/// The schema of the values other than null, and whether null is one.
fn without_null(field: &Value) -> (&Value, bool) {
    if let Some([value, null]) = field.get("anyOf").and_then(Value::as_array).map(Vec::as_slice)
        && null["type"] == "null"
    {
        return (value, true);
    }
    let is_nullable = field["type"].as_array().is_some_and(|types| types.contains(&"null".into()));
    (field, is_nullable)
}

fn kind_of(schema: &Value) -> String {
    match schema["format"].as_str() {
        Some("date-time") => return "time".to_owned(),
        Some("duration-as-in-go") => return "duration".to_owned(),
        _ => {}
    }
    let name = match &schema["type"] {
        Value::Array(types) => types[0].as_str(),
        other => other.as_str(),
    };
    match name {
        Some("array") => format!("list of {}s", kind_of(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("object of {}s", kind_of(&schema["additionalProperties"]))
        }
        Some(name) => name.to_owned(),
        None if tagged(schema).is_some() => "object".to_owned(),
        None => "string".to_owned(),
    }
}

/// The values of a field that has a fixed set of them, as a sentence.
fn values(schema: &Value) -> String {
    let strings = |values: &Value| -> Vec<String> {
        let values = values.as_array().into_iter().flatten().filter_map(Value::as_str);
        values.map(|value| format!("`{value}`")).collect()
    };
    if tagged(schema).is_some() {
        return String::new();
    }
    let mut all = strings(&schema["enum"]);
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        all.extend(strings(&variant["enum"]));
        all.extend(variant["const"].as_str().map(|value| with_meaning(value, variant)));
    }
    all.extend(schema["const"].as_str().map(|value| with_meaning(value, schema)));
    if all.is_empty() { String::new() } else { one_of(&all) }
}

fn one_of(values: &[String]) -> String {
    match values {
        [only] => format!("Only {only}."),
        values if values.iter().any(|value| value.contains(": ")) => {
            format!("One of {}.", values.join("; "))
        }
        values => format!("One of {}.", values.join(", ")),
    }
}

/// `` `value`: what it means ``.
fn with_meaning(value: &str, schema: &Value) -> String {
    match lower(&description(schema)).trim_end_matches('.') {
        "" => format!("`{value}`"),
        meaning => format!("`{value}`: {meaning}"),
    }
}

/// The comment of a type or a field.
fn description(schema: &Value) -> String {
    let description = schema["description"].as_str().unwrap_or_default();
    description.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// With a small letter at the beginning, unless the first word is a name.
fn lower(text: &str) -> String {
    let is_name =
        text.chars().nth(1).is_some_and(|second| !second.is_ascii_lowercase() && second != ' ');
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if !is_name => first.to_lowercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

//! The manifest reader: the text of a file.

use sockline::{
    model::{
        event::Event,
        index::Index,
        object::{Kind, ObjectRef},
    },
    source::manifests::file::{self, Manifest},
};

use crate::{fixture, invariants};

/// Reads it as YAML and as JSON, and plans what is in it.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for name in ["fuzz.yaml", "fuzz.json"] {
        let Manifest { objects, input_errors, .. } = file::parse(name, &text);
        invariants::input_errors(&input_errors);
        let mut index = Index::new("node-a");
        for object in objects {
            invariants::sourced(&object);
            assert!(!object.reference.name.name.is_empty(), "an object without a name");
            let ObjectRef { kind, .. } = object.reference;
            assert!(Kind::ALL.contains(&kind));
            index.apply(Event::Apply(object));
        }
        invariants::plan(&index.plan());
        invariants::input_errors(&index.input_errors());
    }
}

/// The documents of the fixtures, and some that are wrong in a way of their own.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for folder in ["boutique", "features"] {
        for file in ["services", "endpointslices", "nodes"] {
            let text = fixture(&format!("{folder}/{file}.yaml"));
            // A list is one document: its items are cut out to be short.
            let items = text.split("\n- ").skip(1).take(20);
            let one = |item: &str| format!("apiVersion: v1\nkind: List\nitems:\n- {item}");
            seeds.extend(items.map(one).map(String::into_bytes));
            seeds.extend(
                text.split("\n---\n").filter(|text| text.len() < 8192).take(20).map(Into::into),
            );
        }
    }
    let wrong = [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "kind: Service\napiVersion: v1\nmetadata: {name: \"\\u001b[31m\\n\", namespace: s}\n",
        "kind: Service\napiVersion: v1\nmetadata: {name: a}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 1e400}]}\n",
        "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[{\"kind\":\"Pod\",\"apiVersion\":\"v1\"}]}",
        "{\"kind\":\"Node\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"n\",\"name\":\"m\"}}",
        "[[[[[[[[[[[[[[[[{}]]]]]]]]]]]]]]]]",
        "%YAML 1.2\n--- !!map\n? [complex]\n: !!binary aGk=\n...\n",
    ];
    seeds.extend(wrong.map(|text| text.as_bytes().to_vec()));
    seeds
}

use super::*;
use crate::model::object::Object;

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.1
  ports:
  - port: 80
";

fn names(manifest: &Manifest) -> Vec<String> {
    manifest.objects.iter().map(|sourced| sourced.reference.to_string()).collect()
}

fn input_errors(manifest: &Manifest) -> Vec<String> {
    manifest.input_errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_broken_document_costs_only_itself_and_names_its_line() {
    for broken in ["kind: [", "kind: \"Service", "kind: Service\nkind: Service", "a: b: c", "*x"] {
        let text = format!("---\n{SERVICE}---\n# comment\n{broken}\n---\n{SERVICE}");
        let manifest = parse("web.yaml", &text);
        assert_eq!(names(&manifest).len(), 2, "{broken:?}: {manifest:#?}");
        assert!(manifest.incomplete, "{broken:?}");
        let input_errors = input_errors(&manifest);
        assert_eq!(input_errors.len(), 1, "{broken:?}: {input_errors:#?}");
        assert!(input_errors[0].starts_with("file web.yaml, document 2: "), "{input_errors:?}");
        assert!(!input_errors[0].contains('\n'), "{input_errors:?}");
        // The broken document's first line is the 10th of the file, its comment.
        let line = input_errors[0].split("line ").nth(1).and_then(|rest| {
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
        });
        assert!(line.is_some_and(|line| (10..=13).contains(&line)), "{broken:?}: {input_errors:?}");
    }
}

#[test]
fn documents_are_separated_in_every_way_yaml_allows() {
    let cases = [
        format!("{SERVICE}---\n{SERVICE}"),
        format!("---\n---\n# nothing\n---\n{SERVICE}---\n{SERVICE}---\n"),
        format!("--- # first\n{SERVICE}--- # second\n{SERVICE}"),
        format!("{SERVICE}...\n---\n{SERVICE}...\n"),
        format!("{SERVICE}---\n{SERVICE}").replace('\n', "\r\n"),
        format!("\u{feff}%YAML 1.2\n---\n{SERVICE}---   \n{SERVICE}"),
    ];
    for text in cases {
        let manifest = parse("web.yaml", &text);
        assert_eq!(names(&manifest).len(), 2, "{text:?}: {manifest:#?}");
        assert!(manifest.input_errors.is_empty(), "{text:?}: {manifest:#?}");
    }
}

#[test]
fn dashes_within_a_line_or_indented_do_not_separate() {
    let text = "apiVersion: v1\nkind: Node\nmetadata:\n  name: here\n  annotations:\n    note: |\n      ---\n    other: a --- b\n----: x\n";
    let manifest = parse("n.yaml", text);
    assert_eq!(names(&manifest), ["Node here"], "{manifest:#?}");
}

#[test]
fn an_empty_file_holds_nothing() {
    for text in ["", "\n\n", "---\n", "# comment\n", "--- null\n"] {
        assert_eq!(parse("e.yaml", text), Manifest::default(), "{text:?}");
    }
    assert_eq!(parse("e.json", " \n"), Manifest::default());
}

#[test]
fn lists_hold_their_items() {
    let item = "{metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";
    let cases = [
        format!("{{apiVersion: v1, kind: ServiceList, items: [{item}]}}"),
        format!(
            "{{apiVersion: v1, kind: List, items: [{{apiVersion: v1, kind: Service, {}]}}",
            &item[1..]
        ),
    ];
    for text in cases {
        let manifest = parse("l.yaml", &text);
        assert_eq!(names(&manifest), ["Service default/web"], "{text}: {manifest:#?}");
        assert!(manifest.input_errors.is_empty(), "{text}: {manifest:#?}");
    }
    for text in [
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSliceList, items: null}",
        "{apiVersion: v1, kind: NodeList}",
    ] {
        assert_eq!(parse("l.yaml", text), Manifest::default(), "{text}");
    }
}

#[test]
fn a_broken_item_costs_only_itself_and_is_named() {
    let text = r#"{"apiVersion": "v1", "kind": "List", "items": [
        7,
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here"}},
        {"kind": "Node", "metadata": {"name": "there"}},
        {"metadata": {"name": "there"}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {}}
    ]}"#;
    let manifest = parse("l.json", text);
    assert_eq!(names(&manifest), ["Node here"]);
    let fields: Vec<_> =
        manifest.input_errors.iter().map(|input_error| input_error.field.as_str()).collect();
    assert_eq!(
        fields,
        ["items[0]", "items[2].apiVersion", "items[3].kind", "items[4].metadata.name"],
        "{manifest:#?}"
    );
}

#[test]
fn kinds_that_are_not_read_are_reported_once_per_file() {
    let other = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";
    let knative = "---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: fn}\n";
    let manifest = parse("m.yaml", &format!("{other}{other}---\n{SERVICE}{knative}"));
    assert_eq!(names(&manifest), ["Service default/web"]);
    let input_errors = input_errors(&manifest);
    assert_eq!(input_errors.len(), 2, "{input_errors:#?}");
    assert!(
        input_errors[0].contains("Deployment (apps/v1)") && input_errors[0].contains("ignored")
    );
    assert!(input_errors[1].contains("Service (serving.knative.dev/v1)"), "{input_errors:#?}");
    assert!(!manifest.incomplete);
}

#[test]
fn a_wrong_type_costs_its_object_and_names_object_and_field() {
    for port in ["abc", "99999999999", "[80]"] {
        let text =
            format!("{SERVICE}---\n{}", SERVICE.replace("port: 80", &format!("port: {port}")));
        let manifest = parse("web.yaml", &text);
        assert_eq!(names(&manifest).len(), 2);
        let broken = &manifest.objects[1];
        assert_eq!(broken.object, None, "{port}");
        assert_eq!(broken.input_errors[0].object.as_str(), "Service default/web", "{port}");
        assert_eq!(broken.input_errors[0].field, "spec.ports[0].port", "{port}");
    }
}

#[test]
fn a_port_out_of_range_costs_only_that_port() {
    for port in [0, 70_000, -1] {
        let text = format!("{SERVICE}  - port: {port}\n    name: b\n");
        let manifest = parse("web.yaml", &text);
        let sourced = &manifest.objects[0];
        assert_eq!(sourced.input_errors[0].field, "spec.ports[1].port", "{port}");
        let Some(Object::Service(service)) = &sourced.object else { panic!("{sourced:?}") };
        assert_eq!(service.ports.len(), 1, "{port}");
    }
}

#[test]
fn json_may_hold_several_values_and_stops_at_an_error() {
    let node =
        |name| format!(r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}}}}"#);
    let manifest = parse("n.json", &format!("{}\n{}\n{{", node("a"), node("b")));
    assert_eq!(names(&manifest), ["Node a", "Node b"]);
    assert!(manifest.incomplete);
    assert!(input_errors(&manifest)[0].starts_with("file n.json, document 3: "), "{manifest:#?}");
}

#[test]
fn json_in_a_yaml_file_is_read() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Node\",\n\t\"metadata\": {\"name\": \"a\"}\n}\n";
    assert_eq!(names(&parse("n.yaml", text)), ["Node a"], "{:#?}", parse("n.yaml", text));
}

#[test]
fn a_name_like_a_number_is_an_error_of_the_file_not_a_nameless_object() {
    let manifest = parse("n.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: 1}\n");
    assert!(manifest.objects.is_empty());
    assert_eq!(manifest.input_errors[0].field, "metadata.name", "{manifest:#?}");
}

/// More than the YAML parser's default limits allow.
#[test]
fn a_list_of_five_thousand_slices_in_one_document_is_read() {
    let mut text = "apiVersion: v1\nkind: List\nitems:\n".to_owned();
    for i in 0..5_000 {
        text.push_str(&format!(
            "- apiVersion: discovery.k8s.io/v1\n  kind: EndpointSlice\n  metadata:\n    name: s{i}\n    labels:\n      kubernetes.io/service-name: web\n  addressType: IPv4\n  ports:\n  - name: http\n    port: 80\n  endpoints:\n"
        ));
        for j in 0..3 {
            text.push_str(&format!(
                "  - addresses:\n    - 10.{j}.{}.{}\n    conditions:\n      ready: true\n      serving: true\n      terminating: false\n",
                i / 256,
                i % 256
            ));
        }
    }
    let manifest = parse("large.yaml", &text);
    assert_eq!(manifest.input_errors, []);
    assert_eq!(manifest.objects.len(), 5_000);
}

#[test]
fn a_small_text_that_aliases_blow_up_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        let of = vec![format!("*a{}", i - 1); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{of}]\n"));
    }
    let manifest = parse("bomb.yaml", &text);
    assert!(manifest.incomplete, "{:?}", manifest.input_errors);
}

/// In one document, as an item of a list, in YAML and in JSON.
#[test]
fn an_object_with_more_text_or_more_values_than_etcd_takes_costs_only_itself() {
    let text = format!("\"{}\"", "x".repeat(5 << 20));
    let values = format!("[{}1]", "1,".repeat(300_000));
    for content in [text, values] {
        let large =
            format!("{{kind: Service, apiVersion: v1, metadata: {{name: large}}, x: {content}}}");
        let list =
            format!("kind: List\napiVersion: v1\nitems:\n- {large}\n- {}", indented(SERVICE));
        let json = large.replace("{kind: Service, apiVersion: v1, metadata: {name: large}, x:",
            "{\"kind\": \"Service\", \"apiVersion\": \"v1\", \"metadata\": {\"name\": \"large\"}, \"x\":");
        for (file, text) in [
            ("a.yaml", format!("---\n{large}\n---\n{SERVICE}")),
            ("list.yaml", list),
            ("a.json", json),
        ] {
            let manifest = parse(file, &text);
            assert_eq!(input_errors(&manifest), [""; 0], "{file}");
            let [large, others @ ..] = &manifest.objects[..] else { panic!("{file}: no objects") };
            assert_eq!(large.reference.name.name.as_ref(), "large", "{file}");
            assert_eq!(large.object, None, "{file}");
            assert!(
                large.input_errors[0].message.contains("larger than"),
                "{:?}",
                large.input_errors
            );
            assert_eq!(others.len(), usize::from(file != "a.json"), "{file}");
            assert!(others.iter().all(|sourced| sourced.object.is_some()), "{file}: {others:?}");
        }
    }
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n  ")
}

proptest::proptest! {
    /// Whatever is in the file: it is read or told, and nothing panics.
    #[test]
    fn any_text_is_read_or_told(pieces in proptest::collection::vec(
        proptest::sample::select(&[
            SERVICE, "---\n", "--- ", "\n", "kind: List\n", "items:\n- ", "{", "}", "[", "&a ", "*a",
            "apiVersion: v1\n", "null", "- ", "  ", ": ", "|\n", "\"", "\u{feff}", "ü", "\r\n", "...\n", "!x ",
        ][..]),
        0..20,
    )) {
        let text = pieces.concat();
        for file in ["a.yaml", "a.json"] {
            let manifest = parse(file, &text);
            if manifest.incomplete {
                proptest::prop_assert!(!manifest.input_errors.is_empty());
            }
            for input_error in &manifest.input_errors {
                proptest::prop_assert!(!input_error.to_string().contains('\n'), "{input_error}");
            }
        }
    }
}

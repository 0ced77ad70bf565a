use std::os::unix::fs::symlink;

use super::*;
use crate::model::object::Object;

fn node(name: &str, zone: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, \
         labels: {{topology.kubernetes.io/zone: {zone}}}}}}}\n"
    )
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn file_names(contents: &FolderContents) -> Vec<&str> {
    contents.files.iter().map(|file| file.name.as_str()).collect()
}

fn source_errors(events: &[Event]) -> Vec<String> {
    match events.last() {
        Some(Event::SourceErrors(input_errors)) => {
            input_errors.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn manifests_directly_in_the_folder_are_read_by_name() {
    let folder = folder(&[
        ("b.yaml", ""),
        ("a.yml", ""),
        ("c.json", ""),
        (".hidden.yaml", "["),
        ("notes.txt", "["),
        ("yaml", "["),
    ]);
    fs::create_dir(folder.path().join("d.yaml")).unwrap();
    let contents = read_folder(folder.path()).unwrap();
    assert_eq!(file_names(&contents), ["a.yml", "b.yaml", "c.json"]);
}

#[test]
fn a_mounted_config_map_is_read_through_its_symlinks() {
    let folder = folder(&[]);
    let version = folder.path().join("..2026_11_22");
    fs::create_dir(&version).unwrap();
    fs::write(version.join("n.yaml"), node("here", "z")).unwrap();
    symlink("..2026_11_22", folder.path().join("..data")).unwrap();
    symlink("..data/n.yaml", folder.path().join("n.yaml")).unwrap();
    let contents = read_folder(folder.path()).unwrap();
    assert_eq!(file_names(&contents), ["n.yaml"]);
    assert_eq!(contents.files[0].manifest.objects.len(), 1);
}

#[test]
fn a_file_that_cannot_be_read_costs_only_itself() {
    let folder = folder(&[("b.yaml", &node("here", "z"))]);
    fs::write(folder.path().join("c.yaml"), b"\xff\xfe").unwrap();
    let contents = read_folder(folder.path()).unwrap();
    assert_eq!(file_names(&contents), ["b.yaml", "c.yaml"]);
    assert!(contents.files[1].manifest.incomplete);
    let events = contents.into_events();
    let errors = source_errors(&events);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].starts_with("file c.yaml: cannot be read"), "{errors:#?}");
    assert!(matches!(&events[2], Event::Replace(Kind::Node, nodes) if nodes.len() == 1));
}

#[test]
fn a_link_to_nothing_is_a_file_that_cannot_be_read() {
    let folder = folder(&[("b.yaml", &node("here", "z"))]);
    symlink("nowhere", folder.path().join("a.yaml")).unwrap();
    let contents = read_folder(folder.path()).unwrap();
    assert_eq!(file_names(&contents), ["a.yaml", "b.yaml"]);
    assert!(contents.files[0].manifest.incomplete);
    let errors = source_errors(&contents.into_events());
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].starts_with("file a.yaml: cannot be read"), "{errors:#?}");
}

#[test]
fn a_folder_that_does_not_exist_is_an_error_that_names_it() {
    let error = read_folder(Path::new("/does/not/exist")).unwrap_err();
    assert!(error.to_string().contains("/does/not/exist"), "{error}");
}

#[test]
fn every_kind_is_replaced_though_nothing_of_it_is_there() {
    let events = FolderContents::default().into_events();
    let empty = |kind| Event::Replace(kind, vec![]);
    let (replaced, rest) = events.split_at(Kind::ALL.len());
    assert_eq!(replaced, Kind::ALL.map(empty));
    assert_eq!(rest, [Event::SourceErrors(vec![])]);
}

#[test]
fn of_an_object_in_two_files_the_first_counts() {
    let folder = folder(&[("a.yaml", &node("here", "first")), ("b.yaml", &node("here", "second"))]);
    let events = read_folder(folder.path()).unwrap().into_events();
    let Event::Replace(Kind::Node, nodes) = &events[2] else { panic!("{events:?}") };
    assert_eq!(nodes.len(), 1);
    let Some(Object::Node(node)) = &nodes[0].object else { panic!("{nodes:?}") };
    assert_eq!(node.zone.as_deref(), Some("first"));
    let errors = source_errors(&events);
    for part in ["Node here", "a.yaml", "b.yaml"] {
        assert!(errors[0].contains(part), "{part} in {errors:?}");
    }
}

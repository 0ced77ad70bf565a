//! Limits that contradict each other.

use super::common::{WebNode, error_of};

#[test]
fn fewer_slots_than_backends_are_an_error_that_names_the_options() {
    let node = WebNode::new(0);
    let manifests = node.manifests();
    let bpffs = node.bpffs().to_str().unwrap().to_owned();
    let output = node.sockline(&[
        "agent",
        "--manifests",
        manifests.to_str().unwrap(),
        "--bpf-root",
        &bpffs,
        "--max-backends",
        "20",
        "--max-slots",
        "10",
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", error_of(&output));
    let error = error_of(&output);
    assert!(error.contains("--max-slots 10 is less than --max-backends 20"), "{error}");
}

#[test]
fn an_impossible_limit_is_an_error_that_names_the_range() {
    let node = WebNode::new(0);
    for (option, value, most) in [
        ("--max-frontends", "16777217", "16777216"),
        ("--max-backends", "4194304", "4194303"),
        ("--max-slots", "16777217", "16777216"),
        ("--max-affinity", "4194305", "4194304"),
        ("--max-clients", "4194305", "4194304"),
    ] {
        let output = node.sockline(&["agent", option, value]);
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(2), "{option} {value}: {error}");
        assert!(error.contains(option) && error.contains(most), "{error}");
    }
}

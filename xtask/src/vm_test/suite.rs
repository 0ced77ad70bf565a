//! Which tests run, and their binaries.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use super::kernels::Shape;
use crate::{
    setup, term,
    test::binaries::{self, Binary},
};

/// Where a group of tests may have another result than on other kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Differs {
    /// Nowhere more than others.
    Little,
    /// From kernel to kernel: what most of them test is a feature that a kernel has or lacks.
    WithTheKernel,
    /// With `nohz_full=`: they wait for running programs, and it changes how that works.
    WithNohzFull,
}
use Differs::{Little, WithNohzFull, WithTheKernel};

/// The data path's tests: those that create sockets, load programs or read maps. The others (plans, the Kubernetes
/// source, manifests of deploy/) do not depend on the kernel. Each is a test binary or a module of one, and has a
/// time limit of its own.
const DATA_PATH: &[(&str, Differs)] = &[
    ("balancing::affinity", Little),
    ("balancing::changes", Little),
    ("balancing::spread", Little),
    ("exclusion::nested_namespaces", Little),
    ("exclusion::pods_and_services", Little),
    ("lifecycle::cleanup", Little),
    ("lifecycle::restart", WithNohzFull),
    ("lifecycle::startup", Little),
    ("limits::backends", WithNohzFull),
    ("limits::other_services", WithNohzFull),
    ("limits::frontends", WithNohzFull),
    ("limits::growing", WithNohzFull),
    ("limits::options", WithNohzFull),
    ("limits::other_nodes", WithNohzFull),
    ("limits::programs", WithNohzFull),
    ("limits::reclaim", WithNohzFull),
    ("limits::slots", WithNohzFull),
    ("limits::sockets", Little),
    ("limits::atomic_change", WithNohzFull),
    ("node_ports::reachability", Little),
    ("observability::check", WithNohzFull),
    ("observability::counters", Little),
    ("observability::telemetry::by_class", Little),
    ("observability::telemetry::by_client", WithTheKernel),
    ("observability::telemetry::concurrency", Little),
    ("observability::telemetry::failures", WithTheKernel),
    ("observability::telemetry::hanging_connects", WithTheKernel),
    ("observability::telemetry::long_connections", WithTheKernel),
    ("observability::telemetry::outcomes", WithTheKernel),
    ("observability::telemetry::persistence", Little),
    ("observability::telemetry::program_log", Little),
    ("observability::telemetry::ten_thousand", WithTheKernel),
    ("observability::telemetry::udp", Little),
    ("observability::telemetry::watch::clients", Little),
    ("observability::telemetry::watch::kinds", WithTheKernel),
    ("observability::telemetry::watch::losses", Little),
    ("observability::telemetry::watch::switch", Little),
    ("older_kernels", WithTheKernel),
    ("recovery::drift", WithNohzFull),
    ("recovery::fail_open", Little),
    ("source::invalid_objects", Little),
    ("source::kubernetes", Little),
    ("termination", WithTheKernel),
    ("translation::addresses", Little),
    ("translation::owner_check", Little),
    ("translation::refusal", WithTheKernel),
    ("translation::special_sockets", WithTheKernel),
    ("translation::tcp", Little),
    ("translation::udp", Little),
];

fn all() -> impl Iterator<Item = &'static str> {
    DATA_PATH.iter().map(|&(name, _)| name)
}

fn differs(name: &str) -> Option<Differs> {
    DATA_PATH.iter().find(|(known, _)| *known == name).map(|(_, differs)| *differs)
}

/// Tests of one binary that run in one process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The path of their module, as in [`DATA_PATH`].
    pub(super) name: String,
    /// Their names in the binary.
    pub(super) tests: Vec<String>,
}

impl Group {
    /// The tests of this module, or the test of this name. With filters, only those whose name contains one of them.
    fn new(name: &str, tests_of_binary: &[String], filters: &[&str]) -> Self {
        let module = name.split_once("::").map_or("", |(_, module)| module);
        let is_selected = |test: &&String| {
            let is_inside = module.is_empty()
                || test
                    .strip_prefix(module)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
            is_inside && (filters.is_empty() || filters.iter().any(|filter| test.contains(filter)))
        };
        let tests = tests_of_binary.iter().filter(is_selected).cloned().collect();
        Self { name: name.to_owned(), tests }
    }

    pub(super) fn binary(&self) -> &str {
        binary_of(&self.name)
    }
}

/// `translation` for `translation::tcp`.
fn binary_of(name: &str) -> &str {
    name.split("::").next().unwrap_or_default()
}

/// The groups whose result can differ in a machine of this shape.
pub(super) fn for_shape(shape: Shape, groups: &[Group]) -> Vec<&Group> {
    let is_new = |group: &&Group| match shape {
        Shape::Plain => true,
        Shape::NohzFull => differs(&group.name) == Some(WithNohzFull),
    };
    groups.iter().filter(is_new).collect()
}

/// Builds the binaries of these groups as `cargo xtask test` does, and reuses its build.
pub(super) fn build_tests(names: &[String]) -> Result<Vec<Binary>> {
    setup::ensure()?;
    term::doing("build", "the tests");
    let names: BTreeSet<&str> = names.iter().map(|name| binary_of(name)).collect();
    let args: Vec<&str> = names.iter().flat_map(|name| ["--test", name]).collect();
    let built = binaries::build(&args)?;
    if let Some(name) = names.iter().find(|name| !built.iter().any(|test| test.name == **name)) {
        bail!("cargo did not build a test `{name}`");
    }
    Ok(built)
}

/// The groups with their tests, as the binaries list them. The words among the arguments are filters, as for libtest.
pub(super) fn groups(names: &[String], binaries: &[Binary], args: &[String]) -> Result<Vec<Group>> {
    let filters: Vec<&str> = args.iter().filter(|arg| !is_flag(arg)).map(String::as_str).collect();
    let mut tests = BTreeMap::new();
    for binary in binaries {
        tests.insert(binary.name.as_str(), binary.tests()?);
    }
    let mut groups = Vec::new();
    for name in names {
        let group =
            Group::new(name, tests.get(binary_of(name)).map_or(&[], Vec::as_slice), &filters);
        ensure!(!group.tests.is_empty() || !filters.is_empty(), "there are no tests in {name}");
        if !group.tests.is_empty() {
            groups.push(group);
        }
    }
    ensure!(!groups.is_empty(), "no name of a test contains {}", filters.join(" or "));
    Ok(groups)
}

/// Whether an argument is for the test binaries themselves.
pub(super) fn is_flag(arg: &str) -> bool {
    arg.starts_with('-')
}

/// The groups in which kernels differ most.
pub(super) fn short() -> Vec<String> {
    let varying = all().filter(|name| differs(name) == Some(WithTheKernel));
    varying.map(ToOwned::to_owned).collect()
}

/// The groups with these names; all without names. A name selects a binary, a module by its path or by its last part, or what is
/// inside of a module.
pub(super) fn select(names: &[String]) -> Result<Vec<String>> {
    if names.is_empty() {
        return Ok(all().map(ToOwned::to_owned).collect());
    }
    let mut selected: Vec<String> = Vec::new();
    for name in names {
        let is_inside = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with("::"))
        };
        let is_named = |group: &str| {
            group == name || is_inside(group, name) || group.rsplit("::").next() == Some(name)
        };
        let mut found: Vec<&str> = all().filter(|group| is_named(group)).collect();
        if found.is_empty() && all().any(|group| is_inside(name, group)) {
            found.push(name);
        }
        if found.is_empty() {
            let known: Vec<&str> = all().collect();
            bail!("there is no data path test {name:?}; the tests are {}", known.join(", "));
        }
        for group in found {
            if !selected.iter().any(|selected| selected == group) {
                selected.push(group.to_owned());
            }
        }
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo;

    fn selected(names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        select(&names).unwrap()
    }

    #[test]
    fn each_group_is_a_binary_or_a_module_of_one() {
        let folder = repo::root().join("tests/tests");
        for name in all() {
            let path = folder.join(name.replace("::", "/"));
            let is_there = path.with_extension("rs").is_file()
                || path.join("mod.rs").is_file()
                || path.join("main.rs").is_file();
            assert!(is_there, "{name} is no file of {}", folder.display());
        }
    }

    #[test]
    fn a_name_selects_a_binary_a_module_or_a_part_of_one() {
        let lifecycle = ["lifecycle::cleanup", "lifecycle::restart", "lifecycle::startup"];
        assert_eq!(selected(&["lifecycle"]), lifecycle);
        assert_eq!(selected(&["translation::tcp"]), ["translation::tcp"]);
        assert_eq!(
            selected(&["tcp", "addresses", "tcp"]),
            ["translation::tcp", "translation::addresses"]
        );
        assert_eq!(selected(&["translation::tcp::a"]), ["translation::tcp::a"]);
        assert!(select(&["lifecycle::upgrade".to_owned()]).is_err());
        assert!(select(&["transl".to_owned()]).is_err());
    }

    #[test]
    fn a_group_has_the_tests_of_its_module_that_a_filter_selects() {
        let tests = ["tcp::a", "tcp::b", "mptcp::a", "tcp_more::a"].map(ToOwned::to_owned);
        let group = |name: &str, filters: &[&str]| Group::new(name, &tests, filters).tests;
        assert_eq!(group("translation", &[]), tests);
        assert_eq!(group("translation::tcp", &[]), ["tcp::a", "tcp::b"]);
        assert_eq!(group("translation::tcp", &["b", "x"]), ["tcp::b"]);
        assert_eq!(group("translation::tcp::a", &[]), ["tcp::a"]);
        assert_eq!(group("translation::udp", &[]), [""; 0]);
    }
}

//! Invalid objects: the valid part is used immediately, as after a restart; an object that cannot be used at
//! all keeps what is programmed.

use super::*;
use crate::model::{
    event::{Event, Sourced},
    object::Redirect,
    testing::{endpoint, line, name, node, service, slice, sourced},
};

/// All kinds listed, with these objects.
fn started_with(objects: &[Sourced]) -> Index {
    let mut index = Index::new("here");
    for kind in Kind::ALL {
        let of_kind = objects.iter().filter(|o| o.reference.kind == kind).cloned();
        index.apply(Event::Replace(kind, of_kind.collect()));
    }
    index
}

/// The plan, what stays in any plan, and the errors.
fn state(index: &mut Index) -> (Vec<String>, Vec<String>, Vec<String>) {
    let plan = index.plan().frontends.iter().map(|frontend| line(frontend)).collect();
    let retained = index.retained().iter().map(ToString::to_string).collect();
    let input_errors = index.input_errors().iter().map(ToString::to_string).collect();
    (plan, retained, input_errors)
}

fn good() -> [Sourced; 3] {
    [
        sourced(service("web", "10.96.0.1")),
        sourced(slice("web-1", "web", vec![endpoint("10.0.0.1")])),
        sourced(node("here", Some("zone-1"))),
    ]
}

const SERVED: &str = "ClusterIP 10.96.0.1 80/TCP Forward [10.0.0.1:8080]";

struct Case {
    what: &'static str,
    update: Sourced,
    plan: &'static [&'static str],
    retained: &'static [&'static str],
    /// The end of an input error.
    told: &'static str,
}

/// What an update does to an agent that runs, and what a restarted one finds.
#[test]
fn an_update_with_something_wrong_does_what_a_start_with_it_does() {
    let disabled = Service { redirect: Redirect::Disabled, ..service("web", "10.96.0.1") };
    let moved = || sourced(service("web", "10.96.0.7"));
    let endpoints = || sourced(slice("web-1", "web", vec![endpoint("10.0.0.2")]));
    let cases = [
        Case {
            what: "the valid part of a service",
            update: moved().with_input_error("spec.ports[1].port"),
            plan: &["ClusterIP 10.96.0.7 80/TCP Forward [10.0.0.1:8080]"],
            retained: &[],
            told: "spec.ports[1].port: wrong",
        },
        Case {
            what: "with redirect: disabled",
            update: sourced(disabled).with_input_error("spec.ports[1].port"),
            plan: &["ClusterIP 10.96.0.1 80/TCP Bypass RedirectDisabled []"],
            retained: &[],
            told: "spec.ports[1].port: wrong",
        },
        Case {
            what: "a wrong annotation",
            update: moved().with_input_error("metadata.annotations[x]"),
            plan: &["ClusterIP 10.96.0.7 80/TCP Forward [10.0.0.1:8080]"],
            retained: &[],
            told: "metadata.annotations[x]: wrong",
        },
        Case {
            what: "the valid part of a slice",
            update: endpoints().with_input_error("endpoints[1]"),
            plan: &["ClusterIP 10.96.0.1 80/TCP Forward [10.0.0.2:8080]"],
            retained: &[],
            told: "endpoints[1]: wrong",
        },
        Case {
            what: "a service of which nothing can be used",
            update: moved().with_input_error("spec.ports").unusable(),
            plan: &[],
            retained: &["ns/web"],
            told: "spec.ports: wrong; what is programmed for it stays",
        },
        Case {
            what: "a slice of which nothing can be used",
            update: endpoints().with_input_error("addressType").unusable(),
            plan: &["ClusterIP 10.96.0.1 80/TCP Refuse NoEndpoints []"],
            retained: &["ns/web"],
            told: "addressType: wrong; what is programmed for Service ns/web stays",
        },
        Case {
            what: "a node of which nothing can be used",
            update: sourced(node("here", None)).with_input_error("metadata").unusable(),
            plan: &[SERVED],
            retained: &[],
            told: "metadata: wrong",
        },
    ];
    for Case { what, update, plan, retained, told } in cases {
        let mut objects = good();
        let of_update = objects.iter_mut().find(|o| o.reference == update.reference).unwrap();
        *of_update = update.clone();
        let mut restarted = started_with(&objects);
        for event in [
            Event::Apply(update.clone()),
            Event::Replace(update.reference.kind, vec![update.clone()]),
        ] {
            let mut running = started_with(&good());
            assert_eq!(state(&mut running).0, [SERVED]);
            running.apply(event);
            let seen = state(&mut running);
            assert_eq!(seen, state(&mut restarted), "{what}: other than after a restart");
            assert_eq!((&*seen.0, &*seen.1), (&*owned(plan), &*owned(retained)), "{what}");
            assert!(
                seen.2.iter().any(|input_error| input_error.ends_with(told)),
                "{what}: {:?}",
                seen.2
            );
        }
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn the_consequence_in_the_error_is_what_happens() {
    let mut index = started_with(&good());
    let mut unusable =
        sourced(service("web", "10.96.0.7")).with_input_error("spec.ports[0].port").unusable();
    unusable.input_errors[0].message = "0 is not a port; 1 is; the port is skipped".to_owned();
    index.apply(Event::Apply(unusable));
    let (_, _, input_errors) = state(&mut index);
    let told = "Service ns/web: spec.ports[0].port: 0 is not a port; 1 is; what is programmed for it stays";
    assert_eq!(input_errors, [told]);
}

#[test]
fn a_corrected_service_takes_effect_and_its_input_error_goes() {
    for unusable in [false, true] {
        let mut index = started_with(&good());
        let wrong = sourced(service("web", "10.96.0.7")).with_input_error("spec");
        index.apply(Event::Apply(if unusable { wrong.unusable() } else { wrong }));
        index.plan();
        index.apply(Event::Apply(sourced(service("web", "10.96.0.8"))));
        let (plan, retained, input_errors) = state(&mut index);
        assert_eq!(plan, ["ClusterIP 10.96.0.8 80/TCP Forward [10.0.0.1:8080]"]);
        assert!(retained.is_empty() && input_errors.is_empty(), "{retained:?} {input_errors:?}");
    }
}

#[test]
fn a_service_that_is_deleted_while_it_cannot_be_used_is_retained_no_more_and_among_the_changes() {
    let mut index = started_with(&good());
    let unusable = sourced(service("web", "10.96.0.7")).with_input_error("spec").unusable();
    index.apply(Event::Apply(unusable.clone()));
    index.changes();
    index.apply(Event::Delete(unusable.reference));
    assert!(index.retained().is_empty());
    let changes = index.changes().services;
    assert_eq!(changes.len(), 1, "{changes:#?}");
    assert!(changes[0].service == name("web") && changes[0].frontends.is_empty());
}

/// The slice of a deleted service that cannot be used may stay forever: nobody collects it where there
/// is no owner.
#[test]
fn a_service_that_is_deleted_is_not_retained_by_a_slice_that_cannot_be_used() {
    let slice =
        || sourced(slice("web-1", "web", vec![])).with_input_error("addressType").unusable();
    let reference = ObjectRef { kind: Kind::Service, name: name("web") };
    let port =
        |index: &Index| index.serving(&name("web"), "http", crate::model::object::Protocol::Tcp);
    for gone in [Event::Delete(reference), Event::Replace(Kind::Service, vec![])] {
        let mut index = started_with(&good());
        index.apply(Event::Apply(slice()));
        assert_eq!(state(&mut index).1, ["ns/web"]);
        assert_eq!(port(&index), None);
        index.apply(gone);
        assert!(index.retained().is_empty(), "{:?}", index.retained());
        assert_eq!(port(&index), Some(HashSet::new()), "it serves nowhere");
        let changes = index.changes().services;
        assert!(
            changes.iter().any(|part| part.service == name("web") && part.frontends.is_empty()),
            "{changes:#?}"
        );
        let input_errors = state(&mut index).2;
        assert_eq!(input_errors, ["EndpointSlice ns/web-1: addressType: wrong"]);
        // It is made again, and of its endpoints nothing can be said.
        index.apply(Event::Apply(sourced(service("web", "10.96.0.1"))));
        assert_eq!(state(&mut index).1, ["ns/web"]);
    }
}

/// What changed while it was retained was not brought to the kernel.
#[test]
fn a_service_that_is_retained_no_more_is_among_the_changes_though_its_plan_is_the_same() {
    let bad = || sourced(slice("web-2", "web", vec![])).with_input_error("addressType").unusable();
    let mut index = started_with(&good());
    index.apply(Event::Apply(bad()));
    index.apply(Event::Apply(sourced(slice("web-1", "web", vec![endpoint("10.0.0.2")]))));
    index.changes();
    for last in
        [Event::Delete(bad().reference), Event::Apply(sourced(slice("web-2", "web", vec![])))]
    {
        index.apply(Event::Apply(bad()));
        index.changes();
        index.apply(last);
        let changes = index.changes().services;
        assert_eq!(changes.len(), 1, "{changes:#?}");
        assert_eq!(
            line(&changes[0].frontends[0]),
            "ClusterIP 10.96.0.1 80/TCP Forward [10.0.0.2:8080]"
        );
    }
}

#[test]
fn a_service_of_two_slices_is_retained_until_both_can_be_used() {
    let bad =
        |name: &str| sourced(slice(name, "web", vec![])).with_input_error("addressType").unusable();
    let mut index = started_with(&good());
    index.apply(Event::Apply(bad("web-2")));
    index.apply(Event::Apply(bad("web-3")));
    index.apply(Event::Delete(bad("web-2").reference));
    assert_eq!(state(&mut index).1, ["ns/web"]);
    assert_eq!(index.serving(&name("web"), "http", crate::model::object::Protocol::Tcp), None);
    index.apply(Event::Delete(bad("web-3").reference));
    assert!(index.retained().is_empty());
}

/// A watch that is taken up again, or a file that is read again, shows a deletion and what was made
/// after it as one change.
#[test]
fn an_object_with_another_uid_is_another_object() {
    let of = |uid: Option<&str>, after: Option<u64>| Service {
        uid: uid.map(Into::into),
        close_on_removal: after.map(Duration::from_secs),
        ..service("web", "10.96.0.1")
    };
    // The UID before and after, and whether it is another service, so that the annotation of the first one
    // still applies to its connections.
    for (before, now, is_another) in [
        (Some("1"), Some("2"), true),
        (Some("1"), Some("1"), false),
        (None, Some("1"), false),
        (Some("1"), None, false),
        (None, None, false),
    ] {
        let mut index = started_with(&good());
        index.apply(Event::Apply(sourced(of(before, Some(30)))));
        index.plan();
        index.apply(Event::Apply(sourced(of(now, None))));
        let deleted_annotations = index.take_deleted_annotations();
        let expected = is_another.then(|| (name("web"), Duration::from_secs(30)));
        assert_eq!(
            deleted_annotations,
            expected.into_iter().collect::<Vec<_>>(),
            "{before:?} {now:?}"
        );
        assert_eq!(state(&mut index).0, [SERVED]);
        assert_eq!(index.close_on_removal(&name("web")), None);
    }
}

/// What is programmed of the first one is not to stay, though the second one is retained.
#[test]
fn a_service_that_is_created_again_is_reported_as_deleted_though_there_is_one_of_its_name() {
    let bad = || sourced(slice("web-1", "web", vec![])).with_input_error("addressType").unusable();
    let of = |uid: &str, address: &str| {
        sourced(Service { uid: Some(uid.into()), ..service("web", address) })
    };
    let unusable = || of("?", "10.96.0.1").with_input_error("spec.ports").unusable();
    let delete = || Event::Delete(unusable().reference);
    let now = || Event::Apply(of("2", "10.96.0.2"));
    for (what, events, is_deleted) in [
        ("another uid", vec![now()], true),
        ("deleted between", vec![delete(), now()], true),
        ("in a list", vec![Event::Replace(Kind::Service, vec![of("2", "10.96.0.2")])], true),
        ("unusable between", vec![Event::Apply(unusable()), now()], true),
        ("the same", vec![Event::Apply(of("1", "10.96.0.2"))], false),
        (
            "the same, unusable between",
            vec![Event::Apply(unusable()), Event::Apply(of("1", "10.96.0.2"))],
            false,
        ),
    ] {
        for retained_before in [true, false] {
            let mut index = started_with(&good());
            index.apply(Event::Apply(of("1", "10.96.0.1")));
            if retained_before {
                index.apply(Event::Apply(bad()));
            }
            index.changes();
            assert!(index.take_deleted().is_empty(), "{what}");
            events.iter().cloned().for_each(|event| index.apply(event));
            index.apply(Event::Apply(bad()));
            let expected: BTreeSet<ObjectName> =
                is_deleted.then(|| name("web")).into_iter().collect();
            assert_eq!(index.take_deleted(), expected, "{what}");
            assert!(index.take_deleted().is_empty(), "{what}: told twice");
            assert!(index.retained().contains(&name("web")), "{what}");
            let changes = index.changes().services;
            let changed = changes.iter().find(|part| part.service == name("web")).unwrap();
            assert_eq!(
                line(&changed.frontends[0]),
                "ClusterIP 10.96.0.2 80/TCP Refuse NoEndpoints []"
            );
        }
    }
}

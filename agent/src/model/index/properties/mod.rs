//! The index against the pure planner, on random objects and random orders.
//!
//! `objects.rs` makes objects and events, `held.rs` is what the index must agree with, `kernel.rs` has what a kernel
//! would have if changes were written to it as the data plane does.

mod held;
mod kernel;
mod objects;

use proptest::{collection::vec, prelude::*, sample::select};

use self::{
    held::{Held, plan, shuffled},
    kernel::{Kernel, Owners, owners},
    objects::{any_event, any_object},
};
use super::*;
use crate::model::{
    event::Event,
    object::{Object, Protocol},
    plan::Action,
};

proptest! {
    #[test]
    fn a_stream_of_changes_gives_the_plan_of_what_is_left(events in vec(any_event(), 0..40)) {
        let mut index = Index::new("here");
        let mut held = Held::default();
        for event in events {
            held.apply(&event);
            index.apply(event);
            prop_assert_eq!(index.plan(), held.plan().0);
            prop_assert_eq!(index.retained(), &held.retained());
        }
        let conflicts: Vec<_> = held.plan().1.into_iter().filter(|p| p.object.as_str().starts_with("Service")).collect();
        let input_errors = index.input_errors();
        prop_assert!(conflicts.iter().all(|p| input_errors.contains(p)), "{input_errors:#?}");
    }

    /// Whatever happened before, and in whatever order slices, endpoints and ports are.
    #[test]
    fn a_history_leaves_what_a_start_with_the_objects_that_are_left_makes(
        events in vec(any_event(), 0..40),
        look in vec(any::<bool>(), 40),
        numbers in vec(0..1000_usize, 1..8),
        scope in select(&[NodePortScope::ThisNode, NodePortScope::AllNodes][..]),
    ) {
        let mut index = Index::new("here").with_node_ports(scope);
        let mut held = Held::default();
        for (event, look) in events.into_iter().zip(look) {
            held.apply(&event);
            index.apply(event);
            if look {
                index.changes_except(|service| &*service.name == "a");
            }
        }
        for kind in Kind::ALL {
            // Both know that all kinds were listed.
            let of_kind = held.0.values().filter(|o| o.reference.kind == kind).cloned();
            index.apply(Event::Replace(kind, of_kind.collect()));
        }
        let plan = index.plan();
        for sourced in held.0.values_mut() {
            match &mut sourced.object {
                Some(Object::EndpointSlice(slice)) => {
                    slice.endpoints = shuffled(std::mem::take(&mut slice.endpoints), &numbers);
                    slice.ports = shuffled(std::mem::take(&mut slice.ports), &numbers);
                }
                Some(Object::Service(service)) => {
                    service.ports = shuffled(std::mem::take(&mut service.ports), &numbers);
                }
                _ => {}
            }
        }
        let mut fresh = held.start(scope, &numbers);
        prop_assert_eq!(plan, fresh.plan());
        prop_assert_eq!(index.retained(), fresh.retained());
        prop_assert_eq!(index.input_errors(), fresh.input_errors());
        prop_assert_eq!(&index.excluded_pods(&Policy::default()), &fresh.excluded_pods(&Policy::default()));
        for service in ["a", "b", "c"].map(|service| ObjectName::new("ns", service)) {
            let serving = |index: &Index| index.serving(&service, "http", Protocol::Tcp);
            prop_assert_eq!(serving(&index), serving(&fresh));
            prop_assert_eq!(index.close_on_removal(&service), fresh.close_on_removal(&service));
        }
    }

    #[test]
    fn planning_rarely_gives_the_same_as_planning_after_every_change(
        events in vec(any_event(), 0..40),
    ) {
        let (mut eager, mut lazy) = (Index::new("here"), Index::new("here"));
        for event in events {
            eager.apply(event.clone());
            eager.plan();
            lazy.apply(event);
        }
        prop_assert_eq!(eager.plan(), lazy.plan());
        prop_assert_eq!(eager.input_errors(), lazy.input_errors());
    }

    #[test]
    fn the_order_of_the_objects_does_not_matter(
        (objects, shuffled) in vec(any_object(), 0..12)
            .prop_map(|objects| {
                let unique: BTreeMap<_, _> =
                    objects.into_iter().map(|object| (object.reference(), object)).collect();
                unique.into_values().collect::<Vec<_>>()
            })
            .prop_flat_map(|objects| (Just(objects.clone()), Just(objects).prop_shuffle())),
    ) {
        prop_assert_eq!(plan(objects.iter()), plan(shuffled.iter()));
    }

    #[test]
    fn the_changes_add_up_to_the_plan(
        steps in vec((any_event(), any::<bool>(), any::<bool>()), 0..40),
    ) {
        let mut index = Index::new("here");
        let mut parts = BTreeMap::new();
        for (event, look, one_waits) in steps {
            index.apply(event);
            if look {
                let later = |service: &ObjectName| one_waits && &*service.name == "a";
                let changes = index.changes_except(later);
                for part in changes.services {
                    parts.insert(part.service, part.frontends);
                }
            }
        }
        parts.extend(index.changes().services.into_iter().map(|part| (part.service, part.frontends)));
        let sum: Vec<_> = parts.into_values().flatten().collect();
        prop_assert_eq!(sum, index.plan().frontends);
    }

    #[test]
    fn an_address_has_one_owner_at_any_time_and_loses_it_for_good_whatever_is_throttled(
        steps in vec((vec(any_event(), 1..4), select(&[0b000, 0b001, 0b010, 0b110, 0b111][..])), 0..30),
    ) {
        let mut index = Index::new("here");
        let mut held = Held::default();
        let mut kernel = Kernel::default();
        for (events, waiting) in steps {
            for event in events {
                held.apply(&event);
                index.apply(event);
            }
            let waits = |service: &ObjectName| {
                waiting & (1 << (service.name.as_bytes()[0] - b'a')) != 0
            };
            let mut steady = kernel.owners.clone();
            let target = owners(&held.plan().0.frontends);
            steady.retain(|claim, _| target.contains_key(claim));
            let changes = index.changes_except(waits);
            if changes.addresses_moved {
                prop_assert!(!index.has_waiting());
                kernel.write(&changes.services, &steady)?;
            } else {
                for part in &changes.services {
                    prop_assert!(!waits(&part.service));
                    kernel.write(std::slice::from_ref(part), &steady)?;
                }
            }
            let sum: Vec<_> = kernel.parts.values().flatten().cloned().collect();
            prop_assert_eq!(owners(&sum).len(), sum.len(), "an address of two services");
            prop_assert_eq!(&owners(&sum), &kernel.owners);
            prop_assert_eq!(&sum, &index.planned().frontends);
        }
        kernel.write(&index.changes().services, &Owners::new())?;
        prop_assert_eq!(kernel.owners, owners(&held.plan().0.frontends));
    }

    #[test]
    fn planning_again_gives_the_same_allocations(events in vec(any_event(), 0..20)) {
        let mut index = Index::new("here");
        events.into_iter().for_each(|event| index.apply(event));
        let (first, second) = (index.plan(), index.plan());
        prop_assert_eq!(&first, &second);
        let mut pairs = first.frontends.iter().zip(&second.frontends);
        prop_assert!(pairs.all(|(a, b)| Arc::ptr_eq(a, b)));
    }

    #[test]
    fn a_plan_is_sorted_and_answers_every_address_once(objects in vec(any_object(), 0..20)) {
        let unique: BTreeMap<_, _> =
            objects.into_iter().map(|object| (object.reference(), object)).collect();
        let (plan, _) = plan(unique.values());
        let order = |f: &Arc<Frontend>| {
            (f.service.clone(), f.port_name.clone(), f.family, f.address, f.port, f.protocol)
        };
        prop_assert!(plan.frontends.is_sorted_by_key(order));
        let claims: HashSet<_> =
            plan.frontends.iter().map(|f| (f.address, f.family, f.port, f.protocol)).collect();
        prop_assert_eq!(claims.len(), plan.frontends.len());
        for f in &plan.frontends {
            prop_assert!(f.backends.is_sorted_by(|a, b| (a.address, a.port) < (b.address, b.port)));
            prop_assert_eq!(f.backends.is_empty(), f.action != Action::Forward);
            prop_assert_eq!(f.reason.is_none(), f.action == Action::Forward);
        }
    }
}

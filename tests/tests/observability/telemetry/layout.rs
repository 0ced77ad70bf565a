//! After a change of the layout of the maps. These need a build with another layout, which virtual machines do not have.

use sockline_testbed::Build;

use super::{
    CountedWeb, Seen, at,
    by_class::{self, CLASSES, Zones},
    ended, transfer,
};

#[test]
fn after_a_change_of_the_layout_connections_are_counted_on_from_what_was_counted_before() {
    let mut web = CountedWeb::new();
    let (mut client, mut server) = web.connection(at(super::V4));
    transfer(&mut client, &mut server, 50);
    transfer(&mut server, &mut client, 20);
    drop(client);
    web.assert_seen(&Seen { sent: 50, received: 20, ..ended("client", 1) });
    let (before, _server) = web.connection(at(super::V4));
    web.cluster
        .restart(|options| {
            options.binary = Some(Build::OtherLayout.binary().unwrap());
        })
        .unwrap();
    let (mut client, mut server) = web.connection(at(super::V4));
    transfer(&mut client, &mut server, 100);
    drop(client);
    // Its record was in the maps of the other layout, which are gone.
    drop(before);
    web.assert_seen(&Seen {
        opened: 3,
        untracked: 1,
        sent: 150,
        received: 20,
        unanswered: 1,
        ..ended("client", 2)
    });
}

#[test]
fn with_another_layout_of_the_maps_classes_are_counted_as_well() {
    let mut zones = Zones::new();
    zones
        .cluster
        .restart(|options| options.binary = Some(Build::OtherLayout.binary().unwrap()))
        .unwrap();
    assert_eq!(zones.shown(), zones.with(CLASSES));
    let open = zones.one_of_each();
    let lasting = zones.one_of_each();
    zones.use_and_close(open);
    zones.assert_seen();
    zones.cluster.apply([by_class::service().endpoints([&zones.client])]).unwrap();
    zones.use_and_close(lasting);
    zones.assert_seen();
}

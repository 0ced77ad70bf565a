//! After a change of the layout of the maps.

use sockline_testbed::Build;

use super::{CountedWeb, Seen, at, ended, transfer};

#[test]
fn after_a_change_of_the_layout_connections_are_counted_again() {
    let mut web = CountedWeb::new();
    let (before, _server) = web.connection(at(super::V4));
    web.cluster
        .restart(|options| {
            options.binary = Some(Build::OtherLayout.binary().unwrap());
        })
        .unwrap();
    let (mut client, mut server) = web.connection(at(super::V4));
    transfer(&mut client, &mut server, 100);
    drop(client);
    // What was opened before is in the maps of the other layout, which are gone.
    drop(before);
    web.assert_seen(&Seen { sent: 100, unanswered: 1, ..ended("client", 1) });
}

//! Calls that go through unchanged because of the agent: its own, and all of them once it has been gone
//! for too long.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod common;

use std::{io, mem::offset_of, net::SocketAddr};

use common::{EHOSTUNREACH, Stage, ip};
use sockline::dataplane::Pins;
use sockline_ebpf::agent_state::AgentState;
use sockline_testbed::{Agent, Socket, bpf::RawMap};

const CART: &str = "10.96.0.1";
/// A service without endpoints.
const EMPTY: &str = "10.96.0.2";

fn at_80(service: &str) -> SocketAddr {
    SocketAddr::new(ip(service), 80)
}

/// What the programs read of the agent, written by hand.
struct State {
    map: RawMap,
}

impl State {
    fn of(stage: &Stage) -> Self {
        let path = Pins::in_bpffs(stage.node.bpffs()).map("AGENT_STATE");
        Self { map: RawMap::pinned(&path).unwrap() }
    }

    fn get(&self, offset: usize) -> u64 {
        let value = self.map.get(&0u32.to_ne_bytes()).unwrap().unwrap();
        u64::from_ne_bytes(value[offset..][..8].try_into().unwrap())
    }

    fn set(&self, offset: usize, word: u64) {
        let key = 0u32.to_ne_bytes();
        let mut value = self.map.get(&key).unwrap().unwrap();
        value[offset..][..8].copy_from_slice(&word.to_ne_bytes());
        self.map.set(&key, &value).unwrap();
    }
}

/// A stage with two services, one of them empty, whose agent has ended.
fn abandoned() -> (Stage, Agent) {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    stage.put("empty.yaml", &[sockline_testbed::objects::service("empty", EMPTY)]);
    let mut agent = stage.agent();
    agent.kill().unwrap();
    stage.assert_served(CART);
    (stage, agent)
}

fn outcome(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn own_socket_of_the_agent_is_not_translated_nor_refused_and_all_others_are() {
    let (stage, _agent) = abandoned();
    let state = State::of(&stage);
    stage.client.run(|| {
        for (calls, service) in (1..).zip([CART, EMPTY]) {
            let own = Socket::tcp(libc::AF_INET).unwrap();
            state.set(offset_of!(AgentState, bypass_cookie), own.cookie().unwrap());
            // As if there were no Sockline: to nowhere.
            assert_eq!(outcome(own.connect(at_80(service))), Some(EHOSTUNREACH), "{service}");
            assert_eq!(state.get(offset_of!(AgentState, own_calls)), calls);
        }
        let other = Socket::tcp(libc::AF_INET).unwrap();
        other.connect(at_80(CART)).unwrap();
        assert_eq!(other.peer().unwrap(), at_80(CART));
    });
    state.set(offset_of!(AgentState, bypass_cookie), 0);
    stage.assert_served(CART);
}

#[test]
fn nothing_is_translated_or_refused_after_the_deadline() {
    let (stage, _agent) = abandoned();
    let state = State::of(&stage);
    state.set(offset_of!(AgentState, fail_open_deadline), 1);
    for service in [CART, EMPTY] {
        let error = stage.ask(service).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EHOSTUNREACH), "{service}: {error}");
    }
    state.set(offset_of!(AgentState, fail_open_deadline), u64::MAX);
    stage.assert_served(CART);
}

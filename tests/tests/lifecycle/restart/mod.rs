//! The kernel state outlives the agent, and the next agent takes it over.

mod connections;
mod one_agent;
mod source;

use std::net::SocketAddr;

use crate::common::{CART, ip};

const SHIP: &str = "10.96.0.2";

fn cart_at_80() -> SocketAddr {
    SocketAddr::new(ip(CART), 80)
}

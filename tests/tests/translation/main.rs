//! A call to a service address reaches one of the service's endpoints, and the program sees the service
//! address.
//!
//! This is true for each protocol, each address of a service and each way to open a connection. A service
//! without usable endpoints refuses calls at once. No call ever reaches an endpoint of another service.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod addresses;
mod owner_check;
mod refusal;
mod special_sockets;
mod tcp;
mod udp;

//! How much one service may take, so that it does not take what other services need.
//!
//! The API server limits an object only by its size (etcd's `--max-request-bytes`, 1.5 MiB). That is room for
//! about 50,000 ports, at any number of addresses, with any number of endpoints. What exceeds a limit here is
//! reported and stays with kube-proxy.

/// Addresses (address, port, protocol) of one service, over all its ports. Ten thousand ports at one address
/// fit; a sixteenth of the default `--max-frontends` does not.
pub const FRONTENDS: usize = 1 << 14;

/// Backends of one service, over all its ports and both families: an endpoint counts once for each
/// port that it serves.
pub const BACKENDS: usize = 1 << 18;

/// External IPs, and load balancer addresses, of one service.
pub const ADDRESSES: usize = 256;

/// Endpoints of a slice: `maxEndpoints` of the API's validation (`pkg/apis/discovery/validation`).
pub const SLICE_ENDPOINTS: usize = 1000;

/// Ports of a slice: `maxPorts` of the same.
pub const SLICE_PORTS: usize = 20_000;

/// Zones, and nodes, that an endpoint is hinted for: `maxZoneHints` of the same.
pub const HINTS: usize = 8;

/// Addresses of a Node; the kubelet reports a handful.
pub const NODE_ADDRESSES: usize = 256;

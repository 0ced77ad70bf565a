//! How much one service may take, so that none takes what the others need.
//!
//! The API server bounds an object by its size alone (etcd's `--max-request-bytes`, 1.5 MiB): that is
//! room for some 50,000 ports, at any number of addresses, in front of any number of endpoints. What
//! these bounds leave out is left to kube-proxy and told.

/// Addresses (address, port, protocol) of one service, over all its ports. A range of ten thousand
/// ports at one address fits; a sixteenth of what the kernel may hold by default does not.
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

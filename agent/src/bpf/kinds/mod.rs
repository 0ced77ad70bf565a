//! Kinds of maps.
//!
//! [`create`] makes a map of a kind. [`array_of_maps`] pins the inner maps that it holds;
//! [`segmented_array`] is an array whose memory grows by segments; [`growable_hash`] is a hash that is copied
//! to a larger one when it is nearly full.
//!
//! Invariant: a map is pinned before anything refers to it, and unpinned after nothing does.

pub mod array_of_maps;
pub mod create;
pub mod growable_hash;
pub mod hash;
pub mod segmented_array;

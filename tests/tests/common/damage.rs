//! Writes to the pinned maps without the agent.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::{fs, os::fd::AsFd as _, path::Path};

use aya::{
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData},
    programs::links::{FdLink, PinnedLink},
};
use sockline::dataplane::Pins;
use sockline_ebpf::{
    backend::{Backend, Slot},
    filter,
    frontend::{CURRENT, Frontend, FrontendKey},
    id::{ServiceId, SlotIndex},
    name::{CHUNK, NameKey},
    telemetry::RemovedBackends,
};

use super::WebNode;

pub struct Damage {
    pins: Pins,
}

impl Damage {
    pub fn of(node: &WebNode) -> Self {
        Self { pins: Pins::in_bpffs(node.bpffs()) }
    }

    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    fn open(&self, map: &str) -> MapData {
        MapData::from_pin(self.pins.map(map)).unwrap()
    }

    fn inner(&self, map: &str) -> MapData {
        let outer = ArrayOfMaps::<MapData>::try_from(Map::ArrayOfMaps(self.open(map))).unwrap();
        outer.get(&CURRENT, 0).unwrap()
    }

    pub fn frontends(&self) -> HashMap<MapData, FrontendKey, Frontend> {
        Map::HashMap(self.inner("FRONTENDS")).try_into().unwrap()
    }

    /// The only entry with this port (host byte order).
    pub fn frontend(&self, port: u16) -> Frontend {
        let entries = self.frontends();
        let mut found = entries.iter().map(|entry| entry.unwrap().1);
        found.find(|frontend| frontend.key.port == port.to_be()).unwrap()
    }

    pub fn set_frontend(&self, frontend: Frontend) {
        self.frontends().insert(frontend.key, frontend, 0).unwrap();
    }

    pub fn remove_frontend(&self, key: &FrontendKey) {
        self.frontends().remove(key).unwrap();
    }

    fn backends(&self) -> Array<MapData, Backend> {
        Map::Array(self.inner("BACKENDS")).try_into().unwrap()
    }

    /// Changes every backend in use; returns how many.
    pub fn change_backends(&self, change: impl Fn(&mut Backend)) -> usize {
        let mut backends = self.backends();
        let mut changed = 0;
        for id in 1..backends.len() {
            let mut backend = backends.get(&id, 0).unwrap();
            if backend.service != ServiceId::NONE {
                change(&mut backend);
                backends.set(id, backend, 0).unwrap();
                changed += 1;
            }
        }
        changed
    }

    pub fn backend(&self, id: u32) -> Backend {
        self.backends().get(&id, 0).unwrap()
    }

    pub fn set_backend(&self, id: u32, backend: Backend) {
        self.backends().set(id, backend, 0).unwrap();
    }

    /// What a service has of removed backends.
    pub fn set_removed(&self, service: ServiceId, removed: RemovedBackends) {
        let mut map: HashMap<MapData, ServiceId, RemovedBackends> =
            Map::HashMap(self.open("REMOVED_BACKENDS")).try_into().unwrap();
        map.insert(service, removed, 0).unwrap();
    }

    /// Removes the first chunk of every name.
    pub fn clear_names(&self) {
        let mut names: HashMap<MapData, NameKey, [u8; CHUNK]> =
            Map::HashMap(self.open("SERVICE_NAMES")).try_into().unwrap();
        let keys: Vec<NameKey> = names.keys().map(Result::unwrap).collect();
        for key in keys {
            names.remove(&key).unwrap();
        }
    }

    /// Removes the first inner map from a map of maps.
    pub fn take_out(&self, map: &str) {
        super::bpf::delete_index(self.open(map).fd().as_fd(), 0).unwrap();
    }

    /// Freezes a map: the agent's writes to it fail from then on. This cannot be reverted.
    pub fn freeze(&self, map: &str) {
        super::bpf::freeze(self.open(map).fd().as_fd()).unwrap();
    }

    /// As [`Self::freeze`], for the current map of frontends.
    pub fn freeze_frontends(&self) {
        super::bpf::freeze(self.inner("FRONTENDS").fd().as_fd()).unwrap();
    }

    pub fn map_id(&self, map: &str) -> u32 {
        self.open(map).info().unwrap().id()
    }

    /// Pins a new map at a path, in place of the object there.
    pub fn pin_a_map_at(&self, path: &Path) {
        let _ = fs::remove_file(path);
        self.inner("FRONTENDS").pin(path).unwrap();
    }

    pub fn link(&self, path: &Path) -> FdLink {
        PinnedLink::from_pin(path).unwrap().into()
    }

    /// Detaches the program of a hook.
    pub fn detach(&self, hook: &str) {
        let link = super::bpf::open_pinned(&self.pins.link(hook)).unwrap();
        super::bpf::detach(link.as_fd()).unwrap();
    }

    pub fn clear_slot(&self, SlotIndex(index): SlotIndex) {
        let mut slots: Array<MapData, Slot> = Map::Array(self.inner("SLOTS")).try_into().unwrap();
        slots.set(index, Slot::default(), 0).unwrap();
    }

    pub fn clear_filter(&self) {
        let mut words: Array<MapData, u64> = Map::Array(self.open("FILTER")).try_into().unwrap();
        for word in 0..filter::WORDS {
            words.set(word, 0, 0).unwrap();
        }
    }
}

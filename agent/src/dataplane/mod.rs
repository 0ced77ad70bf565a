//! The kernel's side of things, as the agent keeps it: loading, pinning, linking, and writing a
//! plan into the maps.

mod alias;
mod create;
mod desired;
mod error;
mod extents;
mod features;
mod frontends;
mod inspect;
mod kernel_log;
mod left_alone;
mod maps;
mod mirror;
mod mounts;
mod names;
mod offline;
mod outer;
mod pins;
mod pool;
mod private;
mod programs;
mod record;
mod retired;
mod segments;
mod sys;
mod test_services;
pub mod view;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

pub use self::{
    error::{DataplaneError, Full},
    features::{Feature, Features},
    inspect::{HookSeen, ProgramSeen, hooks, programs_by_id},
    left_alone::CgroupLevels,
    maps::map_names,
    mirror::{Drift, Failure, Limits, SyncReport},
    mounts::{bpffs, bpffs_for_reading, cgroup, cgroup_for_reading},
    names::ServiceKey,
    offline::{Offline, Refused},
    pins::Pins,
    pool::{PoolUsage, wait_for_running_programs},
    programs::{Attachment, HOOKS},
};
use self::{left_alone::LeftAlone, mirror::Mirror, pins::Lock, programs::Programs, record::Record};
use crate::model::{
    plan::{Plan, ServicePlan},
    test_service::{Listeners, TestService},
};

/// How long to wait for the lock on the pins: `sockline status` holds it for an instant, to see
/// whether an agent does, an agent that is ending for a few milliseconds, and `sockline check` for as
/// long as its connects take, while there is no agent.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Where and as whom to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub cgroup: PathBuf,
    pub bpffs: PathBuf,
    pub node: String,
    pub limits: Limits,
    /// Kernel features to do without.
    pub without: Vec<Feature>,
}

/// The one writer of the pinned maps.
pub struct Dataplane {
    pins: Pins,
    cgroup: PathBuf,
    features: Features,
    mirror: Mirror,
    left_alone: LeftAlone,
    programs: Programs,
    record: Record,
    attached: bool,
    _lock: Lock,
}

impl Dataplane {
    /// Opens what is pinned, or makes it. If an earlier agent left services in the maps, the
    /// programs are attached at once, to keep serving them; else with the first sync, so that
    /// nobody sees half a plan.
    pub fn open(options: &Options) -> Result<Self, DataplaneError> {
        let pins = Pins::in_bpffs(&options.bpffs);
        pins.create()?;
        let Some(lock) = pins.lock_within(LOCK_PATIENCE)? else {
            let pid = Record::read(&pins).map_or(0, |record| record.pid);
            return Err(DataplaneError::InUse { directory: pins.root().to_owned(), pid });
        };
        raise_memlock_limit();
        let features = Features::probe_without(&options.without);
        let programs = Programs::load(&pins, features)?;
        let record = Record::create(&pins, options, features)?;
        let mirror = Mirror::open(&pins, options.limits)?;
        let left_alone = LeftAlone::open(&pins)?;
        let mut this = Self {
            pins,
            cgroup: options.cgroup.clone(),
            features,
            mirror,
            left_alone,
            programs,
            record,
            attached: false,
            _lock: lock,
        };
        if !this.mirror.is_empty() {
            this.attach()?;
        }
        Ok(this)
    }

    #[must_use]
    pub const fn features(&self) -> Features {
        self.features
    }

    /// The kernel's counters, for reading beside this writer.
    pub fn counters(&self) -> Result<view::Counters, DataplaneError> {
        view::Counters::open(&self.pins, self.mirror.moving())
    }

    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Forwards what the programs log to the agent's log. Needs a tokio runtime.
    pub fn forward_log(&mut self) {
        kernel_log::forward(self.programs.object());
    }

    /// Says that the next plans may lack services and endpoints which exist: services that were
    /// adopted from the maps stay as they are until a plan has them (with endpoints), or until
    /// this is taken back. So do adopted cgroups that are left alone.
    pub const fn hold_back(&mut self, hold_back: bool) {
        self.mirror.hold_back(hold_back);
        self.left_alone.hold_back(hold_back);
    }

    /// Cgroups are left alone only because they are held back, or were at the last
    /// [`Self::leave_alone`].
    #[must_use]
    pub fn has_held_back_left_alone(&self) -> bool {
        self.left_alone.has_held_back()
    }

    /// Brings the kernel to a plan. What fails is in the report and costs only itself.
    pub fn sync(
        &mut self,
        plan: &Plan,
        node_addresses: &[IpAddr],
    ) -> Result<SyncReport, DataplaneError> {
        let report = self.mirror.sync(plan, node_addresses);
        self.synced(report)
    }

    /// Whether [`Self::sync_services`] can take these changes; if not, node addresses are
    /// concerned, and a sync of the whole plan is needed.
    pub fn is_local(&self, changes: &[ServicePlan]) -> bool {
        self.mirror.is_local(changes)
    }

    /// Brings some services to their part of a plan; the others stay as they are.
    pub fn sync_services<'a>(
        &mut self,
        changes: impl IntoIterator<Item = &'a ServicePlan>,
    ) -> Result<SyncReport, DataplaneError> {
        let report = self.mirror.sync_services(changes);
        self.synced(report)
    }

    fn synced(&mut self, report: SyncReport) -> Result<SyncReport, DataplaneError> {
        if !self.attached {
            self.attach()?;
        }
        self.record.synced(SystemTime::now())?;
        Ok(report)
    }

    /// Leaves exactly these cgroups alone, with the levels they are at, and those held back.
    pub fn leave_alone(&mut self, cgroups: &CgroupLevels) -> Result<(), DataplaneError> {
        self.left_alone.sync(cgroups)
    }

    /// The cgroup that the programs are attached to.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Compares maps and links with what they should be and mends what differs. Returns the number
    /// of entries, and the hooks, that were mended.
    pub fn repair(&mut self) -> Result<(usize, Vec<&'static str>), DataplaneError> {
        let entries = self.mirror.repair()? + self.left_alone.repair()?;
        let mut links = Vec::new();
        if self.attached {
            links = self.programs.detached(&self.pins, &self.cgroup)?;
            if !links.is_empty() {
                self.attach()?;
            }
        }
        Ok((entries, links))
    }

    /// Compares the maps with what they should be, and with a plan, and changes nothing.
    pub fn compare(&self, plan: &Plan) -> Result<Drift, DataplaneError> {
        Ok(Drift {
            services: self.mirror.pending(plan),
            left_alone: self.left_alone.drift()?,
            ..self.mirror.compare()?.drift()
        })
    }

    /// Puts a test service with listeners there into the maps: all of it, or nothing.
    pub fn put_test(
        &mut self,
        number: u64,
        listeners: Listeners,
    ) -> Result<(TestService, ServicePlan), DataplaneError> {
        test_services::put(&mut self.mirror, number, listeners)
    }

    pub fn remove_test(&mut self, service: &TestService) -> Result<(), DataplaneError> {
        test_services::remove(&mut self.mirror, service.name())
    }

    /// The kernel's ids of the programs, by hook.
    pub fn program_ids(&self) -> Result<Vec<(&'static str, u32)>, DataplaneError> {
        self.programs.ids()
    }

    /// Whether earlier syncs put something to rest that can be taken back: with
    /// [`Self::settle_before`], after [`wait_for_running_programs`].
    pub fn has_rested(&self) -> bool {
        self.mirror.has_rested()
    }

    /// Takes back what was put to rest before this time. Every program that ran then must have
    /// ended.
    pub fn settle_before(&mut self, time: Instant) -> Result<(), DataplaneError> {
        self.mirror.settle_before(time)
    }

    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            services: self.mirror.services(),
            frontends: self.mirror.frontends(),
            frontends_capacity: self.mirror.frontends_capacity(),
            frontends_limit: self.mirror.frontends_limit(),
            pool: self.mirror.pool_usage(),
        }
    }

    fn attach(&mut self) -> Result<(), DataplaneError> {
        let made = self.programs.attach(&self.pins, &self.cgroup)?;
        tracing::info!(
            cgroup = %self.cgroup.display(),
            replaced = HOOKS.len() - made.len(),
            made = made.len(),
            "programs attached"
        );
        self.attached = true;
        Ok(())
    }
}

/// How full the maps are.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub services: usize,
    pub frontends: usize,
    pub frontends_capacity: u32,
    pub frontends_limit: u32,
    pub pool: PoolUsage,
}

/// Removes everything that was pinned: detaches the programs and frees the maps. Fails while an
/// agent is running. Returns what was removed.
pub fn cleanup(bpffs: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    let pins = Pins::in_bpffs(bpffs);
    if !pins.root().exists() {
        return Ok(Vec::new());
    }
    let Some(_lock) = pins.lock()? else {
        let pid = Record::read(&pins).map_or(0, |record| record.pid);
        return Err(DataplaneError::InUse { directory: pins.root().to_owned(), pid });
    };
    pins.remove()
}

/// Before Linux 5.11, maps count against the limit of locked memory.
fn raise_memlock_limit() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "cannot raise the limit of locked memory");
    }
}

use sockline::{
    dataplane::*,
    model::{object::*, plan::*},
};
use std::sync::Arc;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt::init();
    std::fs::create_dir_all("/sys/fs/cgroup/unified/smoke")?;
    let cg = cgroup(Some("/sys/fs/cgroup/unified/smoke".as_ref()))?;
    let bpf = bpffs(None)?;
    let bpf = bpffs(Some(&bpf.join("smoke")))?;
    let mut dp = match Dataplane::open(&Options {
        cgroup: cg,
        bpffs: bpf,
        node: "n".into(),
        limits: Limits::default(),
    }) {
        Ok(d) => d,
        Err(e) => {
            println!("{e} {:?}", e);
            return Ok(());
        }
    };
    println!("{:?}", dp.features());
    let fe = |name: &str, ip: &str, port, backends: Vec<Backend>, aff| {
        Arc::new(Frontend {
            service: ObjectName::new("ns", name),
            port_name: "http".into(),
            address: FrontendAddress::Ip(ip.parse().unwrap()),
            family: Family::of(ip.parse().unwrap()),
            port,
            protocol: Protocol::Tcp,
            kind: FrontendKind::ClusterIP,
            action: if backends.is_empty() { Action::Refuse } else { Action::Forward },
            reason: backends.is_empty().then_some(Reason::NoEndpoints),
            affinity_seconds: aff,
            balance: Balance::Random,
            backends,
        })
    };
    let be = |p| Backend { address: "127.0.0.1".parse().unwrap(), port: p, weight: 1 };
    let plan = Plan {
        node: "n".into(),
        frontends: vec![
            fe("a", "10.96.0.10", 80, vec![be(9001), be(9002)], None),
            fe("b", "10.96.0.11", 80, vec![], None),
            fe("c", "10.96.0.12", 80, vec![be(9001), be(9002)], Some(100)),
        ],
    };
    let r = dp.sync(&plan, &[])?;
    println!("{r:?} {:?}", dp.usage());
    let v = view::View::open(dp.pins().clone())?;
    for f in v.frontends()? {
        println!("{}", serde_json::to_string(&f)?);
    }
    println!("{:?}", v.attachments()?);
    let out = std::process::Command::new("sh")
        .arg("-c")
        .arg("echo $$ > /sys/fs/cgroup/unified/smoke/cgroup.procs; exec python3 /tmp/smoke.py")
        .status()?;
    println!(
        "{out} {:?} {:?} sockets {}",
        v.counters()?.services()?,
        v.counters()?.faults()?,
        v.sockets()?
    );
    println!("repair {:?}", dp.repair()?);
    Ok(())
}

//! PostgreSQL: the sessions that it counts, and the connections in its log.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sockline_testbed::{Pod, Protocol, Service};

use super::{
    Bed, Client,
    comparison::{Count::Exactly, Row, settled},
    processes::Server,
};

const PORT: u16 = 5432;
const CLIENTS: u64 = 4;
const TRANSACTIONS_EACH: u64 = 100;
/// It looks at the tables first.
const FIRST: u64 = 1;

struct Postgres {
    server: Server,
    pod: Pod,
    sockets: PathBuf,
}

impl Postgres {
    fn start(bed: &mut Bed, name: &str) -> Result<Self> {
        let pod = bed.cluster.pod(name)?;
        let (data, sockets) =
            (bed.cluster.node().temp().join("pg"), bed.cluster.node().temp().join("pg-sockets"));
        fs::create_dir_all(&sockets).context("making the folder of PostgreSQL's socket")?;
        let mut initdb = bed.programs.command_of_user("initdb")?;
        initdb.args(["--auth=trust", "--no-sync", "--username=postgres", "--locale=C", "-D"]);
        initdb.arg(&data);
        bed.run_in(&pod, Client(initdb))?.checked().context("initdb")?;
        // The client's pod is in none of the networks that initdb allows.
        let hba = "local all all trust\nhost all all all trust\n";
        fs::write(data.join("pg_hba.conf"), hba).context("writing pg_hba.conf")?;
        let mut command = bed.programs.command_of_user("postgres")?;
        command.arg("-D").arg(&data).arg("-k").arg(&sockets).args(["-p", &PORT.to_string()]);
        for setting in ["listen_addresses=*", "log_connections=on", "fsync=off"] {
            command.args(["-c", setting]);
        }
        let log = bed.cluster.node().temp().join("pg.log");
        let socket = sockets.join(format!(".s.PGSQL.{PORT}"));
        // SIGINT: ends all sessions.
        let server = Server::start(&pod, &mut command, log.clone(), Signal::SIGINT, || {
            let is_ready =
                fs::read_to_string(&log).unwrap_or_default().contains("is ready to accept");
            ensure!(socket.exists() && is_ready, "it is not ready");
            Ok(())
        })?;
        Ok(Self { server, pod, sockets })
    }

    /// Runs SQL over the server's own socket, in another database than the one that is counted.
    fn sql(&self, bed: &Bed, sql: &str) -> Result<String> {
        let mut psql = bed.programs.command("psql")?;
        psql.arg("-h").arg(&self.sockets).args(["-p", &PORT.to_string(), "-U", "postgres"]);
        psql.args(["-X", "-A", "-t", "-c", sql, "template1"]);
        Ok(bed.run_in(&self.pod, Client(psql))?.checked().context("psql")?.trim().to_owned())
    }

    /// The sessions of the database that the client uses.
    fn sessions(&self, bed: &Bed) -> Result<u64> {
        let sql = "select sessions from pg_stat_database where datname = 'bench'";
        let text = self.sql(bed, sql)?;
        text.parse().with_context(|| format!("the sessions: {text:?}"))
    }

    /// Connections that came from a pod, in the log.
    fn logged(&self, pod: &Pod) -> u64 {
        let log = self.server.log();
        let from =
            pod.addresses().iter().map(|address| format!("connection received: host={address} "));
        from.map(|text| log.matches(&text).count() as u64).sum()
    }
}

/// `pgbench` with these arguments, in a pod.
fn pgbench(bed: &Bed, pod: &Pod, args: &[&str]) -> Result<String> {
    let mut command = bed.programs.command("pgbench")?;
    command.args(["-p", &PORT.to_string(), "-U", "postgres"]).args(args).arg("bench");
    bed.run_in(pod, Client(command))?.checked().context("pgbench")
}

fn port(service: Service) -> Service {
    service.tcp(PORT)
}

pub(super) fn reconnecting(bed: &mut Bed) -> Result<Vec<Row>> {
    let name = "postgresql";
    let postgres = Postgres::start(bed, name)?;
    let [_, v6] = bed.serve(name, port, PORT, &[&postgres.pod])?;
    postgres.sql(bed, "create database bench")?;
    let sockets = postgres.sockets.display().to_string();
    pgbench(bed, &postgres.pod, &["-h", &sockets, "-i", "-q"])?;
    let before = postgres.sessions(bed)?;
    ensure!(before == 1, "{before} sessions before the run: that of `pgbench -i` is one");
    let (to, clients, each) =
        (v6.ip().to_string(), CLIENTS.to_string(), TRANSACTIONS_EACH.to_string());
    let text = pgbench(
        bed,
        &bed.client,
        &["-h", &to, "-C", "-S", "-n", "-c", &clients, "-j", "2", "-t", &each],
    )?;
    // "number of transactions actually processed: 400/400"
    let made = text
        .lines()
        .find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    let made: Option<u64> = made.and_then(|made| made.split('/').next()?.parse().ok());
    let made = made.with_context(|| format!("pgbench does not say what it did: {text}"))?;
    ensure!(made == CLIENTS * TRANSACTIONS_EACH, "pgbench made {made} transactions");
    let opened = Exactly(made + FIRST);
    settled(|| {
        let sockline = bed.counted(name, Protocol::Tcp)?;
        let ended = sockline.closed_by_server + sockline.closed_by_client;
        let sessions = Exactly(postgres.sessions(bed)? - before);
        Ok(vec![
            Row::new("connections", sockline.opened, sessions, opened)
                .from("pg_stat_database.sessions; pgbench: its transactions, and one before"),
            Row::new("connections", sockline.opened, Exactly(postgres.logged(&bed.client)), opened)
                .from("log_connections, by the client's address"),
            // pgbench says that it ends the session, and closes: seldom after PostgreSQL.
            Row::new("closed by one side", ended, sessions, opened)
                .from("which one is first differs from run to run"),
            Row::none("reset or failed", sockline.cut + sockline.failed + sockline.refused),
            Row::none("still open", sockline.active),
        ])
    })
}

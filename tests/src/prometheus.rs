//! A real Prometheus, which scrapes agents and evaluates rules, and its tool `promtool`.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{DEADLINE, Ns, http_get, wait_ok};

/// A running Prometheus with a scrape and an evaluation each second. Ends when it is dropped.
pub struct Prometheus<'a> {
    ns: &'a Ns,
    child: Child,
    listen: SocketAddr,
    folder: TempDir,
}

impl<'a> Prometheus<'a> {
    /// Starts it in a namespace with this rule file, without targets, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not answer in time; the message has its log.
    pub fn start(ns: &'a Ns, rules: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder for Prometheus")?;
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{
                "job_name": "sockline-system/sockline",
                "file_sd_configs": [{"files": ["targets.json"]}],
            }],
        });
        // What is JSON is YAML.
        let config = config.to_string();
        for (name, text) in
            [("prometheus.yml", config.as_str()), ("targets.json", "[]"), ("rules.yml", rules)]
        {
            fs::write(folder.path().join(name), text).with_context(|| format!("writing {name}"))?;
        }
        let listen = ns.free_port()?;
        let log = File::create(folder.path().join("log")).context("creating Prometheus' log")?;
        let mut command = Command::new(program("prometheus")?);
        command
            .current_dir(folder.path())
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={listen}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("the log for standard output")?)
            .stderr(log);
        let child = ns.child(&mut command).context("starting prometheus")?;
        let mut prometheus = Self { ns, child, listen, folder };
        let ready = wait_ok(DEADLINE, "Prometheus to be ready", || {
            if let Some(status) = prometheus.child.try_wait()? {
                bail!("it ended, {status}");
            }
            let reply = ns.run(|| http_get(listen, "/-/ready"))?;
            ensure!(reply.status == 200, "{}", reply.body);
            Ok(())
        });
        ready.with_context(|| prometheus.log())?;
        Ok(prometheus)
    }

    /// Sets what is scraped: names of instances, and where each of them is now.
    ///
    /// # Errors
    /// When the file with the targets cannot be written.
    pub fn set_targets(&self, targets: &[(&str, SocketAddr)]) -> Result<()> {
        let groups: Vec<Value> = targets
            .iter()
            .map(|(name, address)| {
                json!({"targets": [address.to_string()], "labels": {"instance": name}})
            })
            .collect();
        // Prometheus reads a file when it is renamed to its name, never half of it.
        let (new, current) =
            (self.folder.path().join("new"), self.folder.path().join("targets.json"));
        fs::write(&new, Value::from(groups).to_string()).context("writing the targets")?;
        fs::rename(new, current).context("replacing the targets")
    }

    /// `data` of the answer of its API to a path, such as `rules` or `query?query=up`.
    ///
    /// # Errors
    /// When it does not answer, or with an error; the message has it.
    pub fn api(&self, path: &str) -> Result<Value> {
        let path = format!("/api/v1/{path}");
        let reply = self.ns.run(|| http_get(self.listen, &path))?;
        let mut answer: Value =
            serde_json::from_str(&reply.body).with_context(|| format!("{path}: {}", reply.body))?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer["data"].take())
    }

    /// The series that a PromQL expression evaluates to now.
    ///
    /// # Errors
    /// As [`Self::api`], which includes an expression that Prometheus cannot parse.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let mut answer = self.api(&format!("query?query={}", percent_encoded(expression)))?;
        match answer["result"].take() {
            Value::Array(series) => Ok(series),
            other => bail!("{expression}: not a list of series: {other}"),
        }
    }

    /// The series that a PromQL expression evaluates to between two times, each step. In seconds, the times since the
    /// epoch.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub fn query_range(
        &self,
        expression: &str,
        start: f64,
        end: f64,
        step: f64,
    ) -> Result<Vec<Value>> {
        let expression = percent_encoded(expression);
        let mut answer = self
            .api(&format!("query_range?query={expression}&start={start}&end={end}&step={step}"))?;
        match answer["result"].take() {
            Value::Array(series) => Ok(series),
            other => bail!("{expression}: not a list of series: {other}"),
        }
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `promtool`.
///
/// # Errors
/// When it is not installed, or fails; the message has what it printed.
pub fn promtool(args: &[&str], folder: &Path) -> Result<String> {
    let output = Command::new(program("promtool")?)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .context("running promtool")?;
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    ensure!(output.status.success(), "promtool {}: {printed}", args.join(" "));
    Ok(printed)
}

/// A program of Debian's package `prometheus`: the one that `cargo xtask setup` unpacked, or an installed one.
fn program(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("finding this executable")?;
    // A test is in target/<profile>/deps.
    let unpacked = exe.ancestors().map(|folder| folder.join("tools/prometheus/usr/bin").join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join(name));
    unpacked
        .chain(installed)
        .find(|path| path.is_file())
        .with_context(|| format!("there is no `{name}`: run `cargo xtask setup`"))
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}
